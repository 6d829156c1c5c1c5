// Owns every change that the holder of a lease makes to its attempt, and what is left when there is no holder any more.
//
//   granted ──starting──> active ──result──> releasing ──release──> released
//      └───────────┴──────────┴── closeRuns / closeAttempt (runs.ts) ──> expired   (its token is refused from then on)
//
// Called by the API for workers only. Every function that takes a token refuses one that is not live.
import { sql, type RawBuilder } from 'kysely';
import { isRetried, isWorthHolding, outcomeOf } from '../../domain/verdict';
import type { AttemptKey, HolderKey } from '../../domain/schemas/worker-api';
import type { RetryBudget } from '../../domain/schemas/plan';
import type { Cause, RunState } from '../../domain/schemas/words';
import type { LogGap, NotStoredFiles } from '../../domain/schemas/api';
import type { Database } from './connect';
import { isHeld } from './holds';
import { LIVE, LIVE_STATES } from './hosts';
import { failed, isGrantedSince } from './quarantine';

/** Who says something of an attempt; every call names the token that was granted, and comes from the cluster it was granted in. */
export type Holder = HolderKey & { cluster: string };

/** Hosts are called `<cluster>/<name>`. */
const ofCluster = (cluster: string) => sql<boolean>`split_part(leases.host, '/', 1) = ${cluster}`;

/** The token is not, or no longer, the live one of this attempt: its holder must stop and touch nothing. */
export class FencedError extends Error {
  override readonly name = 'FencedError';
  constructor(holder: Holder) {
    super(
      `fencing token ${holder.token} of attempt ${holder.attempt} of run ${holder.runId} is no longer the live one: another supervisor, another attempt or a cancel took over; let go of it`,
    );
  }
}

/** As SQL: whether its token is the live one of this attempt, and was granted in its cluster. Tokens alone are easily guessed. */
export const isHolding = (holder: Holder, states: readonly (typeof LIVE_STATES)[number][]) => sql<boolean>`exists (
  select 1 from leases where token = ${holder.token} and run_id = ${holder.runId}::uuid
    and attempt = ${holder.attempt} and name = '' and state in (${sql.join(states)}) and ${ofCluster(holder.cluster)})`;

const isLive = (holder: Holder) => isHolding(holder, LIVE_STATES);

const lockedRun = (holder: Holder) => sql`locked as (select 1 from runs where id = ${holder.runId}::uuid for update)`;

export interface AttemptProgress {
  state: Extract<RunState, 'preparing' | 'running' | 'collecting'>;
  /** Set before the container is started: from then on it is adopted, never created again. */
  starting?: boolean;
  containerId?: string;
  imageDigest?: string;
  /** By a worker's clock; kept between its intent and now, which are the server's. */
  startedAt?: Date;
  /** Recorded once, however often it is said. */
  logGap?: LogGap;
}

const ORDER = sql.raw(`array['queued','leasing','preparing','running','collecting','finished']`);

/** Moves an attempt forward and never back; facts once recorded stay. @throws FencedError */
export async function recordProgress(db: Database, holder: Holder, progress: AttemptProgress): Promise<void> {
  const gap = JSON.stringify(progress.logGap ? [progress.logGap] : []);
  const { rows } = await sql<{ number: number }>`
    with ${lockedRun(holder)}, moved as (
      update attempts set
        state = case when array_position(${ORDER}, state) < array_position(${ORDER}, ${progress.state}::text)
          then ${progress.state}::text else state end,
        starting_at = case when ${progress.starting ?? false} then coalesce(starting_at, now()) else starting_at end,
        container_id = coalesce(container_id, ${progress.containerId ?? null}),
        image_digest = coalesce(image_digest, ${progress.imageDigest ?? null}),
        started_at = coalesce(started_at, case when ${progress.startedAt ?? null}::timestamptz is not null
          then least(greatest(${progress.startedAt ?? null}::timestamptz, starting_at), now()) end),
        log_gaps = log_gaps || case when log_gaps @> ${gap}::jsonb then '[]' else ${gap}::jsonb end
      where run_id = ${holder.runId}::uuid and number = ${holder.attempt} and state <> 'finished' and ${isLive(holder)}
        and exists (select 1 from locked)
      returning number, state
    ), activated as (
      update leases set state = 'active', why = 'its script is started'
        where run_id = ${holder.runId}::uuid and attempt = ${holder.attempt} and state = 'granted'
        and ${progress.starting ?? false} and exists (select 1 from moved)
    ), proven as (
      update hosts set faults = 0, fault = null, quarantined_until = null
      where faults > 0 and ${progress.state === 'running'} and exists (select 1 from moved)
        and exists (select 1 from leases l where l.token = ${holder.token} and l.host = hosts.id
          and ${isGrantedSince(sql`l.granted_at`)})
    ), shown as (
      update runs set state = moved.state, waiting = null from moved
      where runs.id = ${holder.runId}::uuid and runs.attempt = ${holder.attempt} and runs.state <> 'finished'
    )
    select number from moved`.execute(db);
  if (rows.length === 0) throw new FencedError(holder);
}

/**
 * As a list for log_gaps: what a container wrote after its last byte came home is lost with it.
 * @param cause why its attempt ends, as SQL
 */
export const lostOutput = (cause: RawBuilder<unknown>): RawBuilder<LogGap[]> => sql`
  case when starting_at is not null and ${cause} in ('host-lost', 'container-lost')
    then jsonb_build_array(jsonb_build_object('atByte', log_bytes, 'lostBytes', null, 'reason', ${cause}))
    else '[]'::jsonb end`;

/** Whether it happens to any run that the host gets: it is left alone for a while. */
export const isHostFault = (cause: Cause): boolean => cause === 'engine-unavailable';

export interface AttemptResult {
  cause: Cause;
  message: string;
  exitCode: number | null;
  /** What the log lacks. */
  logGaps?: LogGap[];
  /** What it left and is no artifact; absent: nothing. */
  notStored?: NotStoredFiles;
}

/**
 * Ends an attempt; the slot stays taken until `release`. A run with budget left goes back to queued. The same result twice
 * is fine. @returns until when what it left is to be kept; null: it is not @throws FencedError
 */
export async function recordResult(db: Database, holder: Holder, result: AttemptResult): Promise<Date | null> {
  const cause = result.cause === 'cancel-requested' ? await whoCancelled(db, holder) : result.cause;
  const outcome = outcomeOf(cause);
  const { isFinal, holdMs } = outcome === 'passed' ? LAST : await whatFollows(db, holder, cause);
  const kept = sql`case when ${holdMs}::float8 > 0 then now() + ${holdMs}::float8 * interval '1 millisecond' end`;
  const why = holdMs > 0 ? `it ended: ${cause}; what it left is kept` : `it ended: ${cause}`;
  const { rows } = await sql<{ until: Date | null }>`
    with ${lockedRun(holder)}, held as (
      update leases set state = 'releasing', why = ${why}::text, held_until = coalesce(held_until, ${kept}),
        deadline_at = greatest(deadline_at, ${kept})
      where token = ${holder.token} and run_id = ${holder.runId}::uuid and name = ''
        and attempt = ${holder.attempt} and state in ${LIVE} and exists (select 1 from locked)
        and ${ofCluster(holder.cluster)}
      returning token, host, held_until, granted_at
    ), beside as (
      update leases set state = 'releasing', why = ${why}::text, held_until = (select held_until from held)
      where run_id = ${holder.runId}::uuid and attempt = ${holder.attempt} and name <> '' and state in ('granted', 'active')
        and exists (select 1 from held)
    ), blamed as (
      update hosts set ${failed(sql`${result.message}::text`)} from held
      where ${isHostFault(cause)} and hosts.id = held.host and ${isGrantedSince(sql`held.granted_at`)}
    ), ended as (
      update attempts set state = 'finished', outcome = ${outcome}, cause = ${cause}, message = ${result.message},
        exit_code = ${result.exitCode}, finished_at = now(), log_complete = true,
        not_stored = ${result.notStored ? JSON.stringify(result.notStored) : null}::jsonb,
        log_gaps = log_gaps || ${JSON.stringify(result.logGaps ?? [])}::jsonb || ${lostOutput(sql`${cause}::text`)}
      where run_id = ${holder.runId}::uuid and number = ${holder.attempt} and state <> 'finished'
        and exists (select 1 from held)
    ), run_ended as (
      update runs set
        state = case when ${isFinal} then 'finished' else 'queued' end,
        outcome = case when ${isFinal} then ${outcome} end,
        cause = case when ${isFinal} then ${cause} end,
        finished_at = case when ${isFinal} then now() end,
        message = ${result.message},
        waiting = case when ${isFinal} then null else ${`${result.message}; another attempt is under way`} end
      where id = ${holder.runId}::uuid and attempt = ${holder.attempt} and state <> 'finished'
        and exists (select 1 from held)
    )
    select held_until as until from held`.execute(db);
  const [held] = rows;
  if (!held) throw new FencedError(holder);
  return held.until;
}

interface Following {
  /** The run gets no further attempt. */
  isFinal: boolean;
  /** For how long what it left is kept, ms. */
  holdMs: number;
}
const LAST: Following = { isFinal: true, holdMs: 0 };

/** What comes after an attempt that did not pass; judged over the attempts of the newest rerun of its run. */
async function whatFollows(db: Database, holder: Holder, cause: Cause): Promise<Following> {
  const { rows } = await sql<{ retry: Partial<RetryBudget> | null; hold: number | null; causes: Cause[] }>`
    select spec -> 'retry' as retry, coalesce(
      (select hold_ms from builds where builds.id = runs.build_id), (spec ->> 'holdMs')::float8)::float8 as hold, (
      select coalesce(jsonb_agg(cause order by number), '[]') from attempts
      where run_id = runs.id and number > runs.base_attempt and number < ${holder.attempt} and cause is not null
    ) as causes
    from runs where id = ${holder.runId}::uuid`.execute(db);
  const [run] = rows;
  if (!run) return LAST;
  const isFinal = !isRetried([...run.causes, cause], run.retry ?? undefined);
  return { isFinal, holdMs: isFinal && isWorthHolding(cause) ? (run.hold ?? 0) : 0 };
}

/**
 * A worker only knows that it was told to stop. Nobody asked for it when a cell of a fail-fast job failed, or when the
 * whole build ran out of time.
 */
async function whoCancelled(db: Database, holder: Holder): Promise<Cause> {
  const { rows } = await sql<{ asked: boolean; buildCause: Cause | null; failFast: boolean }>`
    select r.cancel_requested_at is not null or b.cancel_requested_at is not null as asked,
      b.cancel_cause as "buildCause", exists (
      select 1 from jsonb_array_elements(b.plan_jobs) j where j ->> 'name' = r.spec ->> 'job' and (j ->> 'failFast')::boolean
    ) as "failFast"
    from runs r join builds b on b.id = r.build_id where r.id = ${holder.runId}::uuid`.execute(db);
  const [who] = rows;
  if (who?.asked) return who.buildCause ?? 'cancel-requested';
  return who?.failFast ? 'fail-fast' : 'cancel-requested';
}

/**
 * Gives the slot back, or that of a host beside it: said only after nothing of the run is left there. Idempotent.
 * @returns false when it held none
 */
export async function releaseLease(db: Database, holder: Holder, beside = ''): Promise<boolean> {
  const released = await db
    .updateTable('leases')
    .set({ state: 'released', ended_at: sql`now()`, why: 'nothing of it is left on the host' })
    .where(beside === '' ? sql<boolean>`token = ${holder.token}` : isLive(holder))
    .where('run_id', '=', holder.runId)
    .where('attempt', '=', holder.attempt)
    .where('name', '=', beside)
    .where('state', 'in', LIVE_STATES)
    .where(ofCluster(holder.cluster))
    .executeTakeFirst();
  return released.numUpdatedRows === 1n;
}

/** Whether the attempt is of another cluster than its holder: then no fencing, but somebody who must be told apart. */
export async function isForeign(db: Database, attempt: AttemptKey & { cluster: string }): Promise<boolean> {
  const { rows } = await sql<{ foreign: boolean }>`
    select not exists (select 1 from leases where run_id = ${attempt.runId}::uuid and attempt = ${attempt.attempt}
      and ${ofCluster(attempt.cluster)}) as foreign`.execute(db);
  return rows[0]?.foreign ?? true;
}

/** Throws unless the holder's token is live. */
export async function requireLive(db: Database, holder: Holder): Promise<void> {
  const { rows } = await sql<{ live: boolean }>`select ${isLive(holder)} as live`.execute(db);
  if (!rows[0]?.live) throw new FencedError(holder);
}

/**
 * Of the attempts whose containers or folders a worker found: those that nothing needs any more. An attempt that this
 * installation does not know belongs to another one on the same engine and is left alone.
 */
export async function findOrphans(db: Database, cluster: string, found: readonly AttemptKey[]): Promise<AttemptKey[]> {
  const { rows } = await sql<AttemptKey>`
    select f."runId", f.attempt
    from jsonb_to_recordset(${JSON.stringify(found)}::jsonb) as f ("runId" uuid, attempt int)
    join attempts a on a.run_id = f."runId" and a.number = f.attempt
    where not exists (select 1 from leases l where l.run_id = f."runId" and l.attempt = f.attempt
      and (l.state in ('granted', 'active') or ${isHeld('l')}))
      and exists (select 1 from leases where leases.run_id = f."runId" and leases.attempt = f.attempt
        and ${ofCluster(cluster)})`.execute(db);
  return rows;
}

/** Longer than a worker's list of what it found can be under way, seconds. */
const LIST_AGE_S = 45;

/**
 * Gives back the slots of a worker's hosts whose attempt has ended and of which the worker found nothing: it died between
 * the removal and the release. @param found everything that the worker has of attempts, what it supervises included
 * @param hosts listed hosts that it serves and could look at
 */
export async function releaseCleaned(
  db: Database,
  { cluster, worker, hosts = [] }: { cluster: string; worker: string; hosts?: readonly string[] },
  found: readonly AttemptKey[],
): Promise<void> {
  await sql`
    update leases set state = 'released', ended_at = now(), why = 'its worker found nothing of it any more'
    from attempts a, hosts h
    where leases.state in ${LIVE} and h.id = leases.host and h.worker = ${worker} and h.cluster = ${cluster}
      and (h.origin = 'worker' or h.name in (select jsonb_array_elements_text(${JSON.stringify(hosts)}::jsonb)))
      and a.run_id = leases.run_id and a.number = leases.attempt
      and a.finished_at < now() - ${LIST_AGE_S} * interval '1 second' and not ${isHeld('leases')}
      and not exists (select 1 from jsonb_to_recordset(${JSON.stringify(found)}::jsonb) as f ("runId" uuid, attempt int)
        where f."runId" = leases.run_id and f.attempt = leases.attempt)`.execute(db);
}
