// Proves that a supervisor which an older one of the same attempt displaces in its own process hands over, and ends nothing.
// Real Temporal, real Docker; the API is of the test, since the order of two answers of it is what matters.
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import Dockerode from 'dockerode';
import { makeJobActivities } from '../activities/job';
import { DockerEngine } from '../adapters/docker-engine';
import type { AttemptApi, WorkerApi } from '../adapters/worker-api';
import { containerName, workerQueue } from '../domain/names';
import type { AttemptKey, Lease, LeaseReply } from '../domain/schemas/worker-api';
import { ensureTestImage, TEST_IMAGE } from './setup/house';
import { startTemporal, type TestTemporal } from './setup/temporal';
import { waitFor } from './setup/wait-for';

const QUEUE = 'displaced';
const WORKER = { id: randomUUID(), cluster: 'local', stopGraceMs: 500 };
/** Of the test under way. */
let RUN = randomUUID();
beforeEach(() => {
  RUN = randomUUID();
  isCancelled = false;
  asked.length = 0;
  started.length = 0;
});
afterEach(() => engine.remove(containerName(RUN, 1)));

/** Answers to requests for the lease, given when the test wants it. */
const asked: ((reply: LeaseReply) => void)[] = [];
const started: string[] = [];
const dir = mkdtempSync(join(tmpdir(), 'slipway-displaced-'));
const engine = new DockerEngine(new Dockerode(), dir);
const closers: (() => unknown)[] = [() => rmSync(dir, { recursive: true, force: true })];
const held = new Map<string, AbortController>();
/** What the rows say of the attempt, once the server answers. */
let isCancelled = false;
let isServerThere: Promise<void> = Promise.resolve();
let temporal: TestTemporal;
let client: Client;

const grant = (token: number): Lease => ({
  kind: 'granted',
  token,
  project: 'p',
  build: 1,
  run: 'r',
  runUrl: 'http://127.0.0.1/',
  spec: {
    name: 'r',
    job: 'r',
    cell: {},
    container: TEST_IMAGE,
    privileged: false,
    capAdd: [],
    capDrop: [],
    script: '#!/bin/sh\nwhile [ ! -e /archive/end ]; do sleep 0.1; done\n',
    timeoutMs: 60_000,
    resources: {},
    needsCondition: 'success',
    env: {},
    needs: [],
  },
  host: 'h',
  image: TEST_IMAGE,
  leasedForMs: 0,
  silentForMs: 0,
  mayHaveStarted: token > 1,
  logBytes: 0,
  logCapBytes: 1e6,
});

const attemptApi: AttemptApi = {
  progress: async (progress) => {
    if (progress.state === 'running') started.push(RUN);
  },
  freeze: async (commit) => commit,
  appendLog: async (start, bytes) => start + bytes.length,
  collecting: async () => undefined,
  putArtifact: async (file) => ({ path: file.path, sizeBytes: file.sizeBytes, digest: '' }) as never,
  result: async () => ({ isHeld: false }),
  handBack: async () => false,
  release: async () => undefined,
};

beforeAll(async () => {
  await ensureTestImage();
  Runtime.install({ logger: new DefaultLogger('ERROR'), shutdownSignals: [] });
  const workflowsPath = join(__dirname, 'setup', 'gateway-workflows.ts');
  const [server, workflowBundle] = await Promise.all([
    startTemporal(),
    bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('ERROR') }),
  ]);
  temporal = server;
  client = new Client({ connection: await Connection.connect({ address: temporal.address }) });
  closers.push(() => client.connection.close());
  const api = {
    lease: () => new Promise<LeaseReply>((answer) => asked.push(answer)),
    attempt: () => attemptApi,
    standings: async ({ attempts }: { attempts: AttemptKey[] }) => {
      await isServerThere;
      return attempts.map((attempt) => ({ ...attempt, isKnown: true, isCancelled }));
    },
  };
  const activities = makeJobActivities({
    engines: { at: () => engine, borrow: () => ({ engine, direct: engine, close: () => undefined }) },
    api: api as unknown as WorkerApi,
    worker: WORKER,
    held,
    heartbeatMs: 500,
    leaving: new AbortController().signal,
    log: { info: () => undefined, warn: () => undefined },
  });
  const connection = await NativeConnection.connect({ address: temporal.address });
  const job = (): Promise<unknown> => activities.runJob({ runId: RUN, run: 'r', attempt: 1 });
  const worker = await Worker.create({ connection, taskQueue: QUEUE, workflowBundle, activities: { job } });
  const running = worker.run();
  closers.push(async () => {
    worker.shutdown();
    await running;
    await connection.close();
  });
}, 120_000);

afterAll(async () => {
  for (const close of closers.reverse()) await close();
  await temporal?.stop();
}, 60_000);

const supervisor = () =>
  client.workflow.start('oneActivity', {
    args: [{ queue: QUEUE, name: 'job' }],
    taskQueue: QUEUE,
    workflowId: randomUUID(),
  });

test('B6 the one that has the container lets go of it and says where to adopt it; the other follows it to its end', async () => {
  const older = await supervisor();
  await waitFor(() => asked.length === 1, { what: 'the older one asks for the lease' });
  const newer = await supervisor();
  await waitFor(() => asked.length === 2, { what: 'the newer one asks for the lease' });
  asked[1]!(grant(1));
  await waitFor(() => started.length === 1, { what: 'the newer one has the container' });

  asked[0]!(grant(2));

  await expect(newer.result()).resolves.toEqual({ kind: 'detached', queue: workerQueue(WORKER.cluster, WORKER.id) });
  await waitFor(() => started.length === 2, { what: 'the older one has the container' });
  const container = new Dockerode().getContainer(containerName(RUN, 1));
  const end = await container.exec({ Cmd: ['touch', '/archive/end'] });
  await end.start({});
  await expect(older.result()).resolves.toMatchObject({ kind: 'finished', cause: 'ok', recorded: true });
}, 60_000);

/** A supervisor that follows the container. */
async function supervising(token: number) {
  const before = [asked.length, started.length] as const;
  const workflow = await supervisor();
  await waitFor(() => asked.length > before[0], { what: 'it asks for the lease' });
  asked.at(-1)!(grant(token));
  await waitFor(() => started.length > before[1], { what: 'it has the container' });
  return workflow;
}

const isRunning = async (): Promise<boolean> =>
  (await new Dockerode().getContainer(containerName(RUN, 1)).inspect()).State.Running;
const isLetGo = () => waitFor(() => !held.has(containerName(RUN, 1)), { what: 'it is let go of' });

test('B6 H7 a workflow that is terminated stops no script: it is let go of, and the next supervisor adopts it', async () => {
  const first = await supervising(1);
  let answer: () => void = () => undefined;
  isServerThere = new Promise((there) => (answer = there));

  await first.terminate('by hand');
  // The server is away: nothing is decided before it answers.
  await expect(waitFor(() => !held.has(containerName(RUN, 1)), { what: '', timeoutMs: 2_000 })).rejects.toThrow();
  answer();
  await isLetGo();

  expect(await isRunning()).toBe(true);
  const second = await supervising(2);
  isCancelled = true;
  await second.cancel();
  await waitFor(async () => !(await isRunning().catch(() => false)), { what: 'it is stopped', timeoutMs: 20_000 });
  await expect(second.result()).resolves.toMatchObject({ kind: 'finished', cause: 'cancel-requested' });
}, 90_000);

test('B6 an activity that is reset by hand is let go of, and says where to adopt it', async () => {
  const first = await supervising(1);
  const { workflowId } = first;
  const { raw } = await first.describe();

  await client.workflowService.resetActivity({
    namespace: 'default',
    execution: { workflowId },
    id: raw.pendingActivities?.[0]?.activityId,
  });

  await expect(first.result()).resolves.toEqual({ kind: 'detached', queue: workerQueue(WORKER.cluster, WORKER.id) });
  expect(await isRunning()).toBe(true);
}, 90_000);
