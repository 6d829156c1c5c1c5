// Proves why a waiting run waits, in one true sentence, and that it is woken when there is a slot for it, and then alone.
// The sentences are pure; the waking is on a real embedded database.
import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { drainCluster, undrainCluster } from '../adapters/store/maintenance';
import { editCluster } from '../adapters/store/clusters';
import { Troubles } from '../api/troubles';
import { migrate, openStore, type Database } from '../adapters/store/connect';
import { markDispatched } from '../adapters/store/deliveries';
import { listOffers, recordHost } from '../adapters/store/hosts';
import { requestLease } from '../adapters/store/leases';
import { runsToWake } from '../adapters/store/queue';
import { DEFAULT_TIMING } from '../domain/build-input';
import type { HostOffer } from '../domain/placement';
import { whyHeldUp, whyWaiting, type ClusterNow, type OpenRun, type WaitingRun } from '../domain/waiting';
import { makeBuild, plannedRun, STORES, type TestStore } from './setup/stores';

const host = (more: Partial<HostOffer> = {}): HostOffer => ({
  id: 'lab/one',
  name: 'one',
  labels: ['arm64'],
  slots: 2,
  busySlots: [],
  workerId: randomUUID(),
  notAccepting: null,
  ...more,
});
const run = (more: Partial<WaitingRun> = {}): WaitingRun => ({
  cluster: 'lab',
  hostTag: undefined,
  pinned: false,
  openNeeds: [],
  jobLimit: undefined,
  noted: null,
  place: undefined,
  ...more,
});
const open = (more: Partial<ClusterNow> = {}): ClusterNow => ({
  closed: null,
  strangerId: undefined,
  hosts: [host()],
  blueprints: [],
  ...more,
});

describe('C8 a waiting run says', () => {
  const full = host({ busySlots: [1, 2] });
  const drained = 'was drained by token ops: new disks';
  test.each<[what: string, ...facts: [run: Partial<WaitingRun>, cluster: ClusterNow | undefined, says: string]]>([
    ['what it needs', { openNeeds: ['a', 'b', 'c', 'd'] }, open(), 'it needs a, b, c and 1 more first'],
    [
      'that its job is busy',
      { jobLimit: { job: 'test', maxParallel: 2 } },
      open(),
      'job test runs 2 at once, and as many are under way',
    ],
    ['that its cluster is gone', {}, undefined, 'cluster lab is not registered any more'],
    [
      'that its cluster is down, and that it asked for it',
      { pinned: true },
      open({ closed: drained }),
      'cluster lab was drained by token ops: new disks, and the run names this cluster',
    ],
    [
      'that no other cluster is open to it',
      {},
      open({ closed: drained }),
      'cluster lab was drained by token ops: new disks, and no other cluster is open to it now',
    ],
    [
      'that nobody is connected',
      {},
      open({ hosts: [] }),
      'no worker of cluster lab is connected; start one with: slipway worker --cluster lab',
    ],
    [
      'who waits to be enlisted',
      {},
      open({ hosts: [], strangerId: 'w1' }),
      'a worker of cluster lab waits to be enlisted: slipway cluster enlist lab w1',
    ],
    [
      'that the worker is there, but refused for its clock',
      {},
      open({ hosts: [], strangerId: 'w1', refused: { host: 'one', why: 'the token has expired; check the clocks' } }),
      'the worker of host one is refused: the token has expired; check the clocks',
    ],
    [
      'which hosts come near',
      { hostTag: 'riscv' },
      open(),
      'no host matches host-tag "riscv"; nearest: one (arm64) lacks riscv',
    ],
    [
      'that all slots are leased, and its place in line',
      { place: { position: 3, of: 7 } },
      open({ hosts: [full] }),
      'all 2 slots of host one are leased; it is number 3 of 7 in line in cluster lab',
    ],
    [
      'why no host takes runs',
      {},
      open({ hosts: [host({ notAccepting: 'only 0.1 GiB of its disk are free' })] }),
      'no host takes new runs now: one (only 0.1 GiB of its disk are free)',
    ],
    [
      'how its last attempt ended',
      { noted: 'attempt 1 ended as host-lost, another is under way' },
      open({ hosts: [full] }),
      'attempt 1 ended as host-lost, another is under way; all 2 slots of host one are leased',
    ],
    ['that it is its turn', {}, open(), 'it is offered to the workers of cluster lab now'],
    [
      'that the host which has what it asks for is offline',
      { hostTag: 'dead*' },
      open({ silent: [host({ name: 'deadhost', labels: ['deady'], notAccepting: 'its worker is silent' })] }),
      'deadhost has it, and is offline: its worker is silent; no host matches host-tag "dead*"; nearest: one (arm64) lacks dead*',
    ],
    [
      'that nobody is connected, and who had what it asks for',
      { hostTag: 'arm64' },
      open({ hosts: [], silent: [host(), host({ name: 'two' })] }),
      'one, two have it, and are offline: their workers are silent; no worker of cluster lab is connected; start one with: slipway worker --cluster lab',
    ],
    [
      'nothing of offline hosts while others that are there have it',
      { hostTag: 'arm64' },
      open({ hosts: [full], silent: [host({ name: 'two' })] }),
      'all 2 slots of host one are leased',
    ],
  ])('%s', (_, ...[facts, cluster, says]) => {
    expect(whyWaiting(run(facts), cluster)).toBe(says);
  });
});

describe('C8 a run that is held up says', () => {
  const silent = [host({ name: 'dead', notAccepting: 'its worker is silent' })];
  test.each<[what: string, run: OpenRun, cluster: ClusterNow, says: string | null]>([
    ['nothing while it runs', { host: 'one', isCancelled: false }, open(), null],
    [
      'that its worker is silent',
      { host: 'dead', isCancelled: false },
      open({ silent }),
      'the worker of host dead is silent; its script may go on there',
    ],
    [
      'the same of a listed host',
      { host: 'one', isCancelled: false },
      open({ hosts: [host({ isAway: true })] }),
      'the worker of host one is silent; its script may go on there',
    ],
    [
      'that it is not cancelled before its silent worker has stopped it',
      { host: 'dead', isCancelled: true },
      open({ silent }),
      'the worker of host dead is silent, and its script may still run there; it is cancelled once that worker has stopped it, or has been silent for too long',
    ],
    ['that it is being stopped', { host: 'one', isCancelled: true }, open(), 'its script on host one is being stopped'],
    [
      'not that it is offered, once it is cancelled',
      { host: null, isCancelled: true },
      open(),
      'it is being cancelled',
    ],
  ])('%s', (_, ...[of, cluster, says]) => {
    expect(whyHeldUp(of, cluster)).toBe(says);
  });
});

describe('C8 the troubles of a server', () => {
  function troubles(askTemporal = (): Promise<unknown> => Promise.resolve()) {
    const clock = { nowMs: 0 };
    return { clock, known: new Troubles(askTemporal, () => clock.nowMs) };
  }
  const FULL = 'the server has no space left';

  test('are none while its calls go well', () => {
    const { known } = troubles();
    known.note('hello', null);

    expect(known.say()).toBeNull();
  });

  test('are told from the first failure on, while other calls go well, until the same call does', () => {
    const { clock, known } = troubles();
    known.note('log', FULL);
    clock.nowMs = 14_000;
    known.note('log', FULL);
    known.note('hello', null);
    const told = known.say();
    known.note('log', null);

    expect(told).toBe(`for 14 s the server could not store what its workers sent (${FULL}); they send it again`);
    expect(known.say()).toBeNull();
  });

  test('are of the past when the call did not come again', () => {
    const { clock, known } = troubles();
    known.note('log', FULL);
    clock.nowMs = 60_000;

    expect(known.say()).toBeNull();
  });

  test('include a Temporal that does not answer, for as long as it does not', async () => {
    let answer: () => Promise<unknown> = () => Promise.reject(new Error('away'));
    const { clock, known } = troubles(() => answer());
    known.say();
    await Promise.resolve();
    const told = known.say();
    answer = () => Promise.resolve();
    clock.nowMs = 5_000;
    known.say();
    await Promise.resolve();

    expect(told).toContain('Temporal does not answer the server');
    expect(known.say()).toBeNull();
  });
});

describe.each(STORES)('a run that was told to wait, on %s', (_, start) => {
  let store: TestStore;
  let db: Database;
  const SILENT_AFTER_MS = 60_000;
  beforeAll(async () => {
    store = await start();
    db = openStore(store.url, 4);
    await migrate(db);
  }, 90_000);
  afterAll(async () => {
    await db?.destroy();
    await store?.stop();
  }, 60_000);

  /** Two runs of one build in a cluster whose only host has no slot for either; both have asked, a while ago. */
  async function waitingRuns() {
    const runs = [plannedRun('first', { hostTag: 'board' }), plannedRun('second', { hostTag: 'board' })];
    const { row, runIds, cluster } = await makeBuild(db, { runs });
    await markDispatched(db, row);
    const worker = randomUUID();
    await addHost(cluster, { name: 'plain', worker, labels: [] });
    const ask = (runId: string) =>
      requestLease(db, {
        runId,
        attempt: 1,
        worker,
        cluster,
        silentAfterMs: SILENT_AFTER_MS,
        logCapBytes: 1_000_000,
        ageStepMs: DEFAULT_TIMING.ageStepMs,
      });
    for (const runId of runIds) expect(await ask(runId)).toMatchObject({ kind: 'waiting' });
    await later(cluster);
    return { cluster, runIds, ask };
  }
  const addHost = (cluster: string, more: { name: string; worker: string; labels: string[] }) =>
    recordHost(db, { cluster, slots: 1, version: '1', notAccepting: null, ...more }, SILENT_AFTER_MS);
  const later = (cluster: string) =>
    sql`update runs set asked_at = asked_at - interval '1 minute' where cluster = ${cluster}`.execute(db);
  /** Of the runs of one cluster: those of other tests are woken again after a while. */
  const wakes = async (cluster: string): Promise<string[]> =>
    (await runsToWake(db, { silentAfterMs: SILENT_AFTER_MS, ageStepMs: DEFAULT_TIMING.ageStepMs }))
      .filter(({ project }) => cluster === `cluster-of-${project}`)
      .map((woken) => woken.run);

  test('C8 is offered no machine whose worker is silent, and can say which there is', async () => {
    const { cluster } = await waitingRuns();
    await sql`update hosts set last_seen_at = now() - interval '1 hour' where cluster = ${cluster}`.execute(db);

    const { hosts, silent, freeSlots } = await listOffers(db, cluster, SILENT_AFTER_MS);

    expect([hosts, freeSlots]).toEqual([[], 0]);
    expect(silent).toMatchObject([{ name: 'plain', notAccepting: 'its worker is silent', isAway: true }]);
  });

  test('C8 is woken when there is a slot for it, the first in line, once in a while and no other', async () => {
    const { cluster, runIds, ask } = await waitingRuns();
    expect(await wakes(cluster)).toEqual([]);

    await addHost(cluster, { name: 'board-1', worker: randomUUID(), labels: ['board'] });

    expect(await wakes(cluster)).toEqual(['first']);
    expect(await wakes(cluster)).toEqual([]);
    expect(await ask(runIds[0]!)).toMatchObject({ kind: 'elsewhere' });
    await later(cluster);
    expect(await wakes(cluster)).toEqual([]);
  });

  test('C6 is not woken while its cluster is down, and is when that is over', async () => {
    const { cluster } = await waitingRuns();
    await addHost(cluster, { name: 'board-1', worker: randomUUID(), labels: ['board'] });
    await drainCluster(db, cluster, { reason: 'disks', by: 'ops', deadline: null });
    expect(await wakes(cluster)).toEqual([]);

    await undrainCluster(db, cluster);

    expect(await wakes(cluster)).toEqual(['first']);
  });

  test('C5 is not woken for a slot that its cluster would not give it, and is when the cluster is changed', async () => {
    const { cluster, runIds, ask } = await waitingRuns();
    await addHost(cluster, { name: 'board-1', worker: randomUUID(), labels: ['board'] });
    await editCluster(db, cluster, { organisations: ['acme'] });
    await later(cluster);
    for (const runId of runIds) expect(await ask(runId)).toMatchObject({ kind: 'waiting' });
    await later(cluster);
    expect(await wakes(cluster)).toEqual([]);

    await editCluster(db, cluster, { organisations: [] });

    expect(await wakes(cluster)).toEqual(['first']);
  });
});
