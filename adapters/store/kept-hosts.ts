// Owns which worker keeps which host beside its own machine: one worker at a time, another when that one is gone, and what
// they find of their hosts. Called by the API for workers, and by the store.
import { sql, type RawBuilder } from 'kysely';
import type { Reach } from '../../domain/schemas/hosts';
import type { HostProbe, ServedHost } from '../../domain/schemas/worker-api';
import type { Database } from './connect';
import { LIVE, NEVER, SERVES_HOSTS, SILENT_AFTER_MS } from './hosts';
import { failedProof, PROVE_EVERY_MS, recordProof } from './quarantine';

/** Whether the worker of a host is there. */
const IS_SERVED = sql<boolean>`exists (select 1 from workers w where w.cluster = hosts.cluster and w.id::text = hosts.worker
  and w.enlisted_at is not null and w.last_seen_at > now() - ${SILENT_AFTER_MS} * interval '1 millisecond')`;

/** Whether a worker with this Docker engine (an id, or null) gets to a host: a container only by the engine that has it. */
const canReach = (engine: RawBuilder<unknown>) => sql<boolean>`(hosts.reach is not null
  and (hosts.reach ->> 'kind' <> 'container' or hosts.reach ->> 'engine' = ${engine}))`;

const IS_ENDING = sql<boolean>`exists (
  select 1 from made_hosts m where m.host = hosts.id and m.ending_at is not null)`;

/**
 * The hosts that a worker serves from now on: those it has, and its share of those whose worker is gone. One worker
 * serves a host at a time; the others of the cluster take over when it was silent for too long.
 * @param at.engine id of the worker's Docker engine; null: none
 */
export async function keepHosts(
  db: Database,
  { cluster, worker, engine }: { cluster: string; worker: string; engine: string | null },
): Promise<ServedHost[]> {
  await sql`
    with asking as (
      update workers set serves_hosts_at = now(), docker_engine = ${engine}::text
      where cluster = ${cluster} and id = ${worker}::uuid
    ), unserved as (
      select id from hosts where cluster = ${cluster} and ${canReach(sql`${engine}::text`)} and removed_at is null
        and not ${IS_SERVED} and not ${IS_ENDING}
      order by id for update skip locked
    ), living as (
      select greatest(count(*), 1) as workers from workers w where cluster = ${cluster} and ${SERVES_HOSTS}
    )
    update hosts set worker = ${worker} where id in (select id from unserved order by random()
      limit (select ceil((select count(*) from unserved)::float8 / workers)::int from living))`.execute(db);
  const kept = await db
    .selectFrom('hosts')
    .select(['name', sql<Reach>`reach`.as('reach'), PROVE_EVERY_MS.as('proveEveryMs')])
    .where('cluster', '=', cluster)
    .where('worker', '=', worker)
    .where('reach', 'is not', null)
    .where('removed_at', 'is', null)
    .where(sql<boolean>`not ${IS_ENDING}`)
    .orderBy('name')
    .execute();
  return kept.map(({ proveEveryMs, ...host }) => (proveEveryMs === null ? host : { ...host, proveEveryMs }));
}

/**
 * Gives the host of an attempt to another worker of its cluster that can serve it, if its own is gone.
 * @param at.absent a worker that counts as gone, however lately it was heard
 */
export async function handOverHost(
  db: Database,
  at: { runId: string; number: number; absent: string | null },
): Promise<void> {
  await sql`
    update hosts set worker = heir.id from (
      select w.id::text as id, w.cluster, w.docker_engine from workers w where ${SERVES_HOSTS} and w.id::text is distinct from ${at.absent}::text order by random()
    ) as heir, leases l
    where l.run_id = ${at.runId}::uuid and l.attempt = ${at.number} and l.state in ${LIVE} and hosts.id = l.host
      and heir.cluster = hosts.cluster and ${canReach(sql`heir.docker_engine`)}
      and (not ${IS_SERVED} or hosts.worker = ${at.absent}::text)`.execute(db);
}

/** What a worker found of hosts that it serves; what it says of others is passed over. */
export async function recordProbes(
  db: Database,
  { cluster, worker }: { cluster: string; worker: string },
  probes: readonly HostProbe[],
): Promise<void> {
  if (probes.length === 0) return;
  const told = sql`jsonb_to_recordset(${JSON.stringify(probes)}::jsonb) as p (host text, fault text, machine jsonb, "notAccepting" text)`;
  const isMine = sql`hosts.cluster = ${cluster} and hosts.worker = ${worker} and hosts.reach is not null and hosts.name = p.host`;
  await sql`with heard as (
      update hosts set last_seen_at = now(), machine = coalesce(p.machine, hosts.machine),
        not_accepting = p."notAccepting", fault = case when hosts.faults = 0 then null else hosts.fault end
      from ${told} where ${isMine} and p.fault is null returning hosts.id
    ), ready as (
      update made_hosts set ready_at = now() from heard where host = heard.id and ready_at is null returning blueprint
    )
    update blueprints set faults = 0, fault = null, resting_until = null from ready where blueprints.id = ready.blueprint
    `.execute(db);
  // One that is still beginning is not broken.
  const isBeginning = sql`hosts.origin = 'made' and hosts.last_seen_at = ${NEVER}`;
  await sql`update hosts set fault = p.fault from ${told} where ${isMine} and p.fault is not null and ${isBeginning}
    `.execute(db);
  await sql`update hosts set ${failedProof(sql`p.fault`)} from ${told} where ${isMine} and p.fault is not null
      and not (${isBeginning})`.execute(db);
  for (const { host, proof } of probes) if (proof) await recordProof(db, { cluster, worker, host }, proof);
}
