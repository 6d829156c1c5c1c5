// Owns the rows of runs and attempts as people read them, and the closing of runs by the orchestrator.
// Called by the API and by the orchestrator's activities; leases.ts moves them while a worker holds them.
// Whatever changes a run and its attempts, leases or build locks the run first, several runs by id: else PostgreSQL finds
// deadlocks (11 of 150 closes that met a result).
import { sql } from 'kysely';
import { outcomeOf } from '../../domain/verdict';
import type { PlannedRun } from '../../domain/schemas/plan';
import type { Cause, Outcome, RunState } from '../../domain/schemas/words';
import type { Database } from './connect';

export interface RunRow {
  id: string;
  name: string;
  spec: PlannedRun;
  cluster: string;
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
      join.onRef('attempts.run_id', '=', 'runs.id').onRef('attempts.number', '=', 'runs.attempt'),
    )
    .select([
      'runs.id',
      'runs.name',
      'runs.spec',
      'runs.cluster',
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
    ]);
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

/** Names of the runs of the same build that are not finished. */
export async function listUnfinished(db: Database, runId: string): Promise<string[]> {
  const rows = await db
    .selectFrom('runs')
    .select('name')
    .where('build_id', '=', (query) =>
      query.selectFrom('runs as one').select('one.build_id').where('one.id', '=', runId),
    )
    .where('state', '<>', 'finished')
    .execute();
  return rows.map((row) => row.name);
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
 * Finishes runs that no worker will finish: never started, or their worker is gone. Whatever attempt is open ends too,
 * and its lease expires, which fences the worker that held it. Idempotent: a finished run keeps its outcome.
 */
export async function closeRuns(db: Database, closed: readonly ClosedRun[]): Promise<void> {
  const rows = JSON.stringify(closed.map((run) => ({ ...run, outcome: outcomeOf(run.cause) })));
  await sql`
    with closing as (
      select * from jsonb_to_recordset(${rows}::jsonb) as c ("runId" uuid, cause text, outcome text, message text)
    ), locked as (
      select id from runs where id in (select "runId" from closing) order by id for update
    ), fenced as (
      update leases set state = 'expired', ended_at = now() from closing
      where leases.run_id = closing."runId" and leases.state in ('granted', 'active', 'releasing')
        and (select count(*) from locked) > 0
    ), ended as (
      update attempts set state = 'finished', outcome = closing.outcome, cause = closing.cause,
        message = closing.message, finished_at = now(), log_complete = true
      from closing where attempts.run_id = closing."runId" and attempts.state <> 'finished'
        and (select count(*) from locked) > 0
    )
    update runs set state = 'finished', outcome = closing.outcome, cause = closing.cause, message = closing.message,
      waiting = null, finished_at = now()
    from closing where runs.id = closing."runId" and runs.state <> 'finished'
      and (select count(*) from locked) > 0`.execute(db);
}

/** Ends one attempt for good and fences its worker, but leaves the run open for the next attempt. */
export async function closeAttempt(
  db: Database,
  attempt: { runId: string; number: number; cause: Cause; message: string },
): Promise<void> {
  await sql`
    with locked as (
      select 1 from runs where id = ${attempt.runId}::uuid for update
    ), fenced as (
      update leases set state = 'expired', ended_at = now()
      where run_id = ${attempt.runId}::uuid and attempt = ${attempt.number} and state in ('granted', 'active', 'releasing')
        and exists (select 1 from locked)
    ), ended as (
      update attempts set state = 'finished', outcome = ${outcomeOf(attempt.cause)}, cause = ${attempt.cause},
        message = ${attempt.message}, finished_at = now(), log_complete = true
      where run_id = ${attempt.runId}::uuid and number = ${attempt.number} and state <> 'finished'
        and exists (select 1 from locked)
    )
    update runs set state = 'queued', waiting = ${`attempt ${attempt.number}: ${attempt.message}; another attempt is under way`}
    where id = ${attempt.runId}::uuid and state <> 'finished' and exists (select 1 from locked)`.execute(db);
}

/** Where the live lease of an attempt is, and how the attempt ended if it has. */
export async function locateAttempt(
  db: Database,
  runId: string,
  number: number,
): Promise<{ worker: string | null; cluster: string; outcome: Outcome | null; cause: Cause | null } | undefined> {
  return db
    .selectFrom('attempts')
    .innerJoin('runs', 'runs.id', 'attempts.run_id')
    .select(['attempts.worker', 'runs.cluster', 'attempts.outcome', 'attempts.cause'])
    .where('attempts.run_id', '=', runId)
    .where('attempts.number', '=', number)
    .executeTakeFirst();
}
