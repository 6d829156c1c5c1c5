// Owns the leases of hosts that an attempt has beside its own: granted with it in one transaction, all of them or none, and
// found again for whoever supervises it. Called by leases.ts, by the API, and by the orchestrator's sweep.
import { sql, type Transaction } from 'kysely';
import type { Slot } from '../../domain/placement';
import type { AttemptKey, HostBeside } from '../../domain/schemas/worker-api';
import type { Database } from './connect';
import { isHeld } from './holds';
import { LIVE_STATES } from './hosts';
import type { Tables } from './tables';

/** Those of an attempt that were not given back before it. */
export async function findBeside(tx: Transaction<Tables>, { runId, attempt }: AttemptKey): Promise<HostBeside[]> {
  return tx
    .selectFrom('leases')
    .innerJoin('hosts', 'hosts.id', 'leases.host')
    .select(['leases.name', 'hosts.name as host', 'hosts.reach'])
    .where('leases.run_id', '=', runId)
    .where('leases.attempt', '=', attempt)
    .where('leases.name', '<>', '')
    .where('leases.state', 'in', LIVE_STATES)
    .orderBy('leases.name')
    .execute();
}

export interface GrantBeside {
  /** By the name that the run gives to each host. */
  slots: ReadonlyMap<string, Slot>;
  /** Id of the worker that is to supervise. */
  holder: string;
  why: string;
  longestMs: number;
}

export async function grantBeside(
  tx: Transaction<Tables>,
  { runId, attempt }: AttemptKey,
  { slots, holder, why, longestMs }: GrantBeside,
): Promise<HostBeside[]> {
  if (slots.size === 0) return [];
  const rows = [...slots].map(([name, { host, slot }]) => ({ name, host: host.id, slot }));
  await sql`
    insert into leases (run_id, attempt, name, host, slot, holder, why, deadline_at)
    select ${runId}::uuid, ${attempt}, b.name, b.host, b.slot, ${holder}, ${why}::text || ', as ' || b.name,
      now() + ${longestMs} * interval '1 millisecond'
    from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as b (name text, host text, slot int)`.execute(tx);
  return findBeside(tx, { runId, attempt });
}

/** Gives up what an ended attempt left on hosts that are silent: their worker would find it, but there is none. */
export async function expireBeside(db: Database, silentAfterMs: number): Promise<void> {
  await sql`
    update leases set state = 'expired', ended_at = now(), why = 'its host is silent' from hosts h
    where leases.name <> '' and leases.state = 'releasing' and not ${isHeld('leases')} and h.id = leases.host
      and h.last_seen_at < now() - ${silentAfterMs} * interval '1 millisecond'`.execute(db);
}

export interface AttemptBeside {
  attempt: number;
  name: string;
  host: string;
}

/** All hosts that the attempts of a run ever had beside their own. */
export async function listBeside(db: Database, runId: string): Promise<AttemptBeside[]> {
  return db
    .selectFrom('leases')
    .innerJoin('hosts', 'hosts.id', 'leases.host')
    .select(['leases.attempt', 'leases.name', 'hosts.name as host'])
    .where('leases.run_id', '=', runId)
    .where('leases.name', '<>', '')
    .orderBy('leases.name')
    .execute();
}
