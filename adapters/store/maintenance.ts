// Owns the maintenance of clusters in the rows: who took one down and why, and how far it has come.
// Called by the API, and by the workflow of the maintenance through the orchestrator.
import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { sayDrain } from './clusters';
import { endHolds } from './holds';
import { LIVE } from './hosts';
import type { Database } from './connect';
import { moveWaiting } from './moves';
import type { DrainFacts } from './tables';

export interface DrainWish {
  reason: string;
  by: string;
  deadline: string | null;
}

/** Asks for a maintenance; a cluster that is in one keeps it, with the new words and deadline. */
export async function drainCluster(db: Database, cluster: string, wish: DrainWish): Promise<void> {
  const facts: DrainFacts = { id: randomUUID(), since: new Date().toISOString(), ...wish };
  await sql`
    update clusters set drain_dispatched_at = case when drain is null then null else drain_dispatched_at end,
      drain = case when drain is null then ${JSON.stringify(facts)}::jsonb
        else ${JSON.stringify(facts)}::jsonb || jsonb_build_object('id', drain -> 'id', 'since', drain -> 'since') end
    where name = ${cluster}`.execute(db);
}

/** Takes a cluster up again. @returns its maintenance; undefined when it was in none */
export async function undrainCluster(db: Database, cluster: string): Promise<DrainFacts | undefined> {
  return db.transaction().execute(async (tx) => {
    const { rows } = await sql<{ drain: DrainFacts | null }>`
      select drain from clusters where name = ${cluster} for update`.execute(tx);
    await tx
      .updateTable('clusters')
      .set({ drain: null, drain_dispatched_at: null })
      .where('name', '=', cluster)
      .execute();
    return rows[0]?.drain ?? undefined;
  });
}

/** Maintenances whose workflow may not have been started. */
export async function maintenancesToStart(db: Database): Promise<{ cluster: string; id: string; why: string }[]> {
  const rows = await db
    .selectFrom('clusters')
    .select(['name', 'drain'])
    .where('drain', 'is not', null)
    .where('drain_dispatched_at', 'is', null)
    .execute();
  return rows.flatMap(({ name, drain }) => (drain ? [{ cluster: name, id: drain.id, why: sayDrain(drain) }] : []));
}

export async function markMaintenanceStarted(
  db: Database,
  { cluster, id }: { cluster: string; id: string },
): Promise<void> {
  await sql`update clusters set drain_dispatched_at = now() where name = ${cluster} and drain ->> 'id' = ${id}`.execute(
    db,
  );
}

/** One look of the workflow at its cluster: moves who may wait elsewhere, cancels what outlived the deadline. */
export async function maintainCluster(
  db: Database,
  { cluster, id }: { cluster: string; id: string },
): Promise<{ isOver: boolean; left: number; why: string }> {
  const row = await db.selectFrom('clusters').select('drain').where('name', '=', cluster).executeTakeFirst();
  const drain = row?.drain;
  if (!drain || drain.id !== id) return { isOver: true, left: 0, why: '' };
  await moveWaiting(db, cluster);
  if (drain.deadline !== null && Date.parse(drain.deadline) <= Date.now()) await cancelRunning(db, cluster);
  return { isOver: false, left: await countLeft(db, cluster), why: sayDrain(drain) };
}

/** Runs under way, and slots whose container may still live. */
async function countLeft(db: Database, cluster: string): Promise<number> {
  const { rows } = await sql<{ left: number }>`
    select count(distinct run_id)::int as left from (
      select id as run_id from runs where cluster = ${cluster} and state not in ('queued', 'finished') union all
      select l.run_id from leases l join hosts h on h.id = l.host
        where h.cluster = ${cluster} and l.state in ${LIVE}) as busy`.execute(db);
  return rows[0]?.left ?? 0;
}

/**
 * Records the wish to cancel every run that is under way in the cluster; the outbox tells Temporal. What is held there is held
 * no longer. @returns how many are cancelled
 */
export async function cancelRunning(db: Database, cluster: string): Promise<number> {
  const { rows } = await sql`
    with locked as (
      select id from runs where cluster = ${cluster} and state not in ('queued', 'finished')
        and cancel_requested_at is null order by id for update
    )
    update runs set cancel_requested_at = now() from locked where runs.id = locked.id returning runs.id`.execute(db);
  await endHolds(db, cluster);
  return rows.length;
}
