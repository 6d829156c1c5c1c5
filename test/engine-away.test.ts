// Proves what becomes of a container's output and exit when its engine dies: what can be saved is, what cannot is said.
// A real engine of the test's own, killed by SIGKILL; containerd and the containers live on.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Dockerode from 'dockerode';
import { requireAnswer } from '../adapters/docker-client';
import { DockerEngine } from '../adapters/docker-engine';
import type { ContainerExit, ContainerSpec, EngineError } from '../adapters/engine';
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

const PLAIN = { env: {}, privileged: false, capAdd: [], capDrop: [], resources: {}, labels: {} };

/** A worker process as the engine sees it. */
const worker = (lastAliveAt?: Date, docker = real.docker): DockerEngine =>
  new DockerEngine(docker, runsDir, { lastAliveAt });

async function create(engine: DockerEngine, script: string): Promise<string> {
  const name = `slipway-away-${names.length}`;
  names.push(name);
  const runDir = await engine.makeRunDir(name, `#!/bin/sh\n${script}\n`);
  await engine.create({ ...PLAIN, labels: { 'dev.slipway.run-id': name }, name, image: TEST_IMAGE, runDir });
  return name;
}

async function start(engine: DockerEngine, script: string): Promise<string> {
  const name = await create(engine, script);
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
const stored = (name: string, line: string) =>
  waitFor(async () => (await real.docker.getContainer(name).logs({ stdout: true })).includes(line), {
    what: `the engine has stored ${line}`,
  });
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
  await stored(name, 'begun');
  const lastAliveAt = new Date();
  await killEngineUntilThrough(name);
  await real.start();

  const { ended } = await watch(worker(lastAliveAt), name);
  expect(await ended).toEqual({ exit: { ...whole, isEndLost: true }, log: 'begun\n', restarts: 0 });
}, 120_000);

test('R2 B5 what a container writes while its engine is away comes home to a worker that was restarted before and has not adopted it yet', async () => {
  const name = await start(worker(), whileAway('echo out'));
  await stored(name, 'begun');
  const restarted = worker(new Date());
  await restarted.listRemains();

  await killEngineUntilThrough(name);
  await real.start();

  const { ended } = await watch(restarted, name);
  expect(await ended).toMatchObject({ log: 'begun\nout\n', exit: { isUnwatched: true, isEndLost: false } });
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

test('B4 a container whose end the engine cannot know, after it was away, has no exit code of its own', async () => {
  const engine = worker();
  const made: string[] = [];
  for (let n = 0; n < 4; n += 1) made.push(await start(engine, 'echo begun; sleep 600'));
  const all = await Promise.all(made.map((name) => watch(engine, name)));
  for (const one of all) await reads(one, 'begun');
  const ids = await Promise.all(made.map(async (name) => (await real.docker.getContainer(name).inspect()).Id));
  await real.kill9();
  for (const pid of ids.flatMap((id) => [...pidsWith('cmdline', id), ...pidsWith('cgroup', id)])) killIfThere(pid);
  await real.start();

  const exits = await Promise.all(all.map(async ({ ended }) => (await ended).exit));
  expect(exits.map(({ exitCode, isUnwatched }) => [exitCode, isUnwatched])).toEqual(all.map(() => [255, true]));
}, 120_000);

test('H11 an engine whose containerd hangs is none that answers, though it lists its containers', async () => {
  await requireAnswer(real.docker);
  real.signalContainerd('SIGSTOP');
  try {
    expect(await real.docker.listContainers()).toEqual(expect.any(Array));
    // A signal takes a moment to stop every thread of it.
    const refused = await waitFor(() => requireAnswer(real.docker).catch((error: unknown) => error), {
      what: 'it hangs',
    });
    expect(refused).toMatchObject({
      reason: 'engine-unavailable',
      message: 'the Docker engine does not answer: nothing came within 6 s',
    });
  } finally {
    real.signalContainerd('SIGCONT');
  }
  await requireAnswer(real.docker);
}, 60_000);

/** @returns the reason for which it does not start; undefined: it does */
async function whyNotStarted(engine: DockerEngine, more: Partial<ContainerSpec>): Promise<string | undefined> {
  const name = `slipway-away-${names.length}`;
  names.push(name);
  const runDir = await engine.makeRunDir(name, '#!/bin/sh\ntrue\n');
  try {
    await engine.create({ ...PLAIN, name, image: TEST_IMAGE, runDir, ...more });
    await engine.start(name);
    return undefined;
  } catch (error) {
    return (error as EngineError).reason;
  } finally {
    await engine.remove(name);
  }
}

test.each<[string, Partial<ContainerSpec>, string]>([
  ['a user out of range', { user: '-1' }, 'container-refused'],
  ['a group out of range', { user: '0:99999999999' }, 'container-refused'],
  ['an unknown user', { user: 'nobody-here' }, 'script-not-runnable'],
  ['a user who is called as a full disk is', { user: 'no space left on device' }, 'script-not-runnable'],
  ['a user who is called as an engine in trouble is', { user: 'containerd' }, 'script-not-runnable'],
  ['a capability that does not exist', { capAdd: ['FOO'] }, 'container-refused'],
  ['more processors than there are', { resources: { cpus: 1024 } }, 'container-refused'],
  ['less memory than a container takes', { resources: { memoryBytes: 1000 } }, 'container-refused'],
])('H11 %s is the fault of who asks for it, and the host is well', async (_what, more, reason) => {
  const engine = worker();

  expect(await whyNotStarted(engine, more)).toBe(reason);

  await engine.prove();
  expect(await real.docker.listContainers({ all: true, filters: { name: ['slipway-proof'] } })).toEqual([]);
});

test('H11 an engine that answers and can start nothing says so of any container, and starts the same one once it is repaired', async () => {
  const engine = worker();
  const name = await create(engine, SCRIPT);
  real.breakRuntime();
  try {
    await expect(engine.start(name)).rejects.toMatchObject({ reason: 'cannot-start' });
    expect(await whyNotStarted(engine, { user: '-1' })).toBe('cannot-start');
    await expect(engine.prove()).rejects.toMatchObject({ reason: 'cannot-start' });
  } finally {
    real.repairRuntime();
  }
  await engine.prove();
  await engine.start(name);

  await waitFor(() => existsSync(join(runsDir, name, 'archive', 'starts')), { what: 'the script has begun' });
  expect(startsOf(name)).toBe('started\n');
}, 60_000);

/** As an engine leaves it that is killed after containerd began the container and before the engine had noted that. */
async function forgetStart(name: string): Promise<void> {
  const { Id: id } = await real.docker.getContainer(name).inspect();
  const { DockerRootDir: root } = (await real.docker.info()) as { DockerRootDir: string };
  await real.kill9();
  const file = join(root, 'containers', id, 'config.v2.json');
  const config = JSON.parse(readFileSync(file, 'utf8')) as { State: object };
  const never = '0001-01-01T00:00:00Z';
  const State = { ...config.State, Running: false, Pid: 0, StartedAt: never, FinishedAt: never };
  writeFileSync(file, JSON.stringify({ ...config, State }));
  await real.start();
}

const SCRIPT = 'echo started >> /archive/starts; while [ ! -e /archive/go ]; do sleep 0.1; done';
const startsOf = (name: string): string => readFileSync(join(runsDir, name, 'archive', 'starts'), 'utf8');

test.each([
  ['still runs', false],
  ['has ended', true],
])(
  'B4 H7 an engine that was killed while it started a container starts it no second time when its script %s, and nothing of it lives on',
  async (_what, hasEnded) => {
    const name = await start(worker(), SCRIPT);
    await waitFor(() => existsSync(join(runsDir, name, 'archive', 'starts')), { what: 'the script has begun' });
    await forgetStart(name);
    if (hasEnded) writeFileSync(join(runsDir, name, 'archive', 'go'), '');
    const { Id: id } = await real.docker.getContainer(name).inspect();
    if (hasEnded) await waitFor(() => alive(id) === 0, { what: 'the script has ended' });

    expect((await worker().find(name))?.state).toBe('created');
    await expect(worker().start(name)).rejects.toMatchObject({ reason: 'start-unknown' });

    expect(startsOf(name)).toBe('started\n');
    expect(alive(id)).toBe(0);
    await worker().remove(name);
    // What containerd had for it is gone as well.
    await waitFor(() => processesWith('cmdline', id) === 0, { what: 'its shim is gone' });
  },
  120_000,
);

test('B4 a container that was made and not started is started, also by another worker, also after a restart of its engine when nobody can have started it', async () => {
  const engine = worker();
  const ofAnother = await create(engine, SCRIPT);
  await worker().start(ofAnother);
  const overRestart = await create(engine, SCRIPT);
  await real.kill9();
  await real.start();
  await engine.start(overRestart);

  for (const name of [ofAnother, overRestart]) {
    await waitFor(() => existsSync(join(runsDir, name, 'archive', 'starts')), { what: 'the script has begun' });
    expect(startsOf(name)).toBe('started\n');
  }
}, 120_000);

test('B4 B5 a start that takes long is joined by whoever supervises next, however much the engine has forgotten meanwhile', async () => {
  const link = await HoldingProxy.open({ socketPath: real.socket }, ({ path }) =>
    Promise.resolve(path.endsWith('/start?') || path.endsWith('/start') ? 'before' : undefined),
  );
  const engine = worker(undefined, new Dockerode({ host: '127.0.0.1', port: link.port }));
  const name = await create(engine, SCRIPT);
  const starts = [engine.start(name)];
  await waitFor(() => link.held === 1, { what: 'the start is under way' });
  // It keeps its newest 256 events.
  for (let n = 0; n < 150; n += 1) {
    await real.docker.getImage(TEST_IMAGE).tag({ repo: 'slipway-busy', tag: `${n}` });
    await real.docker.getImage(`slipway-busy:${n}`).remove();
  }

  starts.push(engine.start(name), engine.start(name));
  await new Promise((done) => setTimeout(done, 500));
  link.release('go-on');
  await Promise.all(starts);

  await waitFor(() => existsSync(join(runsDir, name, 'archive', 'starts')), { what: 'the script has begun' });
  expect(startsOf(name)).toBe('started\n');
  expect(link.passed.filter((call) => call.includes('/start'))).toHaveLength(1);
  await link.close();
}, 120_000);

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Processes in the control group of a container. */
const alive = (id: string): number => processesWith('cgroup', id);

const processesWith = (file: 'cgroup' | 'cmdline', id: string): number => pidsWith(file, id).length;

function pidsWith(file: 'cgroup' | 'cmdline', id: string): number[] {
  const pids = readdirSync('/proc').filter((entry) => /^\d+$/.test(entry));
  const isOf = (pid: string): boolean => {
    try {
      return readFileSync(`/proc/${pid}/${file}`, 'utf8').includes(id);
    } catch {
      return false;
    }
  };
  return pids.filter(isOf).map(Number);
}
