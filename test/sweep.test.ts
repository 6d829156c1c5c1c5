// Proves that what a worker cannot remove keeps it from removing nothing else, on its own machine or on its other hosts.
// Real folders of runs; one of them has a file system mounted in it, so that it cannot be removed. Needs root.
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Dockerode from 'dockerode';
import { BareEngine } from '../adapters/bare-engine';
import { DockerEngine } from '../adapters/docker-engine';
import { LocalShell } from '../adapters/local-shell';
import { containerName } from '../domain/names';
import { sweep, sweepUnknown, type WorkerPorts } from '../workers/sweep';
import { readWorkerId } from '../workers/worker-id';

const dir = mkdtempSync(join(tmpdir(), 'slipway-sweep-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const [own, board] = ['own', 'board'].map((name) => new BareEngine(new LocalShell(), join(dir, name))) as [
  BareEngine,
  BareEngine,
];

/** What a killed worker leaves of an attempt. @returns its folder */
const leave = (engine: BareEngine): Promise<string> => engine.makeRunDir(containerName(randomUUID(), 1), '#!/bin/sh\n');

type Standing = Pick<WorkerPorts['api'], 'standings'>;
const allKnown: Standing['standings'] = async ({ attempts }) =>
  attempts.map((attempt) => ({ ...attempt, isKnown: true, isCancelled: false }));

test('H7 H11 one folder that cannot be removed keeps nothing else from being taken back', async () => {
  const stuck = await leave(own);
  for (const engine of [own, own, board, board]) await leave(engine);
  const ports = {
    engines: { own, served: [{ name: 'board', direct: board }] },
    api: { orphans: (list: { found: unknown[] }) => Promise.resolve(list.found), standings: allKnown },
    worker: { id: randomUUID() },
    held: new Map(),
    unknownSince: new Map(),
  } as unknown as WorkerPorts;
  const round = (): Promise<void> => sweep(ports, new AbortController().signal);
  execFileSync('mount', ['-t', 'tmpfs', 'slipway-test', join(stuck, 'repo')]);
  try {
    await expect(round()).rejects.toThrow(/busy/i);

    expect([await own.listRemains(), await board.listRemains()]).toEqual([[stuck.split('/').at(-1)], []]);
  } finally {
    execFileSync('umount', ['--lazy', join(stuck, 'repo')]);
  }
  await round();
  expect(await own.listRemains()).toEqual([]);
});

test('H4 what builds leave is out of reach for other users of the machine, whatever the folder of the worker was before', async () => {
  const workerDir = join(dir, 'of-a-worker');
  mkdirSync(workerDir);
  chmodSync(workerDir, 0o755);
  const { id } = readWorkerId(workerDir, 'local');
  const name = containerName(randomUUID(), 1);
  const folders = [
    workerDir,
    await new DockerEngine(new Dockerode(), join(workerDir, 'runs')).makeRunDir(name, '#!/bin/sh\n'),
    await leave(own),
  ];

  expect(folders.map((folder) => (statSync(folder).mode & 0o777).toString(8))).toEqual(['700', '700', '700']);
  expect(readWorkerId(workerDir, 'local').id).toBe(id);
});

test('B5 a worker whose id was not written for want of disk gets one at its next start', () => {
  const workerDir = join(dir, 'empty');
  mkdirSync(workerDir);
  writeFileSync(join(workerDir, 'local.id'), '');

  const { id } = readWorkerId(workerDir, 'local');

  expect(id).toMatch(/^[0-9a-f-]{36}$/);
  expect(readWorkerId(workerDir, 'local').id).toBe(id);
});

test('H7 what this worker made and no row knows is removed after an hour, and nothing that is known, supervised, or known again', async () => {
  const machine = new BareEngine(new LocalShell(), join(dir, 'forgotten'));
  const names = (await Promise.all([1, 2, 3, 4].map(() => leave(machine)))).map((path) => path.split('/').at(-1) ?? '');
  const [lost = '', known = '', held = '', back = ''] = names;
  const rows = new Set([known]);
  const standings: Standing['standings'] = async ({ attempts }) =>
    attempts.map((one) => ({ ...one, isKnown: rows.has(containerName(one.runId, one.attempt)), isCancelled: false }));
  const asked = jest.fn(() => machine.listRemains());
  const worker = { id: randomUUID() };
  const ports = {
    engines: { own: { listRemains: asked, remove: (name: string) => machine.remove(name) } },
    api: { standings },
    worker,
    held: new Map([[held, new AbortController()]]),
    unknownSince: new Map(),
    log: { warn: () => undefined },
  } as unknown as WorkerPorts;
  const { signal } = new AbortController();
  const sweepAt = (minutes: number): Promise<void> => sweepUnknown(ports, { signal, nowMs: minutes * 60_000 });

  await sweepAt(0);
  rows.add(back);
  await sweepAt(30);
  rows.delete(back);
  await sweepAt(59);
  expect((await machine.listRemains()).toSorted()).toEqual(names.toSorted());
  await sweepAt(61);

  expect((await machine.listRemains()).toSorted()).toEqual([known, held, back].toSorted());
  expect(await machine.listRemains()).not.toContain(lost);
  expect(asked).toHaveBeenCalledWith({ worker: worker.id });
});
