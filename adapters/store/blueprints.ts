// Owns the rows of blueprints: what hosts a cluster makes on demand, and how that goes.
// Called by the API; read by on-demand.ts.
import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import type { PutBlueprint } from '../../domain/schemas/blueprints';
import type { MadePhase } from '../../domain/schemas/hosts';
import type { Database } from './connect';
import { MADE_PHASE, SERVES_HOSTS } from './hosts';

export interface BlueprintRow {
  id: string;
  cluster: string;
  name: string;
  spec: PutBlueprint;
  faults: number;
  fault: string | null;
  /** It makes no host before; null: it does. */
  resting_until: Date | null;
  /** A worker of its cluster can make its hosts. */
  is_served: boolean;
  /** Of its hosts that are not gone. */
  phases: MadePhase[];
  /** Of the same hosts, by what the blueprint said when each was asked for. */
  cost_per_hour: number;
}

interface BlueprintKey {
  cluster: string;
  name: string;
}

/** Makes a blueprint, or changes it for the hosts to come. @returns whether it is new */
export async function putBlueprint(
  db: Database,
  { cluster, name }: BlueprintKey,
  spec: PutBlueprint,
): Promise<boolean> {
  const { rows } = await sql<{ isNew: boolean }>`
    insert into blueprints (id, cluster, name, spec) values (${randomUUID()}, ${cluster}, ${name}, ${JSON.stringify(spec)})
    on conflict (cluster, name) where removed_at is null
      do update set spec = excluded.spec, faults = 0, fault = null, resting_until = null
    returning (xmax = 0) as "isNew"`.execute(db);
  return rows[0]?.isNew ?? false;
}

/** Its hosts end once they are idle. @returns false when there is none of this name */
export async function removeBlueprint(db: Database, { cluster, name }: BlueprintKey): Promise<boolean> {
  const removed = await db
    .updateTable('blueprints')
    .set({ removed_at: sql`now()` })
    .where('cluster', '=', cluster)
    .where('name', '=', name)
    .where('removed_at', 'is', null)
    .executeTakeFirst();
  return removed.numUpdatedRows === 1n;
}

export async function listBlueprints(
  db: Database,
  ...[cluster, name]: [cluster?: string, name?: string]
): Promise<BlueprintRow[]> {
  const { rows } = await sql<BlueprintRow>`
    select p.id, p.cluster, p.name, p.spec, p.faults, p.fault,
      case when p.resting_until > now() then p.resting_until end as resting_until,
      exists (select 1 from workers w where w.cluster = p.cluster and ${SERVES_HOSTS}) as is_served,
      (select coalesce(jsonb_agg(${MADE_PHASE}), '[]') from made_hosts m
        where m.blueprint = p.id and m.gone_at is null) as phases,
      (select coalesce(sum((m.spec ->> 'costPerHour')::float8), 0)::float8 from made_hosts m
        where m.blueprint = p.id and m.gone_at is null) as cost_per_hour
    from blueprints p where p.removed_at is null
      and (${cluster ?? null}::text is null or p.cluster = ${cluster ?? null})
      and (${name ?? null}::text is null or p.name = ${name ?? null})
    order by p.cluster, p.name`.execute(db);
  return rows;
}
