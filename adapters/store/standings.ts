// Owns how attempts stand by the rows, for workers that have something of them: whether they are known at all, and whether
// somebody wants them to end. Called by the API for workers only.
import { sql } from 'kysely';
import { isBad } from '../../domain/verdict';
import { Outcome } from '../../domain/schemas/words';
import type { AttemptKey, Standing } from '../../domain/schemas/worker-api';
import type { Database } from './connect';

const BAD = Outcome.options.filter(isBad);

/**
 * How attempts stand, in any order. A run of another cluster counts as known, and as not cancelled. A cell of a job that is
 * fail-fast is cancelled once another cell of it ended badly.
 */
export async function readStandings(
  db: Database,
  cluster: string,
  attempts: readonly AttemptKey[],
): Promise<Standing[]> {
  const { rows } = await sql<Standing>`
    select f."runId", f.attempt,
      a.run_id is not null or coalesce(r.state <> 'finished', false) as "isKnown",
      coalesce((r.cluster = ${cluster} or exists (select 1 from leases l where l.run_id = r.id and l.attempt = f.attempt
        and split_part(l.host, '/', 1) = ${cluster}))
      and (r.cancel_requested_at is not null or b.cancel_requested_at is not null
        or (exists (select 1 from jsonb_array_elements(b.plan_jobs) j
            where j ->> 'name' = r.spec ->> 'job' and (j ->> 'failFast')::boolean)
          and exists (select 1 from runs other where other.build_id = r.build_id and other.id <> r.id
            and other.spec ->> 'job' = r.spec ->> 'job' and other.outcome in (${sql.join(BAD)})
            and other.finished_at >= coalesce(b.rerun_at, b.created_at)))), false) as "isCancelled"
    from jsonb_to_recordset(${JSON.stringify(attempts)}::jsonb) as f ("runId" uuid, attempt int)
      left join runs r on r.id = f."runId" left join builds b on b.id = r.build_id
      left join attempts a on a.run_id = f."runId" and a.number = f.attempt`.execute(db);
  return rows;
}
