// Proves that a run is granted only where it may run now, and that its moves between clusters and its grant never cross.
// Both record stores, no server. What cluster is chosen is in cluster-choice.test.ts; the whole way in clusters.test.ts.
import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { createBuild, type NewBuild } from '../adapters/store/builds';
import { createCluster, deleteCluster, editCluster } from '../adapters/store/clusters';
import { migrate, openStore, type Database } from '../adapters/store/connect';
import { recordProgress, recordResult, releaseLease } from '../adapters/store/holders';
import { listHosts, recordHost } from '../adapters/store/hosts';
import { requestLease, type GrantedLease, type LeaseAnswer } from '../adapters/store/leases';
import { drainCluster, undrainCluster } from '../adapters/store/maintenance';
import { clustersToLeave, movesToDeliver, moveToHosts, moveWaiting } from '../adapters/store/moves';
import { recordWorker, setEnlisted } from '../adapters/store/workers';
import { DEFAULT_TIMING } from '../domain/build-input';
import { CreateCluster } from '../domain/schemas/clusters';
import { makeProject, newBuild, plannedRun, STORES, type TestStore } from './setup/stores';

const ENDED = sql`state = 'finished', outcome = 'failed', cause = 'internal', finished_at = now()`;
const DRAIN = { reason: 'new disks', by: 'a test', deadline: null };

describe.each(STORES)('with %s', (_name, start) => {
  let store: TestStore;
  let db: Database;
  beforeAll(async () => {
    store = await start();
    db = openStore(store.url, 4);
    await migrate(db);
    await sql`update clusters set active = false`.execute(db);
  }, 60_000);
  afterAll(async () => {
    await db.destroy();
    await store.stop();
  });
  afterEach(async () => {
    await sql`update runs set ${ENDED}`.execute(db);
    await sql`update clusters set active = false`.execute(db);
  });

  let count = 0;
  /** With a worker that is connected. */
  async function cluster(fields: object = {}): Promise<{ name: string; worker: string }> {
    const name = `c-${++count}`;
    await createCluster(db, CreateCluster.parse({ name, ...fields }), 'a test');
    const worker = randomUUID();
    const facts = { labels: [], slots: 4, version: '1', notAccepting: null };
    await recordHost(db, { cluster: name, name: 'host', worker, ...facts }, 15_000);
    return { name, worker };
  }

  async function waiting(
    in_: string,
    more: { organisation?: string; pinned?: boolean; runs?: number; hostTag?: string } = {},
  ) {
    const project = await makeProject(db);
    const { organisation = null, pinned = false, runs = 1, hostTag } = more;
    await sql`update projects set organisation = ${organisation} where name = ${project}`.execute(db);
    const plans = Array.from({ length: runs }, (_, at) =>
      plannedRun(`work-${at}`, hostTag === undefined ? {} : { hostTag }),
    );
    const places = plans.map(() => ({ cluster: in_, placement: { reason: 'a test', pinned } }));
    const build: NewBuild = newBuild(project, { runs: plans, places });
    await createBuild(db, build);
    await sql`update builds set dispatched_at = now() where id = ${build.id}::uuid`.execute(db);
    return { project, runIds: build.runIds };
  }

  const ask = (
    runId: string,
    at: { name: string; worker: string },
    ...[move, attempt = 1]: [move?: number, attempt?: number]
  ): Promise<LeaseAnswer> =>
    requestLease(db, {
      runId,
      attempt,
      worker: at.worker,
      cluster: at.name,
      silentAfterMs: 15_000,
      logCapBytes: 1_000,
      ageStepMs: DEFAULT_TIMING.ageStepMs,
      ...(move === undefined ? {} : { move }),
    });
  const placeOf = async (runId: string) => {
    const row = await db
      .selectFrom('runs')
      .select(['cluster', 'placement'])
      .where('id', '=', runId as never)
      .executeTakeFirstOrThrow();
    return { cluster: row.cluster, ...row.placement };
  };

  describe('C5 a run that waits in a cluster', () => {
    test('is not granted there once the cluster does not serve its organisation any more, and says why', async () => {
      const at = await cluster({ kind: 'specialised', organisations: ['acme', 'other'] });
      const { runIds } = await waiting(at.name, { organisation: 'acme', pinned: true });
      await editCluster(db, at.name, { organisations: ['other'] });

      const answer = await ask(runIds[0]!, at);

      expect(answer).toMatchObject({
        kind: 'waiting',
        reason: expect.stringContaining('does not serve projects of organisation acme'),
      });
      await editCluster(db, at.name, { organisations: ['acme'] });
      expect(await ask(runIds[0]!, at)).toMatchObject({ kind: 'granted' });
    });

    test('is not granted once its project has gone to another organisation', async () => {
      const at = await cluster({ kind: 'specialised', organisations: ['acme'] });
      const { runIds, project } = await waiting(at.name, { organisation: 'acme', pinned: true });
      await sql`update projects set organisation = 'other' where name = ${project}`.execute(db);

      expect(await ask(runIds[0]!, at)).toMatchObject({ kind: 'waiting' });
    });

    test('is not granted once the policy does not allow it any more', async () => {
      const at = await cluster({ policy: { allowPrivileged: true } });
      const { runIds } = await waiting(at.name, { pinned: true });
      await sql`update runs set spec = (spec::jsonb || '{"privileged": true}')::json where id = ${runIds[0]!}::uuid`.execute(
        db,
      );
      await editCluster(db, at.name, { policy: { allowPrivileged: false } });

      expect(await ask(runIds[0]!, at)).toMatchObject({
        kind: 'waiting',
        reason: expect.stringContaining('privileged'),
      });
    });

    test('is not granted to another cluster that was registered under the name of its own', async () => {
      const old = await cluster({ kind: 'specialised', organisations: ['acme'] });
      const { runIds } = await waiting(old.name, { organisation: 'acme', pinned: true });
      await sql`update runs set ${ENDED} where id = ${runIds[0]!}::uuid`.execute(db);
      expect(await deleteCluster(db, old.name)).toBe('deleted');
      await sql`update runs set state = 'queued', outcome = null, cause = null, finished_at = null where id = ${runIds[0]!}::uuid`.execute(
        db,
      );
      const evil = { kind: 'specialised', organisations: ['evil'], owner: 'evil' };
      await createCluster(db, CreateCluster.parse({ name: old.name, ...evil }), 'evil');

      expect(await ask(runIds[0]!, old)).toMatchObject({ kind: 'waiting' });
    });
  });

  describe('C6 a run that did not ask for its cluster', () => {
    test('moves when the cluster is not registered any more, e.g. deleted while the trigger placed it there', async () => {
      const [from, to] = [await cluster(), await cluster()];
      const { runIds } = await waiting(from.name);
      await sql`delete from hosts where cluster = ${from.name}`.execute(db);
      await sql`delete from clusters where name = ${from.name}`.execute(db);

      for (const name of await clustersToLeave(db)) await moveWaiting(db, name);

      expect(await placeOf(runIds[0]!)).toMatchObject({
        cluster: to.name,
        reason: expect.stringContaining('not registered'),
      });
    });

    test('moves when the cluster stops serving its organisation, and what it serves stays', async () => {
      const [from, to] = [await cluster({ organisations: ['acme', 'other'] }), await cluster({ weight: 50 })];
      const leaves = await waiting(from.name, { organisation: 'acme' });
      const stays = await waiting(from.name, { organisation: 'other' });
      expect(await clustersToLeave(db)).toEqual([]);
      await editCluster(db, from.name, { organisations: ['other'] });

      for (const name of await clustersToLeave(db)) await moveWaiting(db, name);

      expect(await placeOf(leaves.runIds[0]!)).toMatchObject({ cluster: to.name });
      expect(await placeOf(stays.runIds[0]!)).toMatchObject({ cluster: from.name });
    });

    test('moves although many stand before it that no other cluster takes', async () => {
      const from = await cluster({ organisations: ['acme', 'other'] });
      await waiting(from.name, { organisation: 'acme', runs: 450 });
      const behind = await waiting(from.name, { organisation: 'other', runs: 10 });
      const to = await cluster({ kind: 'default', organisations: ['other'] });
      await drainCluster(db, from.name, DRAIN);

      expect(await moveWaiting(db, from.name)).toBe(10);

      expect(await placeOf(behind.runIds[9]!)).toMatchObject({ cluster: to.name });
    }, 60_000);
  });

  test('C4 a run that waits for a host moves once another cluster has one; pinned it stays, and so does what its own can serve', async () => {
    const [from, to] = [await cluster(), await cluster({ kind: 'specialised', organisations: ['acme'] })];
    const moves = await waiting(from.name, { organisation: 'acme', hostTag: 'GPU-*' });
    const foreign = await waiting(from.name, { organisation: 'other', hostTag: 'GPU-*' });
    const pinned = await waiting(from.name, { organisation: 'acme', hostTag: 'GPU-*', pinned: true });
    const served = await waiting(from.name, { organisation: 'acme', hostTag: 'host' });
    expect(await moveToHosts(db)).toBe(0);
    const gpu = { cluster: to.name, name: 'board', worker: randomUUID(), labels: ['gpu-4'] };
    await recordHost(db, { ...gpu, slots: 1, version: '1', notAccepting: null }, 15_000);

    expect(await moveToHosts(db)).toBe(1);

    expect(await placeOf(moves.runIds[0]!)).toMatchObject({
      cluster: to.name,
      reason: expect.stringContaining(`moved from ${from.name}, which has no host that matches host-tag "GPU-*"`),
    });
    for (const { runIds } of [foreign, pinned, served]) {
      expect(await placeOf(runIds[0]!)).toMatchObject({ cluster: from.name });
    }
    expect(await moveToHosts(db)).toBe(0);
  });

  test('C6 what waits in a cluster whose workers are all away moves to one that has some; while none has, it waits', async () => {
    const [from, to] = [await cluster(), await cluster()];
    const { runIds } = await waiting(from.name, { runs: 3 });
    const pinned = await waiting(from.name, { pinned: true });
    await sql`update hosts set last_seen_at = now() - interval '1 hour'`.execute(db);
    expect(await moveToHosts(db)).toBe(0);
    const back = { cluster: to.name, name: 'host', worker: to.worker, labels: [], slots: 4, version: '1' };
    await recordHost(db, { ...back, notAccepting: null }, 15_000);

    expect(await moveToHosts(db)).toBe(3);

    for (const id of runIds) {
      expect(await placeOf(id)).toMatchObject({
        cluster: to.name,
        reason: expect.stringContaining(`moved from ${from.name}, whose workers are all away`),
      });
    }
    expect(await placeOf(pinned.runIds[0]!)).toMatchObject({ cluster: from.name });
  });

  test('C6 a task from before the moves of its run gets no lease: the news of them would stop its script', async () => {
    const [a, b] = [await cluster(), await cluster()];
    const { runIds } = await waiting(a.name);
    await drainCluster(db, a.name, DRAIN);
    expect(await moveWaiting(db, a.name)).toBe(1);
    await undrainCluster(db, a.name);
    await drainCluster(db, b.name, DRAIN);
    expect(await moveWaiting(db, b.name)).toBe(1);

    const early = await ask(runIds[0]!, a, 0);

    expect(early).toEqual({ kind: 'moved', cluster: a.name, move: 2 });
    expect(await ask(runIds[0]!, a, 2)).toMatchObject({ kind: 'granted' });
    expect((await movesToDeliver(db)).filter((move) => move.runId === runIds[0])).toMatchObject([{ move: 2 }]);
  });

  test('C3 what a worker says of its image is believed in its own cluster alone', async () => {
    const [a, b] = [await cluster(), await cluster()];
    const { runIds } = await waiting(a.name);
    const runId = runIds[0]!;
    const first = (await ask(runId, a)) as GrantedLease;
    const holder = { runId, attempt: 1, token: first.token, cluster: a.name };
    await recordProgress(db, holder, { state: 'preparing', starting: true, imageDigest: 'evil@sha256:1' });
    await recordResult(db, holder, { cause: 'host-lost', message: '', exitCode: null });
    await releaseLease(db, holder);
    expect(await ask(runId, a, 0, 2)).toMatchObject({ kind: 'granted', image: 'evil@sha256:1' });
    await recordResult(
      db,
      { ...holder, attempt: 2, token: ((await ask(runId, a, 0, 2)) as GrantedLease).token },
      { cause: 'host-lost', message: '', exitCode: null },
    );
    await sql`update runs set state = 'queued', outcome = null, cause = null, finished_at = null where id = ${runId}::uuid`.execute(
      db,
    );
    await drainCluster(db, a.name, DRAIN);
    expect(await moveWaiting(db, a.name)).toBe(1);

    expect(await ask(runId, b, 1, 3)).toMatchObject({ kind: 'granted', image: 'image' });
  });

  test('C2 a worker that goes by ever new names and hosts does not fill the tables; dismissed, it is offered no work', async () => {
    const at = await cluster({ enlistAutomatically: true });
    const hello = { worker: at.worker, cluster: at.name, labels: [], slots: 1, version: '1' };
    expect(await recordWorker(db, { ...hello, host: 'host' })).toBe(true);
    const facts = { cluster: at.name, worker: at.worker, labels: [], slots: 1, version: '1', notAccepting: null };
    let taken = 0;
    for (let n = 0; n < 120; n += 1) taken += (await recordHost(db, { ...facts, name: `h-${n}` }, 15_000)) ? 1 : 0;
    expect(taken).toBeLessThanOrEqual(100);
    expect(await recordHost(db, { ...facts, name: 'h-1' }, 0)).toBeDefined();
    expect((await listHosts(db, at.name)).map(({ name }) => name)).toEqual(['h-1']);
    const { runIds } = await waiting(at.name);

    await setEnlisted(db, { cluster: at.name, id: at.worker }, false);

    expect(await ask(runIds[0]!, { ...at, worker: randomUUID() })).toMatchObject({
      kind: 'waiting',
      reason: expect.stringContaining('dismissed'),
    });
  });

  test('C6 of a move and a grant at the same moment one happens', async () => {
    const [from, to] = [await cluster(), await cluster()];
    const { runIds } = await waiting(from.name, { runs: 40 });
    await drainCluster(db, from.name, DRAIN);
    await undrainCluster(db, from.name);
    const isGranted = new Set<string>();
    const asked = Promise.all(
      runIds.slice(0, 4).map(async (id) => (await ask(id, from, 0)).kind === 'granted' && isGranted.add(id)),
    );
    await editCluster(db, from.name, { active: false });
    await Promise.all([asked, moveWaiting(db, from.name)]);

    for (const id of runIds) expect((await placeOf(id)).cluster).toBe(isGranted.has(id) ? from.name : to.name);
  });
});
