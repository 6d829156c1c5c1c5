// Owns the ledger of on-demand hosts: what is to be made and to be ended, and how far each is. A row is there before anything
// is made and stays for good, so whatever dies in between, nothing that costs money is forgotten.
// Called by the orchestrator's sweep, by the workflow of each host through it, and by the API for workers.
//
//   intended ──made──> starting ──answers──> ready ──┐
//      └──────────────────┴──────────────────────────┴── ending ──gone──> (stays in the ledger)
import { randomBytes } from 'node:crypto';
import { sql, type Transaction } from 'kysely';
import { z } from 'zod';
import { forAll } from '../../domain/for-all';
import { hostOf, planEnds, planHosts, type BlueprintNow, type HostEnd } from '../../domain/on-demand';
import { onceItIsThere } from '../../domain/placement';
import { plainText } from '../../domain/untrusted';
import type { HostToMake, Make } from '../../domain/schemas/blueprints';
import { ContainerReach, DockerSshReach, plain, SshReach, type Reach } from '../../domain/schemas/hosts';
import type { FoundHosts } from '../../domain/schemas/worker-api';
import type { Database } from './connect';
import {
  engineOf,
  idOf,
  listOffers,
  LIVE,
  MADE_PHASE,
  NEVER,
  SERVES_HOSTS,
  SILENT_AFTER_MS,
  UNKNOWN_MACHINE,
  USES,
} from './hosts';
import { BACK_OFF } from './quarantine';
import { readHoldings, readWaiting, waitingRun } from './queue';
import type { Tables } from './tables';

/** More waiting runs of one line than this are not looked at in one round. */
const MOST_A_LINE = 1_000;

/**
 * One look at every cluster that has blueprints: asks for hosts, and ends those that are not needed any more.
 * @throws what went wrong with one, once all were looked at
 */
export async function planOnDemand(db: Database, ageStepMs: number): Promise<void> {
  const { rows } = await sql<{ cluster: string }>`
    select distinct p.cluster from blueprints p where p.removed_at is null
      or exists (select 1 from made_hosts m where m.blueprint = p.id and m.gone_at is null)`.execute(db);
  await forAll(rows, async ({ cluster }) => {
    try {
      await db.transaction().execute((tx) => planCluster(tx, cluster, ageStepMs));
    } catch (error) {
      throw new Error(`hosts on demand of cluster ${cluster}: ${(error as Error).message}`, { cause: error });
    }
  });
}

async function planCluster(tx: Transaction<Tables>, cluster: string, ageStepMs: number): Promise<void> {
  // Grants and other orchestrators wait for this lock: nobody gets a host that is just being ended, and none is made twice.
  const { rows } = await sql<{ takesRuns: boolean; maxSlotsPerProject: number | null; isServed: boolean }>`
    select active and drain is null as "takesRuns", max_slots_per_project as "maxSlotsPerProject",
      exists (select 1 from workers w where w.cluster = clusters.name and ${SERVES_HOSTS}) as "isServed"
    from clusters where name = ${cluster} for update`.execute(tx);
  const [now] = rows;
  if (!now) return;
  const before = await readBlueprints(tx, cluster);
  const ends = before.flatMap((blueprint) => planEnds(blueprint).map((end) => ({ ...end, blueprint })));
  for (const end of ends) await beginEnd(tx, end);
  if (!now.takesRuns || !now.isServed) return;
  const blueprints = ends.length === 0 ? before : await readBlueprints(tx, cluster);
  const { hosts } = await listOffers(tx, cluster, SILENT_AFTER_MS);
  const waiting = await readWaiting(tx, { cluster, except: null, freeSlots: MOST_A_LINE, lately: false });
  const demand = {
    waiting: waiting.map((row) => waitingRun(row, ageStepMs)),
    hosts: hosts.map(onceItIsThere),
    holdings: await readHoldings(tx, cluster),
    maxSlotsPerProject: now.maxSlotsPerProject,
  };
  for (const blueprint of planHosts(demand, blueprints)) await intend(tx, cluster, blueprint);
}

async function readBlueprints(tx: Transaction<Tables>, cluster: string): Promise<BlueprintNow[]> {
  const { rows } = await sql<BlueprintNow>`
    select p.id, p.name, p.spec, coalesce(p.resting_until > now(), false) as "isResting",
      p.removed_at is not null as "isRemoved", coalesce(made.hosts, '[]') as hosts
    from blueprints p left join lateral (
      select jsonb_agg(jsonb_build_object('id', m.host, 'phase', ${MADE_PHASE}, 'uses', ${USES},
        'ageSeconds', extract(epoch from now() - m.intended_at),
        'idleSeconds', extract(epoch from now() - greatest(m.ready_at,
          (select max(l.ended_at) from leases l where l.host = m.host))),
        'liveLeases', (select count(*) from leases l where l.host = m.host and l.state in ${LIVE}),
        'drained', case when hosts.drain is not null
          then 'drained by ' || (hosts.drain ->> 'by') || ': ' || (hosts.drain ->> 'reason') end,
        'faults', hosts.faults, 'fault', hosts.fault)) as hosts
      from made_hosts m join hosts on hosts.id = m.host where m.blueprint = p.id and m.gone_at is null
    ) as made on true
    where p.cluster = ${cluster} and (p.removed_at is null or made.hosts is not null) order by p.name`.execute(tx);
  return rows;
}

/** The row comes first: what may be there is always known. */
async function intend(tx: Transaction<Tables>, cluster: string, blueprint: BlueprintNow): Promise<void> {
  const { spec } = blueprint;
  const name = `${blueprint.name}-${randomBytes(4).toString('hex')}`;
  const host = idOf({ cluster, name });
  const machine = JSON.stringify({ ...UNKNOWN_MACHINE, ...spec.machine });
  const { isBare, labels } = hostOf(blueprint);
  await tx
    .insertInto('hosts')
    .values({
      id: host,
      cluster,
      name,
      origin: 'made',
      engine: isBare ? 'shell' : 'docker',
      labels: JSON.stringify(labels),
      slots: spec.slots,
      machine,
      version: '',
    })
    .execute();
  await tx.updateTable('hosts').set({ last_seen_at: NEVER }).where('id', '=', host).execute();
  await tx
    .insertInto('made_hosts')
    .values({ host, blueprint: blueprint.id, spec: JSON.stringify(spec) })
    .execute();
}

type End = HostEnd & { blueprint: Pick<BlueprintNow, 'id'> };

async function beginEnd(tx: Database | Transaction<Tables>, { id, why, isFault, blueprint }: End): Promise<void> {
  await sql`update made_hosts set ending_at = now(), why = ${why} where host = ${id} and ending_at is null`.execute(tx);
  if (isFault) await noteBlueprintFault(tx, blueprint.id, why);
}

/** It makes nothing for a while, longer each time. */
async function noteBlueprintFault(db: Database | Transaction<Tables>, blueprint: string, fault: string): Promise<void> {
  await sql`update blueprints set fault = ${fault}, faults = faults + 1,
    resting_until = ${BACK_OFF}
    where id = ${blueprint}::uuid`.execute(db);
}

/** Ends a host for somebody who asks for it, or because its workflow says so. @returns false when it is none, or has work */
export async function endMadeHost(
  db: Database,
  { cluster, host, why }: { cluster: string; host: string; why: string },
): Promise<boolean> {
  return db.transaction().execute(async (tx) => {
    await sql`select 1 from clusters where name = ${cluster} for update`.execute(tx);
    const id = idOf({ cluster, name: host });
    const { rows } = await sql`
      update made_hosts set ending_at = coalesce(ending_at, now()), why = coalesce(why, ${why}) where host = ${id}
        and gone_at is null and not exists (select 1 from leases l where l.host = ${id} and l.state in ${LIVE})
      returning 1`.execute(tx);
    return rows.length === 1;
  });
}

export interface HostToTell {
  host: HostToMake;
  /** Name of its blueprint. */
  by: string;
  /** Why it ends; empty: it does not. */
  why: string;
}

/**
 * `begin`: hosts whose workflow has not been started; `end`: those that end and whose workflow has not been told, or was a
 * while ago, since somebody may have ended it by hand meanwhile.
 */
export async function hostsToTell(db: Database, what: 'begin' | 'end'): Promise<HostToTell[]> {
  const isDue =
    what === 'begin'
      ? sql`m.begun_at is null and m.ending_at is null`
      : sql`m.ending_at is not null and coalesce(m.end_told_at, 'epoch') < now() - interval '1 minute'`;
  const { rows } = await sql<HostToTell>`
    select jsonb_build_object('cluster', h.cluster, 'host', h.name, 'blueprint', m.blueprint, 'make', m.spec -> 'make')
      as host, p.name as by, coalesce(m.why, '') as why
    from made_hosts m join hosts h on h.id = m.host join blueprints p on p.id = m.blueprint
    where m.gone_at is null and ${isDue} order by m.intended_at limit 200`.execute(db);
  return rows;
}

/** Only once its workflow is there, or knows. */
export async function markTold(
  db: Database,
  host: { cluster: string; host: string },
  what: 'begin' | 'end',
): Promise<void> {
  const told = { [what === 'begin' ? 'begun_at' : 'end_told_at']: sql`now()` };
  const id = idOf({ cluster: host.cluster, name: host.host });
  await db.updateTable('made_hosts').set(told).where('host', '=', id).execute();
}

/**
 * A living worker that can make or end a host: any that serves hosts; one that has the Docker engine which it is on, or one
 * with any. @returns its id; undefined: there is none now
 */
export async function chooseMaker(db: Database, { cluster, host, make }: HostToMake): Promise<string | undefined> {
  const { rows } = await sql<{ id: string }>`
    select w.id::text as id from workers w where w.cluster = ${cluster} and ${SERVES_HOSTS}
      and (${make.kind !== 'docker'} or w.docker_engine = coalesce(
        (select reach ->> 'engine' from hosts where id = ${idOf({ cluster, name: host })}), w.docker_engine))
    order by random() limit 1`.execute(db);
  return rows[0]?.id;
}

/** What a worker says of a host that it made, for what its blueprint makes. */
const MADE = {
  docker: z.object({ resource: plain(500), reach: ContainerReach }),
  ec2: z.object({ resource: plain(500), reach: z.discriminatedUnion('kind', [SshReach, DockerSshReach]) }),
} satisfies Record<Make['kind'], z.ZodType<{ resource: string; reach: Reach }>>;

/** A worker said of a host what cannot be. */
export class MadeHostError extends Error {
  override readonly name = 'MadeHostError';
}

/** What came of making it. Idempotent. @throws MadeHostError when it is not what its blueprint makes */
export async function hostMade(
  db: Database,
  at: { cluster: string; host: string; resource: unknown; reach: unknown },
): Promise<void> {
  const id = idOf({ cluster: at.cluster, name: at.host });
  const { rows } = await sql<{ make: Make }>`select spec -> 'make' as make from made_hosts where host = ${id}`.execute(
    db,
  );
  const [intended] = rows;
  if (!intended) return;
  const said = MADE[intended.make.kind].safeParse({ resource: at.resource, reach: at.reach });
  if (!said.success) {
    const [first] = said.error.issues;
    throw new MadeHostError(`its worker says of it what cannot be: ${first?.path.join('.')}: ${first?.message}`);
  }
  const { resource, reach } = said.data;
  await sql`with made as (
      update made_hosts set resource = ${resource}, made_at = coalesce(made_at, now()) where host = ${id} returning 1
    ) update hosts set reach = ${JSON.stringify(reach)}::jsonb, engine = ${engineOf(reach)}
      where id = ${id} and exists (select 1 from made)`.execute(db);
}

/** It could not be made or ended, for now. */
export async function hostFault(db: Database, at: { cluster: string; host: string; message: string }): Promise<void> {
  await sql`update hosts set fault = ${plainText(at.message, 500)} where id = ${idOf({ cluster: at.cluster, name: at.host })}
    and exists (select 1 from made_hosts m where m.host = hosts.id and (m.ready_at is null or m.ending_at is not null))
    `.execute(db);
}

/** Its workflow ends it, though the rows do not say so: somebody cancelled the workflow. */
export async function hostEnds(db: Database, at: { cluster: string; host: string; why: string }): Promise<void> {
  await sql`update made_hosts set ending_at = coalesce(ending_at, now()), why = coalesce(why, ${at.why}),
    end_told_at = coalesce(end_told_at, now()) where host = ${idOf({ cluster: at.cluster, name: at.host })}`.execute(
    db,
  );
}

/** Nothing of it is left: so is nothing of what held it. Idempotent. */
export async function hostGone(db: Database, at: { cluster: string; host: string }): Promise<void> {
  const id = idOf({ cluster: at.cluster, name: at.host });
  await sql`
    with gone as (
      update made_hosts set gone_at = coalesce(gone_at, now()), ending_at = coalesce(ending_at, now()) where host = ${id}
    ), freed as (
      update leases set state = 'released', ended_at = now(), why = 'its host is gone'
      where host = ${id} and state in ${LIVE}
    )
    update hosts set removed_at = coalesce(removed_at, now()), worker = null where id = ${id}`.execute(db);
}

export interface BlueprintToSweep {
  id: string;
  make: Make;
}

/**
 * Blueprints of which something may be left where they make hosts: also those that were removed lately. One that was changed
 * comes with each place where its hosts are.
 */
export async function blueprintsToSweep(db: Database, cluster: string): Promise<BlueprintToSweep[]> {
  const { rows } = await sql<BlueprintToSweep>`
    select id, spec -> 'make' as make from blueprints where cluster = ${cluster}
      and (removed_at is null or removed_at > now() - interval '1 day')
    union
    select m.blueprint, m.spec -> 'make' from made_hosts m join blueprints p on p.id = m.blueprint
      where p.cluster = ${cluster} and m.gone_at is null`.execute(db);
  return rows;
}

/** A host that was made a shorter time ago may be missing from a list that was asked for before, s. */
const LIST_AGE_S = 60;

/**
 * Compares what was found with the ledger, both ways: what nobody knows, or what is gone by the ledger, is to be ended by the
 * worker; what is not there any more ends in the ledger. @param at.engine the Docker engine that was looked at; null: none
 * @returns names of what is to be ended, by blueprint
 */
export async function compareFound(
  db: Database,
  at: { cluster: string; engine: string | null },
  found: readonly FoundHosts[],
): Promise<{ blueprint: string; host: string }[]> {
  const all = JSON.stringify(found.flatMap(({ blueprint, hosts }) => hosts.map((host) => ({ blueprint, ...host }))));
  const looked = JSON.stringify(found.map(({ blueprint }) => blueprint));
  const isThere = sql`not (h.reach ->> 'kind' = 'container' and h.reach ->> 'engine' <> coalesce(${at.engine}::text, ''))`;
  await sql`
    update made_hosts m set ending_at = now(), why = 'it is not there any more' from hosts h, blueprints p
    where h.id = m.host and p.id = m.blueprint and p.cluster = ${at.cluster} and h.reach is not null and ${isThere}
      and m.ending_at is null and m.made_at < now() - ${LIST_AGE_S} * interval '1 second'
      and m.blueprint in (select jsonb_array_elements_text(${looked}::jsonb)::uuid)
      and not exists (select 1 from jsonb_to_recordset(${all}::jsonb) as f (host text, "isAlive" boolean)
        where f.host = h.name and f."isAlive")`.execute(db);
  const { rows } = await sql<{ blueprint: string; host: string }>`
    select f.blueprint, f.host from jsonb_to_recordset(${all}::jsonb) as f (blueprint uuid, host text)
      join blueprints p on p.id = f.blueprint and p.cluster = ${at.cluster}
    where not exists (select 1 from made_hosts m join hosts h on h.id = m.host
      where m.blueprint = f.blueprint and h.cluster = ${at.cluster} and h.name = f.host and m.gone_at is null
        and (h.reach is null or ${isThere}))`.execute(db);
  return rows;
}
