// Proves that a worker which answers its tasks with anything at all ends its own attempt and nothing else: the other runs of its
// build go on, the build ends, and it can be cancelled before. Also that signals and inputs of any kind stop no workflow.
// Real Temporal; workers and store are scripted.
import { join, resolve } from 'node:path';
import { Client, Connection, type WorkflowHandle } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker, type WorkerOptions } from '@temporalio/worker';
import type { RecordActivities } from '../activities/record-types';
import { BUILD_WORKFLOW, DEFAULT_TIMING, type BuildInput } from '../domain/build-input';
import { clusterQueue, ORCHESTRATOR_QUEUE, workerQueue } from '../domain/names';
import { startTemporal, type TestTemporal } from './setup/temporal';
import { waitFor } from './setup/wait-for';

const workflowBundle = { codePath: join(resolve(__dirname, '..'), 'dist', 'workflow-bundle.js') };
const EVIL = 'evil';
const GOOD = 'good';
const ME = '11111111-2222-3333-4444-555555555555';

let temporal: TestTemporal;
let client: Client;
const closers: (() => Promise<void>)[] = [];
/** By what their worker says. */
const builds = new Map<string, WorkflowHandle>();
const lying: Promise<void>[] = [];
/** What the store was told of each run, by its name. */
const told = new Map<string, string>();
beforeAll(async () => {
  Runtime.install({ logger: new DefaultLogger('ERROR'), shutdownSignals: [] });
  temporal = await startTemporal();
  const connection = await Connection.connect({ address: temporal.address });
  closers.push(() => connection.close());
  client = new Client({ connection });
  await startWorker({ taskQueue: ORCHESTRATOR_QUEUE, workflowBundle, activities: records });
  const runJob = async () => ({ kind: 'finished', cause: 'ok', message: '', recorded: true });
  await startWorker({ taskQueue: clusterQueue(GOOD), activities: { runJob, reattach: runJob } });
  for (const queue of [clusterQueue(EVIL), workerQueue(EVIL, ME)]) lying.push(lieOn(queue));
  // Side by side: each takes its time.
  await Promise.all(Object.keys(lies).map(async (lie) => builds.set(lie, await startBuild(lie))));
}, 120_000);
afterAll(async () => {
  isOver.abort();
  await Promise.all(lying);
  for (const close of closers.reverse()) await close();
  await temporal?.stop();
}, 60_000);

async function startWorker(options: Omit<WorkerOptions, 'connection'>): Promise<void> {
  const connection = await NativeConnection.connect({ address: temporal.address });
  const worker = await Worker.create({ connection, shutdownForceTime: '5s', ...options });
  const running = worker.run();
  closers.push(async () => {
    worker.shutdown();
    await running;
    await connection.close();
  });
}

const records: RecordActivities = {
  locateAttempt: async () => ({}),
  closeAttempt: async ({ runId, cause, message }) => {
    told.set(runId, `${cause}: ${message}`);
    return { cause };
  },
  closeRuns: async (closed) => closed.forEach(({ runId, cause, message }) => told.set(runId, `${cause}: ${message}`)),
  expireBuild: async () => undefined,
  placeRun: async () => ({ cluster: EVIL, move: 0 }),
  readPriority: async () => ({ priority: 3 }),
  maintainCluster: async () => ({ isOver: true, left: 0, why: '' }),
  finishBuild: async () => ({ outcome: 'errored', cause: 'internal' }),
};

type Answered = Parameters<Client['workflowService']['respondActivityTaskCompleted']>[0];
type Failed = NonNullable<Parameters<Client['workflowService']['respondActivityTaskFailed']>[0]['failure']>;
type Lie = { result: Answered['result'] } | { failure: Failed };

const bytes = (text: string): Uint8Array => Buffer.from(text);
const encoded = (data: string, encoding = 'json/plain'): Lie => ({
  result: { payloads: [{ metadata: { encoding: bytes(encoding) }, data: bytes(data) }] },
});
const json = (value: unknown): Lie => encoded(JSON.stringify(value));
const finished = (more: object): Lie =>
  json({ kind: 'finished', cause: 'exit-code', message: '', recorded: false, ...more });
const failed = (failure: Failed): Lie => ({ failure });

/** Temporal itself refuses any other failure than one of an application; what is below it may be any. */
const because = (cause: Failed): Lie =>
  failed({ message: 'x', applicationFailureInfo: {}, cause: { message: 'y', ...cause } });

/** Deeper than any reader likes. */
const nested = (depth: number): Failed => {
  let failure: Failed = { message: 'the end', applicationFailureInfo: { type: 'x' } };
  for (let n = 0; n < depth; n += 1) failure = { message: 'x', applicationFailureInfo: { type: 'x' }, cause: failure };
  return failure;
};

const UNREADABLE = 'internal: its worker answered what nobody can read; see which version it runs';
/** What a worker says, and how its run ends by the store; undefined: the store is not told. */
const ENDING: Record<string, [lie: Lie, end: string | RegExp | undefined]> = {
  'nothing at all': [{ result: undefined }, UNREADABLE],
  'a payload without metadata': [{ result: { payloads: [{ data: bytes('{}') }] } }, UNREADABLE],
  null: [json(null), UNREADABLE],
  'a number': [json(7), UNREADABLE],
  'an unknown kind': [json({ kind: 'weird' }), UNREADABLE],
  'the kind of a prototype': [json({ kind: 'toString' }), UNREADABLE],
  'what is no JSON': [encoded('{not json'), UNREADABLE],
  'another encoding': [encoded('xx', 'binary/encrypted'), UNREADABLE],
  'an empty queue': [json({ kind: 'elsewhere', queue: '' }), UNREADABLE],
  'a long queue': [json({ kind: 'elsewhere', queue: 'q'.repeat(5_000) }), UNREADABLE],
  'a queue that is no text': [json({ kind: 'detached', queue: { a: 1 } }), UNREADABLE],
  'the queue of its cluster': [json({ kind: 'elsewhere', queue: clusterQueue(EVIL) }), UNREADABLE],
  'the queue of another cluster': [json({ kind: 'elsewhere', queue: clusterQueue(GOOD) }), UNREADABLE],
  'the queue of a worker of another cluster': [json({ kind: 'detached', queue: workerQueue(GOOD, ME) }), UNREADABLE],
  'the queue of the orchestrator': [json({ kind: 'elsewhere', queue: ORCHESTRATOR_QUEUE }), UNREADABLE],
  'a cause that is none': [finished({ cause: 'no-such-cause' }), UNREADABLE],
  'the cause of a prototype': [encoded('{"kind":"finished","cause":"__proto__","recorded":false}'), UNREADABLE],
  'a cause that is no text': [finished({ cause: ['ok'] }), UNREADABLE],
  'an end that it did not record': [finished({ cause: 'ok', recorded: true }), undefined],
  'control characters': [finished({ message: 'a\u0000b\u001b[2Jc\ud800' }), 'exit-code: a b [2Jc '],
  'a message that is no text': [finished({ message: { a: 1 } }), 'exit-code: '],
  'a long message': [finished({ message: 'm'.repeat(1_000_000) }), /^exit-code: m{1999}…$/],
  'a failure with control characters': [failed({ message: 'a\u0000b', applicationFailureInfo: {} }), 'internal: a b'],
  'a failure of a child workflow': [because({ childWorkflowExecutionFailureInfo: {} }), 'internal: x'],
  'a failure of an activity': [because({ activityFailureInfo: {} }), 'internal: x'],
  'a failure that claims a time-out': [because({ timeoutFailureInfo: { timeoutType: 2 } }), 'internal: x'],
  'a failure that claims a cancel': [because({ canceledFailureInfo: {} }), 'internal: x'],
  'a failure with details that cannot be read': [
    failed({ message: 'x', applicationFailureInfo: { details: { payloads: [{ data: bytes('x') }] } } }),
    'internal: x',
  ],
  'a failure of 60 failures': [failed(nested(60)), /^internal: /],
};

/** Answers that lead to a further question, for ever. */
const ENDLESS: Record<string, Lie> = {
  'its own queue': json({ kind: 'elsewhere', queue: workerQueue(EVIL, ME) }),
  'its own queue, going away': json({ kind: 'detached', queue: workerQueue(EVIL, ME) }),
  'that it moved': json({ kind: 'moved', cluster: GOOD, move: 7 }),
  'that it moved nowhere': json({ kind: 'moved', cluster: 'no such\u0000', move: 1e308 }),
  'that another holds it': json({ kind: 'fenced' }),
  'that it waits': json({ kind: 'waiting', reason: { a: 1 } }),
};

const lies = { ...Object.fromEntries(Object.entries(ENDING).map(([name, [lie]]) => [name, lie])), ...ENDLESS };
const isOver = new AbortController();
const answers = new Map<string, number>();
/** What kept the liar from lying. */
const faults: string[] = [];
afterEach(() => expect(faults.splice(0)).toEqual([]));

/** Answers every task of a queue as the name of its run says. */
async function lieOn(queue: string): Promise<void> {
  const service = client.workflowService;
  const round = async (): Promise<void> => {
    const poll = () => service.pollActivityTaskQueue({ namespace: 'default', taskQueue: { name: queue } });
    const task = await client.withDeadline(Date.now() + 5_000, poll).catch(() => undefined);
    if (!task?.taskToken.length) return;
    const data = task.input?.payloads?.[0]?.data ?? bytes('{}');
    const { run } = JSON.parse(Buffer.from(data).toString()) as { run: string };
    answers.set(run, (answers.get(run) ?? 0) + 1);
    const lie = lies[run]!;
    const answer = { namespace: 'default', taskToken: task.taskToken };
    if ('failure' in lie) await service.respondActivityTaskFailed({ ...answer, failure: lie.failure });
    else await service.respondActivityTaskCompleted({ ...answer, result: lie.result });
  };
  while (!isOver.signal.aborted) await round().catch((error: unknown) => faults.push(String(error)));
}

/** A run of the liar, and one after the other of somebody else. */
function startBuild(lie: string, name = lie): Promise<WorkflowHandle> {
  const run = (name: string, cluster: string) => ({
    id: `${lie}/${name}`,
    name,
    job: name,
    cluster,
    timeoutMs: 60_000,
  });
  const runs = [run('theirs', GOOD), { ...run('theirs after', GOOD), needs: [0] }, { ...run(lie, EVIL), id: lie }];
  const named = { buildId: lie, project: 'p', number: 1 };
  const input: BuildInput = { ...named, runs, jobs: [], window: 100, timing: DEFAULT_TIMING };
  return client.workflow.start(BUILD_WORKFLOW, {
    workflowId: `build/${name}`,
    taskQueue: ORCHESTRATOR_QUEUE,
    args: [input],
  });
}

const view = (build: WorkflowHandle): Promise<{ run: string; progress: { kind: string; outcome?: string } }[]> =>
  build.query('buildView');
const statusOf = async (build: WorkflowHandle): Promise<string> => (await build.describe()).status.name;
const ends = (build: WorkflowHandle) =>
  waitFor(async () => (await statusOf(build)) === 'COMPLETED', { what: 'the build ends', timeoutMs: 30_000 });
const othersPassed = async (build: WorkflowHandle): Promise<boolean> =>
  (await view(build)).slice(0, 2).every(({ progress }) => progress.outcome === 'passed');

test.each(Object.entries(ENDING))('C3 a worker that answers with %s ends that attempt alone', async (lie, [, end]) => {
  const build = builds.get(lie)!;

  await ends(build);

  expect(await othersPassed(build)).toBe(true);
  if (end instanceof RegExp) expect(told.get(lie)).toMatch(end);
  else expect(told.get(lie)).toBe(end);
});

test.each(Object.keys(ENDLESS))(
  'C3 B7 a worker that answers for ever %s is slowed down, and its build is cancelled',
  async (lie) => {
    const build = builds.get(lie)!;
    await waitFor(async () => (answers.get(lie) ?? 0) >= 3 && (await othersPassed(build)), {
      what: 'it was asked again, and the others passed',
      timeoutMs: 30_000,
    });

    await build.cancel();
    await ends(build);

    expect(answers.get(lie)).toBeLessThan(50);
    expect((await build.describe()).historyLength).toBeLessThan(1_000);
  },
);

const JUNK: unknown[] = [
  null,
  7,
  'x',
  [],
  {},
  { run: null },
  { run: {} },
  { runs: null },
  { runs: [null] },
  { run: '__proto__' },
];
const SIGNALS = ['runCancelRequested', 'runsCancelRequested', 'runReady', 'runMoved', 'noSuchSignal'];

test('C3 B6 signals that cannot be read are dropped, and the build goes on', async () => {
  const build = await startBuild('that it waits', 'signals');
  for (const signal of SIGNALS) {
    for (const junk of JUNK) await build.signal(signal, junk);
    await build.signal(signal);
    await client.workflowService.signalWorkflowExecution({
      namespace: 'default',
      workflowExecution: { workflowId: build.workflowId },
      signalName: signal,
      input: { payloads: [{ metadata: { encoding: bytes('binary/encrypted') }, data: bytes('xx') }] },
    });
  }
  const moves = [{ cluster: 5, move: 1 }, { cluster: 'x'.repeat(2_000), move: 1 }, { cluster: GOOD, move: 1e308 }, {}];
  for (const move of moves) await build.signal('runMoved', { run: 'that it waits', ...move });
  await waitFor(() => othersPassed(build), { what: 'the others passed', timeoutMs: 30_000 });

  await build.signal('runCancelRequested', { run: 'that it waits' });
  await ends(build);
});

test('B4 a workflow that is started with anything else than a build ends, and does not try for ever', async () => {
  const inputs = [null, 7, {}, { runs: [null], jobs: [], timing: {} }];
  for (const [at, input] of inputs.entries()) {
    const options = { workflowId: `junk/${at}`, taskQueue: ORCHESTRATOR_QUEUE, args: [input] };
    const build = await client.workflow.start(BUILD_WORKFLOW, options);
    await waitFor(async () => (await statusOf(build)) === 'FAILED', { what: 'it failed', timeoutMs: 20_000 });
  }
});
