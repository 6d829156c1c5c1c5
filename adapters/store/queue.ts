// Owns the facts about who waits for slots of a cluster, and the place of each in the queue; domain/queue-order.ts decides.
// Called inside the transaction that grants a lease, and by the API to say how long a queue is.
import { sql, type RawBuilder, type Transaction } from 'kysely';
import { agedPriority, DEFAULT_PRIORITY } from '../../domain/priority';
import { tagsOf } from '../../domain/host-tag';
import { takeTurns, whoIsNext, type Holdings, type WaitingRun } from '../../domain/queue-order';
import type { Database } from './connect';
import type { BuildKey } from './deliveries';
import { listOffers, LIVE } from './hosts';
import type { Tables } from './tables';

/** A run that was told to wait asks again within seconds once it is woken; one that has been silent for longer keeps no slot. */
const ASKED_LATELY_MS = 10_000;
/** Longer than any run waits. */
const ANY_TIME_MS = 365 * 24 * 3_600_000;
/** One that was woken is not woken again before that time. */
const WOKEN_LATELY_MS = 3_000;

/** The runs (n) that run r needs; found one by one by their name, since a build may have a thousand. */
const NEEDS = sql`json_array_elements_text(r.spec -> 'needs') as need (name)
  join runs n on n.build_id = r.build_id and n.name = need.name`;

/** Since when a run could have a slot: its build, its needs and its attempt before are all done. Of tables r and b. */
export const READY_AT = sql<Date>`greatest(b.created_at, b.rerun_at,
  (select max(a.finished_at) from attempts a where a.run_id = r.id), (select max(n.finished_at) from ${NEEDS}))`;

/** When the line of a run got its newest slot; null: never. Of tables r and b. */
const SERVED_AT = sql<Date | null>`(select l.served_at from lines l where l.cluster = r.cluster
  and l.project = b.project and l.priority = r.priority and l.host_tag = coalesce(r.host_tag, ''))`;

const msSince = (instant: RawBuilder<unknown>) => sql<number>`(extract(epoch from now() - ${instant}) * 1000)::float8`;

/** How long a run could have had a slot, and how long its line got none meanwhile, ms. Of tables r and b. */
export const WAITED = sql`${msSince(READY_AT)} as waited_ms,
  ${msSince(sql`greatest(${READY_AT}, ${SERVED_AT})`)} as unserved_ms`;

export interface WaitingRow {
  id: string;
  project: string;
  priority: number;
  host_tag: string | null;
  waited_ms: number;
  unserved_ms: number;
  /** In its line, from 1. */
  place: number;
}

/** @param ageStepMs in which a line that gets nothing rises by one priority */
export function waitingRun(row: WaitingRow, ageStepMs: number): WaitingRun {
  const { id, project, host_tag: hostTag, waited_ms: waitedMs, unserved_ms: unservedMs, place } = row;
  const priority = place === 1 ? agedPriority(row.priority, unservedMs, ageStepMs) : row.priority;
  const keepsHosts = place === 1 && unservedMs >= ageStepMs && tagsOf(hostTag ?? undefined).length > 1;
  return { id, project, hostTag, waitedMs, priority, keepsHosts };
}

/**
 * Runs of a cluster that asked lately and were told to wait, and those that need several hosts, which may be kept for them.
 * Of each line only as many as there are free slots: no more of it can get one.
 */
export async function readWaiting(
  tx: Database | Transaction<Tables>,
  at: { cluster: string; except: string | null; freeSlots: number; lately?: boolean },
): Promise<WaitingRow[]> {
  const { rows } = await sql<WaitingRow>`
    select id, project, priority, host_tag, waited_ms, unserved_ms, place from (
      select r.id, b.project, r.priority, r.host_tag, ${msSince(sql`r.waiting_since`)} as waited_ms,
        ${msSince(sql`greatest(r.waiting_since, ${SERVED_AT})`)} as unserved_ms,
        (row_number() over (partition by b.project, r.priority, r.host_tag
          order by r.waiting_since, b.number, r.position))::int as place
      from runs r join builds b on b.id = r.build_id
      where r.cluster = ${at.cluster} and r.state = 'queued' and r.id is distinct from ${at.except}::uuid
        and r.asked_at > now() - (case when strpos(r.host_tag, chr(10)) > 0 then ${ANY_TIME_MS}::float8
          else ${at.lately === false ? ANY_TIME_MS : ASKED_LATELY_MS}::float8 end) * interval '1 millisecond'
        and r.cancel_requested_at is null and b.cancel_requested_at is null
    ) as asked where place <= ${at.freeSlots}`.execute(tx);
  return rows;
}

/**
 * Waiting runs for which there is a slot now, by the order of the grant; they count as asking, so that the slot is kept
 * for them. Their workflows ask seldom by themselves: each time costs a build some of its history.
 * @param at.silentAfterMs hosts whose worker was silent for longer have no slots
 */
export async function runsToWake(
  db: Database,
  at: { silentAfterMs: number; ageStepMs: number },
): Promise<(BuildKey & { run: string })[]> {
  const { rows: clusters } = await sql<{ name: string; most: number | null }>`
    select c.name, c.max_slots_per_project as most from clusters c where c.active and c.drain is null and exists (
      select 1 from runs r where r.cluster = c.name and r.state = 'queued' and r.asked_at is not null)`.execute(db);
  const ids: string[] = [];
  for (const { name, most } of clusters) {
    const { hosts, freeSlots } = await listOffers(db, name, at.silentAfterMs);
    if (freeSlots === 0) continue;
    const { waiting, holdings } = await readLine(db, name, { freeSlots, ageStepMs: at.ageStepMs });
    ids.push(...whoIsNext(waiting, { hosts, holdings, maxSlotsPerProject: most }).map((run) => run.id));
  }
  if (ids.length === 0) return [];
  const { rows } = await sql<BuildKey & { run: string }>`
    update runs set asked_at = now(), woken_at = now() from builds b where b.id = runs.build_id and runs.state = 'queued'
      and runs.id in (select jsonb_array_elements_text(${JSON.stringify(ids)}::jsonb)::uuid)
      and coalesce(runs.woken_at, 'epoch') < now() - ${WOKEN_LATELY_MS} * interval '1 millisecond'
      and b.dispatched_at is not null
    returning b.project, b.number, b.reruns, runs.name as run`.execute(db);
  return rows;
}

async function readLine(db: Database, cluster: string, at: { freeSlots: number; ageStepMs: number }) {
  const rows = await readWaiting(db, { cluster, except: null, freeSlots: at.freeSlots, lately: false });
  return { waiting: rows.map((row) => waitingRun(row, at.ageStepMs)), holdings: await readHoldings(db, cluster) };
}

/** Slots of a cluster that each project holds now. */
export async function readHoldings(db: Database | Transaction<Tables>, cluster: string): Promise<Holdings> {
  const { rows } = await sql<{ project: string; slots: number }>`
    select b.project, count(*)::int as slots from leases l join hosts h on h.id = l.host
    join runs r on r.id = l.run_id join builds b on b.id = r.build_id
    where h.cluster = ${cluster} and l.state in ${LIVE} group by b.project`.execute(db);
  return new Map(rows.map((row) => [row.project, row.slots]));
}

export interface QueuePosition {
  /** Counts from 1. */
  position: number;
  /** Runs that wait in the same cluster, this one included. */
  length: number;
}

/**
 * The place of every run that only waits for a slot of the cluster: queued, needs finished, not being cancelled. It is
 * the order in which slots are granted when each run can use each of them; what comes later can still come before it.
 * @returns by id of the run
 */
export async function queuePositions(
  db: Database,
  cluster: string,
  ageStepMs: number,
): Promise<Map<string, QueuePosition>> {
  const { rows } = await sql<WaitingRow>`
    select r.id, b.project, r.priority, r.host_tag, ${WAITED},
      (row_number() over (partition by b.project, r.priority, r.host_tag
        order by ${READY_AT}, b.number, r.position))::int as place
    from runs r join builds b on b.id = r.build_id
    where r.cluster = ${cluster} and r.state = 'queued'
      and r.cancel_requested_at is null and b.cancel_requested_at is null
      and not exists (select 1 from ${NEEDS} where n.state <> 'finished')
    order by b.created_at, b.id, r.position`.execute(db);
  const turns = takeTurns(
    rows.map((row) => waitingRun(row, ageStepMs)),
    await readHoldings(db, cluster),
  );
  return new Map(turns.map((run, at) => [run.id, { position: at + 1, length: turns.length }]));
}

/**
 * The priority under which a run that nobody takes is to be offered now. Of each line one run at a time is raised, the
 * first that asks once the line got nothing for a step; a grant to the line ends that.
 */
export async function readPriority(db: Database, runId: string, stepMs: number): Promise<number> {
  const step = sql`${stepMs} * interval '1 millisecond'`;
  const { rows } = await sql<{ priority: number; unserved_ms: number | null }>`
    with me as (
      select r.cluster, b.project, r.priority, r.state, coalesce(r.host_tag, '') as host_tag, ${READY_AT} as ready_at
      from runs r join builds b on b.id = r.build_id where r.id = ${runId}::uuid
    ), raised as (
      insert into lines (cluster, project, priority, host_tag, raised_run)
      select cluster, project, priority, host_tag, ${runId}::uuid from me where state = 'queued' and ready_at <= now() - ${step}
      on conflict (cluster, project, priority, host_tag) do update set raised_run = excluded.raised_run
        where (lines.served_at is null or lines.served_at <= now() - ${step})
          and (lines.raised_run is null or lines.raised_run = excluded.raised_run or not exists (
            select 1 from runs other where other.id = lines.raised_run and other.state = 'queued'))
      returning served_at
    )
    select me.priority, (select ${msSince(sql`greatest(me.ready_at, raised.served_at)`)} from raised) as unserved_ms
    from me`.execute(db);
  const [me] = rows;
  return agedPriority(me?.priority ?? DEFAULT_PRIORITY, me?.unserved_ms ?? 0, stepMs);
}
