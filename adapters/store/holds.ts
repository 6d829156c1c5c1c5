// Owns what is kept of runs that have failed: their leases, and with them the slots, until a time that people may change.
// Called by the API. Nothing is taken back here: when the time is over, the sweep of the worker finds what nobody needs.
import { sql } from 'kysely';
import type { Database } from './connect';

/** As SQL, of a lease l: what its run left is kept now. */
export const isHeld = (lease: string) =>
  sql<boolean>`(coalesce(${sql.ref(`${lease}.held_until`)} > now(), false) and ${sql.ref(`${lease}.state`)} = 'releasing')`;

/** Until when the newest attempt of a run is kept; null: it is not. */
export async function readHold(db: Database, runId: string): Promise<Date | null> {
  const { rows } = await sql<{ until: Date | null }>`
    select max(l.held_until) as until from leases l where l.run_id = ${runId}::uuid and ${isHeld('l')}`.execute(db);
  return rows[0]?.until ?? null;
}

/** Keeps what is held for so long from now on; 0: no longer. @returns false when nothing of the run is held */
export async function changeHold(db: Database, runId: string, minutes: number): Promise<boolean> {
  const { rows } = await sql`
    update leases l set held_until = now() + ${minutes} * interval '1 minute',
      deadline_at = greatest(deadline_at, now() + ${minutes} * interval '1 minute')
    where l.run_id = ${runId}::uuid and ${isHeld('l')} returning token`.execute(db);
  return rows.length > 0;
}

/** Keeps nothing any more of what runs left in a cluster. */
export async function endHolds(db: Database, cluster: string): Promise<void> {
  await sql`update leases l set held_until = now() from hosts h
    where h.id = l.host and h.cluster = ${cluster} and ${isHeld('l')}`.execute(db);
}
