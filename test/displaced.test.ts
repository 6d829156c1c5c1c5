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
import type { Lease, LeaseReply } from '../domain/schemas/worker-api';
import { ensureTestImage, TEST_IMAGE } from './setup/house';
import { startTemporal, type TestTemporal } from './setup/temporal';
import { waitFor } from './setup/wait-for';

const QUEUE = 'displaced';
const WORKER = { id: randomUUID(), cluster: 'local', stopGraceMs: 500 };
const RUN = randomUUID();

/** Answers to requests for the lease, given when the test wants it. */
const asked: ((reply: LeaseReply) => void)[] = [];
const started: string[] = [];
const dir = mkdtempSync(join(tmpdir(), 'slipway-displaced-'));
const engine = new DockerEngine(new Dockerode(), dir);
const closers: (() => unknown)[] = [() => rmSync(dir, { recursive: true, force: true })];
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
  };
  const activities = makeJobActivities({
    engines: { at: () => engine, borrow: () => ({ engine, direct: engine, close: () => undefined }) },
    api: api as unknown as WorkerApi,
    worker: WORKER,
    held: new Map(),
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
  await engine.remove(containerName(RUN, 1));
  for (const close of closers.reverse()) await close();
  await temporal?.stop();
}, 60_000);

test('B6 the one that has the container lets go of it and says where to adopt it; the other follows it to its end', async () => {
  const supervisor = () =>
    client.workflow.start('oneActivity', {
      args: [{ queue: QUEUE, name: 'job' }],
      taskQueue: QUEUE,
      workflowId: randomUUID(),
    });
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
