// Owns the rerun of a finished build: the same build, plan and image digests, further attempts of some of its runs.
// Called by the API. The workflow of the rerun is started through the outbox, like that of a new build.
import { sql } from 'kysely';
import { chooseReruns, type EndedRun, type RerunWish } from '../../domain/rerun';
import type { Database } from './connect';

export type RerunAnswer =
  | { kind: 'begun'; reruns: number }
  | { kind: 'not-finished' }
  | { kind: 'nothing' }
  | { kind: 'unknown-run'; run: string };

/** Begins a rerun in one transaction, and keeps nothing any more of what the runs left before: either the build is under way again with all chosen runs queued, or nothing changed. */
export async function beginRerun(
  db: Database,
  buildId: string,
  { runs: wish, holdMs = null }: { runs: RerunWish; holdMs?: number | null },
): Promise<RerunAnswer> {
  return db.transaction().execute(async (tx) => {
    await tx.selectFrom('runs').select('id').where('build_id', '=', buildId).orderBy('id').forUpdate().execute();
    const { rows } = await sql<{ reruns: number }>`
      select reruns from builds where id = ${buildId}::uuid and state = 'finished' for update`.execute(tx);
    const [build] = rows;
    if (!build) return { kind: 'not-finished' };
    const { rows: runs } = await sql<EndedRun>`
      select name, spec -> 'needs' as needs, outcome from runs where build_id = ${buildId}::uuid`.execute(tx);
    const unknown = typeof wish === 'string' ? undefined : wish.find((name) => !runs.some((run) => run.name === name));
    if (unknown !== undefined) return { kind: 'unknown-run', run: unknown };
    const names = [...chooseReruns(runs, wish)];
    if (names.length === 0) return { kind: 'nothing' };
    await sql`
      with queued as (
        update runs set state = 'queued', outcome = null, cause = null, message = '', waiting = null, finished_at = null,
          asked_at = null, base_attempt = attempt, cancel_requested_at = null, cancel_delivered_at = null
        where build_id = ${buildId}::uuid and name in (select jsonb_array_elements_text(${JSON.stringify(names)}::jsonb))
        returning id
      ), freed as (
        update leases set held_until = now() from queued where leases.run_id = queued.id and leases.held_until > now()
      )
      update builds set state = 'queued', hold_ms = ${holdMs}::int, outcome = null, cause = null, finished_at = null, cancel_requested_at = null,
        cancel_delivered_at = null, cancel_cause = null, dispatched_at = null, dispatch_tried_at = null,
        reruns = reruns + 1, rerun_at = now()
      where id = ${buildId}::uuid`.execute(tx);
    return { kind: 'begun', reruns: build.reruns + 1 };
  });
}
