// Proves that cancels and moves reach Temporal side by side: many of them in little time, and none held up by one that fails.
// The embedded record store; Temporal is a list that takes its time.
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { deliverCancels, sweepOutbox } from '../adapters/outbox';
import { migrate, openStore, type Database } from '../adapters/store/connect';
import { cancelRunning, drainCluster } from '../adapters/store/maintenance';
import { cancelsToDeliver } from '../adapters/store/deliveries';
import type { Temporal } from '../adapters/temporal';
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

/** A server that takes its time, and refuses all of one project. `mostAtOnce`: calls that it had open side by side. */
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
    startMaintenance: () => Promise.resolve(),
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
