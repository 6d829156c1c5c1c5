// Proves that a build is started under its id whatever had that id before: the same build once, another one's workflow never in
// its place, as after a database was put back to an earlier day. Real Temporal; no orchestrator.
import { randomUUID } from 'node:crypto';
import { Client, Connection } from '@temporalio/client';
import { Temporal, type BuildToStart } from '../adapters/temporal';
import { DEFAULT_TIMING } from '../domain/build-input';
import { buildWorkflowId } from '../domain/names';
import { startTemporal, type TestTemporal } from './setup/temporal';
import { plannedRun } from './setup/stores';

const { TEMPORAL_ADDRESS } = process.env;
let server: TestTemporal;
let client: Client;
let temporal: Temporal;
beforeAll(async () => {
  server = await startTemporal();
  client = new Client({ connection: await Connection.connect({ address: server.address }) });
  process.env.TEMPORAL_ADDRESS = server.address;
  temporal = Temporal.open({
    SLIPWAY_HEARTBEAT_TIMEOUT_MS: DEFAULT_TIMING.heartbeatTimeoutMs,
    SLIPWAY_REATTACH_GRACE_MS: DEFAULT_TIMING.reattachGraceMs,
    SLIPWAY_AGE_STEP_MS: DEFAULT_TIMING.ageStepMs,
  });
  await temporal.ensureSearchAttributes();
}, 60_000);
afterAll(async () => {
  process.env.TEMPORAL_ADDRESS = TEMPORAL_ADDRESS;
  if (TEMPORAL_ADDRESS === undefined) delete process.env.TEMPORAL_ADDRESS;
  await temporal?.close();
  await client?.connection.close();
  await server?.stop();
});

function makeBuild(project: string): BuildToStart {
  const run = {
    id: randomUUID(),
    spec: plannedRun('work'),
    cluster: 'local',
    moves: 0,
    outcome: null,
    attemptsBefore: 0,
  };
  const named = { id: randomUUID(), project, number: 1, reruns: 0, trigger: 't', timeoutMs: null };
  return { ...named, jobs: [], runs: [run] };
}

/** The build of the workflow that has the id now, and which execution it is. */
async function executionOf({ project }: BuildToStart): Promise<{ buildId: unknown; runId: string }> {
  const { memo, runId } = await client.workflow.getHandle(buildWorkflowId(project, 1)).describe();
  return { buildId: memo?.['buildId'], runId };
}

test('B2 a build that is started twice has one workflow', async () => {
  const build = makeBuild('twice');
  await temporal.startBuild(build);
  const { runId } = await executionOf(build);

  await temporal.startBuild(build);

  expect(await executionOf(build)).toEqual({ buildId: build.id, runId });
  expect(await temporal.lookAt(build)).toEqual({ fate: 'open', starts: 1 });
});

test('B2 a build whose workflow has ended is not begun again by whoever starts it late', async () => {
  const build = makeBuild('late');
  await temporal.startBuild(build);
  await client.workflow.getHandle(buildWorkflowId('late', 1)).terminate();
  const { runId } = await executionOf(build);

  await temporal.startBuild(build);

  expect((await executionOf(build)).runId).toBe(runId);
  expect(await temporal.lookAt(build)).toEqual({ fate: 'terminated', starts: 1 });
});

test.each(['runs', 'has ended'])(
  'B2 B4 a build whose id is taken by the workflow of another build, which %s, is built',
  async (how) => {
    const project = `taken-${how.length}`;
    const former = makeBuild(project);
    await temporal.startBuild(former);
    if (how === 'has ended') await client.workflow.getHandle(buildWorkflowId(project, 1)).terminate();
    const build = makeBuild(project);
    expect(await temporal.lookAt(build)).toMatchObject({ fate: 'unknown' });

    await temporal.startBuild(build);

    expect(await executionOf(build)).toMatchObject({ buildId: build.id });
    expect(await temporal.lookAt(build)).toEqual({ fate: 'open', starts: 1 });
    expect(await temporal.lookAt(former)).toMatchObject({ fate: 'unknown' });
  },
);

test('B4 a workflow that nobody can go on with gives way to another start, which tells why and knows no signal of the former', async () => {
  const build = makeBuild('stuck');
  await temporal.startBuild(build);
  const { runId } = await executionOf(build);
  await client.workflow.getHandle(buildWorkflowId('stuck', 1)).signal('runCancelRequested', null);

  await temporal.startAgain(build, { starts: 2, why: 'its tasks failed again and again' });

  const handle = client.workflow.getHandle(buildWorkflowId('stuck', 1));
  const now = await handle.describe();
  expect(now.runId).not.toBe(runId);
  expect(await now.staticSummary()).toContain('start 2: its tasks failed again and again');
  const { events } = await handle.fetchHistory();
  expect(events?.some((event) => event.workflowExecutionSignaledEventAttributes)).toBe(false);
  expect(await temporal.lookAt(build)).toEqual({ fate: 'open', starts: 2 });
});
