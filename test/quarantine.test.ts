// Proves what becomes of a host that fails, and of the runs that it fails: one fault for what happens together, a proof that
// ends it, and no budget for a script that was never begun. On both databases; times are moved in the rows.
import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { migrate, openStore, type Database } from '../adapters/store/connect';
import { handBack } from '../adapters/store/hand-back';
import { recordProgress, recordResult, type Holder } from '../adapters/store/holders';
import { createHost, listHosts, recordHost, setHostDrain, type HostRow } from '../adapters/store/hosts';
import { keepHosts, recordProbes } from '../adapters/store/kept-hosts';
import { requestLease, type LeaseAnswer } from '../adapters/store/leases';
import { recordProof } from '../adapters/store/quarantine';
import { listAttempts, listRuns } from '../adapters/store/runs';
import { recordWorker, setEnlisted } from '../adapters/store/workers';
import { DEFAULT_TIMING } from '../domain/build-input';
import { makeBuild, makeCluster, plannedRun, STORES, type TestStore } from './setup/stores';

const SILENT_AFTER_MS = 60_000;
const range = (count: number): number[] => Array.from({ length: count }, (_, at) => at + 1);
const BROKEN = { cause: 'engine-unavailable' as const, message: 'no container of ours can be started: no bridge' };
const WELL = { fault: null, beganMsAgo: 0 };

describe.each(STORES)('on %s', (_, start) => {
  let store: TestStore;
  let db: Database;
  beforeAll(async () => {
    store = await start();
    db = openStore(store.url, 4);
    await migrate(db);
  }, 90_000);
  afterAll(async () => {
    await db?.destroy();
    await store?.stop();
  }, 60_000);

  /** A worker's machine. */
  const machine = (cluster: string, worker: string, more: { name?: string; slots?: number } = {}) =>
    recordHost(
      db,
      { cluster, name: 'first', worker, labels: [], slots: 9, version: '1', notAccepting: null, ...more },
      SILENT_AFTER_MS,
    );

  /** @param at.count runs of one build, and a machine with a slot for each */
  async function runsOn(at: { count: number }) {
    const runs = range(at.count).map((number) => plannedRun(`run-${number}`));
    const { row, runIds, cluster } = await makeBuild(db, { runs });
    const worker = randomUUID();
    await machine(cluster, worker);
    const place = { cluster, worker, host: 'first' };
    return { row, runIds, cluster, worker, place };
  }

  const ask = (runId: string, at: { cluster: string; worker: string }, attempt = 1): Promise<LeaseAnswer> =>
    requestLease(db, {
      runId,
      attempt,
      ...at,
      silentAfterMs: SILENT_AFTER_MS,
      logCapBytes: 1_000_000,
      ageStepMs: DEFAULT_TIMING.ageStepMs,
    });

  async function granted(runId: string, at: { cluster: string; worker: string }, attempt = 1): Promise<Holder> {
    const answer = await ask(runId, at, attempt);
    if (answer.kind !== 'granted') throw new Error(JSON.stringify(answer));
    return { runId, attempt, token: answer.token, cluster: at.cluster };
  }

  async function hostOf(cluster: string, name = 'first'): Promise<HostRow> {
    const [host] = await listHosts(db, cluster, name);
    if (!host) throw new Error(`no host ${name}`);
    return host;
  }

  /** As if that much time had passed for a host. */
  const later = (cluster: string, seconds: number) =>
    sql`update hosts set faulted_at = faulted_at - ${seconds} * interval '1 second',
      quarantined_until = quarantined_until - ${seconds} * interval '1 second' where cluster = ${cluster}`.execute(db);

  const fail = (holder: Holder) => recordResult(db, holder, { ...BROKEN, exitCode: null });

  test('H11 nine runs that fail together are one fault of their host, which takes nothing more', async () => {
    const at = await runsOn({ count: 10 });
    const holders = await Promise.all(at.runIds.slice(0, 9).map((runId) => granted(runId, at)));

    await Promise.all(holders.map(fail));

    const host = await hostOf(at.cluster);
    expect(host).toMatchObject({ faults: 1, fault: BROKEN.message, is_quarantined: true });
    expect(host.quarantined_until!.getTime() - Date.now()).toBeLessThan(60_000);
    expect(await ask(at.runIds[9]!, at)).toMatchObject({
      kind: 'waiting',
      reason: expect.stringContaining('no bridge'),
    });
  });

  test('H11 what was granted before the last fault of a host says nothing new of it, for bad or for good', async () => {
    const at = await runsOn({ count: 3 });
    const [first, slow, other] = await Promise.all(at.runIds.map((runId) => granted(runId, at)));
    await fail(first!);
    await later(at.cluster, 120);
    await sql`update leases set granted_at = granted_at - interval '3 minutes' where run_id in (select jsonb_array_elements_text(${JSON.stringify(at.runIds)}::jsonb)::uuid)`.execute(
      db,
    );

    await fail(slow!);
    await recordProgress(db, other!, { state: 'running' });

    expect(await hostOf(at.cluster)).toMatchObject({ faults: 1, is_quarantined: false });
  });

  test('H11 a proof ends the quarantine; then one run at a time is taken until a script of one runs', async () => {
    const at = await runsOn({ count: 4 });
    await fail(await granted(at.runIds[0]!, at));
    await sql`update leases set state = 'released' where state = 'releasing'`.execute(db);

    await recordProof(db, at.place, WELL);

    const trial = await granted(at.runIds[1]!, at);
    expect(await ask(at.runIds[2]!, at)).toMatchObject({ kind: 'waiting' });
    await recordProgress(db, trial, { state: 'running' });
    expect(await ask(at.runIds[2]!, at)).toMatchObject({ kind: 'granted' });
    expect(await ask(at.runIds[3]!, at)).toMatchObject({ kind: 'granted' });
    expect(await hostOf(at.cluster)).toMatchObject({ faults: 0, fault: null });
  });

  test('H11 a proof that began before the fault, and one of another worker, end nothing', async () => {
    const at = await runsOn({ count: 1 });
    await fail(await granted(at.runIds[0]!, at));

    await recordProof(db, at.place, { fault: null, beganMsAgo: 60_000 });
    await recordProof(db, { ...at.place, worker: randomUUID() }, WELL);

    expect(await hostOf(at.cluster)).toMatchObject({ faults: 1, is_quarantined: true });
  });

  test('H11 a host that does not prove itself stays left alone, however long, and counts one fault for each time', async () => {
    const at = await runsOn({ count: 1 });
    await fail(await granted(at.runIds[0]!, at));

    for (let tries = 0; tries < 60; tries += 1) {
      await later(at.cluster, 5);
      await recordProof(db, at.place, { fault: 'no runtime', beganMsAgo: 0 });
    }

    // 10, 20, 40, 80 and 160 s, of 300.
    expect(await hostOf(at.cluster)).toMatchObject({ faults: 5, fault: 'no runtime', is_quarantined: true });
  });

  test('H11 a host in quarantine is to prove itself every few seconds while runs wait, seldom while none does, and not when it is well', async () => {
    const at = await runsOn({ count: 2 });
    const orders = async () => (await machine(at.cluster, at.worker))?.proveEveryMs;
    const well = await orders();
    await fail(await granted(at.runIds[0]!, at));

    const idle = await orders();
    expect(await ask(at.runIds[1]!, at)).toMatchObject({ kind: 'waiting' });
    const wanted = await orders();
    await recordProof(db, at.place, WELL);

    expect(well).toBeUndefined();
    expect(idle).toBe(60_000);
    expect(wanted).toBeLessThanOrEqual(15_000);
    expect(await orders()).toBeUndefined();
  });

  test('H11 the worker of a listed host is told the same, and a probe with a proof ends its quarantine', async () => {
    const cluster = `listed-${randomUUID()}`;
    await makeCluster(db, cluster);
    const worker = randomUUID();
    const reach = {
      kind: 'ssh' as const,
      address: 'a',
      port: 22,
      user: 'u',
      hostKeys: [],
      shell: '/bin/sh',
      dir: '/d',
    };
    await createHost(db, cluster, { name: 'board', labels: [], slots: 1, reach });
    await recordWorker(db, { worker, cluster, host: 'own', labels: [], slots: 1, version: '1' });
    await setEnlisted(db, { cluster, id: worker }, true);
    const keep = async () => (await keepHosts(db, { cluster, worker, engine: null }))[0]?.proveEveryMs;
    const before = await keep();
    await recordProbes(db, { cluster, worker }, [{ host: 'board', fault: 'no disk' }]);
    const broken = await keep();
    await recordProbes(db, { cluster, worker }, [{ host: 'board' }]);
    const unproven = await hostOf(cluster, 'board');
    await recordProbes(db, { cluster, worker }, [{ host: 'board', proof: WELL }]);

    expect([before, broken]).toEqual([undefined, 60_000]);
    expect(unproven.is_quarantined).toBe(true);
    expect(await hostOf(cluster, 'board')).toMatchObject({ is_quarantined: false, faults: 1 });
  });

  test('H11 to put a host back into use ends its quarantine', async () => {
    const at = await runsOn({ count: 1 });
    await fail(await granted(at.runIds[0]!, at));

    await setHostDrain(db, { cluster: at.cluster, name: 'first' }, null);

    expect(await hostOf(at.cluster)).toMatchObject({ faults: 0, fault: null, is_quarantined: false });
  });

  test('H11 a run whose script was not begun waits again with the same attempt, and another host takes it', async () => {
    const at = await runsOn({ count: 1 });
    const [runId] = at.runIds as [string];
    const holder = await granted(runId, at);
    await recordProgress(db, holder, { state: 'preparing', starting: true, containerId: 'c' });

    expect(await handBack(db, holder, BROKEN)).toBe(true);

    const [run] = await listRuns(db, at.row.id);
    expect(run).toMatchObject({ state: 'queued', attempt: 1, attempt_cause: null, waiting: BROKEN.message });
    expect(await hostOf(at.cluster)).toMatchObject({ faults: 1, busy: [], is_quarantined: true });
    expect(await ask(runId, at)).toMatchObject({
      kind: 'waiting',
      reason: expect.stringContaining('first (left alone'),
    });
    const other = randomUUID();
    await machine(at.cluster, other, { name: 'second' });
    expect(await ask(runId, { ...at, worker: other })).toMatchObject({ kind: 'granted', mayHaveStarted: false });
    expect(await listAttempts(db, runId)).toMatchObject([{ number: 1, state: 'leasing', host: 'second', cause: null }]);
    await expect(handBack(db, holder, BROKEN)).rejects.toMatchObject({ name: 'FencedError' });
  });

  test('H11 what was handed back for want of disk leaves the host to the others', async () => {
    const at = await runsOn({ count: 1 });

    expect(await handBack(db, await granted(at.runIds[0]!, at), { cause: 'disk-full', message: 'full' })).toBe(true);

    expect(await hostOf(at.cluster)).toMatchObject({ faults: 0, is_quarantined: false });
  });

  test('H11 a host on trial takes one new run beside those that it had before its fault', async () => {
    const at = await runsOn({ count: 4 });
    await granted(at.runIds[0]!, at);
    await sql`update leases set granted_at = granted_at - interval '1 minute' where run_id = ${at.runIds[0]!}::uuid`.execute(
      db,
    );
    await fail(await granted(at.runIds[1]!, at));
    await sql`update leases set state = 'released' where state = 'releasing'`.execute(db);
    await recordProof(db, at.place, WELL);

    expect(await ask(at.runIds[2]!, at)).toMatchObject({ kind: 'granted' });
    expect(await ask(at.runIds[3]!, at)).toMatchObject({ kind: 'waiting' });
  });

  test('H9 H11 an attempt that has other hosts as well is not handed back: they would stay taken', async () => {
    const at = await runsOn({ count: 1 });
    const holder = await granted(at.runIds[0]!, at);
    await machine(at.cluster, randomUUID(), { name: 'beside' });
    await sql`insert into leases (host, slot, run_id, attempt, name, state, deadline_at, why)
      select ${`${at.cluster}/beside`}, 0, run_id, attempt, 'board', 'granted', deadline_at, '' from leases
      where token = ${holder.token}`.execute(db);

    expect(await handBack(db, holder, BROKEN)).toBe(false);
  });

  test('H11 an attempt that five hosts could not begin is handed back no more', async () => {
    const at = await runsOn({ count: 1 });
    const [runId] = at.runIds as [string];
    const taken: boolean[] = [];
    for (let n = 0; n < 5; n += 1) {
      const holder = await granted(runId, at);
      taken.push(await handBack(db, holder, BROKEN));
      await recordProof(db, at.place, WELL);
      if (n === 4) await fail(holder);
    }

    expect(taken).toEqual([true, true, true, true, false]);
    expect((await listAttempts(db, runId))[0]).toMatchObject({ state: 'finished', cause: 'engine-unavailable' });
  });
});
