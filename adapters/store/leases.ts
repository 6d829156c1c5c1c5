// Owns hosts and leases: granting a slot under one lock a cluster, and every change a lease holder makes to its attempt.
//
//   granted ──starting──> active ──result──> releasing ──release──> released
//      └───────────┴──────────┴── closeRuns / closeAttempt (runs.ts) ──> expired   (its token is refused from then on)
//
// Called by the API for workers only. Every function that takes a token refuses one that is not live.
import { sql, type Transaction } from 'kysely';
import { outcomeOf } from '../../domain/verdict';
import { chooseHost, type HostOffer } from '../../domain/placement';
import { workerQueue } from '../../domain/names';
import type { PlannedRun } from '../../domain/schemas/plan';
import type { Cause, RunState } from '../../domain/schemas/words';
import type { Database } from './connect';
import type { Tables } from './tables';

const LIVE = ['granted', 'active', 'releasing'] as const;

export interface LeaseRequest {
  runId: string;
  attempt: number;
  worker: string;
  /** A host whose worker was silent for longer is not offered, ms. */
  silentAfterMs: number;
}
export interface GrantedLease {
  kind: 'granted';
  token: number;
  project: string;
  build: number;
  run: string;
  spec: PlannedRun;
  host: string;
  /** True once the container may exist: then it is adopted and never created again. */
  mayHaveStarted: boolean;
  logBytes: number;
}
export type LeaseAnswer =
  | GrantedLease
  | { kind: 'elsewhere'; queue: string }
  | { kind: 'waiting'; reason: string }
  | { kind: 'cancelled' }
  | { kind: 'clean'; token: number; cause: Cause }
  | { kind: 'ended'; cause: Cause };

/**
 * Registers a worker's host, or says that it is still there.
 * @param silentAfterMs a name may be taken over by another worker once its owner was silent for so long
 * @returns false when another living worker has a host of this name in the cluster
 */
export async function recordHost(
  db: Database,
  host: { cluster: string; name: string; worker: string; labels: string[]; slots: number; version: string },
  silentAfterMs: number,
): Promise<boolean> {
  await db
    .insertInto('clusters')
    .values({ name: host.cluster })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  const { rows } = await sql<{ id: string }>`
    insert into hosts (id, cluster, name, worker, labels, slots, version)
    values (${`${host.cluster}/${host.name}`}, ${host.cluster}, ${host.name}, ${host.worker},
            ${JSON.stringify(host.labels)}::jsonb, ${host.slots}, ${host.version})
    on conflict (id) do update set worker = excluded.worker, labels = excluded.labels, slots = excluded.slots,
      version = excluded.version, last_seen_at = now()
      where hosts.worker = excluded.worker or hosts.last_seen_at < now() - ${silentAfterMs} * interval '1 millisecond'
    returning id`.execute(db);
  return rows.length === 1;
}

export interface HostRow {
  name: string;
  cluster: string;
  worker: string;
  labels: string[];
  slots: number;
  busy: number[];
  version: string;
  last_seen_at: Date;
  /** ms since the worker was last heard */
  silent_ms: number;
}

export async function listHosts(db: Database | Transaction<Tables>, cluster?: string): Promise<HostRow[]> {
  let query = db
    .selectFrom('hosts')
    .select(['name', 'cluster', 'worker', 'labels', 'slots', 'version', 'last_seen_at'])
    .select([
      sql<number>`(extract(epoch from now() - last_seen_at) * 1000)::float8`.as('silent_ms'),
      sql<number[]>`(select coalesce(jsonb_agg(slot), '[]') from leases
        where leases.host = hosts.id and leases.state in ('granted', 'active', 'releasing'))`.as('busy'),
    ])
    .orderBy('cluster')
    .orderBy('name');
  if (cluster !== undefined) query = query.where('cluster', '=', cluster);
  return query.execute();
}

/**
 * Grants the attempt a slot, or says why not. Idempotent: an attempt that has a live lease gets the same one again.
 * One lock a cluster serialises grants; the unique indexes of `leases` would refuse a double grant anyway.
 */
export async function requestLease(db: Database, request: LeaseRequest): Promise<LeaseAnswer> {
  return db.transaction().execute(async (tx) => {
    const run = await lockRun(tx, request.runId);
    if (!run) return { kind: 'ended', cause: 'internal' };
    const live = await findLive(tx, request);
    if (live && live.worker !== request.worker) return elsewhere(run.cluster, live.worker);
    if (live?.state === 'finished') return { kind: 'clean', token: live.token, cause: live.cause ?? 'internal' };
    if (live) return grantOf(run, live);
    if (run.state === 'finished') return { kind: 'ended', cause: run.cause ?? 'internal' };
    const ended = await findEnd(tx, request);
    if (ended || run.attempt > request.attempt) return { kind: 'ended', cause: ended ?? 'host-lost' };
    if (run.cancelled) return { kind: 'cancelled' };
    return grant(tx, run, request);
  });
}

interface LockedRun {
  id: string;
  build_id: string;
  project: string;
  number: number;
  name: string;
  spec: PlannedRun;
  cluster: string;
  state: RunState;
  cause: Cause | null;
  attempt: number;
  cancelled: boolean;
}

async function lockRun(tx: Transaction<Tables>, runId: string): Promise<LockedRun | undefined> {
  const { rows } = await sql<LockedRun>`
    select r.id, r.build_id, b.project, b.number, r.name, r.spec, r.cluster, r.state, r.cause, r.attempt,
      (b.cancel_requested_at is not null or r.cancel_requested_at is not null) as cancelled
    from runs r join builds b on b.id = r.build_id where r.id = ${runId}::uuid for update of r`.execute(tx);
  return rows[0];
}

interface LiveLease {
  token: number;
  host: string;
  worker: string;
  state: RunState;
  cause: Cause | null;
  starting_at: Date | null;
  log_bytes: number;
}

async function findLive(tx: Transaction<Tables>, request: LeaseRequest): Promise<LiveLease | undefined> {
  return tx
    .selectFrom('leases')
    .innerJoin('hosts', 'hosts.id', 'leases.host')
    .innerJoin('attempts', (join) =>
      join.onRef('attempts.run_id', '=', 'leases.run_id').onRef('attempts.number', '=', 'leases.attempt'),
    )
    .select([
      'token',
      'hosts.name as host',
      'hosts.worker',
      'attempts.state',
      'attempts.cause',
      'starting_at',
      'log_bytes',
    ])
    .where('leases.run_id', '=', request.runId)
    .where('leases.attempt', '=', request.attempt)
    .where('leases.state', 'in', LIVE)
    .executeTakeFirst();
}

/** How the attempt ended, if it has. */
async function findEnd(tx: Transaction<Tables>, request: LeaseRequest): Promise<Cause | undefined> {
  const attempt = await tx
    .selectFrom('attempts')
    .select('cause')
    .where('run_id', '=', request.runId)
    .where('number', '=', request.attempt)
    .where('state', '=', 'finished')
    .executeTakeFirst();
  return attempt?.cause ?? undefined;
}

function elsewhere(cluster: string, worker: string): LeaseAnswer {
  return { kind: 'elsewhere', queue: workerQueue(cluster, worker) };
}

function grantOf(run: LockedRun, live: LiveLease): GrantedLease {
  return {
    kind: 'granted',
    token: live.token,
    project: run.project,
    build: run.number,
    run: run.name,
    spec: run.spec,
    host: live.host,
    mayHaveStarted: live.starting_at !== null,
    logBytes: live.log_bytes,
  };
}

async function grant(tx: Transaction<Tables>, run: LockedRun, request: LeaseRequest): Promise<LeaseAnswer> {
  await sql`select 1 from clusters where name = ${run.cluster} for update`.execute(tx);
  const hosts = (await listHosts(tx, run.cluster)).filter((host) => host.silent_ms < request.silentAfterMs);
  const choice = chooseHost(hosts.map(offerOf), run.spec.hostTag, request.worker);
  if (choice.kind === 'none') {
    await tx.updateTable('runs').set({ waiting: choice.reason }).where('id', '=', run.id).execute();
    return { kind: 'waiting', reason: choice.reason };
  }
  const { host, slot } = choice;
  const { rows } = await sql<{ token: number }>`
    with moved as (
      update runs set state = 'leasing', attempt = ${request.attempt}, waiting = null where id = ${run.id}::uuid
    ), begun as (
      update builds set state = 'running', started_at = coalesce(started_at, now())
      where id = ${run.build_id}::uuid and state = 'queued'
    ), attempted as (
      insert into attempts (run_id, number, state, host, worker)
      values (${run.id}::uuid, ${request.attempt}, 'leasing', ${host.name}, ${host.workerId})
      on conflict (run_id, number) do update set host = excluded.host, worker = excluded.worker
    )
    insert into leases (run_id, attempt, host, slot) values (${run.id}::uuid, ${request.attempt}, ${host.id}, ${slot})
    returning token`.execute(tx);
  const token = rows[0]?.token;
  if (token === undefined) throw new Error('no token came back from the grant');
  if (host.workerId !== request.worker) return elsewhere(run.cluster, host.workerId);
  return grantOf(run, {
    token,
    host: host.name,
    worker: host.workerId,
    state: 'leasing',
    cause: null,
    starting_at: null,
    log_bytes: 0,
  });
}

function offerOf(host: HostRow): HostOffer {
  return {
    id: `${host.cluster}/${host.name}`,
    name: host.name,
    labels: host.labels,
    slots: host.slots,
    busySlots: host.busy,
    workerId: host.worker,
  };
}

/** What a lease holder says; every call names the token it was granted. */
export interface Holder {
  runId: string;
  attempt: number;
  token: number;
}

/** The token is not, or no longer, the live one of this attempt: its holder must stop and touch nothing. */
export class FencedError extends Error {
  override readonly name = 'FencedError';
  constructor(holder: Holder) {
    super(
      `lease ${holder.token} of attempt ${holder.attempt} is no longer live; another attempt or a cancel took over`,
    );
  }
}

const isLive = (holder: Holder) => sql<boolean>`exists (
  select 1 from leases where token = ${holder.token} and run_id = ${holder.runId}::uuid
    and attempt = ${holder.attempt} and state in ('granted', 'active', 'releasing'))`;

const lockedRun = (holder: Holder) => sql`locked as (select 1 from runs where id = ${holder.runId}::uuid for update)`;

export interface AttemptProgress {
  state: Extract<RunState, 'preparing' | 'running' | 'collecting'>;
  /** Set before the container is started: from then on it is adopted, never created again. */
  starting?: boolean;
  containerId?: string;
  imageDigest?: string;
  startedAt?: Date;
}

const ORDER = sql.raw(`array['queued','leasing','preparing','running','collecting','finished']`);

/** Moves an attempt forward and never back; facts once recorded stay. @throws FencedError */
export async function recordProgress(db: Database, holder: Holder, progress: AttemptProgress): Promise<void> {
  const { rows } = await sql<{ number: number }>`
    with ${lockedRun(holder)}, moved as (
      update attempts set
        state = case when array_position(${ORDER}, state) < array_position(${ORDER}, ${progress.state}::text)
          then ${progress.state}::text else state end,
        starting_at = case when ${progress.starting ?? false} then coalesce(starting_at, now()) else starting_at end,
        container_id = coalesce(container_id, ${progress.containerId ?? null}),
        image_digest = coalesce(image_digest, ${progress.imageDigest ?? null}),
        started_at = coalesce(started_at, ${progress.startedAt ?? null}::timestamptz)
      where run_id = ${holder.runId}::uuid and number = ${holder.attempt} and state <> 'finished' and ${isLive(holder)}
        and exists (select 1 from locked)
      returning number, state
    ), activated as (
      update leases set state = 'active' where token = ${holder.token} and state = 'granted'
        and ${progress.starting ?? false}
    ), shown as (
      update runs set state = moved.state, waiting = null from moved
      where runs.id = ${holder.runId}::uuid and runs.attempt = ${holder.attempt} and runs.state <> 'finished'
    )
    select number from moved`.execute(db);
  if (rows.length === 0) throw new FencedError(holder);
}

export interface AttemptResult {
  cause: Cause;
  message: string;
  exitCode: number | null;
  /** False when the run gets another attempt: then it goes back to queued. */
  final: boolean;
}

/** Ends an attempt; the slot stays taken until `release`. The same result twice is fine. @throws FencedError */
export async function recordResult(db: Database, holder: Holder, result: AttemptResult): Promise<void> {
  const outcome = outcomeOf(result.cause);
  const cause = result.cause === 'cancel-requested' ? await whoCancelled(db, holder) : result.cause;
  const { rows } = await sql<{ token: number }>`
    with ${lockedRun(holder)}, held as (
      update leases set state = 'releasing' where token = ${holder.token} and run_id = ${holder.runId}::uuid
        and attempt = ${holder.attempt} and state in ('granted', 'active', 'releasing') and exists (select 1 from locked)
      returning token
    ), ended as (
      update attempts set state = 'finished', outcome = ${outcome}, cause = ${cause}, message = ${result.message},
        exit_code = ${result.exitCode}, finished_at = now(), log_complete = true
      where run_id = ${holder.runId}::uuid and number = ${holder.attempt} and state <> 'finished'
        and exists (select 1 from held)
    ), run_ended as (
      update runs set
        state = case when ${result.final} then 'finished' else 'queued' end,
        outcome = case when ${result.final} then ${outcome} end,
        cause = case when ${result.final} then ${cause} end,
        finished_at = case when ${result.final} then now() end,
        message = ${result.message},
        waiting = case when ${result.final} then null else ${`${result.message}; another attempt is under way`} end
      where id = ${holder.runId}::uuid and attempt = ${holder.attempt} and state <> 'finished'
        and exists (select 1 from held)
    )
    select token from held`.execute(db);
  if (rows.length === 0) throw new FencedError(holder);
}

/** A worker only knows that it was told to stop: nobody asked for it when a cell of a fail-fast job failed. */
async function whoCancelled(db: Database, holder: Holder): Promise<Cause> {
  const { rows } = await sql<{ failFast: boolean }>`
    select r.cancel_requested_at is null and b.cancel_requested_at is null and exists (
      select 1 from jsonb_array_elements(b.plan_jobs) j where j ->> 'name' = r.spec ->> 'job' and (j ->> 'failFast')::boolean
    ) as "failFast"
    from runs r join builds b on b.id = r.build_id where r.id = ${holder.runId}::uuid`.execute(db);
  return rows[0]?.failFast ? 'fail-fast' : 'cancel-requested';
}

/** Gives the slot back: said only after the container is gone. Idempotent. */
export async function releaseLease(db: Database, holder: Holder): Promise<void> {
  await db
    .updateTable('leases')
    .set({ state: 'released', ended_at: sql`now()` })
    .where('token', '=', holder.token)
    .where('run_id', '=', holder.runId)
    .where('state', 'in', LIVE)
    .execute();
}

/** Throws unless the holder's token is live. */
export async function requireLive(db: Database, holder: Holder): Promise<void> {
  const { rows } = await sql<{ live: boolean }>`select ${isLive(holder)} as live`.execute(db);
  if (!rows[0]?.live) throw new FencedError(holder);
}

/** Whether the cluster's policy lets runs ask for privileged containers. An unknown cluster does not. */
export async function allowsPrivileged(db: Database, cluster: string): Promise<boolean> {
  const row = await db.selectFrom('clusters').select('allow_privileged').where('name', '=', cluster).executeTakeFirst();
  return row?.allow_privileged ?? false;
}

export async function setClusterPolicy(db: Database, cluster: string, allowPrivileged: boolean): Promise<void> {
  await db
    .insertInto('clusters')
    .values({ name: cluster, allow_privileged: allowPrivileged })
    .onConflict((conflict) => conflict.column('name').doUpdateSet({ allow_privileged: allowPrivileged }))
    .execute();
}

/** Of the containers a worker found: those whose attempt has no live lease, or only one that waits for its release. */
export async function findOrphans(
  db: Database,
  holders: readonly { runId: string; attempt: number; token: number }[],
): Promise<{ runId: string; attempt: number; token: number }[]> {
  const { rows } = await sql<{ runId: string; attempt: number; token: number }>`
    select h."runId", h.attempt, h.token
    from jsonb_to_recordset(${JSON.stringify(holders)}::jsonb) as h ("runId" uuid, attempt int, token bigint)
    where not exists (select 1 from leases l where l.token = h.token and l.run_id = h."runId"
      and l.attempt = h.attempt and l.state in ('granted', 'active'))`.execute(db);
  return rows;
}
