// Proves what becomes of a container's output and exit when its engine dies: what can be saved is, what cannot is said.
// A real engine of the test's own, killed by SIGKILL; containerd and the containers live on.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Dockerode from 'dockerode';
import { DockerEngine } from '../adapters/docker-engine';
import type { ContainerExit } from '../adapters/engine';
import { HoldingProxy } from './setup/holding-proxy';
import { TEST_IMAGE } from './setup/house';
import { PrivateEngine } from './setup/private-engine';
import { waitFor } from './setup/wait-for';

let real: PrivateEngine;
let runsDir: string;
const names: string[] = [];
beforeAll(async () => {
  real = await PrivateEngine.open();
  runsDir = mkdtempSync(join(tmpdir(), 'slipway-away-'));
}, 120_000);
afterAll(async () => {
  await real?.stop();
  rmSync(runsDir, { recursive: true, force: true });
}, 60_000);

/** A worker process as the engine sees it. */
const worker = (lastAliveAt?: Date, docker = real.docker): DockerEngine =>
  new DockerEngine(docker, runsDir, lastAliveAt);

async function start(engine: DockerEngine, script: string): Promise<string> {
  const name = `slipway-away-${names.length}`;
  names.push(name);
  const runDir = await engine.makeRunDir(name, `#!/bin/sh\n${script}\n`);
  const none = { env: {}, privileged: false, capAdd: [], capDrop: [], resources: {}, labels: {} };
  await engine.create({ ...none, name, image: TEST_IMAGE, runDir });
  await engine.start(name);
  return name;
}

interface Seen {
  exit: ContainerExit;
  log: string;
  restarts: number;
}

interface Watch {
  ended: Promise<Seen>;
  /** What was read until now. */
  log(): string;
}

async function watch(engine: DockerEngine, name: string, fromByte = 0): Promise<Watch> {
  const container = await waitFor(() => engine.find(name), { what: `${name} is found` });
  const { signal } = new AbortController();
  let log = '';
  let restarts = 0;
  const exited = engine.wait(container, { signal, onRestart: () => (restarts += 1) });
  const followed = (async () => {
    for await (const bytes of engine.follow(container, { fromByte, signal, exited })) log += bytes.toString();
  })();
  const ended = Promise.all([exited, followed]).then(([exit]) => ({ exit, log, restarts }));
  ended.catch(() => undefined);
  return { ended, log: () => log };
}

const reads = (watched: Watch, line: string) =>
  waitFor(() => watched.log().includes(line), { what: `${line} is read` });
/** The script goes on when its engine is gone, and says when it is through. */
const whileAway = (commands: string): string =>
  `echo begun; while [ ! -e /archive/away ]; do sleep 0.1; done; ${commands}; touch /archive/through`;

async function killEngineUntilThrough(name: string): Promise<void> {
  await real.kill9();
  const archive = join(runsDir, name, 'archive');
  writeFileSync(join(archive, 'away'), '');
  await waitFor(() => existsSync(join(archive, 'through')), { what: 'the script is through' });
}

const whole = { exitCode: 3, outOfMemory: false, isUnwatched: true, isEndLost: false };

test('R2 B4 what a container writes while its engine is away comes home though it ended before the engine was back, and once more after the worker was restarted', async () => {
  const engine = worker();
  const name = await start(engine, `${whileAway('echo out; echo err >&2; printf end')}; exit 3`);
  const watched = await watch(engine, name);
  await reads(watched, 'begun');

  await killEngineUntilThrough(name);
  await real.start();

  expect(await watched.ended).toEqual({ exit: whole, log: 'begun\nout\nenderr\n', restarts: 1 });
  const again = await watch(worker(new Date()), name, 'begun\nout'.length);
  expect(await again.ended).toMatchObject({ log: '\nenderr\n', exit: { isEndLost: false } });
}, 120_000);

test('R2 a container that ended while engine and worker were both away: that its end is lost is said', async () => {
  const engine = worker();
  const name = await start(engine, `${whileAway('echo out')}; exit 3`);
  // Not watched, so not held: as by a worker that died.
  const stored = async (): Promise<boolean> =>
    (await real.docker.getContainer(name).logs({ stdout: true })).includes('begun');
  await waitFor(stored, { what: 'the engine has its first line' });
  const lastAliveAt = new Date();
  await killEngineUntilThrough(name);
  await real.start();

  const { ended } = await watch(worker(lastAliveAt), name);
  expect(await ended).toEqual({ exit: { ...whole, isEndLost: true }, log: 'begun\n', restarts: 0 });
}, 120_000);

test('R2 an engine that is restarted while a container runs is noticed, by the worker that watches and by one that comes later', async () => {
  const engine = worker();
  const name = await start(engine, 'echo begun; while [ ! -e /archive/go ]; do sleep 0.1; done; echo done');
  const watched = await watch(engine, name);
  await reads(watched, 'begun');
  const before = new Date();

  await real.kill9();
  await real.start();
  const later = await watch(worker(before), name);
  // Something that the engine remembers from before the next worker comes.
  await start(engine, 'true');
  const unbroken = await watch(worker(new Date()), name);
  writeFileSync(join(runsDir, name, 'archive', 'go'), '');

  const log = 'begun\ndone\n';
  expect(await watched.ended).toMatchObject({ log, restarts: 1, exit: { isUnwatched: false } });
  expect(await later.ended).toMatchObject({ log, restarts: 1 });
  expect(await unbroken.ended).toMatchObject({ log, restarts: 0 });
}, 120_000);

test('R2 a connection to the engine that merely breaks is no restart', async () => {
  const link = await HoldingProxy.open({ socketPath: real.socket }, async () => undefined);
  const engine = worker(undefined, new Dockerode({ host: '127.0.0.1', port: link.port }));
  const name = await start(engine, 'echo begun; while [ ! -e /archive/go ]; do sleep 0.1; done; echo done');
  const watched = await watch(engine, name);
  await reads(watched, 'begun');

  link.cut();
  writeFileSync(join(runsDir, name, 'archive', 'go'), '');
  await waitFor(async () => (await worker().find(name))?.state === 'exited', { what: 'the container has ended' });
  link.mend();

  const exit = { exitCode: 0, outOfMemory: false, isUnwatched: false, isEndLost: false };
  expect(await watched.ended).toEqual({ exit, log: 'begun\ndone\n', restarts: 0 });
  await link.close();
}, 120_000);
