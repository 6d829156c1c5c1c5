// Proves that what waits for Temporal reaches it side by side, cancels, moves, maintenances and hosts, none held up by one that fails.
// The embedded record store; Temporal is a list that takes its time.
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { deliverCancels, startMaintenances, sweepOutbox, wakeWaiting } from '../adapters/outbox';
import { sweepAbandoned } from '../adapters/reaper';
import { migrate, openStore, type Database } from '../adapters/store/connect';
import { cancelRunning, drainCluster } from '../adapters/store/maintenance';
import { cancelsToDeliver } from '../adapters/store/deliveries';
import { putBlueprint } from '../adapters/store/blueprints';
import { listHosts, recordHost, SILENT_AFTER_MS } from '../adapters/store/hosts';
import { endMadeHost, planOnDemand } from '../adapters/store/on-demand';
import type { BuildToStart, Temporal, WorkflowFate } from '../adapters/temporal';
import { DEFAULT_TIMING } from '../domain/build-input';
import { PutBlueprint } from '../domain/schemas/blueprints';
import { makeBuild, makeCluster, plannedRun, STORES, type TestStore } from './setup/stores';

const COUNT = 100;
const CALL_MS = 50;
let store: TestStore;
let db: Database;
beforeAll(async () => {
  store = await STORES[0]![1]();
  db = openStore(store.url, 8);
  await migrate(db);
}, 60_000);
afterAll(async () => {
  await db.destroy();
  await store.stop();
});

/** A server that takes its time, and refuses all of one project, cluster or host. `mostAtOnce`: calls that it had open side by side. */
function slowTemporal(refused?: string) {
  const told: { project: string; runs: readonly string[] }[] = [];
  let [open, most] = [0, 0];
  const tell = async (project: string, runs: readonly string[]): Promise<void> => {
    open += 1;
    most = Math.max(most, open);
    await sleep(CALL_MS);
    open -= 1;
    if (project === refused) throw new Error(`refused: ${project}`);
    told.push({ project, runs });
  };
  const fake: Partial<Temporal> = {
    cancel: ({ project, runs }) => tell(project, runs ?? []),
    moveRun: ({ project, run }) => tell(project, [run]),
    wakeRun: ({ project, run }) => tell(project, [run]),
    startMaintenance: ({ cluster }) => tell(cluster, []),
    startHost: ({ host }) => tell(host.host, []),
    endHost: ({ host }) => tell(host.host, []),
  };
  return { told, temporal: fake as Temporal, mostAtOnce: () => most };
}

async function makeRuns(state: 'running' | 'queued', at: { cluster: string; count: number }): Promise<string> {
  const runs = Array.from({ length: at.count }, (_, number) => plannedRun(`work-${number}`));
  const { row } = await makeBuild(db, { runs, cluster: at.cluster });
  await sql`update builds set dispatched_at = now() where id = ${row.id}::uuid`.execute(db);
  await sql`update runs set state = ${state} where build_id = ${row.id}::uuid`.execute(db);
  return row.project;
}

test('B7 the cancels of one build are told together, those of many side by side, and one that fails holds up none', async () => {
  const big = await makeRuns('running', { cluster: 'busy', count: COUNT });
  const refused = await makeRuns('running', { cluster: 'busy', count: 2 });
  for (let n = 0; n < COUNT / 2; n += 1) await makeRuns('running', { cluster: 'busy', count: 1 });
  expect(await cancelRunning(db, 'busy')).toBe(COUNT * 1.5 + 2);
  const { told, temporal, mostAtOnce } = slowTemporal(refused);

  await expect(deliverCancels({ db, temporal })).rejects.toThrow(`refused: ${refused}`);

  expect(mostAtOnce()).toBeGreaterThan(8);
  expect(told).toHaveLength(COUNT / 2 + 1);
  expect(told.find(({ project }) => project === big)!.runs.length).toBe(COUNT);
  expect((await cancelsToDeliver(db)).map(({ project }) => project)).toEqual([refused]);
});

test('C6 moves are told although a cancel cannot be, and one that fails holds up none', async () => {
  const refused = await makeRuns('queued', { cluster: 'leaves', count: 3 });
  const other = await makeRuns('queued', { cluster: 'leaves', count: COUNT });
  await sql`update clusters set active = false`.execute(db);
  await makeCluster(db, 'elsewhere');
  await drainCluster(db, 'leaves', { reason: 'new disks', by: 'a test', deadline: null });
  const { told, temporal } = slowTemporal(refused);

  await expect(sweepOutbox({ db, temporal })).rejects.toThrow('refused');

  expect(told.filter(({ project }) => project === other)).toHaveLength(COUNT);
});

test('C6 the maintenance of one cluster that cannot be begun holds up no other', async () => {
  const names = ['refused', 'first', 'second', 'third'].map((name) => `drained-${name}`);
  for (const name of names) {
    await makeCluster(db, name);
    await drainCluster(db, name, { reason: 'new disks', by: 'a test', deadline: null });
  }
  const { told, temporal } = slowTemporal(names[0]);

  await expect(startMaintenances({ db, temporal })).rejects.toThrow('refused');

  expect(told.map(({ project }) => project)).toEqual(expect.arrayContaining(names.slice(1)));
});

test('C8 runs for which there is a slot are woken side by side, and one that cannot be told holds up none', async () => {
  await makeCluster(db, 'woken');
  const host = { cluster: 'woken', name: 'host', worker: randomUUID(), labels: [], slots: 20, version: '1' };
  await recordHost(db, { ...host, notAccepting: null }, SILENT_AFTER_MS);
  const projects: string[] = [];
  for (let n = 0; n < 12; n += 1) projects.push(await makeRuns('queued', { cluster: 'woken', count: 1 }));
  await sql`update runs set asked_at = now(), waiting_since = now() where cluster = 'woken'`.execute(db);
  const [refused, ...others] = projects;
  const { told, temporal, mostAtOnce } = slowTemporal(refused);

  await expect(wakeWaiting({ db, temporal }, DEFAULT_TIMING.ageStepMs)).rejects.toThrow('refused');

  expect(told.map(({ project }) => project).toSorted()).toEqual(others.toSorted());
  expect(mostAtOnce()).toBe(12);
});

test('H8 an on-demand host whose workflow cannot be begun keeps no other from being begun or ended', async () => {
  await makeCluster(db, 'made');
  await sql`insert into workers (id, cluster, enlisted_at, serves_hosts_at, slots, version)
    values (${randomUUID()}, 'made', now(), now(), 1, '1')`.execute(db);
  const make = { kind: 'docker' as const, image: 'x' };
  await putBlueprint(db, { cluster: 'made', name: 'small' }, PutBlueprint.parse({ make, minReady: 3, most: 3 }));
  await planOnDemand(db, DEFAULT_TIMING.ageStepMs);
  const [refused = '', begun = '', ending = ''] = (await listHosts(db, 'made')).map(({ name }) => name);
  expect(await endMadeHost(db, { cluster: 'made', host: ending, why: 'a test' })).toBe(true);
  const { told, temporal } = slowTemporal(refused);

  await expect(sweepOutbox({ db, temporal })).rejects.toThrow(`refused: ${refused}`);

  expect(told.map(({ project }) => project)).toEqual(expect.arrayContaining([begun, ending]));
});

test('B4 a build whose workflow cannot be looked at keeps no other from being settled', async () => {
  const projects: string[] = [];
  for (let n = 0; n < 8; n += 1) projects.push(await makeRuns('running', { cluster: 'left', count: 1 }));
  const list = sql`(select jsonb_array_elements_text(${JSON.stringify(projects)}::jsonb))`;
  await sql`update builds set dispatched_at = case when project in ${list} then now() - interval '1 hour' end`.execute(
    db,
  );
  const [refused, ...others] = projects;
  const lookAt = ({ project }: { project: string }): Promise<{ fate: WorkflowFate; starts: number }> =>
    project === refused ? Promise.reject(new Error('refused')) : Promise.resolve({ fate: 'terminated', starts: 1 });
  const temporal = { lookAt, startAgain: () => Promise.resolve() };

  await expect(sweepAbandoned({ db, temporal, log: { warn: () => undefined } })).rejects.toThrow('refused');

  const ended = await sql<{ project: string; cause: string }>`
    select project, cause from builds where cause = 'workflow-terminated' order by project`.execute(db);
  expect(ended.rows.map(({ project }) => project)).toEqual(others.toSorted());
});

/** A build whose workflow is due for a look, and that alone. */
async function makeDue(): Promise<{ id: string; project: string }> {
  const project = await makeRuns('running', { cluster: 'left', count: 2 });
  await sql`update builds set checked_at = now() where project <> ${project}`.execute(db);
  const { rows } = await sql<{ id: string; project: string }>`
    update builds set dispatched_at = now() - interval '1 hour', cancel_requested_at = now(), cancel_delivered_at = now()
    where project = ${project} returning id, project`.execute(db);
  return rows[0]!;
}

test.each(['stuck', 'ended'] as const)(
  'B4 a build whose workflow is %s begins again from its rows, is told of its cancel again, and the log says why',
  async (fate) => {
    const { id, project } = await makeDue();
    const started: { id: string; starts: number; runs: number }[] = [];
    const lookAt = () => Promise.resolve({ fate, starts: 3 });
    const startAgain = (build: BuildToStart, { starts }: { starts: number }): Promise<void> => {
      started.push({ id: build.id, starts, runs: build.runs.length });
      return Promise.resolve();
    };
    const said: object[] = [];

    await sweepAbandoned({ db, temporal: { lookAt, startAgain }, log: { warn: (facts) => said.push(facts) } });

    expect(started).toEqual([{ id, starts: 4, runs: 2 }]);
    expect(said).toEqual([{ project, build: 1, starts: 4, why: expect.stringMatching(/again and again|no verdict/) }]);
    expect((await cancelsToDeliver(db)).map((cancel) => cancel.project)).toContain(project);
    const { rows } = await sql<{ state: string }>`select state from builds where id = ${id}::uuid`.execute(db);
    expect(rows[0]?.state).not.toBe('finished');
  },
);

test('B6 a build whose workflow ends without a verdict each time is closed in the end, and says so', async () => {
  const { project } = await makeDue();
  const lookAt = () => Promise.resolve({ fate: 'ended' as const, starts: 20 });
  const startAgain = () => Promise.reject(new Error('it was started once more'));

  await sweepAbandoned({ db, temporal: { lookAt, startAgain }, log: { warn: () => undefined } });

  const { rows } = await sql<{ cause: string; message: string }>`
    select r.cause, r.message from runs r join builds b on b.id = r.build_id where b.project = ${project}`.execute(db);
  expect(rows[0]).toEqual({ cause: 'internal', message: 'its workflow ended 20 times without a verdict' });
});
