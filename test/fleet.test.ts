// Proves that the workers of a cluster come, go and are stopped without a run noticing: restarted one by one under load,
// drained, out of disk space, not enlisted yet. All of them know a gateway alone. Real processes, Temporal and Docker.
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { Client, Connection } from '@temporalio/client';
import { parse } from 'yaml';
import { makeClusterKey } from '../adapters/cluster-keys';
import { buildWorkflowId } from '../domain/names';
import type { Build } from '../domain/schemas/api';
import type { Cluster, FleetWorker } from '../domain/schemas/clusters';
import { ADMIN_TOKEN, House, oneRun } from './setup/house';
import { waitFor } from './setup/wait-for';

const TOP = resolve(__dirname, '..');

let house: House;
beforeAll(async () => {
  house = await House.open({ gateway: true, slots: 2, without: ['worker'] });
}, 180_000);
afterAll(async () => house?.stop(), 120_000);

let fleets = 0;

/** A cluster of its own for a test, which other tests do not see. */
class Fleet {
  readonly cluster = `fleet-${++fleets}`;
  private readonly key = makeClusterKey();

  async register(more: object = {}): Promise<this> {
    await house.register(this.cluster, (await this.key).publicKey, more);
    return this;
  }

  /** A worker with a folder of its own. @returns its name among the processes of the house, and of its host */
  async add(name: string, env: Record<string, string> = {}): Promise<string> {
    const member = `${this.cluster}-${name}`;
    house.add(member, 'worker', {
      SLIPWAY_CLUSTER: this.cluster,
      SLIPWAY_CLUSTER_KEY: (await this.key).privateKey,
      SLIPWAY_HOST: member,
      SLIPWAY_WORKER_DIR: join(house.dir, member),
      ...env,
    });
    return member;
  }

  /** A project whose runs this cluster alone takes. */
  async project(script: string): Promise<string> {
    await house.project(this.cluster, oneRun(script, `cluster: ${this.cluster}\n`));
    return this.cluster;
  }

  async workers(): Promise<FleetWorker[]> {
    return (await house.call<Cluster>('GET', `/v1/clusters/${this.cluster}`)).fleet;
  }
}

/** It goes on until so many were built, however slow the machine is. */
const LEAST_BUILDS = 12;
const NOTE_START = '#!/bin/sh\necho started >> /archive/starts';
const lasting = (seconds: number): string => `${NOTE_START}\nsleep ${seconds}\necho done`;

/** Every attempt that was begun counts: there is one, it went well, and its script was started once. */
async function expectOneStart({ project, number }: Build): Promise<void> {
  const run = await house.run(project, number, 'work');
  expect(run.attempts.map(({ cause }) => cause)).toEqual(['ok']);
  expect(await (await house.request('GET', `${run.urls.artifacts}/starts`)).text()).toBe('started\n');
}

const waiting = async (project: string, number: number): Promise<string | null> =>
  (await house.run(project, number, 'work')).waiting;

async function untilDraining(fleet: Fleet): Promise<void> {
  const isDraining = async (): Promise<boolean> => (await fleet.workers())[0]?.notAccepting === 'it is being stopped';
  await waitFor(isDraining, { what: 'the server knows that it drains' });
}

test('C2 C7 ten workers behind the gateway are restarted one after the other under load: no run fails, each script is started once', async () => {
  const fleet = await new Fleet().register();
  const names = await Promise.all(Array.from({ length: 10 }, (_, at) => fleet.add(`w${at}`)));
  for (const name of names) await house.start(name);
  expect((await fleet.workers()).filter((worker) => worker.connected && worker.enlisted)).toHaveLength(10);
  const project = await fleet.project(lasting(3));
  const restarted = new AbortController();
  const builds: Build[] = [];
  const feed = async (): Promise<void> => {
    while (!restarted.signal.aborted || builds.length < LEAST_BUILDS) {
      const { number } = await house.trigger(project);
      builds.push(await house.finished(project, number, 180_000));
    }
  };
  const feeders = Array.from({ length: 6 }, feed);
  await waitFor(async () => (await fleet.workers()).some((worker) => worker.busySlots > 0), {
    what: 'runs are under way',
    timeoutMs: 30_000,
  });

  for (const name of names) {
    await house.terminate(name);
    expect(await house.ended(name)).toBe(0);
    await house.start(name);
  }
  restarted.abort();
  await Promise.all(feeders);

  expect(builds.filter(({ status }) => status !== 'passed')).toEqual([]);
  for (const build of builds) await expectOneStart(build);
  await Promise.all(names.map((name) => house.terminate(name)));
}, 600_000);

test('C7 a worker that drains takes no new run, finishes the one it has, and exits with 0; started again it takes what waited', async () => {
  const fleet = await new Fleet().register();
  const worker = await fleet.add('draining', { SLIPWAY_ON_STOP: 'drain' });
  await house.start(worker);
  const project = await fleet.project(lasting(8));
  await house.trigger(project);
  const { attempts } = await house.runIn('running', project, 1, 'work');

  house.signal(worker, 'SIGTERM');
  await untilDraining(fleet);
  await house.trigger(project);
  const why = await waitFor(() => waiting(project, 2), { what: 'the second run waits' });
  const code = await house.ended(worker, 60_000);
  const first = await house.build(project, 1);
  const second = await house.build(project, 2);
  await house.start(worker);

  expect(code).toBe(0);
  expect(why).toContain(`${worker} (it is being stopped)`);
  expect([first.status, second.state]).toEqual(['passed', 'queued']);
  expect((await house.run(project, 1, 'work')).attempts[0]?.containerId).toBe(attempts[0]?.containerId);
  expect((await house.finished(project, 2, 90_000)).status).toBe('passed');
  for (const build of [first, second]) await expectOneStart(build);
  await house.terminate(worker);
}, 240_000);

test('C7 a second signal makes a worker that drains let go at once; its container lives on and is adopted', async () => {
  const fleet = await new Fleet().register();
  const worker = await fleet.add('hurried', { SLIPWAY_ON_STOP: 'drain' });
  await house.start(worker);
  const project = await fleet.project(lasting(20));
  await house.trigger(project);
  await house.runIn('running', project, 1, 'work');
  house.signal(worker, 'SIGTERM');
  await untilDraining(fleet);

  // The first ones are taken for the same key press, which npm passes on as well.
  const hasHeardMore = (): boolean => {
    house.signal(worker, 'SIGTERM');
    return house.wholeLog(worker).includes('"msg":"stopping"');
  };
  await waitFor(hasHeardMore, { what: 'the second signal is heard', intervalMs: 200 });
  const code = await house.ended(worker, 20_000);
  const { state } = await house.run(project, 1, 'work');
  await house.start(worker);

  expect({ code, state }).toEqual({ code: 0, state: 'running' });
  const build = await house.finished(project, 1, 90_000);
  expect(build.status).toBe('passed');
  await expectOneStart(build);
  await house.terminate(worker);
}, 240_000);

test('C7 B5 a worker that drains still answers for what comes back to it: a run whose heartbeats were lost is adopted', async () => {
  const fleet = await new Fleet().register();
  const worker = await fleet.add('paused', { SLIPWAY_ON_STOP: 'drain' });
  await house.start(worker);
  const project = await fleet.project(lasting(30));
  await house.trigger(project);
  await house.runIn('running', project, 1, 'work');
  house.signal(worker, 'SIGTERM');
  await untilDraining(fleet);

  house.signal(worker, 'SIGSTOP');
  await untilReattached(buildWorkflowId(project, 1));
  house.signal(worker, 'SIGCONT');

  expect(await house.ended(worker, 90_000)).toBe(0);
  const build = await house.build(project, 1);
  expect(build.status).toBe('passed');
  await expectOneStart(build);
}, 240_000);

/** Until nobody answers any more, and the worker's own queue is asked. */
async function untilReattached(workflowId: string): Promise<void> {
  const connection = await Connection.connect({ address: house.temporal.address });
  try {
    const handle = new Client({ connection }).workflow.getHandle(workflowId);
    const isAsked = async (): Promise<boolean> => {
      const { raw } = await handle.describe();
      return (raw.pendingActivities ?? []).some(({ activityType }) => activityType?.name === 'reattach');
    };
    await waitFor(isAsked, { what: 'the own queue of the worker is asked', timeoutMs: 40_000, intervalMs: 100 });
  } finally {
    await connection.close();
  }
}

test('C8 a host with too little free disk takes no run, and the run says so', async () => {
  const fleet = await new Fleet().register();
  const worker = await fleet.add('full', { SLIPWAY_MIN_FREE_BYTES: String(2 ** 50) });
  await house.start(worker);
  const project = await fleet.project(lasting(0));
  await house.trigger(project);

  const why = await waitFor(() => waiting(project, 1), { what: 'the run waits' });

  expect(why).toMatch(
    new RegExp(
      `^no host takes new runs now: ${worker} \\(only [\\d.]+ GiB of its disk are free, 1048576.0 GiB are needed\\)`,
    ),
  );
  expect((await fleet.workers())[0]?.notAccepting).toContain('of its disk are free');
  expect((await house.build(project, 1)).state).toBe('queued');
  await house.terminate(worker);
}, 120_000);

test('C2 a worker that nobody has enlisted gets no work, says what it waits for, and starts working once it is enlisted', async () => {
  const fleet = await new Fleet().register({ enlistAutomatically: false });
  const worker = await fleet.add('stranger');
  await house.start(worker, { wait: false });
  const project = await fleet.project(lasting(0));
  await house.trigger(project);
  const [stranger] = await waitFor(async () => (await fleet.workers()).length > 0 && fleet.workers(), {
    what: 'it has said hello',
    timeoutMs: 30_000,
  });
  const enlist = `slipway cluster enlist ${fleet.cluster} ${stranger!.id}`;
  expect(await waiting(project, 1)).toBe(`a worker of cluster ${fleet.cluster} waits to be enlisted: ${enlist}`);
  expect(house.wholeLog(worker)).toContain(`it waits to be enlisted: ${enlist}`);

  await house.operated('POST', `/v1/clusters/${fleet.cluster}/workers/${stranger!.id}/enlist`);

  const build = await house.finished(project, 1, 90_000);
  expect(build.status).toBe('passed');
  await expectOneStart(build);
  await house.terminate(worker);
}, 180_000);

test('O1 C2 the step of docker-compose.yml that registers a key may be repeated, and a worker with that key is enlisted at once', async () => {
  const { services } = parse(readFileSync(join(TOP, 'docker-compose.yml'), 'utf8'), { merge: true }) as {
    services: Record<string, { command: string[] }>;
  };
  const file = join(house.dir, 'keys', 'cluster.key');
  const [, program = '', ...args] = services['cluster-key']!.command;
  const step = async (): Promise<string> => {
    const given = args.map((arg) => (arg === 'local' ? 'composed' : arg.endsWith('.key') ? file : arg));
    const env = { ...process.env, NODE_OPTIONS: '', SLIPWAY_SERVER: house.url, SLIPWAY_TOKEN: ADMIN_TOKEN };
    return (await promisify(execFile)(process.execPath, [join(TOP, program), ...given], { env })).stdout;
  };

  const [first, second] = [await step(), await step()];
  const key = readFileSync(file, 'utf8');
  house.add('composed', 'worker', {
    SLIPWAY_CLUSTER: 'composed',
    SLIPWAY_CLUSTER_KEY: key.trim(),
    SLIPWAY_HOST: 'composed',
    SLIPWAY_WORKER_DIR: join(house.dir, 'composed'),
  });
  await house.start('composed');

  expect(first).toMatch(new RegExp(`^key \\S+ of cluster composed is in ${file}\n$`));
  expect(second).toBe(`cluster composed knows the key in ${file} already\n`);
  const { keys, fleet } = await house.call<Cluster>('GET', '/v1/clusters/composed');
  expect(keys).toHaveLength(1);
  expect(fleet).toMatchObject([{ host: 'composed', enlisted: true, isSameVersion: true }]);
  await house.terminate('composed');
}, 120_000);
