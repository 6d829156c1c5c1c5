// Owns the rows of runs and attempts as people read them, and the closing of runs by the orchestrator.
// Called by the API and by the orchestrator's activities; leases.ts moves them while a worker holds them.
// Whatever changes a run and its attempts, leases or build locks the run first, several runs by id: else PostgreSQL finds
// deadlocks (11 of 150 closes that met a result).
import { sql, type RawBuilder, type Transaction } from 'kysely';
import type { Placement } from '../../domain/cluster-choice';
import { plainText } from '../../domain/untrusted';
import { outcomeOf } from '../../domain/verdict';
import type { LogGap, NotStoredFiles } from '../../domain/schemas/api';
import type { PlannedRun } from '../../domain/schemas/plan';
import type { Cause, Outcome, RunState } from '../../domain/schemas/words';
import { commitOf } from './commits';
import type { Database } from './connect';
import { lostOutput } from './holders';
import { LIVE, SILENT_AFTER_MS } from './hosts';
import { handOverHost } from './kept-hosts';
import type { Tables } from './tables';

export interface RunRow {
  id: string;
  name: string;
  spec: PlannedRun;
  /** That its checkout is of; null: it has none, or nobody has looked yet. */
  commit: string | null;
  cluster: string;
  placement: Placement;
  state: RunState;
  outcome: Outcome | null;
  cause: Cause | null;
  message: string;
  waiting: string | null;
  attempt: number;
  cancel_requested_at: Date | null;
  finished_at: Date | null;
  host: string | null;
  exit_code: number | null;
  log_bytes: number | null;
  started_at: Date | null;
  /** How its newest attempt ended; null: it has not, or there is none since its last rerun. */
  attempt_cause: Cause | null;
  attempt_message: string | null;
}
export interface AttemptRow {
  run_id: string;
  number: number;
  state: RunState;
  outcome: Outcome | null;
  cause: Cause | null;
  message: string;
  exit_code: number | null;
  host: string | null;
  worker: string | null;
  container_id: string | null;
  image_digest: string | null;
  log_bytes: number;
  log_complete: boolean;
  log_gaps: LogGap[];
  not_stored: NotStoredFiles | null;
  created_at: Date;
  started_at: Date | null;
  finished_at: Date | null;
}
export interface ArtifactRow {
  path: string;
  size_bytes: number;
  digest: string;
  content_type: string;
  blob: string;
}

function selectRuns(db: Database) {
  return db
    .selectFrom('runs')
    .leftJoin('attempts', (join) =>
      join
        .onRef('attempts.run_id', '=', 'runs.id')
        .onRef('attempts.number', '=', 'runs.attempt')
        // What the run is doing now says nothing of the attempts before its rerun.
        .onRef('attempts.number', '>', 'runs.base_attempt'),
    )
    .select([
      'runs.id',
      'runs.name',
      'runs.spec',
      'runs.cluster',
      'runs.placement',
      'runs.state',
      'runs.outcome',
      'runs.cause',
      'runs.message',
      'runs.waiting',
      'runs.attempt',
      'runs.cancel_requested_at',
      'runs.finished_at',
      'attempts.host',
      'attempts.exit_code',
      'attempts.log_bytes',
      'attempts.started_at',
      'attempts.cause as attempt_cause',
      'attempts.message as attempt_message',
    ])
    .select(commitOf('runs').as('commit'));
}

/** All runs of a build in plan order, each with the facts of its newest attempt. */
export async function listRuns(db: Database, buildId: string): Promise<RunRow[]> {
  return selectRuns(db).where('runs.build_id', '=', buildId).orderBy('runs.position').execute();
}

export async function readRun(
  db: Database,
  where: { project: string; number: number; run: string },
): Promise<RunRow | undefined> {
  return selectRuns(db)
    .innerJoin('builds', 'builds.id', 'runs.build_id')
    .where('builds.project', '=', where.project)
    .where('builds.number', '=', where.number)
    .where('runs.name', '=', where.run)
    .executeTakeFirst();
}

export async function listAttempts(db: Database, runId: string): Promise<AttemptRow[]> {
  return db.selectFrom('attempts').selectAll().where('run_id', '=', runId).orderBy('number').execute();
}

export async function readAttempt(db: Database, runId: string, number: number): Promise<AttemptRow | undefined> {
  return db
    .selectFrom('attempts')
    .selectAll()
    .where('run_id', '=', runId)
    .where('number', '=', number)
    .executeTakeFirst();
}

export async function listArtifacts(db: Database, runId: string, attempt: number): Promise<ArtifactRow[]> {
  return db
    .selectFrom('artifacts')
    .select(['path', 'size_bytes', 'digest', 'content_type', 'blob'])
    .where('run_id', '=', runId)
    .where('attempt', '=', attempt)
    .orderBy('path')
    .execute();
}

/** Records the wish to cancel one run. @returns false when it is finished already */
export async function requestRunCancel(db: Database, runId: string): Promise<boolean> {
  const result = await db
    .updateTable('runs')
    .set({ cancel_requested_at: sql`coalesce(cancel_requested_at, now())` })
    .where('id', '=', runId)
    .where('state', '<>', 'finished')
    .executeTakeFirst();
  return result.numUpdatedRows === 1n;
}

export interface ClosedRun {
  runId: string;
  cause: Cause;
  message: string;
}

/**
 * Of a lease that nobody holds any more. A host that the run had beside its own is given back once its worker finds nothing
 * of it there; only when it is silent too, nobody waits for that.
 */
const ended = (why: RawBuilder<unknown>) => {
  const isThere = sql`(leases.name <> '' and exists (select 1 from hosts h where h.id = leases.host
    and h.last_seen_at > now() - ${SILENT_AFTER_MS} * interval '1 millisecond'))`;
  return sql`state = case when ${isThere} then 'releasing' else 'expired' end,
    ended_at = case when ${isThere} then null else now() end, why = ${why}`;
};

/**
 * Finishes runs that no worker will finish: never started, or their worker is gone. Whatever attempt is open ends too,
 * and its lease expires, which fences the worker that held it. Idempotent: a finished run keeps its outcome.
 */
export async function closeRuns(db: Database, closed: readonly ClosedRun[]): Promise<void> {
  if (closed.length === 0) return;
  const rows = JSON.stringify(
    closed.map((run) => ({ ...run, message: plainText(run.message), outcome: outcomeOf(run.cause) })),
  );
  await db.transaction().execute(async (tx) => {
    const ids = closed.map((run) => run.runId);
    await lockRuns(tx, ids);
    await sql`
      with closing as (
        select * from jsonb_to_recordset(${rows}::jsonb) as c ("runId" uuid, cause text, outcome text, message text)
      ), fenced as (
        update leases set ${ended(sql`closing.cause`)} from closing
        where leases.run_id = closing."runId" and leases.state in ${LIVE}
      ), ended as (
        update attempts set state = 'finished', outcome = closing.outcome, cause = closing.cause,
          message = closing.message, finished_at = now(), log_complete = true,
          log_gaps = log_gaps || ${lostOutput(sql`closing.cause`)}
        from closing where attempts.run_id = closing."runId" and attempts.state <> 'finished'
      )
      update runs set state = 'finished', outcome = closing.outcome, cause = closing.cause, message = closing.message,
        waiting = null, finished_at = now()
      from closing where runs.id = closing."runId" and runs.state <> 'finished'`.execute(tx);
  });
}

/**
 * A statement of its own: what comes after it in the transaction sees every lease that was granted until the lock was
 * had. In one statement with the lock, a grant that committed meanwhile would stay unseen and its slot taken for ever.
 */
async function lockRuns(tx: Transaction<Tables>, ids: readonly string[]): Promise<void> {
  await tx.selectFrom('runs').select('id').where('id', 'in', ids).orderBy('id').forUpdate().execute();
}

/** Ends one attempt for good and fences its worker, but leaves the run open for the next attempt. */
export async function closeAttempt(
  db: Database,
  { message: said, ...named }: { runId: string; number: number; cause: Cause; message: string },
): Promise<void> {
  const attempt = { ...named, message: plainText(said) };
  const waiting = `attempt ${attempt.number}: ${attempt.message}; another attempt is under way`;
  await db.transaction().execute(async (tx) => {
    await lockRuns(tx, [attempt.runId]);
    await sql`
      with fenced as (
        update leases set ${ended(sql`${`${attempt.cause}: ${attempt.message}`}::text`)}
        where run_id = ${attempt.runId}::uuid
          and attempt = ${attempt.number} and state in ${LIVE}
      ), ended as (
        update attempts set state = 'finished', outcome = ${outcomeOf(attempt.cause)}, cause = ${attempt.cause},
          message = ${attempt.message}, finished_at = now(), log_complete = true,
          log_gaps = log_gaps || ${lostOutput(sql`${attempt.cause}::text`)}
        where run_id = ${attempt.runId}::uuid and number = ${attempt.number} and state <> 'finished'
      )
      update runs set state = 'queued', waiting = ${waiting}
      where id = ${attempt.runId}::uuid and attempt = ${attempt.number} and state <> 'finished'`.execute(tx);
  });
}

/** Where a run waits now, and how often it was moved; undefined: it is not known. */
export async function placeRun(db: Database, runId: string): Promise<{ cluster: string; move: number } | undefined> {
  return db
    .selectFrom('runs')
    .select(['cluster', sql<number>`coalesce((placement ->> 'moves')::int, 0)`.as('move')])
    .where('id', '=', runId)
    .executeTakeFirst();
}

export interface FoundAttempt {
  worker: string | null;
  cluster: string;
  cause: Cause | null;
  /** Its worker said hello while it was waited for. */
  isHeard: boolean;
  /** No worker of the cluster was heard for a while, or none was before while it was waited for: it may be the gateway. */
  isDoorShut: boolean;
}

/**
 * Which worker serves the host of an attempt now, and how the attempt ended if it has. A listed host whose worker is gone
 * is given to another of its cluster first. @param absent a worker that was waited for in vain
 */
export async function locateAttempt(
  db: Database,
  { runId, number, absent, waitedMs = 0 }: { runId: string; number: number; absent?: string; waitedMs?: number },
): Promise<FoundAttempt | undefined> {
  await handOverHost(db, { runId, number, absent: absent ?? null });
  return db
    .selectFrom('attempts')
    .innerJoin('runs', 'runs.id', 'attempts.run_id')
    .leftJoin('hosts', (join) =>
      join.onRef('hosts.cluster', '=', 'runs.cluster').onRef('hosts.name', '=', 'attempts.host'),
    )
    .select(['runs.cluster', 'attempts.cause'])
    .select([
      sql<string | null>`coalesce(hosts.worker, attempts.worker)`.as('worker'),
      sql<boolean>`exists (select 1 from workers w where w.cluster = runs.cluster
        and w.id::text = coalesce(hosts.worker, attempts.worker)
        and w.last_seen_at > now() - ${waitedMs} * interval '1 millisecond')`.as('isHeard'),
      sql<boolean>`(not exists (select 1 from workers w where w.enlisted_at is not null
          and w.last_seen_at > now() - ${SILENT_AFTER_MS} * interval '1 millisecond')
        or exists (select 1 from clusters c where c.door_opened_at > now() - ${waitedMs} * interval '1 millisecond'))`.as(
        'isDoorShut',
      ),
    ])
    .where('attempts.run_id', '=', runId)
    .where('attempts.number', '=', number)
    .executeTakeFirst();
}
