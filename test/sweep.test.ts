// Proves that what a worker cannot remove keeps it from removing nothing else, on its own machine or on its other hosts.
// Real folders of runs; one of them has a file system mounted in it, so that it cannot be removed. Needs root.
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Dockerode from 'dockerode';
import { BareEngine } from '../adapters/bare-engine';
import { DockerEngine } from '../adapters/docker-engine';
import { LocalShell } from '../adapters/local-shell';
import { containerName } from '../domain/names';
import { sweep, type WorkerPorts } from '../workers/sweep';
import { readWorkerId } from '../workers/worker-id';

const dir = mkdtempSync(join(tmpdir(), 'slipway-sweep-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const [own, board] = ['own', 'board'].map((name) => new BareEngine(new LocalShell(), join(dir, name))) as [
  BareEngine,
  BareEngine,
];

/** What a killed worker leaves of an attempt. @returns its folder */
const leave = (engine: BareEngine): Promise<string> => engine.makeRunDir(containerName(randomUUID(), 1), '#!/bin/sh\n');

test('H7 H11 one folder that cannot be removed keeps nothing else from being taken back', async () => {
  const stuck = await leave(own);
  for (const engine of [own, own, board, board]) await leave(engine);
  const ports = {
    engines: { own, served: [{ name: 'board', direct: board }] },
    api: { orphans: (list: { found: unknown[] }) => Promise.resolve(list.found) },
    worker: { id: randomUUID() },
    held: new Map(),
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
