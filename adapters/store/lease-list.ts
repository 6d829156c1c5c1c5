// Owns leases as people read them: who held which slot, for what, and what became of it. Called by the API.
import { sql } from 'kysely';
import { isHeld } from './holds';
import { LIVE } from './hosts';
import type { Database } from './connect';
import type { LeaseEvent, Tables } from './tables';

export interface LeaseRow {
  token: number;
  cluster: string;
  host: string;
  slot: number;
  project: string;
  build: number;
  run: string;
  attempt: number;
  /** By which the run calls it; empty: its own host. */
  name: string;
  state: Tables['leases']['state'];
  holder: string | null;
  why: string | null;
  held_until: Date | null;
  is_held: boolean;
  granted_at: Date;
  deadline_at: Date;
  ended_at: Date | null;
  history: LeaseEvent[];
}

export interface LeaseWish {
  cluster?: string;
  host?: string;
  /** Those that have ended as well. */
  all: boolean;
  limit: number;
}

/** Newest grant or change of supervisor first. */
export async function listLeases(db: Database, { cluster, host, all, limit }: LeaseWish): Promise<LeaseRow[]> {
  const { rows } = await sql<LeaseRow>`
    select l.token, h.cluster, h.name as host, l.slot, b.project, b.number as build, r.name as run, l.attempt, l.name, l.state,
      l.holder, l.why, l.held_until, ${isHeld('l')} as is_held, l.granted_at, l.deadline_at, l.ended_at, l.history
    from leases l join hosts h on h.id = l.host join runs r on r.id = l.run_id join builds b on b.id = r.build_id
    where (${all} or l.state in ${LIVE})
      and (${cluster ?? null}::text is null or h.cluster = ${cluster ?? null})
      and (${host ?? null}::text is null or h.name = ${host ?? null})
    order by l.token desc limit ${limit}`.execute(db);
  return rows;
}
