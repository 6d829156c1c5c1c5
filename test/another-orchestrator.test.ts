// Proves that a build goes on in another orchestrator whichever order its records were answered in: its history fits the
// code that made it. Real Temporal; workers and store are scripted.
import { randomUUID } from 'node:crypto';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, Connection, type WorkflowHandle } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker, type WorkerOptions } from '@temporalio/worker';
import type { JobActivities } from '../activities/job-types';
import type { RecordActivities } from '../activities/record-types';
import type { JobResult } from '../domain/job-result';
import { BUILD_WORKFLOW, DEFAULT_TIMING, type BuildInput } from '../domain/build-input';
import { clusterQueue, ORCHESTRATOR_QUEUE, workerQueue } from '../domain/names';
import { startTemporal, type TestTemporal } from './setup/temporal';
import { waitFor } from './setup/wait-for';

const workflowBundle = { codePath: join(resolve(__dirname, '..'), 'dist', 'workflow-bundle.js') };
const CLUSTER = 'local';

let temporal: TestTemporal;
let client: Client;
const closers: (() => Promise<void>)[] = [];
/** Of the test that runs. */
const workers: (() => Promise<void>)[] = [];
beforeAll(async () => {
  Runtime.install({ logger: new DefaultLogger('ERROR'), shutdownSignals: [] });
  temporal = await startTemporal();
  const connection = await Connection.connect({ address: temporal.address });
  closers.push(() => connection.close());
  client = new Client({ connection });
}, 60_000);
afterEach(async () => {
  for (const stop of workers.splice(0)) await stop();
});
afterAll(async () => {
  for (const close of closers.reverse()) await close();
  await temporal?.stop();
}, 60_000);

/** @returns what stops it; stopped twice is fine */
async function startWorker(options: Omit<WorkerOptions, 'connection'>): Promise<() => Promise<void>> {
  const connection = await NativeConnection.connect({ address: temporal.address });
  const worker = await Worker.create({ connection, shutdownForceTime: '5s', ...options });
  const running = worker.run();
  const stop = async (): Promise<void> => {
    if (worker.getState() !== 'RUNNING') return;
    worker.shutdown();
    await running;
    await connection.close();
  };
  workers.push(stop);
  return stop;
}

/** Runs that end when they are told to. */
async function startCluster() {
  const open = new Map<string, (result: JobResult) => void>();
  const job = ({ run }: { run: string }) => new Promise<JobResult>((end) => open.set(run, end));
  const activities: JobActivities = { runJob: job, reattach: job };
  await startWorker({ taskQueue: clusterQueue(CLUSTER), activities });
  return {
    running: () => [...open.keys()].sort().join(),
    end: (run: string, result: JobResult) => {
      open.get(run)?.(result);
      open.delete(run);
    },
  };
}

/** @param lateMs how long the store takes for the first answer of a kind */
async function startOrchestrator(lateMs: Record<string, number> = {}): Promise<() => Promise<void>> {
  const late = async (what: string): Promise<void> => {
    const ms = lateMs[what] ?? 0;
    delete lateMs[what];
    await sleep(ms);
  };
  const activities: RecordActivities = {
    locateAttempt: async ({ runId }) => {
      await late(`locateAttempt ${runId}`);
      return { endedAs: 'ok' };
    },
    closeAttempt: async () => ({ cause: 'host-lost' }),
    closeRuns: () => late('closeRuns'),
    expireBuild: () => late('expireBuild'),
    placeRun: async () => ({}),
    readPriority: async () => ({ priority: 3 }),
    maintainCluster: async () => ({ isOver: true, left: 0, why: '' }),
    finishBuild: async () => ({ outcome: 'passed', cause: 'ok' }),
  };
  return startWorker({ taskQueue: ORCHESTRATOR_QUEUE, workflowBundle, activities });
}

/** Runs `a` and `b`, and `after` that needs both. */
function startBuild(): Promise<WorkflowHandle> {
  const run = (name: string) => ({ id: name, name, job: name, cluster: CLUSTER, timeoutMs: 60_000 });
  const runs = [run('a'), run('b'), { ...run('after'), needs: [0, 1] }];
  const named = { buildId: 'b', project: 'p', number: 1 };
  const input: BuildInput = { ...named, runs, jobs: [], window: 100, timing: DEFAULT_TIMING };
  const options = { workflowId: 'build/p/1', taskQueue: ORCHESTRATOR_QUEUE, args: [input] };
  return client.workflow.start(BUILD_WORKFLOW, options);
}

const seen = (what: string, condition: () => boolean | Promise<boolean>) =>
  waitFor(condition, { what, timeoutMs: 20_000 });

test('B4 B11 two runs lost their supervisors at once, the store answered one by one, and then the orchestrator died', async () => {
  const cluster = await startCluster();
  const stopFirst = await startOrchestrator();
  const build = await startBuild();
  await seen('both run', () => cluster.running() === 'a,b');
  // Both ends wait for the next orchestrator, so that it is told of them at once.
  await stopFirst();
  cluster.end('a', { kind: 'fenced' });
  cluster.end('b', { kind: 'fenced' });
  await seen('both are over', async () => ((await build.describe()).raw.pendingActivities ?? []).length === 0);

  // It learns that `b` ended while it records the end of `a`.
  const stopSecond = await startOrchestrator({ 'locateAttempt b': 100, closeRuns: 300 });
  await seen('the last run', () => cluster.running() === 'after');
  await stopSecond();
  await startOrchestrator();
  cluster.end('after', { kind: 'finished', cause: 'ok', message: '', recorded: true });

  await seen('the build ends', async () => (await build.describe()).status.name === 'COMPLETED');
}, 90_000);

describe('a run that is cancelled while its worker is silent', () => {
  const OWN = workerQueue(CLUSTER, randomUUID());
  let closed: string[];
  beforeEach(async () => {
    closed = [];
    const activities: RecordActivities = {
      locateAttempt: async () => ({ queue: OWN, isHeard: false }),
      closeAttempt: async ({ message }) => {
        closed.push(message);
        return { cause: 'host-lost' };
      },
      closeRuns: async (runs) => void closed.push(...runs.map(({ cause, message }) => `${cause}: ${message}`)),
      expireBuild: async () => undefined,
      readPriority: async () => ({ priority: 3 }),
      placeRun: async () => ({}),
      maintainCluster: async () => ({ isOver: true, left: 0, why: '' }),
      finishBuild: async () => ({ outcome: 'cancelled', cause: 'cancel-requested' }),
    };
    const away: JobActivities['runJob'] = async () => ({ kind: 'detached', queue: OWN });
    await startWorker({ taskQueue: ORCHESTRATOR_QUEUE, workflowBundle, activities });
    await startWorker({ taskQueue: clusterQueue(CLUSTER), activities: { runJob: away, reattach: away } });
  });

  /** @returns once its worker is waited for */
  async function cancelled(name: string, cancelGraceMs: number): Promise<WorkflowHandle> {
    const runs = [{ id: 'a', name: 'a', job: 'a', cluster: CLUSTER, timeoutMs: 60_000 }];
    const timing = { ...DEFAULT_TIMING, reattachGraceMs: 500, cancelGraceMs };
    const input: BuildInput = { buildId: name, project: 'p', number: 2, runs, jobs: [], window: 100, timing };
    const options = { workflowId: name, taskQueue: ORCHESTRATOR_QUEUE, args: [input] };
    const build = await client.workflow.start(BUILD_WORKFLOW, options);
    const waitsFor = async (isCancelled: boolean): Promise<boolean> => {
      const { events } = await build.fetchHistory();
      const asked = (events ?? []).flatMap(({ activityTaskScheduledEventAttributes: task }) =>
        task?.activityType?.name === 'reattach' ? [Buffer.from(task.input?.payloads?.[0]?.data ?? []).toString()] : [],
      );
      return asked.some((input) => !isCancelled || input.includes('"cancel":true'));
    };
    await seen('its worker is gone', () => waitsFor(false));
    await build.cancel();
    await seen('its worker is told to stop it', () => waitsFor(true));
    return build;
  }

  test('B7 is not cancelled before that worker is back and has stopped it', async () => {
    const build = await cancelled('comes-back', 600_000);
    // The first time it was waited for is over.
    await seen('it waits on', async () =>
      ((await build.fetchHistory()).events ?? []).some((event) => event.activityTaskTimedOutEventAttributes),
    );
    const before = [...closed];
    const stopped: JobActivities['runJob'] = async ({ cancel }) => ({
      kind: 'finished',
      cause: cancel ? 'cancel-requested' : 'ok',
      message: '',
      recorded: true,
    });
    await startWorker({ taskQueue: OWN, activities: { runJob: stopped, reattach: stopped } });
    await seen('the build ends', async () => (await build.describe()).status.name === 'COMPLETED');

    expect(before).toEqual([]);
    expect(closed).toEqual([]);
  }, 60_000);

  test('B7 is cancelled once that worker stayed away for too long, with the words that nobody could confirm it', async () => {
    const build = await cancelled('stays-away', 2_000);
    await seen('the build ends', async () => (await build.describe()).status.name === 'COMPLETED');

    const said = 'its worker did not come back within 2 s, so nobody could confirm that its script is gone';
    expect(closed).toEqual([said, `cancel-requested: cancelled; ${said}`]);
  }, 60_000);
});
