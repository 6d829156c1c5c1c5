// Owns what the sweeps of the orchestrator look for in the rows: builds to start, cancels to tell, builds and leases that
// nobody drives any more. Called by adapters/outbox.ts and adapters/reaper.ts.
import { sql } from 'kysely';
import { LIVE } from './hosts';
import type { Database } from './connect';
import { isHeld } from './holds';

/** Names the workflow of a build as it is now. */
export interface BuildKey {
  project: string;
  number: number;
  reruns: number;
}

/** Accepted builds whose workflow may not have been started, oldest first. @param olderThanMs leaves the fast path alone */
export async function buildsToDispatch(db: Database, olderThanMs: number): Promise<BuildKey[]> {
  // Tried counts as young again: builds that Temporal refuses for good go round and do not fill the page for ever.
  const { rows } = await sql<BuildKey>`
    update builds set dispatch_tried_at = now() where id in (
      select id from builds where dispatched_at is null
        and coalesce(dispatch_tried_at, rerun_at, created_at) < now() - ${olderThanMs} * interval '1 millisecond'
      order by coalesce(dispatch_tried_at, rerun_at, created_at) limit 50
    ) returning project, number, reruns`.execute(db);
  return rows;
}

/** What the workflow of a build is started with. A run that is finished already keeps its outcome. */
export async function readBuildToStart(db: Database, { project, number }: Pick<BuildKey, 'project' | 'number'>) {
  const { id, ...build } = await db
    .selectFrom('builds')
    .select(['id', 'trigger', 'plan_jobs as jobs', 'reruns', 'timeout_ms as timeoutMs'])
    .where('project', '=', project)
    .where('number', '=', number)
    .executeTakeFirstOrThrow();
  const runs = await db
    .selectFrom('runs')
    .select(['id', 'spec', 'cluster', 'outcome', 'base_attempt as attemptsBefore'])
    .select(sql<number>`coalesce((placement ->> 'moves')::int, 0)`.as('moves'))
    .where('build_id', '=', id)
    .orderBy('position')
    .execute();
  return { id, project, number, ...build, runs };
}

/** @param build with the rerun that was started: a later one still has to be */
export async function markDispatched(db: Database, { project, number, reruns }: BuildKey): Promise<void> {
  await db
    .updateTable('builds')
    .set({ dispatched_at: sql`coalesce(dispatched_at, now())` })
    .where('project', '=', project)
    .where('number', '=', number)
    .where('reruns', '=', reruns)
    .execute();
}

/** Of some runs of a build, by name; null: of all of it. */
export type Cancel = BuildKey & { runs: string[] | null };

/** Cancels asked for and not yet told to the workflow, one a build. */
export async function cancelsToDeliver(db: Database): Promise<Cancel[]> {
  const { rows } = await sql<Cancel>`
    select project, number, reruns, null::jsonb as runs from builds
    where cancel_requested_at is not null and cancel_delivered_at is null and state <> 'finished'
      and dispatched_at is not null
    union all
    select b.project, b.number, b.reruns, jsonb_agg(r.name) from runs r join builds b on b.id = r.build_id
    where r.cancel_requested_at is not null and r.cancel_delivered_at is null and r.state <> 'finished'
      and b.cancel_requested_at is null and b.dispatched_at is not null
    group by b.project, b.number, b.reruns
    limit 200`.execute(db);
  return rows;
}

export async function markCancelDelivered(db: Database, cancel: Omit<Cancel, 'reruns'>) {
  if (cancel.runs === null) {
    await sql`update builds set cancel_delivered_at = now()
      where project = ${cancel.project} and number = ${cancel.number}`.execute(db);
  } else {
    await sql`update runs set cancel_delivered_at = now() from builds b
      where runs.build_id = b.id and b.project = ${cancel.project} and b.number = ${cancel.number}
        and runs.name in (select jsonb_array_elements_text(${JSON.stringify(cancel.runs)}::jsonb))`.execute(db);
  }
}

/** How long a build that was looked at counts as driven, seconds. */
const CHECKED_S = 30;

/** Unfinished builds whose workflow has not been looked at for a while, the longest first; they count as looked at now. */
export async function buildsToCheck(db: Database): Promise<(BuildKey & { id: string })[]> {
  const { rows } = await sql<BuildKey & { id: string }>`
    update builds set checked_at = now() where id in (
      select id from builds where state <> 'finished' and dispatched_at < now() - ${CHECKED_S} * interval '1 second'
        and (checked_at is null or checked_at < now() - ${CHECKED_S} * interval '1 second')
      order by checked_at nulls first limit 50
    ) returning id, project, number, reruns`.execute(db);
  return rows;
}

/** Starts the workflow of a build afresh: Temporal has none of it any more. Runs that are finished stay so. */
export async function dispatchAgain(db: Database, buildId: string): Promise<void> {
  await sql`update builds set dispatched_at = null where id = ${buildId}::uuid and state <> 'finished'`.execute(db);
  await tellCancelsAgain(db, buildId);
}

/** A workflow that begins anew knows of no cancel, neither of its build nor of a run. */
export async function tellCancelsAgain(db: Database, buildId: string): Promise<void> {
  await sql`
    with told as (update builds set cancel_delivered_at = null where id = ${buildId}::uuid and state <> 'finished')
    update runs set cancel_delivered_at = null where build_id = ${buildId}::uuid and state <> 'finished'`.execute(db);
}

export async function listOpenRuns(db: Database, buildId: string): Promise<string[]> {
  const rows = await db
    .selectFrom('runs')
    .select('id')
    .where('build_id', '=', buildId)
    .where('state', '<>', 'finished')
    .execute();
  return rows.map((row) => row.id);
}

/** Attempts on silent hosts whose lease is past its deadline, or only waits for a release that nobody will send. */
export async function overdueAttempts(
  db: Database,
  silentAfterMs: number,
): Promise<{ runId: string; number: number }[]> {
  const { rows } = await sql<{ runId: string; number: number }>`
    select l.run_id as "runId", l.attempt as number from leases l join hosts h on h.id = l.host
    where l.state in ${LIVE} and l.name = ''
      and (l.state = 'releasing' and not ${isHeld('l')} or l.deadline_at < now())
      and h.last_seen_at < now() - ${silentAfterMs} * interval '1 millisecond'
    limit 50`.execute(db);
  return rows;
}
