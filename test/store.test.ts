// Proves the record store on both implementations: numbers, leases, fencing, logs, verdicts and cancels under concurrency.
// Real databases: the embedded one as its own process, and a PostgreSQL server.
import { randomUUID } from 'node:crypto';
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { sql } from 'kysely';
import { Client } from 'pg';
import {
  createBuild,
  finishBuild,
  lastBuilds,
  listBuilds,
  readBuild,
  requestBuildCancel,
} from '../adapters/store/builds';
import { freezeCommit } from '../adapters/store/commits';
import { buildsToDispatch, cancelsToDeliver, markCancelDelivered, markDispatched } from '../adapters/store/deliveries';
import { sweepOutbox } from '../adapters/outbox';
import type { BuildToStart, Temporal } from '../adapters/temporal';
import { LockedError, startOf, takePidLock } from '../adapters/pid-lock';
import { isStoreAway, migrate, openStore, type Database } from '../adapters/store/connect';
import {
  FencedError,
  findOrphans,
  releaseCleaned,
  recordProgress,
  recordResult,
  releaseLease,
  type Holder,
} from '../adapters/store/holders';
import { putBlueprint } from '../adapters/store/blueprints';
import { createHost, listHosts, recordHost } from '../adapters/store/hosts';
import { listLeases } from '../adapters/store/lease-list';
import { requestLease, type GrantedLease } from '../adapters/store/leases';
import { readLimits, recordArtifact, whyNotStored } from '../adapters/store/artifacts';
import { appendChunk, locateLog, readLogState } from '../adapters/store/logs';
import { artifactLimitsOf } from '../domain/artifact-limits';
import { hostMade, planOnDemand } from '../adapters/store/on-demand';
import { queuePositions, readPriority } from '../adapters/store/queue';
import { MIGRATIONS } from '../adapters/store/migrations';
import { createProject, readProject } from '../adapters/store/projects';
import { beginRerun } from '../adapters/store/reruns';
import { recordWorker } from '../adapters/store/workers';
import {
  closeAttempt,
  closeRuns,
  listAttempts,
  listRuns,
  locateAttempt,
  readRun,
  requestRunCancel,
} from '../adapters/store/runs';
import { readStandings } from '../adapters/store/standings';
import { DEFAULT_TIMING } from '../domain/build-input';
import { buildWorkflowId, workerQueue } from '../domain/names';
import { PutBlueprint } from '../domain/schemas/blueprints';
import type { SshReach } from '../domain/schemas/hosts';
import type { Cause } from '../domain/schemas/words';
import { freePort } from './setup/free-port';
import {
  makeBuild,
  makeProject,
  newBuild,
  plannedRun,
  startEmbedded,
  STORES,
  type EmbeddedProcess,
  type TestStore,
  makeCluster,
} from './setup/stores';
import { waitFor } from './setup/wait-for';

const limits = artifactLimitsOf(null, null);
const keyOf = ({ runId, attempt }: { runId: string; attempt: number }) => ({ runId, attempt });
const nameOf = (error: Error): string => error.name;
const SILENT_AFTER_MS = 60_000;
const range = (count: number): number[] => Array.from({ length: count }, (_, at) => at + 1);
const chunk = (startByte: number, sizeBytes: number) => ({ startByte, sizeBytes, blob: `blob-${randomUUID()}` });
const ok = { cause: 'ok' as const, message: '', exitCode: 0 };

describe.each(STORES)('on %s', (name, start) => {
  let store: TestStore;
  /** As three processes of ours have: a pool each. */
  let pools: Database[];
  let db: Database;
  const pool = (at: number): Database => pools[at % pools.length]!;

  beforeAll(async () => {
    store = await start();
    pools = range(3).map(() => openStore(store.url, 4));
    db = pool(0);
    await Promise.all(pools.map(migrate));
  }, 90_000);
  afterAll(async () => {
    await Promise.all((pools ?? []).map((one) => one.destroy()));
    await store?.stop();
  }, 60_000);

  const newHost = (cluster: string, name: string) => ({
    cluster,
    name,
    worker: randomUUID(),
    labels: ['test'],
    slots: 1,
    version: '1',
    notAccepting: null,
  });

  /** A worker's host in a cluster. @returns the worker's id */
  async function addHost(cluster: string, name: string, slots: number): Promise<string> {
    const host = { ...newHost(cluster, name), slots };
    await makeCluster(db, cluster);
    expect(await recordHost(db, host, SILENT_AFTER_MS)).toEqual({ heldSlots: 0 });
    return host.worker;
  }

  const clusterOf = async (runId: string): Promise<string> =>
    (await db.selectFrom('runs').select('cluster').where('id', '=', runId).executeTakeFirst())?.cluster ?? 'none';

  const ask = async (
    runId: string,
    worker: string,
    more: { attempt?: number; db?: Database; silentAfterMs?: number; cluster?: string; paused?: string } = {},
  ) =>
    requestLease(more.db ?? db, {
      runId,
      attempt: more.attempt ?? 1,
      worker,
      cluster: more.cluster ?? (await clusterOf(runId)),
      silentAfterMs: more.silentAfterMs ?? SILENT_AFTER_MS,
      logCapBytes: 1_000_000,
      ageStepMs: DEFAULT_TIMING.ageStepMs,
      paused: more.paused ?? null,
    });

  async function granted(runId: string, worker: string, attempt = 1): Promise<GrantedLease> {
    const answer = await ask(runId, worker, { attempt });
    if (answer.kind !== 'granted') throw new Error(`${answer.kind} and not granted`);
    return answer;
  }

  /** A build of one run whose first attempt holds a lease. */
  async function heldRun(more: Parameters<typeof makeBuild>[1] = {}) {
    const { row, runIds, cluster } = await makeBuild(db, more);
    const runId = runIds[0]!;
    const worker = await addHost(cluster, 'host', 4);
    const { token } = await granted(runId, worker);
    return { row, runIds, runId, cluster, worker, holder: { runId, attempt: 1, token, cluster } satisfies Holder };
  }

  const runOf = async (buildId: string, at = 0) => (await listRuns(db, buildId))[at]!;

  describe('schema', () => {
    test('three pools that migrate at once make it once, and migrating again changes nothing', async () => {
      const migrations = () => sql<{ name: string }>`select name, timestamp from kysely_migration`.execute(db);
      const before = await migrations();

      await Promise.all([...pools, ...pools].map(migrate));

      expect(before.rows.map((row) => row.name)).toEqual(Object.keys(MIGRATIONS));
      expect((await migrations()).rows).toEqual(before.rows);
    });
  });

  describe('builds', () => {
    test('B3 100 triggers at once through three pools are numbered exactly 1 to 100', async () => {
      const project = await makeProject(db);

      const made = await Promise.all(range(100).map((at) => createBuild(pool(at), newBuild(project))));

      const numbers = made.map((one) => (one.kind === 'created' ? one.number : NaN));
      expect(numbers.sort((a, b) => a - b)).toEqual(range(100));
      expect((await listBuilds(db, project, { limit: 200 })).map((row) => row.number)).toEqual(range(100).reverse());
    });

    test('B3 builds that cannot be stored leave no gap and nothing behind, also in the midst of others', async () => {
      const project = await makeProject(db);
      const twice = [plannedRun('same'), plannedRun('same')];

      const made = await Promise.allSettled(
        range(60).map((at) => createBuild(pool(at), newBuild(project, at % 3 === 0 ? { runs: twice } : {}))),
      );

      expect(made.filter((one) => one.status === 'rejected')).toHaveLength(20);
      const rows = await listBuilds(db, project, { limit: 200 });
      expect(rows.map((row) => row.number)).toEqual(range(40).reverse());
      expect((await readProject(db, project))?.last_number).toBe(40);
      const orphans = await sql`select 1 from runs where name = 'same'`.execute(db);
      expect(orphans.rows).toEqual([]);
    });

    test('P3 a plan is read back with the axes of each cell in the order of the file', async () => {
      const cell = { region: 'north', size: 'small', a: 'rows' };
      const project = await makeProject(db);
      const build = newBuild(project, { runs: [plannedRun('load', { cell })] });
      await createBuild(db, build);

      const [run] = await listRuns(db, build.id);

      expect(Object.keys(run?.spec.cell ?? {})).toEqual(['region', 'size', 'a']);
    });

    test('B3 every project counts by itself', async () => {
      const [one, other] = [await makeProject(db), await makeProject(db)];
      await createBuild(db, newBuild(one));
      await createBuild(db, newBuild(one));

      expect(await createBuild(db, newBuild(other))).toMatchObject({ kind: 'created', number: 1 });
      expect((await lastBuilds(db)).filter((row) => row.project === one).map((row) => row.number)).toEqual([2]);
    });

    test('B1 the same idempotency key 100 times in parallel makes one build, and every answer names it', async () => {
      const project = await makeProject(db);

      const made = await Promise.all(
        range(100).map((at) => createBuild(pool(at), newBuild(project, { idempotencyKey: 'key' }))),
      );

      expect(made.map((one) => one.kind).sort()).toEqual(['created', ...range(99).map(() => 'existing')]);
      expect(new Set(made.map((one) => 'number' in one && one.number))).toEqual(new Set([1]));
      expect(await listBuilds(db, project, { limit: 10 })).toHaveLength(1);
      expect(await createBuild(db, newBuild(project))).toMatchObject({ kind: 'created', number: 2 });
    });

    test('B1 an idempotency key with another request is refused, and is free in another project', async () => {
      const [project, other] = [await makeProject(db), await makeProject(db)];
      const requests = range(20).map((at) =>
        newBuild(project, { idempotencyKey: 'key', requestDigest: at % 2 === 0 ? 'even' : 'odd' }),
      );

      const made = await Promise.all(requests.map((build, at) => createBuild(pool(at), build)));

      const count = (kind: string): number => made.filter((one) => one.kind === kind).length;
      expect({ created: count('created'), existing: count('existing'), reused: count('key-reused') }).toEqual({
        created: 1,
        existing: 9,
        reused: 10,
      });
      expect((await createBuild(db, newBuild(other, { idempotencyKey: 'key' }))).kind).toBe('created');
    });

    test('a build of a project that is not there is refused', async () => {
      expect(await createBuild(db, newBuild('nowhere'))).toEqual({ kind: 'no-project' });
    });

    test('a build is stored with its runs in plan order, its parameters and its plan, whatever characters they have', async () => {
      const odd = `'; drop table runs; -- "\\ $1 ✓ \n`;
      const runs = [plannedRun('z', { script: odd }), plannedRun('a', { env: { odd } })];
      const { row } = await makeBuild(db, { runs, params: { odd }, reason: odd });

      expect(row).toMatchObject({ params: { odd }, reason: odd, state: 'queued', counts: { queued: 2 } });
      expect((await listRuns(db, row.id)).map((run) => run.spec)).toEqual(runs);
    });

    test('B2 an accepted build waits in the outbox until its workflow is started, and is not handed out before its time', async () => {
      await sql`update builds set dispatched_at = now()`.execute(db);
      const { row } = await makeBuild(db);
      const waits = async (olderThanMs: number) =>
        (await buildsToDispatch(db, olderThanMs)).some((one) => one.project === row.project);

      expect(await waits(3_600_000)).toBe(false);
      await waitFor(() => waits(1), { what: 'the build is handed out' });
      await markDispatched(db, row);
      expect(await waits(0)).toBe(false);
    });

    test('B10 a build is judged once its runs are finished, and keeps its first verdict', async () => {
      const { row, runIds } = await makeBuild(db, { runs: [plannedRun('a'), plannedRun('b')] });
      await closeRuns(db, [{ runId: runIds[0]!, cause: 'exit-code', message: 'red' }]);
      await closeRuns(db, [{ runId: runIds[1]!, cause: 'cancel-requested', message: '' }]);

      const verdict = await finishBuild(db, row.id);
      const first = await readBuild(db, row.project, row.number);
      const again = await finishBuild(pool(1), row.id);

      expect(verdict).toEqual({ outcome: 'failed', cause: 'exit-code' });
      expect(again).toEqual(verdict);
      expect(first).toMatchObject({ state: 'finished', counts: { failed: 1, cancelled: 1 } });
      expect(await readBuild(db, row.project, row.number)).toEqual(first);
    });
  });

  describe('how attempts stand', () => {
    const standingOf = async (runId: string, cluster: string, attempt = 1) =>
      (await readStandings(db, cluster, [{ runId, attempt }]))[0];

    test('B7 H7 an attempt is cancelled by the rows of its run or build alone, and known as long as a row speaks of it', async () => {
      const { row, runIds } = await makeBuild(db, { runs: [plannedRun('a'), plannedRun('b'), plannedRun('c')] });
      const [a = '', b = '', c = ''] = runIds;
      const { cluster = '' } = (await listRuns(db, row.id))[0] ?? {};
      const plain = { isKnown: true, isCancelled: false };
      expect(await standingOf(a, cluster)).toEqual({ runId: a, attempt: 1, ...plain });
      const stranger = randomUUID();
      expect(await standingOf(stranger, cluster)).toEqual({ ...plain, runId: stranger, attempt: 1, isKnown: false });

      await requestRunCancel(db, b);
      await closeRuns(db, [{ runId: c, cause: 'exit-code', message: '' }]);
      expect(await standingOf(b, cluster)).toMatchObject({ isCancelled: true });
      expect(await standingOf(b, 'another')).toMatchObject({ isKnown: true, isCancelled: false });
      expect(await standingOf(c, cluster, 7)).toMatchObject({ isKnown: false });
      await requestBuildCancel(db, row.id);
      expect(await standingOf(a, cluster)).toMatchObject({ isCancelled: true });
    });

    test('B7 a cell of a fail-fast job is to end once another cell of it ended badly', async () => {
      const cells = ['1', '2', '3'].map((name) => plannedRun(name, { job: 'cell' }));
      const jobs = [{ name: 'cell', failFast: true }];
      const { row, runIds } = await makeBuild(db, { runs: cells, jobs });
      const [first = '', second = '', third = ''] = runIds;
      const { cluster = '' } = (await listRuns(db, row.id))[0] ?? {};
      await closeRuns(db, [{ runId: first, cause: 'ok', message: '' }]);
      expect(await standingOf(third, cluster)).toMatchObject({ isCancelled: false });
      await closeRuns(db, [{ runId: second, cause: 'exit-code', message: '' }]);
      expect(await standingOf(third, cluster)).toMatchObject({ isCancelled: true });
    });
  });

  describe('a workflow of before a rerun', () => {
    test('B8 that asks late for the verdict closes nothing of the rerun', async () => {
      const { row, runIds } = await makeBuild(db, { runs: [plannedRun('a'), plannedRun('b')] });
      for (const runId of runIds) await closeRuns(db, [{ runId, cause: 'exit-code', message: '' }]);
      const former = buildWorkflowId(row.project, row.number);
      await finishBuild(db, row.id, former);
      await beginRerun(db, row.id, { runs: 'all' });

      await finishBuild(db, row.id, former);

      expect(await readBuild(db, row.project, row.number)).toMatchObject({ state: 'queued', counts: { queued: 2 } });
    });

    test('B7 a cell that ended badly before the rerun of another stops nothing of it', async () => {
      const cells = ['1', '2'].map((name) => plannedRun(name, { job: 'cell' }));
      const { row, runIds } = await makeBuild(db, { runs: cells, jobs: [{ name: 'cell', failFast: true }] });
      for (const runId of runIds) await closeRuns(db, [{ runId, cause: 'exit-code', message: '' }]);
      await finishBuild(db, row.id);
      await beginRerun(db, row.id, { runs: ['2'] });
      const { cluster = '' } = (await listRuns(db, row.id))[0] ?? {};

      const [standing] = await readStandings(db, cluster, [{ runId: runIds[1]!, attempt: 1 }]);

      expect(standing).toMatchObject({ isCancelled: false });
    });
  });

  describe('what strangers said', () => {
    test('C3 a run that its worker called finished, and of which nothing is recorded, is closed with its build', async () => {
      const { row, runIds } = await makeBuild(db, { runs: [plannedRun('a'), plannedRun('b')] });
      await closeRuns(db, [{ runId: runIds[0]!, cause: 'ok', message: '' }]);

      expect(await finishBuild(db, row.id)).toEqual({ outcome: 'errored', cause: 'internal' });

      expect((await listRuns(db, row.id)).map(({ outcome, message }) => [outcome, message])).toEqual([
        ['passed', ''],
        ['errored', 'its worker said that it had ended, and has recorded nothing'],
      ]);
      expect(await readBuild(db, row.project, row.number)).toMatchObject({ state: 'finished', outcome: 'errored' });
    });

    test('C3 a host is reached as its blueprint makes hosts, whatever the worker that made it says', async () => {
      const cluster = `makes-${randomUUID().slice(0, 8)}`;
      await makeCluster(db, cluster);
      await sql`insert into workers (id, cluster, enlisted_at, serves_hosts_at, slots, version)
        values (${randomUUID()}, ${cluster}, now(), now(), 1, '1')`.execute(db);
      const make = { kind: 'docker' as const, image: 'x' };
      await putBlueprint(db, { cluster, name: 'small' }, PutBlueprint.parse({ make, minReady: 1, most: 1 }));
      await planOnDemand(db, DEFAULT_TIMING.ageStepMs);
      const [{ name: host } = { name: '' }] = await listHosts(db, cluster);
      const reachOf = async () => (await listHosts(db, cluster))[0]?.reach;
      const hostKeys = [`SHA256:${'x'.repeat(43)}`];
      const container = { kind: 'container', engine: 'e', container: 'c', dir: '/d', shell: '/bin/sh' };
      for (const said of [
        { resource: 'i-evil', reach: { kind: 'ssh', address: '127.0.0.1', user: 'root', hostKeys } },
        { resource: 'i-evil', reach: { ...container, container: 'a\u0000b' } },
        { resource: 7, reach: container },
        { resource: 'c', reach: null },
        { resource: undefined, reach: undefined },
      ]) {
        await expect(hostMade(db, { cluster, host, ...said })).rejects.toThrow('its worker says of it what cannot be');
      }
      expect(await reachOf()).toBeNull();

      await hostMade(db, { cluster, host, resource: 'c', reach: container });
      await hostMade(db, { cluster, host: 'never-made', resource: 'c', reach: container });

      expect(await reachOf()).toEqual(container);
    });

    test('C3 messages that PostgreSQL would not take are cleaned where runs and attempts are closed', async () => {
      const { row, runIds } = await makeBuild(db, { runs: [plannedRun('a')] });
      const [runId = ''] = runIds;
      const message = `\u0000\ud800\u001b[2J${'x'.repeat(5_000)}`;
      await closeAttempt(db, { runId, number: 1, cause: 'internal', message });
      await closeRuns(db, [{ runId, cause: 'internal', message }]);

      const [run] = await listRuns(db, row.id);
      expect(run?.message).toMatch(/^ \[2Jx+…$/);
    });
  });

  describe('outbox', () => {
    test('B2 a build that Temporal refuses does not hold up the builds and the cancels behind it', async () => {
      await sql`update builds set dispatched_at = now()`.execute(db);
      const [bad, good, cancelled] = [await makeBuild(db), await makeBuild(db), await makeBuild(db)];
      await sql`update builds set created_at = created_at - interval '1 hour' where dispatched_at is null`.execute(db);
      await markDispatched(db, cancelled.row);
      await requestBuildCancel(db, cancelled.row.id);
      const started: unknown[] = [];
      const told: unknown[] = [];
      // Stands for the client of a Temporal server that refuses one build for good.
      const temporal = {
        startBuild: async ({ project, runs }: BuildToStart) => {
          if (project === bad.row.project) throw new Error('refused');
          started.push({ project, runIds: runs.map((run) => run.id) });
        },
        cancel: async (cancel: { project: string }) => void told.push(cancel.project),
      } as unknown as Temporal;

      await expect(sweepOutbox({ db, temporal })).rejects.toThrow('refused');

      expect(started).toEqual([{ project: good.row.project, runIds: good.runIds }]);
      expect(told).toContain(cancelled.row.project);
      expect((await buildsToDispatch(db, 0)).map((one) => one.project)).toEqual([bad.row.project]);
    });
  });

  describe('cancel', () => {
    const marks = async (project: string) => (await cancelsToDeliver(db)).filter((one) => one.project === project);

    test('B7 the first wish to cancel a build counts, covers its runs, and is delivered once its workflow is there', async () => {
      const { row, runIds } = await makeBuild(db, { runs: [plannedRun('a'), plannedRun('b')] });
      await closeRuns(db, [{ runId: runIds[0]!, cause: 'ok', message: '' }]);

      expect(await requestBuildCancel(db, row.id)).toBe(true);
      const first = await readBuild(db, row.project, row.number);
      expect(await requestBuildCancel(db, row.id)).toBe(true);

      expect((await readBuild(db, row.project, row.number))?.cancel_requested_at).toEqual(first?.cancel_requested_at);
      const runs = await listRuns(db, row.id);
      expect(runs.map((run) => [run.name, run.state, run.cancel_requested_at !== null])).toEqual([
        ['a', 'finished', false],
        ['b', 'queued', true],
      ]);
      expect(await marks(row.project)).toEqual([]);
      await markDispatched(db, row);
      expect(await marks(row.project)).toEqual([{ project: row.project, number: row.number, reruns: 0, runs: null }]);
      await markCancelDelivered(db, { project: row.project, number: row.number, runs: null });
      expect(await marks(row.project)).toEqual([]);
    });

    test('B7 a cancelled run is delivered by its name, and the other runs are left alone', async () => {
      const { row, runIds } = await makeBuild(db, { runs: [plannedRun('a'), plannedRun('b')] });
      await markDispatched(db, row);

      expect(await requestRunCancel(db, runIds[1]!)).toBe(true);

      const wish = { project: row.project, number: row.number, reruns: 0, runs: ['b'] };
      expect(await marks(row.project)).toEqual([wish]);
      expect((await runOf(row.id, 0)).cancel_requested_at).toBeNull();
      await markCancelDelivered(db, wish);
      expect(await marks(row.project)).toEqual([]);
    });

    test('B7 what is finished cannot be cancelled any more, and nothing is delivered for it', async () => {
      const { row, runIds } = await makeBuild(db);
      await markDispatched(db, row);
      await requestBuildCancel(db, row.id);
      await closeRuns(db, [{ runId: runIds[0]!, cause: 'ok', message: '' }]);
      await finishBuild(db, row.id);

      expect(await requestBuildCancel(db, row.id)).toBe(false);
      expect(await requestRunCancel(db, runIds[0]!)).toBe(false);
      expect(await marks(row.project)).toEqual([]);
      expect(await readBuild(db, row.project, row.number)).toMatchObject({ outcome: 'passed' });
    });

    test('B7 a run that was cancelled before its lease gets none; one that holds a lease keeps it until it is cleaned', async () => {
      const { row, runIds, cluster } = await makeBuild(db, { runs: [plannedRun('held'), plannedRun('queued')] });
      const worker = await addHost(cluster, 'host', 2);
      const { token } = await granted(runIds[0]!, worker);
      await requestBuildCancel(db, row.id);

      expect(await ask(runIds[1]!, worker)).toEqual({ kind: 'cancelled' });
      const again = await granted(runIds[0]!, worker);
      expect(again.token).toBeGreaterThan(token);
    });
  });

  describe('leases', () => {
    test('H4 20 runs that ask at once through three pools get exactly the 3 slots there are; the others are told why', async () => {
      const runs = range(20).map((at) => plannedRun(`run-${at}`));
      const { row, runIds, cluster } = await makeBuild(db, { runs });
      const worker = await addHost(cluster, 'only', 3);

      const answers = await Promise.all(runIds.map((runId, at) => ask(runId, worker, { db: pool(at) })));

      const grants = answers.filter((one) => one.kind === 'granted');
      const reasons = new Set(answers.flatMap((one) => (one.kind === 'waiting' ? [one.reason] : [])));
      expect(grants).toHaveLength(3);
      expect(new Set(grants.map((one) => one.token)).size).toBe(3);
      expect([...reasons]).toEqual(['all 3 slots of host only are leased']);
      const [host] = await listHosts(db, cluster);
      expect(host?.busy.sort()).toEqual([1, 2, 3]);
      const waiting = (await listRuns(db, row.id)).filter((run) => run.waiting === [...reasons][0]);
      expect(waiting).toHaveLength(17);
    });

    test('H4 an attempt that asks again, also many times at once, keeps its slot; the latest to be answered alone is heard', async () => {
      const { runIds, cluster } = await makeBuild(db);
      const worker = await addHost(cluster, 'host', 4);

      const answers = await Promise.all(range(12).map((at) => ask(runIds[0]!, worker, { db: pool(at) })));

      expect(answers[0]).toMatchObject({ kind: 'granted', mayHaveStarted: false, logBytes: 0, host: 'host' });
      expect((await listHosts(db, cluster))[0]?.busy).toHaveLength(1);
      const tokens = answers.map((one) => (one.kind === 'granted' ? one.token : 0)).sort((a, b) => a - b);
      expect(new Set(tokens).size).toBe(12);
      const heard = await Promise.all(
        tokens.map((token) =>
          appendChunk(db, { runId: runIds[0]!, attempt: 1, token, cluster }, chunk(0, 0)).catch(nameOf),
        ),
      );
      expect(heard).toEqual([...range(11).map(() => 'FencedError'), { appended: false, bytes: 0 }]);
    });

    test('H4 a slot on the host of another worker is granted there: whoever asks is sent to that worker', async () => {
      const { row, runIds, cluster } = await makeBuild(db);
      const owner = await addHost(cluster, 'host', 1);
      const stranger = randomUUID();
      const there = { kind: 'elsewhere', queue: workerQueue(cluster, owner) };

      expect(await ask(runIds[0]!, stranger)).toEqual(there);
      expect(await ask(runIds[0]!, stranger)).toEqual(there);
      expect(await ask(runIds[0]!, owner)).toMatchObject({ kind: 'granted' });
      expect(await locateAttempt(db, { runId: runIds[0]!, number: 1 })).toMatchObject({
        worker: owner,
        cluster,
        cause: null,
      });
      expect(await runOf(row.id)).toMatchObject({ state: 'leasing', host: 'host' });
    });

    test('B5 B6 a worker that is not heard is lost while others are; when none is, of any cluster, it may be the door', async () => {
      const { runIds, cluster } = await makeBuild(db);
      const [mine, other] = [randomUUID(), randomUUID()];
      const hello = (worker: string) =>
        recordWorker(db, { worker, cluster, host: worker, labels: [], slots: 1, version: '1' });
      const passed = (seconds: number) =>
        Promise.all([
          sql`update workers set last_seen_at = last_seen_at - ${seconds} * interval '1 second'`.execute(db),
          sql`update clusters set door_opened_at = door_opened_at - ${seconds} * interval '1 second'`.execute(db),
        ]);
      const find = async () => {
        const found = await locateAttempt(db, { runId: runIds[0]!, number: 1, waitedMs: 15_000 });
        return { isHeard: found?.isHeard, isDoorShut: found?.isDoorShut };
      };
      await sql`update clusters set enlist_automatically = true where name = ${cluster}`.execute(db);
      await hello(mine);
      await hello(other);
      await recordHost(db, { ...newHost(cluster, 'mine'), worker: mine }, SILENT_AFTER_MS);
      expect(await ask(runIds[0]!, mine)).toMatchObject({ kind: 'granted' });
      await passed(16);
      expect(await find()).toEqual({ isHeard: false, isDoorShut: true });

      // The door is open again, and who was away has not had the whole time to come.
      await hello(other);
      expect(await find()).toEqual({ isHeard: false, isDoorShut: true });

      await passed(10);
      await hello(other);
      await passed(10);
      await hello(other);
      expect(await find()).toEqual({ isHeard: false, isDoorShut: false });
      await hello(mine);
      expect(await find()).toEqual({ isHeard: true, isDoorShut: false });
    });

    test('C8 O6 while the server grants no slots a run waits with the reason, and one that has its slot keeps it', async () => {
      const { row, runIds, cluster } = await makeBuild(db, { runs: ['first', 'second'].map((run) => plannedRun(run)) });
      const worker = await addHost(cluster, 'host', 4);
      const paused = "the server's disk is full";
      await granted(runIds[0]!, worker);

      expect(await ask(runIds[0]!, worker, { paused })).toMatchObject({ kind: 'granted' });
      expect(await ask(runIds[1]!, worker, { paused })).toEqual({ kind: 'waiting', reason: paused });
      expect(await runOf(row.id, 1)).toMatchObject({ state: 'queued', waiting: paused, attempt: 0 });
      expect(await ask(runIds[1]!, worker)).toMatchObject({ kind: 'granted' });
    });

    test('C8 without a host, or with silent ones only, the run waits and says why; a host that comes is used', async () => {
      const { row, runIds, cluster } = await makeBuild(db);
      const reason = 'no host of the cluster is connected; start a worker there';

      expect(await ask(runIds[0]!, randomUUID())).toEqual({ kind: 'waiting', reason });
      expect((await runOf(row.id)).waiting).toBe(reason);
      const worker = await addHost(cluster, 'host', 1);
      expect(await ask(runIds[0]!, worker, { silentAfterMs: 0 })).toEqual({ kind: 'waiting', reason });
      expect(await ask(runIds[0]!, worker)).toMatchObject({ kind: 'granted' });
      expect(await runOf(row.id)).toMatchObject({ waiting: null, attempt: 1 });
    });

    test('H4 the name of a host belongs to its living worker, and passes on when that one has been silent', async () => {
      const { cluster } = await makeBuild(db);
      const first = await addHost(cluster, 'host', 1);
      const second = { ...newHost(cluster, 'host'), slots: 2, version: '2' };

      expect(await recordHost(db, second, SILENT_AFTER_MS)).toBeUndefined();
      expect((await listHosts(db, cluster))[0]).toMatchObject({ worker: first, slots: 1 });
      await waitFor(() => recordHost(db, second, 1), { what: 'the name is taken over' });
      expect((await listHosts(db, cluster))[0]).toMatchObject({ worker: second.worker, slots: 2, version: '2' });
    });

    test('H7 between result and release the slot stays taken and whoever asks is told to clean up first', async () => {
      const { runId, worker, holder, cluster } = await heldRun();
      await recordProgress(db, holder, { state: 'running', starting: true });
      const again = await granted(runId, worker);
      expect(again.mayHaveStarted).toBe(true);
      const adopter = { ...holder, token: again.token };

      await recordResult(db, adopter, { ...ok, cause: 'exit-code', exitCode: 3 });

      expect(await ask(runId, worker)).toEqual({ kind: 'clean', token: adopter.token, cause: 'exit-code' });
      expect((await listHosts(db, cluster))[0]?.busy).toEqual([1]);
      expect(await findOrphans(db, cluster, [keyOf(holder)])).toEqual([keyOf(holder)]);
      await releaseLease(db, holder);
      expect((await listHosts(db, cluster))[0]?.busy).toEqual([1]);
      await releaseLease(db, adopter);
      await releaseLease(db, adopter);
      expect((await listHosts(db, cluster))[0]?.busy).toEqual([]);
      expect(await ask(runId, worker)).toEqual({ kind: 'ended', cause: 'exit-code' });
    });

    test('B10 an attempt that ended and is asked for again names its own cause, also when the run goes on', async () => {
      const { row, runId, worker, holder } = await heldRun();
      await recordResult(db, holder, { cause: 'disk-full', message: 'no space', exitCode: null });
      await releaseLease(db, holder);

      expect(await runOf(row.id)).toMatchObject({
        state: 'queued',
        outcome: null,
        waiting: expect.stringContaining('no space'),
      });
      expect(await ask(runId, worker)).toEqual({ kind: 'ended', cause: 'disk-full' });
      const second = await granted(runId, worker, 2);
      expect(second.token).toBeGreaterThan(holder.token);
      expect(await ask(runId, worker)).toEqual({ kind: 'ended', cause: 'disk-full' });
      expect((await listAttempts(db, runId)).map((one) => [one.number, one.cause])).toEqual([
        [1, 'disk-full'],
        [2, null],
      ]);
    });

    test('H4 H7 a container is an orphan unless its attempt has a live lease; one of another installation is left alone', async () => {
      const { holder } = await heldRun();
      const { holder: ended } = await heldRun();
      const { holder: lost, runId } = await heldRun();
      await recordResult(db, ended, ok);
      await closeAttempt(db, { runId, number: 1, cause: 'host-lost', message: 'lost' });
      const unknown = { runId: randomUUID(), attempt: 1 };

      const all = [holder, ended, lost, unknown].map(keyOf);

      expect(await findOrphans(db, holder.cluster, all)).toEqual([]);
      expect(await findOrphans(db, ended.cluster, all)).toEqual([keyOf(ended)]);
      expect(await findOrphans(db, lost.cluster, all)).toEqual([keyOf(lost)]);
      expect(await findOrphans(db, 'another', all)).toEqual([]);
      expect(await findOrphans(db, ended.cluster, [])).toEqual([]);
    });

    test('H7 a slot whose attempt ended and of which its worker finds nothing is given back, and no other', async () => {
      const abandoned = await heldRun();
      const found = await heldRun();
      const young = await heldRun();
      const running = await heldRun();
      for (const { holder } of [abandoned, found, young]) await recordResult(db, holder, ok);
      for (const { runId } of [abandoned, found, running]) {
        await sql`update attempts set finished_at = finished_at - interval '1 hour' where run_id = ${runId}::uuid`.execute(
          db,
        );
      }
      for (const { worker, cluster } of [abandoned, found, young, running]) {
        await releaseCleaned(db, { worker, cluster: 'another' }, []);
        await releaseCleaned(db, { worker, cluster }, [keyOf(found.holder)]);
      }
      await releaseCleaned(db, { worker: randomUUID(), cluster: young.cluster }, []);

      const busy = async ({ cluster }: { cluster: string }) => (await listHosts(db, cluster))[0]?.busy.length;
      expect(await Promise.all([abandoned, found, young, running].map(busy))).toEqual([0, 1, 1, 1]);
    });

    test('H4 H9 whatever workers and the orchestrator do at once: one live lease a slot, one an attempt and name, all hosts of a run or none, tokens rise', async () => {
      type Event = {
        kind: 'ask' | 'progress' | 'result' | 'retry' | 'release' | 'give-back' | 'close-run' | 'close-attempt';
        run: number;
      };
      const kinds = [
        'ask',
        'ask',
        'ask',
        'progress',
        'result',
        'retry',
        'release',
        'give-back',
        'close-run',
        'close-attempt',
      ] as const;
      const events = fc.array(
        fc.array(fc.record({ kind: fc.constantFrom(...kinds), run: fc.integer({ min: 0, max: 3 }) }), {
          minLength: 1,
          maxLength: 5,
        }),
        { minLength: 3, maxLength: 12 },
      );
      await fc.assert(
        fc.asyncProperty(events, async (batches) => {
          const hosts = { left: 'board', right: 'board' };
          const runs = range(4).map((at) => plannedRun(`run-${at}`, at > 2 ? { hosts } : {}));
          const { runIds, cluster } = await makeBuild(db, { runs });
          const worker = await addHost(cluster, 'host', 2);
          await addBoards(cluster, worker, 3);
          const held: Holder[][] = runIds.map(() => []);
          const attempts = runIds.map(() => 1);

          const carryOut = async ({ kind, run }: Event, at: number): Promise<void> => {
            const runId = runIds[run]!;
            const attempt = attempts[run]!;
            const holder = held[run]!.at(-1);
            if (kind === 'ask') {
              const answer = await ask(runId, worker, { attempt, db: pool(at) });
              if (answer.kind === 'granted') held[run]!.push({ runId, attempt, token: answer.token, cluster });
            } else if (kind === 'close-run') {
              await closeRuns(pool(at), [{ runId, cause: 'host-lost', message: 'lost' }]);
            } else if (kind === 'close-attempt') {
              await closeAttempt(pool(at), { runId, number: attempt, cause: 'host-lost', message: 'lost' });
              attempts[run] = attempt + 1;
            } else if (holder) {
              await tellAs(holder, kind, pool(at));
              if (kind === 'retry' && holder.attempt === attempts[run]) attempts[run] = attempt + 1;
            }
          };
          for (const batch of batches) {
            await Promise.all(batch.map(carryOut));
            await expectOneHolder(cluster);
          }
          for (const holders of held) {
            const tokens = holders.map((one) => one.token);
            const sorted = [...holders].sort((a, b) => a.attempt - b.attempt || a.token - b.token);
            expect(sorted.map((one) => one.token)).toEqual([...tokens].sort((a, b) => a - b));
          }
        }),
        { numRuns: 15 },
      );
    }, 120_000);

    /** Hosts of one slot each that the worker reaches. */
    async function addBoards(cluster: string, worker: string, count: number): Promise<void> {
      await sql`insert into workers (id, cluster, slots, version, enlisted_at, serves_hosts_at)
        values (${worker}::uuid, ${cluster}, 1, '1', now(), now())`.execute(db);
      for (const at of range(count)) {
        const reach = { kind: 'ssh', address: 'a', port: 22, user: 'u', hostKeys: ['k'], dir: '/d', shell: '/bin/sh' };
        await createHost(db, cluster, { name: `board-${at}`, labels: ['board'], slots: 1, reach: reach as SshReach });
      }
      await sql`update hosts set worker = ${worker}, last_seen_at = now() where cluster = ${cluster} and origin = 'listed'
        `.execute(db);
    }

    test('H9 a run has its hosts and those beside it in one moment, keeps them when it asks again, and gives them back one by one', async () => {
      const hosts = { left: 'board', right: 'board' };
      const runs = range(2).map((at) => plannedRun(`run-${at}`, { hosts }));
      const { runIds, cluster } = await makeBuild(db, { runs });
      const worker = await addHost(cluster, 'host', 2);
      await addBoards(cluster, worker, 3);
      const leased = async (): Promise<string[]> =>
        (await listLeases(db, { cluster, all: true, limit: 10 }))
          .map((one) => `${one.name || '-'} ${one.state}`)
          .sort();

      const first = await granted(runIds[0]!, worker);
      expect(first.beside?.map(({ name }) => name)).toEqual(['left', 'right']);
      expect(await ask(runIds[1]!, worker)).toMatchObject({ kind: 'waiting' });
      expect(await leased()).toEqual(['- granted', 'left granted', 'right granted']);
      const again = await granted(runIds[0]!, worker);
      expect(again.beside).toEqual(first.beside);
      const holder = { runId: runIds[0]!, attempt: 1, cluster, token: again.token };
      await recordProgress(db, holder, { state: 'preparing', starting: true });
      expect(await leased()).toEqual(['- active', 'left active', 'right active']);
      expect(await releaseLease(db, { ...holder, token: first.token }, 'left')).toBe(false);
      expect(await releaseLease(db, holder, 'left')).toBe(true);
      expect((await granted(runIds[0]!, worker)).beside?.map(({ name }) => name)).toEqual(['right']);
      const last = await granted(runIds[0]!, worker);
      await recordResult(db, { ...holder, token: last.token }, ok);
      expect(await leased()).toEqual(['- releasing', 'left released', 'right releasing']);
      const clean = await ask(runIds[0]!, worker);
      expect(clean).toMatchObject({ kind: 'clean', beside: [{ name: 'right' }] });
      await releaseLease(db, { ...holder, token: last.token }, 'right');
      await releaseLease(db, { ...holder, token: last.token });
      expect(await leased()).toEqual(['- released', 'left released', 'right released']);
      expect((await granted(runIds[1]!, worker)).beside).toHaveLength(2);
    });

    test('H7 H9 a run whose worker is lost holds the other hosts until nothing of it is found there, or they are silent too', async () => {
      const { runIds, cluster } = await makeBuild(db, {
        runs: [plannedRun('one', { hosts: { a: 'board', b: 'board' } })],
      });
      const worker = await addHost(cluster, 'host', 1);
      await addBoards(cluster, worker, 2);
      const lease = await granted(runIds[0]!, worker);
      const [a] = lease.beside ?? [];
      await sql`update hosts set last_seen_at = 'epoch' where cluster = ${cluster} and name = ${a?.host ?? ''}`.execute(
        db,
      );
      await closeAttempt(db, { runId: runIds[0]!, number: 1, cause: 'host-lost', message: 'lost' });
      const states = async (): Promise<string[]> =>
        (await listLeases(db, { cluster, all: true, limit: 10 }))
          .map((one) => `${one.name || '-'} ${one.state}`)
          .sort();
      const attempt = { runId: runIds[0]!, attempt: 1 };

      expect(await states()).toEqual(['- expired', 'a expired', 'b releasing']);
      expect(await findOrphans(db, cluster, [attempt])).toEqual([attempt]);
      await sql`update attempts set finished_at = now() - interval '1 hour' where run_id = ${runIds[0]!}::uuid`.execute(
        db,
      );
      const boards = ['board-1', 'board-2'];
      await releaseCleaned(db, { cluster, worker, hosts: boards }, [attempt]);
      expect(await states()).toEqual(['- expired', 'a expired', 'b releasing']);
      await releaseCleaned(db, { cluster, worker, hosts: boards }, []);
      expect(await states()).toEqual(['- expired', 'a expired', 'b released']);
    });

    /** A refusal by the token is fine; anything else fails the test. */
    async function tellAs(
      holder: Holder,
      kind: 'progress' | 'result' | 'retry' | 'release' | 'give-back',
      on: Database,
    ): Promise<void> {
      const said = {
        progress: () => recordProgress(on, holder, { state: 'running', starting: true }),
        result: () => recordResult(on, holder, ok),
        retry: () => recordResult(on, holder, { cause: 'host-lost', message: '', exitCode: null }),
        release: () => releaseLease(on, holder),
        'give-back': () => releaseLease(on, holder, 'left'),
      };
      await said[kind]().catch((error: unknown) => {
        if (!(error instanceof FencedError)) throw error;
      });
    }

    async function expectOneHolder(cluster: string): Promise<void> {
      const { rows } = await sql<Record<'slot' | 'attempt' | 'lease', string> & Record<'fits' | 'ended', boolean>>`
        select l.host || ' ' || l.slot as slot, l.state as lease, l.slot <= h.slots as fits,
          l.run_id || ' ' || l.attempt || ' ' || l.name as attempt, a.state = 'finished' as ended from leases l
        join attempts a on a.run_id = l.run_id and a.number = l.attempt join hosts h on h.id = l.host
        where h.cluster = ${cluster} and l.state in ('granted', 'active', 'releasing')`.execute(db);
      expect(new Set(rows.map((row) => row.slot)).size).toBe(rows.length);
      expect(new Set(rows.map((row) => row.attempt)).size).toBe(rows.length);
      expect(rows.filter((row) => !row.fits)).toEqual([]);
      // A live lease of an ended attempt only waits for its release.
      expect(rows.filter((row) => row.ended && row.lease !== 'releasing')).toEqual([]);
      const { rows: partial } = await sql`
        select run_id, leases.attempt, count(*) filter (where leases.name <> '') as beside from leases
        join runs on runs.id = run_id join hosts h on h.id = leases.host where h.cluster = ${cluster}
        group by run_id, leases.attempt, runs.id
        having count(*) filter (where leases.name <> '')
          <> count(*) filter (where leases.name = '') * case when runs.spec -> 'hosts' is not null then 2 else 0 end`.execute(
        db,
      );
      expect(partial).toEqual([]);
    }
  });

  describe('whose turn it is', () => {
    const ofPriority = (priority: number, name = 'work') => plannedRun(name, { priority });
    const several = (count: number) => range(count).map((at) => plannedRun(`run-${at}`));
    const turnOf = (who: string) => ({ kind: 'waiting', reason: `it waits for its turn: ${who} comes first` });
    const FEWER = turnOf('a project that holds fewer slots');

    /** Of two slots project `a` holds one and has more to run, a run of project `b` was told to wait, and one is free now. */
    async function contested() {
      const a = await makeBuild(db, { runs: several(3) });
      const { cluster } = a;
      const worker = await addHost(cluster, 'host', 2);
      const first = await granted(a.runIds[0]!, worker);
      await granted(a.runIds[1]!, worker);
      const b = await makeBuild(db, { cluster });
      expect((await ask(b.runIds[0]!, worker)).kind).toBe('waiting');
      await releaseLease(db, { runId: a.runIds[0]!, attempt: 1, cluster, token: first.token });
      return { a, b, worker, cluster, late: a.runIds[2]!, waiting: b.runIds[0]! };
    }

    test('C9 a free slot does not go to a latecomer of a project that holds some while one that holds none waits', async () => {
      const { a, worker, late, waiting } = await contested();

      expect(await ask(late, worker)).toEqual(FEWER);
      expect((await runOf(a.row.id, 2)).waiting).toBe(FEWER.reason);
      expect(await ask(waiting, worker)).toMatchObject({ kind: 'granted' });
    });

    test('C9 who asked and was not heard again for 10 s, or is being cancelled, or ended, keeps no slot from others', async () => {
      const leave: ((held: Awaited<ReturnType<typeof contested>>) => Promise<unknown>)[] = [
        ({ waiting }) =>
          sql`update runs set asked_at = asked_at - interval '10 seconds' where id = ${waiting}::uuid`.execute(db),
        ({ b }) => requestBuildCancel(db, b.row.id),
        ({ waiting }) => requestRunCancel(db, waiting),
        ({ waiting }) => closeRuns(db, [{ runId: waiting, cause: 'waiting-timeout', message: '' }]),
      ];
      for (const one of leave) {
        const held = await contested();
        await one(held);

        expect(await ask(held.late, held.worker)).toMatchObject({ kind: 'granted' });
      }
    });

    test('C9 a higher priority comes first, and a run that has waited for a step counts as one higher', async () => {
      const { cluster, worker, late, waiting } = await contested();
      const high = await makeBuild(db, { cluster, runs: [ofPriority(2)] });
      expect(await ask(high.runIds[0]!, randomUUID(), { silentAfterMs: 0 })).toMatchObject({ kind: 'waiting' });

      expect(await ask(waiting, worker)).toEqual(turnOf('a run of priority 2'));
      await sql`update builds set created_at = now() - interval '21 minutes'
        where id = (select build_id from runs where id = ${late}::uuid)`.execute(db);
      expect(await ask(late, worker)).toEqual(turnOf('a run of priority 2'));
      await sql`update lines set served_at = now() - interval '21 minutes' where cluster = ${cluster}`.execute(db);
      expect(await ask(late, worker)).toMatchObject({ kind: 'granted' });
    });

    test('C9 of a line that got nothing for a step one run at a time rises, until the line gets a slot', async () => {
      const { row, runIds, cluster } = await makeBuild(db, {
        runs: [...range(3).map((at) => ofPriority(4, `run-${at}`)), plannedRun('tagged', { hostTag: 'x' })],
      });
      const STEP_MS = 60_000;
      const read = () => Promise.all(runIds.map((runId) => readPriority(db, runId, STEP_MS)));
      const shift = (table: 'builds' | 'lines', by: string) => {
        const [column, of] = table === 'builds' ? ['created_at', 'id'] : ['served_at', 'cluster'];
        const value = table === 'builds' ? row.id : cluster;
        return sql`update ${sql.table(table)} set ${sql.ref(column)} = now() - ${by}::interval
          where ${sql.ref(of)}::text = ${value}`.execute(db);
      };
      expect(await read()).toEqual([4, 4, 4, 3]);
      await shift('builds', '61 seconds');
      expect(await readPriority(db, runIds[1]!, STEP_MS)).toBe(3);
      expect(await read()).toEqual([4, 3, 4, 2]);
      await shift('builds', '1 hour');
      expect(await read()).toEqual([4, 1, 4, 1]);
      await closeRuns(db, [{ runId: runIds[1]!, cause: 'cancel-requested', message: '' }]);
      expect((await read()).sort((a, b) => a - b)).toEqual([1, 1, 4, 4]);

      const worker = await addHost(cluster, 'host', 1);
      await granted(runIds[0]!, worker);
      expect((await read()).slice(1)).toEqual([4, 4, 1]);
      await shift('lines', '61 seconds');
      expect(await readPriority(db, runIds[2]!, STEP_MS)).toBe(3);
      expect(await readPriority(db, randomUUID(), STEP_MS)).toBe(3);
    });

    test('C9 a run waits since it could begin: not before its needs were finished, nor its attempt before', async () => {
      const { row, runIds, cluster } = await makeBuild(db, {
        runs: [plannedRun('first'), plannedRun('after', { needs: ['first'] })],
      });
      const since = async (at: number) => {
        const { rows } = await sql<{ since: Date | null }>`
          select waiting_since as since from runs where id = ${runIds[at]!}::uuid`.execute(db);
        return rows[0]?.since;
      };
      await ask(runIds[0]!, randomUUID());
      expect(await since(0)).toEqual(row.created_at);

      const worker = await addHost(cluster, 'host', 1);
      const { token } = await granted(runIds[0]!, worker);
      await closeAttempt(db, { runId: runIds[0]!, number: 1, cause: 'host-lost', message: '' });
      await ask(runIds[0]!, worker, { attempt: 2, silentAfterMs: 0 });
      expect(await since(0)).toEqual((await listAttempts(db, runIds[0]!))[0]?.finished_at);

      const second = await granted(runIds[0]!, worker, 2);
      await recordResult(db, { runId: runIds[0]!, attempt: 2, cluster, token: second.token }, ok);
      await ask(runIds[1]!, worker);
      expect(second.token).toBeGreaterThan(token);
      expect(await since(1)).toEqual((await runOf(row.id)).finished_at);
    });

    test('C9 C8 a project at the cap of its cluster is refused and told so, and others get what it may not have', async () => {
      const { row, runIds, cluster } = await makeBuild(db, { runs: several(3) });
      const worker = await addHost(cluster, 'host', 3);
      await sql`update clusters set max_slots_per_project = 2 where name = ${cluster}`.execute(db);
      const { token } = await granted(runIds[0]!, worker);
      await granted(runIds[1]!, worker);
      const reason = `project ${row.project} holds its 2 slots of cluster ${cluster}`;

      expect(await ask(runIds[2]!, worker)).toEqual({ kind: 'waiting', reason });
      const other = await makeBuild(db, { cluster, runs: [ofPriority(5)] });
      expect(await ask(other.runIds[0]!, worker)).toMatchObject({ kind: 'granted' });
      await releaseLease(db, { runId: runIds[0]!, attempt: 1, cluster, token });
      expect(await ask(runIds[2]!, worker)).toMatchObject({ kind: 'granted' });
    });

    test('C9 two projects that ask all the time, through three pools, come to share the slots, and none lies idle', async () => {
      const { cluster, runIds } = await makeBuild(db, { runs: several(30) });
      const worker = await addHost(cluster, 'host', 4);
      const held = new Map<string, Holder>();
      const left = [...runIds];
      const askAll = async (): Promise<void> => {
        const answers = await Promise.all(left.map((runId, at) => ask(runId, worker, { db: pool(at) })));
        answers.forEach((answer, at) => {
          if (answer.kind === 'granted')
            held.set(left[at]!, { runId: left[at]!, attempt: 1, cluster, token: answer.token });
        });
        left.splice(0, left.length, ...left.filter((runId) => !held.has(runId)));
      };
      await askAll();
      expect(held.size).toBe(4);
      const later = await makeBuild(db, { cluster, runs: several(30) });
      left.push(...later.runIds);
      await askAll();

      for (const round of range(12)) {
        const [[runId, holder] = []] = held;
        await recordResult(db, holder!, ok);
        await releaseLease(db, holder!);
        held.delete(runId!);
        await askAll();
        // Who asked too early is not there any more: nobody is refused twice for the same slot.
        if (held.size < 4) await askAll();
        const ofLater = [...held.keys()].filter((id) => later.runIds.includes(id)).length;
        expect({ round, held: held.size, ofLater }).toEqual({ round, held: 4, ofLater: Math.min(round, 2) });
      }
    });

    test('C9 the priority of a run stands in its row and its plan, and is not sent to workers of older versions', async () => {
      const { row, runIds, cluster } = await makeBuild(db, { runs: [ofPriority(2, 'a'), plannedRun('b')] });
      const worker = await addHost(cluster, 'host', 1);
      const { rows } = await sql<{ priority: number }>`
        select priority from runs where build_id = ${row.id}::uuid order by position`.execute(db);

      expect(rows.map((one) => one.priority)).toEqual([2, 3]);
      expect((await runOf(row.id)).spec.priority).toBe(2);
      expect((await granted(runIds[0]!, worker)).spec).toEqual(plannedRun('a'));
    });

    test('C8 C9 every run that only waits for a slot has a place in the queue of its cluster, in the order of the grants', async () => {
      const a = await makeBuild(db, {
        runs: [...several(3), ofPriority(1, 'urgent'), plannedRun('after', { needs: ['run-1'] }), plannedRun('gone')],
      });
      const { cluster } = a;
      const b = await makeBuild(db, { cluster, runs: several(2) });
      const [first, second, third, urgent, after, gone] = a.runIds;
      const worker = await addHost(cluster, 'host', 1);
      const { token } = await granted(first!, worker);
      await requestRunCancel(db, gone!);
      const queue = async () => [...(await queuePositions(db, cluster, DEFAULT_TIMING.ageStepMs))];
      const inOrder = (ids: (string | undefined)[]) =>
        ids.map((id, at) => [id, { position: at + 1, length: ids.length }]);

      expect(await queue()).toEqual(inOrder([urgent, ...b.runIds, second, third]));
      await recordResult(db, { runId: first!, attempt: 1, cluster, token }, ok);
      await releaseLease(db, { runId: first!, attempt: 1, cluster, token });
      expect(await queue()).toEqual(inOrder([urgent, b.runIds[0], second, b.runIds[1], third, after]));
      expect(await queuePositions(db, 'nowhere', DEFAULT_TIMING.ageStepMs)).toEqual(new Map());
    });

    test('C8 the queue of 5,000 runs is put in order in far less than ten seconds', async () => {
      const script = `#!/bin/sh\n${'echo a line\n'.repeat(100)}`;
      const runs = range(1_000).map((at) => plannedRun(`run-${at}`, { script }));
      const { cluster } = await makeBuild(db, { runs });
      for (const _ of range(4)) await makeBuild(db, { cluster, runs });
      const from = Date.now();

      expect((await queuePositions(db, cluster, DEFAULT_TIMING.ageStepMs)).size).toBe(5_000);
      expect(Date.now() - from).toBeLessThan(10_000);
    });
  });

  describe('fencing', () => {
    type Fence = (held: { runId: string; holder: Holder }) => Promise<unknown>;
    const closed = (cause: Cause) => ({ cause, message: 'lost' });
    const fences: Record<string, Fence> = {
      'its attempt was closed': ({ runId }) => closeAttempt(db, { runId, number: 1, ...closed('host-lost') }),
      'its run was closed': ({ runId }) => closeRuns(db, [{ runId, ...closed('host-lost') }]),
      'it released': ({ holder }) => releaseLease(db, holder),
    };
    const writes: Record<string, (holder: Holder) => Promise<unknown>> = {
      progress: (holder) => recordProgress(db, holder, { state: 'running', starting: true, containerId: 'late' }),
      'a log chunk': (holder) => appendChunk(db, holder, chunk(0, 3)),
      'an empty log chunk': (holder) => appendChunk(db, holder, chunk(0, 0)),
      'an artifact': (holder) =>
        recordArtifact(db, holder, { path: 'a', sizeBytes: 1, digest: 'd', contentType: 't', blob: 'b', limits }),
      'a result': (holder) => recordResult(db, holder, ok),
    };

    test.each(Object.entries(fences))(
      'B6 a worker is refused everything after %s, and changes nothing',
      async (_why, fence) => {
        const { row, runId, holder } = await heldRun();
        await fence({ runId, holder });
        const facts = async () => [
          await readBuild(db, row.project, row.number),
          await runOf(row.id),
          await listAttempts(db, runId),
        ];
        const before = await facts();

        for (const [what, write] of Object.entries(writes)) {
          await expect(write(holder).then(() => `${what} was taken`)).rejects.toBeInstanceOf(FencedError);
        }

        expect(await facts()).toEqual(before);
        expect((await locateLog(db, { runId, attempt: 1, fromByte: 0, toByte: 9 })).chunks).toEqual([]);
      },
    );

    test.each<[string, (holder: Holder, other: Holder) => Holder]>([
      ['another number', (holder) => ({ ...holder, token: holder.token + 1_000_000 })],
      ["another run's token", (holder, other) => ({ ...holder, token: other.token })],
      ['another attempt', (holder) => ({ ...holder, attempt: 2 })],
    ])('B6 a live attempt is not moved by %s', async (_what, forge) => {
      const [mine, other] = [await heldRun(), await heldRun()];
      const forged = forge(mine.holder, other.holder);

      for (const write of Object.values(writes)) await expect(write(forged)).rejects.toBeInstanceOf(FencedError);

      await recordProgress(db, mine.holder, { state: 'preparing' });
      expect(await runOf(mine.row.id)).toMatchObject({ state: 'preparing', outcome: null });
    });

    test('B6 after the result only the same result and the release are taken: log and artifacts are complete by then', async () => {
      const { row, runId, holder } = await heldRun();
      await recordResult(db, holder, ok);
      const ended = await runOf(row.id);

      const { 'a result': resultAgain, ...others } = writes;
      for (const write of Object.values(others)) await expect(write(holder)).rejects.toBeInstanceOf(FencedError);
      await resultAgain?.(holder);
      await recordResult(db, holder, { ...ok, cause: 'exit-code', exitCode: 1 });

      expect(await runOf(row.id)).toEqual(ended);
      expect(await readLogState(db, runId, 1)).toEqual({ bytes: 0, complete: true });
    });

    test('B6 a late result of a lost attempt is refused and the next attempt alone decides, under a higher token', async () => {
      const { row, runId, worker, holder } = await heldRun();
      await closeAttempt(db, { runId, number: 1, cause: 'host-lost', message: 'silent' });
      const second = await granted(runId, worker, 2);

      await expect(recordResult(db, holder, { ...ok, cause: 'exit-code', exitCode: 1 })).rejects.toBeInstanceOf(
        FencedError,
      );
      await recordResult(db, { ...holder, attempt: 2, token: second.token }, ok);

      expect(second.token).toBeGreaterThan(holder.token);
      expect(await runOf(row.id)).toMatchObject({ state: 'finished', outcome: 'passed', attempt: 2 });
      expect((await listAttempts(db, runId)).map((one) => one.outcome)).toEqual(['errored', 'passed']);
    });

    test('B6 result and loss at the same moment: one of them counts, for attempt and run alike', async () => {
      for (const at of range(20)) {
        const { row, runId, holder } = await heldRun();
        const [result] = await Promise.allSettled([
          recordResult(pool(at), holder, ok),
          closeRuns(pool(at + 1), [{ runId, cause: 'host-lost', message: 'lost' }]),
        ]);
        const [attempt] = await listAttempts(db, runId);
        const expected = result.status === 'fulfilled' ? 'passed' : 'errored';

        expect([(await runOf(row.id)).outcome, attempt?.outcome]).toEqual([expected, expected]);
        if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(FencedError);
      }
    });
  });

  describe('commits', () => {
    const url = 'https://git.example.org/app.git';
    const commitAt = (digit: number): string => String(digit).repeat(40);
    const of = (name: string, ref = 'main', from = url) =>
      plannedRun(name, { checkout: { url: from, ref, submodules: true, lfs: true } });
    /** A build whose runs all hold a lease. */
    async function heldRuns(...runs: ReturnType<typeof plannedRun>[]) {
      const { row, runIds, cluster } = await makeBuild(db, { runs });
      const worker = await addHost(cluster, 'host', runs.length);
      const holders: Holder[] = [];
      for (const runId of runIds) {
        const { token } = await granted(runId, worker);
        holders.push({ runId, attempt: 1, token, cluster });
      }
      return { row, runIds, worker, holders };
    }
    const refOf = async (runId: string, worker: string, attempt = 1): Promise<string | undefined> =>
      (await granted(runId, worker, attempt)).spec.checkout?.ref;

    test('B14 of 20 runs that found other commits at once the first counts for all, and every later lease says it', async () => {
      const { row, runIds, worker, holders } = await heldRuns(...range(20).map((at) => of(`run-${at}`)));
      const before = await refOf(runIds[0]!, worker);
      const renewed = { ...holders[0]!, token: (await granted(runIds[0]!, worker)).token };
      const kept = await Promise.all(
        [renewed, ...holders.slice(1)].map((holder, at) => freezeCommit(pool(at), holder, commitAt(at % 10))),
      );

      expect(before).toBe('main');
      expect(new Set(kept).size).toBe(1);
      for (const runId of runIds) expect(await refOf(runId, worker)).toBe(kept[0]);
      expect((await readBuild(db, row.project, row.number))?.commits).toEqual([{ url, ref: 'main', commit: kept[0] }]);
      expect(new Set((await listRuns(db, row.id)).map(({ commit }) => commit))).toEqual(new Set([kept[0]]));
    });

    test('B14 B8 a further attempt and a rerun get the commit of the first', async () => {
      const { row, runIds, worker, holders } = await heldRuns(of('work'));
      const [runId, holder] = [runIds[0]!, holders[0]!];
      await freezeCommit(db, holder, commitAt(1));
      await closeAttempt(db, { runId, number: 1, cause: 'host-lost', message: 'silent' });
      const second = await granted(runId, worker, 2);
      await recordResult(db, { ...holder, attempt: 2, token: second.token }, ok);
      await releaseLease(db, { ...holder, attempt: 2, token: second.token });
      await finishBuild(db, row.id);
      await beginRerun(db, row.id, { runs: 'all' });

      expect(second.spec.checkout?.ref).toBe(commitAt(1));
      expect(await refOf(runId, worker, 3)).toBe(commitAt(1));
    });

    test('B14 each repository, each ref and each build has a commit of its own', async () => {
      const other = 'git@git.example.org:other.git';
      const { row, holders } = await heldRuns(of('a'), of('b', 'dev'), of('c', 'main', other));
      const next = await heldRuns(of('a'));
      const kept = await Promise.all(holders.map((holder, at) => freezeCommit(db, holder, commitAt(at))));

      expect(kept).toEqual([0, 1, 2].map(commitAt));
      expect(await freezeCommit(db, next.holders[0]!, commitAt(7))).toBe(commitAt(7));
      expect((await listRuns(db, row.id)).map(({ commit }) => commit)).toEqual(kept);
    });

    test('B14 a commit that was asked for is frozen from the start, and nobody can freeze another', async () => {
      const { row, runIds, worker, holders } = await heldRuns(of('a', commitAt(5)), of('b', commitAt(5)), of('c'));

      expect(row.commits).toEqual([{ url, ref: commitAt(5), commit: commitAt(5) }]);
      expect(await freezeCommit(db, holders[1]!, commitAt(6))).toBe(commitAt(5));
      expect(await refOf(runIds[0]!, worker)).toBe(commitAt(5));
      expect((await runOf(row.id, 2)).commit).toBeNull();
    });

    test('B14 B6 only who holds the attempt freezes, and only what its run checks out', async () => {
      const { row, holders } = await heldRuns(of('a'), plannedRun('none'));
      const [holder, none] = holders;
      for (const wrong of [none!, { ...holder!, token: holder!.token + 1_000 }, { ...holder!, cluster: 'foreign' }]) {
        await expect(freezeCommit(db, wrong, commitAt(1))).rejects.toBeInstanceOf(FencedError);
      }

      expect((await readBuild(db, row.project, row.number))?.commits).toEqual([]);
    });
  });

  describe('at the same moment', () => {
    test.each(['closeRuns', 'closeAttempt'] as const)(
      'H4 %s that waits for a grant under way sees its lease and expires it',
      async (close) => {
        const { runId, cluster, holder, worker } = await heldRun();
        const host = `${cluster}/host`;
        // The slot was given back without a result, so the same attempt may be granted once more.
        await releaseLease(db, holder);
        const end = { runId, cause: 'host-lost' as const, message: 'lost' };
        let closing: Promise<void> | undefined;
        await pool(1)
          .transaction()
          .execute(async (tx) => {
            await tx.selectFrom('runs').select('id').where('id', '=', runId).forUpdate().execute();
            closing = close === 'closeRuns' ? closeRuns(db, [end]) : closeAttempt(db, { ...end, number: 1 });
            // The embedded database has one session: there the close waits for this whole transaction.
            const isBlocked = async () =>
              (await sql`select 1 from pg_locks where not granted`.execute(tx)).rows.length > 0;
            if (name === 'PostgreSQL') await waitFor(isBlocked, { what: 'the close waits for the run' });
            await tx
              .insertInto('leases')
              .values({ run_id: runId, attempt: 1, host, slot: 1, state: 'granted' })
              .execute();
          });
        await closing;

        const { rows } = await sql<{
          state: string;
        }>`select state from leases where run_id = ${runId}::uuid order by token`.execute(db);
        expect(rows.map((lease) => lease.state)).toEqual(['released', 'expired']);
        expect(await ask(runId, worker)).toMatchObject({ kind: 'ended' });
      },
    );

    test('B6 progress, result, loss, cancel and a new request for a lease do not lock each other out', async () => {
      for (const at of range(25)) {
        const { row, runId, holder, worker } = await heldRun();
        const lost = { cause: 'host-lost' as const, message: 'lost' };
        const all = await Promise.allSettled([
          recordProgress(pool(at), holder, { state: 'running', starting: true }),
          recordResult(pool(at + 1), holder, ok),
          closeRuns(pool(at + 2), [{ runId, ...lost }]),
          closeAttempt(pool(at), { runId, number: 1, ...lost }),
          requestBuildCancel(pool(at + 1), row.id),
          ask(runId, worker, { db: pool(at + 2) }),
          recordProgress(pool(at), holder, { state: 'collecting' }),
        ]);

        const wrong = all.flatMap((one) => (one.status === 'rejected' ? [one.reason as Error] : []));
        expect(wrong.filter((error) => !(error instanceof FencedError))).toEqual([]);
        expect(await runOf(row.id)).toMatchObject({ state: 'finished' });
      }
    });
  });

  describe('runs', () => {
    test('an attempt only moves forward, and facts once recorded stay', async () => {
      const { row, runId, holder } = await heldRun();
      const startedAt = new Date('2026-01-02T03:04:05Z');
      await recordProgress(db, holder, {
        state: 'running',
        starting: true,
        containerId: 'c1',
        imageDigest: 'i1',
        startedAt,
      });
      await recordProgress(db, holder, { state: 'preparing', containerId: 'c2', startedAt: new Date() });

      expect(await runOf(row.id)).toMatchObject({ state: 'running' });
      expect(await listAttempts(db, runId)).toMatchObject([
        { state: 'running', container_id: 'c1', image_digest: 'i1', started_at: startedAt },
      ]);
    });

    test.each([-1, 1])(
      'B9 the start of a script lies between its intent and now, also when the clock of its worker is %i h off',
      async (hours) => {
        const { runId, holder } = await heldRun();
        await recordProgress(db, holder, { state: 'preparing', starting: true });
        const startedAt = new Date(Date.now() + hours * 3_600_000);
        await recordProgress(db, holder, { state: 'running', startedAt });
        const [attempt] = await listAttempts(db, runId);
        await recordResult(db, holder, { cause: 'ok', message: '', exitCode: 0 });
        const [ended] = await listAttempts(db, runId);

        expect(attempt?.started_at?.getTime()).toBeGreaterThanOrEqual(attempt!.created_at.getTime());
        expect(ended?.finished_at?.getTime()).toBeGreaterThanOrEqual(attempt!.started_at!.getTime());
      },
    );

    test('B10 runs that nobody will finish are closed once: the first cause stays, also for an open attempt', async () => {
      const { row, runId, holder } = await heldRun({ runs: [plannedRun('held'), plannedRun('waiting')] });
      const [, waiting] = await listRuns(db, row.id);
      const both = (cause: Cause) => [runId, waiting!.id].map((id) => ({ runId: id, cause, message: cause }));

      await Promise.all([closeRuns(db, both('host-lost')), closeRuns(pool(1), both('host-lost'))]);
      const first = await listRuns(db, row.id);
      await closeRuns(db, both('cancel-requested'));
      await closeRuns(db, []);

      expect(first.map((run) => [run.outcome, run.cause, run.message])).toEqual([
        ['errored', 'host-lost', 'host-lost'],
        ['errored', 'host-lost', 'host-lost'],
      ]);
      expect(await listRuns(db, row.id)).toEqual(first);
      expect(await listAttempts(db, runId)).toMatchObject([
        { state: 'finished', cause: 'host-lost', log_complete: true },
      ]);
      expect(await findOrphans(db, holder.cluster, [keyOf(holder)])).toEqual([keyOf(holder)]);
    });

    test('R2 output that was lost with a host or a container is a gap in the log; before the start there was none to lose', async () => {
      const [unstarted, lost, closed, vanished] = [await heldRun(), await heldRun(), await heldRun(), await heldRun()];
      for (const { holder } of [lost, closed, vanished]) {
        await recordProgress(db, holder, { state: 'running', starting: true });
        await appendChunk(db, holder, chunk(0, 3));
      }
      const hostLost = { cause: 'host-lost', message: '' } as const;
      await closeAttempt(db, { runId: unstarted.runId, number: 1, ...hostLost });
      await closeAttempt(db, { runId: lost.runId, number: 1, ...hostLost });
      await closeAttempt(db, { runId: lost.runId, number: 1, ...hostLost });
      await closeRuns(db, [{ runId: closed.runId, ...hostLost }]);
      const gap = { atByte: 1, lostBytes: 5, reason: 'cap' } as const;
      await recordResult(db, vanished.holder, { ...ok, cause: 'container-lost', logGaps: [gap] });

      const gaps = async ({ runId }: { runId: string }) => (await listAttempts(db, runId))[0]?.log_gaps;
      expect(await gaps(unstarted)).toEqual([]);
      expect(await gaps(lost)).toEqual([{ atByte: 3, lostBytes: null, reason: 'host-lost' }]);
      expect(await gaps(closed)).toEqual([{ atByte: 3, lostBytes: null, reason: 'host-lost' }]);
      expect(await gaps(vanished)).toEqual([gap, { atByte: 3, lostBytes: null, reason: 'container-lost' }]);
    });

    test('B3 a cell that was told to stop is fail-fast when nobody asked for a cancel, and cancel-requested when somebody did', async () => {
      const jobs = [{ name: 'job', failFast: true }];
      const stopped = { cause: 'cancel-requested' as const, message: '', exitCode: null };
      const alone = await heldRun({ runs: [plannedRun('cell', { job: 'job' })], jobs });
      const asked = await heldRun({ runs: [plannedRun('cell', { job: 'job' })], jobs });
      await requestRunCancel(db, asked.runId);

      await recordResult(db, alone.holder, stopped);
      await recordResult(db, asked.holder, stopped);

      expect(await runOf(alone.row.id)).toMatchObject({ outcome: 'cancelled', cause: 'fail-fast' });
      expect(await runOf(asked.row.id)).toMatchObject({ outcome: 'cancelled', cause: 'cancel-requested' });
    });

    test('a run is found by project, number and name only', async () => {
      const { row } = await makeBuild(db);
      const where = { project: row.project, number: row.number, run: 'work' };

      expect(await readRun(db, where)).toMatchObject({ name: 'work', attempt: 0, host: null });
      expect(await readRun(db, { ...where, run: 'other' })).toBeUndefined();
      expect(await readRun(db, { ...where, number: 2 })).toBeUndefined();
    });
  });

  describe('logs', () => {
    test('R2 a chunk is taken at exactly the end of the log; any other offset is answered with where to go on', async () => {
      const { runId, holder } = await heldRun();
      const append = (startByte: number, sizeBytes: number) => appendChunk(db, holder, chunk(startByte, sizeBytes));

      expect(await append(0, 10)).toEqual({ appended: true, bytes: 10 });
      expect(await append(0, 10)).toEqual({ appended: false, bytes: 10 });
      expect(await append(5, 10)).toEqual({ appended: false, bytes: 10 });
      expect(await append(11, 1)).toEqual({ appended: false, bytes: 10 });
      expect(await append(10, 0)).toEqual({ appended: false, bytes: 10 });
      expect(await append(10, 5)).toEqual({ appended: true, bytes: 15 });
      const { chunks } = await locateLog(db, { runId, attempt: 1, fromByte: 9, toByte: 11 });
      expect(chunks.map((one) => [one.startByte, one.sizeBytes])).toEqual([
        [0, 10],
        [10, 5],
      ]);
      expect((await locateLog(db, { runId, attempt: 1, fromByte: 10, toByte: 11 })).chunks).toHaveLength(1);
    });

    test('R2 of many writers at one offset exactly one is taken', async () => {
      const { runId, holder } = await heldRun();

      const answers = await Promise.all(range(20).map((at) => appendChunk(pool(at), holder, chunk(0, at))));

      const taken = answers.filter((one) => one.appended);
      expect(taken).toHaveLength(1);
      expect(new Set(answers.map((one) => one.bytes)).size).toBe(1);
      expect(await readLogState(db, runId, 1)).toEqual({ bytes: taken[0]!.bytes, complete: false });
    });

    test('R3 the same artifact again replaces the first, and names the blob that nobody needs any more', async () => {
      const { runId, holder } = await heldRun();
      const artifact = { path: 'a/b', sizeBytes: 1, digest: 'one', contentType: 't', blob: 'b1', limits };
      expect(await recordArtifact(db, holder, artifact)).toBeUndefined();
      expect(await recordArtifact(db, holder, { ...artifact, digest: 'two', blob: 'b2' })).toBe('b1');

      const { rows } = await sql`select path, digest, blob from artifacts where run_id = ${runId}::uuid`.execute(db);
      expect(rows).toEqual([{ path: 'a/b', digest: 'two', blob: 'b2' }]);
    });

    test('R3 an attempt stores no more than it may, also when many files come at once, and a replaced file counts once', async () => {
      const { runId, holder } = await heldRun();
      const few = { fileBytes: 10, bytes: 25, files: 4 };
      const artifact = (path: string, sizeBytes: number) =>
        recordArtifact(db, holder, { path, sizeBytes, digest: 'd', contentType: 't', blob: path, limits: few });
      await expect(artifact('large', 11)).rejects.toThrow('it has 11 bytes, and one file may have 10');

      const ended = await Promise.allSettled(range(4).map((at) => artifact(`f${at}`, 10)));

      expect(ended.filter(({ status }) => status === 'fulfilled')).toHaveLength(2);
      const { rows } = await sql<{ path: string }>`select path from artifacts where run_id = ${runId}::uuid`.execute(
        db,
      );
      await artifact(rows[0]!.path, 5);
      for (const path of ['g1', 'g2']) await artifact(path, 1);
      await expect(artifact('g3', 0)).rejects.toThrow('a run may store 4 files');
      const asked = { sizeBytes: 1, limits: few };
      expect(await whyNotStored(db, holder, { ...asked, path: 'g3' })).toBe('a run may store 4 files');
      expect(await whyNotStored(db, holder, { ...asked, path: 'g1' })).toBeUndefined();
      await expect(whyNotStored(db, { ...holder, token: 0 }, { ...asked, path: 'g1' })).rejects.toThrow(FencedError);
      expect(await readLimits(db, runId)).toEqual(limits);
    });
  });

  test('O6 a cluster takes 200 new workers within a minute, and those that it knows at any time', async () => {
    await makeCluster(db, 'crowd');
    const crowd = sql`insert into workers (id, cluster, slots, version)
      select gen_random_uuid(), 'crowd', 1, '1' from generate_series(1, 200)`;
    const hello = { worker: randomUUID(), cluster: 'crowd', host: 'h', labels: [], slots: 1, version: '1' };
    await crowd.execute(db);

    expect(await recordWorker(db, hello)).toBeUndefined();
    await sql`update workers set first_seen_at = now() - interval '2 minutes' where cluster = 'crowd'`.execute(db);
    expect(await recordWorker(db, hello)).toBe(false);
    await crowd.execute(db);
    expect(await recordWorker(db, hello)).toBe(false);
  });

  test('H8 a cluster whose hosts on demand cannot be planned keeps no other from having its own', async () => {
    const broken = { minReady: 1, most: 1 } as PutBlueprint;
    const specs = { a: broken, b: PutBlueprint.parse({ ...broken, make: { kind: 'docker', image: 'x' } }), c: broken };
    for (const [at, spec] of Object.entries(specs)) {
      const cluster = `planned-${at}`;
      await makeCluster(db, cluster);
      await sql`insert into workers (id, cluster, enlisted_at, serves_hosts_at, slots, version)
        values (${randomUUID()}, ${cluster}, now(), now(), 1, '1')`.execute(db);
      await putBlueprint(db, { cluster, name: 'small' }, spec);
    }

    await expect(planOnDemand(db, 600_000)).rejects.toThrow(/^hosts on demand of cluster planned-[ac]: /);

    const made = await Promise.all(Object.keys(specs).map((at) => listHosts(db, `planned-${at}`)));
    expect(made.map((hosts) => hosts.length)).toEqual([0, 1, 0]);
  });

  describe('connections', () => {
    test('many clients at once, in and out of transactions, each see their own answers alone', async () => {
      const one = async (at: number): Promise<unknown[]> => {
        const echo = (on: Database, value: string) =>
          sql<{ n: number; value: string }>`select ${at}::int as n, ${value}::text as value`.execute(on);
        if (at % 2 === 0) return (await echo(pool(at), `plain ${at}`)).rows;
        return pool(at)
          .transaction()
          .execute(async (tx) => {
            const first = await echo(tx, `first ${at}`);
            const second = await echo(tx, `second ${at}`);
            return [...first.rows, ...second.rows];
          });
      };

      const answers = await Promise.all(range(120).map(one));

      const expected = range(120).map((n) =>
        n % 2 === 0
          ? [{ n, value: `plain ${n}` }]
          : [
              { n, value: `first ${n}` },
              { n, value: `second ${n}` },
            ],
      );
      expect(answers).toEqual(expected);
    });

    test('an answer of many rows arrives whole beside others', async () => {
      const long = sql<{ n: number }>`select n, repeat('x', 1000) as filler from generate_series(1, 5000) as n`;

      const answers = await Promise.all(range(4).map((at) => long.execute(pool(at))));

      for (const { rows } of answers) expect(rows.map((row) => row.n)).toEqual(range(5000));
    });

    test('a client that is killed in a transaction takes all of it back, and nobody waits for it for ever', async () => {
      const name = `killed-${randomUUID().slice(0, 8)}`;
      const client = new Client({ connectionString: store.url });
      client.on('error', () => undefined);
      await client.connect();
      await client.query('begin');
      await client.query('insert into clusters (name) values ($1)', [name]);
      const waiting = createProject(db, { name, description: '', definition: '', triggers: [] });

      (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();

      expect(await waiting).toBe(true);
      const { rows } = await sql`select 1 from clusters where name = ${name}`.execute(db);
      expect(rows).toEqual([]);
    });

    test('a statement that fails in a transaction takes it back, and the connection goes on', async () => {
      const project = await makeProject(db);
      const failing = db.transaction().execute(async (tx) => {
        await createBuild(tx, newBuild(project));
        await sql`select 1 / 0`.execute(tx);
      });

      await expect(failing).rejects.toThrow('division by zero');
      expect(await listBuilds(db, project, { limit: 1 })).toEqual([]);
      expect((await createBuild(db, newBuild(project))).kind).toBe('created');
    });
  });
});

describe('the folder of the embedded database', () => {
  const dir = mkdtempSync(join(tmpdir(), 'slipway-folder-'));
  const lock = join(dir, 'database.lock');
  let first: EmbeddedProcess;
  let second: EmbeddedProcess | undefined;
  beforeAll(async () => {
    first = await startEmbedded(dir);
  }, 90_000);
  afterAll(async () => {
    await first?.end('SIGKILL');
    await second?.end('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  });

  const connect = () => openStore(first.url, 1);

  test('a second process is refused while the first lives, and told which one it is', async () => {
    const pid = first.child.pid!;

    await expect(startEmbedded(dir)).rejects.toThrow(`database.lock is held by process ${pid}, which is alive`);
    expect(readFileSync(lock, 'utf8')).toBe(`${pid} ${startOf(pid)}\n`);
    const db = connect();
    await migrate(db);
    await makeProject(db);
    await db.destroy();
  });

  test('the lock of a killed process is taken over, with every row that was committed', async () => {
    const before = connect();
    await migrate(before);
    await createProject(before, { name: 'committed', description: '', definition: '', triggers: [] });
    await before.destroy();
    await first.end('SIGKILL');
    expect(existsSync(lock)).toBe(true);

    second = await startEmbedded(dir);

    const after = openStore(second.url, 1);
    expect(await readProject(after, 'committed')).toMatchObject({ name: 'committed' });
    await after.destroy();
    await second.end('SIGTERM');
    expect(existsSync(lock)).toBe(false);
  }, 60_000);
});

describe('a pid lock', () => {
  const dir = mkdtempSync(join(tmpdir(), 'slipway-lock-'));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  let count = 0;
  const place = (content?: string): string => {
    const path = join(dir, `lock-${++count}`);
    if (content !== undefined) writeFileSync(path, content);
    return path;
  };

  test('is held until it is given back, also against its own process', () => {
    const path = place();
    const unlock = takePidLock(path);

    expect(() => takePidLock(path)).toThrow(LockedError);
    unlock();
    takePidLock(path)();
    expect(existsSync(path)).toBe(false);
  });

  test.each([
    ['of a pid that nobody has', '4194999 123\n'],
    ['of a pid that another process got since', `${process.pid} 1\n`],
    ['that a crash left empty', ''],
  ])('%s is taken over', (_what, content) => {
    const path = place(content);

    takePidLock(path)();
  });

  test('that somebody else took since is not removed by the one who gives it back', () => {
    const path = place();
    const unlock = takePidLock(path);
    writeFileSync(path, '1 1\n');

    unlock();

    expect(readFileSync(path, 'utf8')).toBe('1 1\n');
  });

  test('never has two holders, however many processes fight for it', async () => {
    const path = place('4194999 123\n');
    const module = join(resolve(__dirname, '..'), 'dist', 'adapters', 'pid-lock.js');
    const program = `
      const { takePidLock } = require(${JSON.stringify(module)});
      const { rmSync, writeFileSync } = require('node:fs');
      let taken = 0;
      for (let round = 0; round < 2000 || taken === 0; round += 1) {
        let unlock;
        try { unlock = takePidLock(${JSON.stringify(path)}); } catch (error) {
          if (error.constructor.name !== 'LockedError') throw error;
          continue;
        }
        taken += 1;
        writeFileSync(${JSON.stringify(`${path}.inside`)}, '', { flag: 'wx' });
        rmSync(${JSON.stringify(`${path}.inside`)});
        unlock();
      }`;

    const fighters = range(4).map(() => promisify(execFile)(process.execPath, ['-e', program]));

    // A second holder finds the file of the first one and ends with EEXIST.
    await expect(Promise.all(fighters)).resolves.toHaveLength(4);
  }, 60_000);
});

describe('a store that goes away', () => {
  /** Lets a client in and dies at its first query, as a server that is killed in the middle of one. */
  async function dyingServer(): Promise<{ url: string; close(): void }> {
    const authenticated = Buffer.from([0x52, 0, 0, 0, 8, 0, 0, 0, 0]);
    const readyForQuery = Buffer.from([0x5a, 0, 0, 0, 5, 0x49]);
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.once('data', () => {
        socket.write(Buffer.concat([authenticated, readyForQuery]));
        socket.once('data', () => socket.resetAndDestroy());
      });
    });
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    const { port } = server.address() as AddressInfo;
    return { url: `postgres://somebody@127.0.0.1:${port}/any`, close: () => void server.close() };
  }
  const failureOf = async (url: string): Promise<unknown> => {
    const db = openStore(url, 1);
    const query = sql`select 1`.execute(db).catch((error: unknown) => error);
    return query.finally(() => db.destroy());
  };

  test('O4 in the middle of a query fails the query and not the process', async () => {
    const server = await dyingServer();

    const failure = await failureOf(server.url);

    // An error event that nobody listens to would end the process; here it fails the test.
    server.close();
    expect(isStoreAway(failure)).toBe(true);
  });

  test('O4 is told from a mistake of ours, whether nobody listens or there is no socket', async () => {
    const nobody = `postgres://somebody@127.0.0.1:${await freePort()}/any`;
    const noSocket = `postgres://somebody@localhost/any?host=${encodeURIComponent(join(tmpdir(), randomUUID()))}`;

    expect(isStoreAway(await failureOf(nobody))).toBe(true);
    expect(isStoreAway(await failureOf(noSocket))).toBe(true);
    expect(isStoreAway(new Error('division by zero'))).toBe(false);
    expect(isStoreAway(undefined)).toBe(false);
  });
});
