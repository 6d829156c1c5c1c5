// Owns the rows of hosts: the machines of workers, which say so themselves, and those listed by hand, each kept by a worker
// of its cluster; who serves which, with how many slots, and how well it does.
// Called by the API; read inside the transaction that grants a lease.
import { sql, type RawBuilder, type Transaction } from 'kysely';
import type { HostOffer } from '../../domain/placement';
import type { CreateHost, EditHost, MachineFacts, Reach } from '../../domain/schemas/hosts';
import type { HostProbe } from '../../domain/schemas/worker-api';
import { withoutUndefined } from '../../domain/without-undefined';
import type { Database } from './connect';
import type { HostDrainFacts, Tables } from './tables';

export interface HostFacts {
  cluster: string;
  name: string;
  worker: string;
  labels: string[];
  slots: number;
  version: string;
  /** Why it takes no new runs; null: it does. */
  notAccepting: string | null;
  /** Default: docker, as workers that do not say. */
  engine?: 'docker' | 'shell';
  /** Absent: its worker is too old to say. */
  machine?: MachineFacts;
}

/** Hosts of one worker, beside the one it speaks of, that may still hold work: more are no machine. */
const MAX_HOSTS_A_WORKER = 100;

/** Silence after which a worker does not count as connected, ms; it says hello every 5 s. */
export const SILENT_AFTER_MS = 15_000;

const UNKNOWN: MachineFacts = { os: null, arch: null, cpus: null, memoryBytes: null };
/** Nothing went wrong there lately. */
const WELL = { faults: 0, fault: null, quarantined_until: null };
const LIVE = sql.raw(`('granted', 'active', 'releasing')`);
const idOf = (host: { cluster: string; name: string }): string => `${host.cluster}/${host.name}`;

/**
 * Registers a worker's own machine, or says that it is still there.
 * @param silentAfterMs a name may be taken over by another worker once its owner was silent for so long
 * A worker that has given its host another name leaves nothing behind but where work was.
 * @returns how many of its slots are under a live lease; undefined when another living worker has a host of this name in
 *   the cluster, or it is a listed one, or this one has given too many names
 */
export async function recordHost(
  db: Database,
  host: HostFacts,
  silentAfterMs: number,
): Promise<{ heldSlots: number } | undefined> {
  await sql`delete from hosts where cluster = ${host.cluster} and worker = ${host.worker} and name <> ${host.name}
    and origin = 'worker' and last_seen_at < now() - ${silentAfterMs} * interval '1 millisecond'
    and not exists (select 1 from leases where leases.host = hosts.id)`.execute(db);
  const { rows } = await sql<{ heldSlots: number }>`
    insert into hosts (id, cluster, name, worker, labels, slots, version, not_accepting, engine, machine)
    select ${idOf(host)}::text, ${host.cluster}::text, ${host.name}::text, ${host.worker}::text,
      ${JSON.stringify(host.labels)}::jsonb, ${host.slots}::int, ${host.version}::text, ${host.notAccepting}::text,
      ${host.engine ?? 'docker'}::text, ${JSON.stringify(host.machine ?? UNKNOWN)}::jsonb
    where (select count(*) from hosts where cluster = ${host.cluster} and worker = ${host.worker} and origin = 'worker')
      < ${MAX_HOSTS_A_WORKER} or exists (select 1 from hosts where id = ${idOf(host)})
    on conflict (id) do update set worker = excluded.worker, labels = excluded.labels, slots = excluded.slots,
      version = excluded.version, not_accepting = excluded.not_accepting, engine = excluded.engine,
      machine = case when ${host.machine !== undefined} then excluded.machine else hosts.machine end, last_seen_at = now(),
      origin = 'worker', reach = null, removed_at = null
      where hosts.removed_at is not null or hosts.origin = 'worker' and (hosts.worker = excluded.worker
        or hosts.last_seen_at < now() - ${silentAfterMs} * interval '1 millisecond')
    returning (select count(*)::int from leases where leases.host = hosts.id and leases.state in ${LIVE}) as "heldSlots"
    `.execute(db);
  return rows[0];
}

/** Lists a host by hand. One that was removed comes back under its name. @returns false when the name is taken */
export async function createHost(db: Database, cluster: string, host: CreateHost): Promise<boolean> {
  const { labels, slots, reach } = host;
  const listed = { labels: JSON.stringify(labels), slots, reach: JSON.stringify(reach), engine: reach.kind };
  const fresh = {
    origin: 'listed' as const,
    worker: null,
    drain: null,
    removed_at: null,
    not_accepting: null,
    ...WELL,
  };
  const reset = { ...listed, ...fresh, last_seen_at: sql<Date>`'epoch'`, machine: JSON.stringify(UNKNOWN) };
  const made = await db
    .insertInto('hosts')
    .values({ id: idOf({ cluster, name: host.name }), cluster, name: host.name, version: '', ...reset })
    .onConflict((conflict) => conflict.column('id').doUpdateSet(reset).where('hosts.removed_at', 'is not', null))
    .executeTakeFirst();
  return made.numInsertedOrUpdatedRows === 1n;
}

interface HostKey {
  cluster: string;
  name: string;
}

/** Of a listed host; the next round of its worker has it. @returns false when there is none of this name */
export async function editHost(db: Database, host: HostKey, changes: EditHost): Promise<boolean> {
  const { labels, slots, reach } = changes;
  const columns = withoutUndefined({
    labels: labels && JSON.stringify(labels),
    slots,
    // Where it is reached anew, what went wrong before says nothing.
    ...(reach ? { reach: JSON.stringify(reach), engine: reach.kind, ...WELL } : {}),
  });
  if (Object.keys(columns).length === 0) return true;
  const edited = await db
    .updateTable('hosts')
    .set(columns)
    .where('id', '=', idOf(host))
    .where('origin', '=', 'listed')
    .where('removed_at', 'is', null)
    .executeTakeFirst();
  return edited.numUpdatedRows === 1n;
}

/** Refused while a lease of it lives. Its leases stay readable. */
export async function removeHost(db: Database, host: HostKey): Promise<'removed' | 'absent' | 'has-work'> {
  return db.transaction().execute(async (tx) => {
    // Grants of its cluster wait for this lock.
    await sql`select 1 from clusters where name = ${host.cluster} for update`.execute(tx);
    const { rows } = await sql<{ busy: boolean }>`
      select exists (select 1 from leases where host = hosts.id and state in ${LIVE}) as busy from hosts
      where id = ${idOf(host)} and removed_at is null`.execute(tx);
    if (rows[0] === undefined) return 'absent';
    if (rows[0].busy) return 'has-work';
    await tx
      .updateTable('hosts')
      .set({ removed_at: sql`now()`, worker: null })
      .where('id', '=', idOf(host))
      .execute();
    return 'removed';
  });
}

/** Takes a host out of use, or (null) back into it; what runs there finishes. @returns false when there is none of this name */
export async function setHostDrain(db: Database, host: HostKey, drain: HostDrainFacts | null): Promise<boolean> {
  const set = await db
    .updateTable('hosts')
    .set({ drain: drain && JSON.stringify(drain) })
    .where('id', '=', idOf(host))
    .where('removed_at', 'is', null)
    .executeTakeFirst();
  return set.numUpdatedRows === 1n;
}

export interface KeptHost {
  name: string;
  reach: Reach;
}

/** Whether worker w of the cluster of a host may serve it. */
const IS_SERVED = sql<boolean>`exists (select 1 from workers w where w.cluster = hosts.cluster and w.id::text = hosts.worker
  and w.enlisted_at is not null and w.last_seen_at > now() - ${SILENT_AFTER_MS} * interval '1 millisecond')`;

/**
 * The listed hosts that a worker serves from now on: those it has, and its share of those whose worker is gone. One worker
 * serves a host at a time; the others of the cluster take over when it was silent for too long.
 */
export async function keepHosts(
  db: Database,
  { cluster, worker }: { cluster: string; worker: string },
): Promise<KeptHost[]> {
  await sql`
    with asking as (
      update workers set serves_hosts_at = now() where cluster = ${cluster} and id = ${worker}::uuid
    ), unserved as (
      select id from hosts where cluster = ${cluster} and origin = 'listed' and removed_at is null and not ${IS_SERVED}
      order by id for update skip locked
    ), living as (
      select greatest(count(*), 1) as workers from workers where cluster = ${cluster} and enlisted_at is not null
        and serves_hosts_at > now() - ${SILENT_AFTER_MS} * interval '1 millisecond'
    )
    update hosts set worker = ${worker} where id in (select id from unserved order by random()
      limit (select ceil((select count(*) from unserved)::float8 / workers)::int from living))`.execute(db);
  return db
    .selectFrom('hosts')
    .select(['name', sql<Reach>`reach`.as('reach')])
    .where('cluster', '=', cluster)
    .where('worker', '=', worker)
    .where('origin', '=', 'listed')
    .where('removed_at', 'is', null)
    .orderBy('name')
    .execute();
}

/**
 * Gives the host of an attempt to another worker of its cluster that serves listed hosts, if its own is gone.
 * @param at.absent a worker that counts as gone, however lately it was heard
 */
export async function handOverHost(
  db: Database,
  at: { runId: string; number: number; absent: string | null },
): Promise<void> {
  await sql`
    update hosts set worker = heir.id from (
      select w.id::text as id, w.cluster from workers w where w.enlisted_at is not null
        and w.serves_hosts_at > now() - ${SILENT_AFTER_MS} * interval '1 millisecond'
        and w.id::text is distinct from ${at.absent}::text order by random()
    ) as heir, leases l
    where l.run_id = ${at.runId}::uuid and l.attempt = ${at.number} and l.state in ${LIVE} and hosts.id = l.host
      and heir.cluster = hosts.cluster and hosts.origin = 'listed'
      and (not ${IS_SERVED} or hosts.worker = ${at.absent}::text)`.execute(db);
}

/** How long a host that failed is left alone, as SQL: 10 s, twice as long each time, an hour at most. */
const BACK_OFF = sql`now() + least(10 * power(2, least(faults, 10)), 3600) * interval '1 second'`;

/**
 * A host takes nothing for a while after it has failed a run or a probe, longer each time, and then one run at a time until
 * a script of it runs. @param message what went wrong
 */
export const quarantined = (message: RawBuilder<unknown>) => sql`fault = ${message}, faults = faults + 1,
  quarantined_until = ${BACK_OFF}`;

/** What a worker found of hosts that it serves; what it says of others is passed over. */
export async function recordProbes(
  db: Database,
  { cluster, worker }: { cluster: string; worker: string },
  probes: readonly HostProbe[],
): Promise<void> {
  if (probes.length === 0) return;
  const told = sql`jsonb_to_recordset(${JSON.stringify(probes)}::jsonb) as p (host text, fault text, machine jsonb, "notAccepting" text)`;
  const isMine = sql`hosts.cluster = ${cluster} and hosts.worker = ${worker} and hosts.origin = 'listed' and hosts.name = p.host`;
  await sql`update hosts set last_seen_at = now(), machine = coalesce(p.machine, hosts.machine),
      not_accepting = p."notAccepting" from ${told} where ${isMine} and p.fault is null`.execute(db);
  await sql`update hosts set ${quarantined(sql`p.fault`)} from ${told} where ${isMine} and p.fault is not null
      and coalesce(hosts.quarantined_until, 'epoch') < now()`.execute(db);
}

export interface HostRow {
  name: string;
  cluster: string;
  worker: string | null;
  origin: 'worker' | 'listed';
  engine: 'docker' | 'shell' | 'ssh';
  reach: Reach | null;
  machine: MachineFacts;
  labels: string[];
  slots: number;
  busy: number[];
  version: string;
  not_accepting: string | null;
  drain: HostDrainFacts | null;
  faults: number;
  fault: string | null;
  quarantined_until: Date | null;
  is_quarantined: boolean;
  last_seen_at: Date;
  /** ms since the host was last heard, by its worker where it is a listed one */
  silent_ms: number;
}

const COLUMNS = [
  'name',
  'cluster',
  'worker',
  'origin',
  'engine',
  'reach',
  'machine',
  'labels',
  'slots',
  'version',
  'not_accepting',
  'drain',
  'faults',
  'fault',
  'quarantined_until',
  'last_seen_at',
] as const;

export async function listHosts(
  db: Database | Transaction<Tables>,
  ...[cluster, name]: [cluster?: string, name?: string]
): Promise<HostRow[]> {
  let query = db
    .selectFrom('hosts')
    .select(COLUMNS)
    .select([
      sql<boolean>`coalesce(quarantined_until > now(), false)`.as('is_quarantined'),
      sql<number>`(extract(epoch from now() - last_seen_at) * 1000)::float8`.as('silent_ms'),
      sql<number[]>`(select coalesce(jsonb_agg(slot), '[]') from leases
        where leases.host = hosts.id and leases.state in ${LIVE})`.as('busy'),
    ])
    .where('removed_at', 'is', null)
    .orderBy('cluster')
    .orderBy('name');
  if (cluster !== undefined) query = query.where('cluster', '=', cluster);
  if (name !== undefined) query = query.where('name', '=', name);
  return query.execute();
}

/** The hosts of a cluster as placement sees them: those that were heard lately, and listed ones, which say why they are not. */
export async function listOffers(
  db: Database | Transaction<Tables>,
  cluster: string,
  silentAfterMs: number,
): Promise<{ hosts: HostOffer[]; freeSlots: number }> {
  const rows = await listHosts(db, cluster);
  const hosts = rows
    .filter((host) => host.silent_ms < silentAfterMs || host.origin === 'listed')
    .map((host) => offerOf(host, silentAfterMs));
  const freeSlots = hosts
    .filter((host) => host.notAccepting === null)
    .reduce((sum, host) => sum + Math.max(host.slots - host.busySlots.length, 0), 0);
  return { hosts, freeSlots };
}

/** As placement sees it. One that has failed is tried with one run at a time. */
export function offerOf(host: HostRow, silentAfterMs: number): HostOffer {
  return {
    id: idOf(host),
    name: host.name,
    labels: host.labels,
    machine: host.machine,
    isBare: host.engine !== 'docker',
    slots: host.faults > 0 ? 1 : host.slots,
    busySlots: host.busy,
    workerId: host.worker ?? '',
    notAccepting: whyRefused(host, silentAfterMs),
  };
}

/** Why a host takes no new runs now, in words; null: it does. */
export function whyRefused(host: HostRow, silentAfterMs: number): string | null {
  if (host.drain) return `drained by ${host.drain.by}: ${host.drain.reason}`;
  if (host.is_quarantined) return `left alone until ${host.quarantined_until?.toISOString()} because ${host.fault}`;
  if (host.silent_ms < silentAfterMs) return host.not_accepting;
  if (host.origin === 'worker') return 'its worker is silent';
  if (host.worker === null) return 'no worker of the cluster serves it; start one there with SLIPWAY_SSH_KEY';
  return host.fault === null ? 'its worker has not reached it yet' : `its worker does not reach it: ${host.fault}`;
}
