// Owns the rows of hosts: which worker of their cluster serves them, and with how many slots.
// Called by the API; read inside the transaction that grants a lease.
import { sql, type Transaction } from 'kysely';
import type { HostOffer } from '../../domain/placement';
import type { Database } from './connect';
import type { Tables } from './tables';

export interface HostFacts {
  cluster: string;
  name: string;
  worker: string;
  labels: string[];
  slots: number;
  version: string;
  /** Why it takes no new runs; null: it does. */
  notAccepting: string | null;
}

/** Hosts of one worker, beside the one it speaks of, that may still hold work: more are no machine. */
const MAX_HOSTS_A_WORKER = 100;

/**
 * Registers a worker's host, or says that it is still there.
 * @param silentAfterMs a name may be taken over by another worker once its owner was silent for so long
 * A worker that has given its host another name leaves nothing behind but where work was.
 * @returns how many of its slots are under a live lease; undefined when another living worker has a host of this name in
 *   the cluster, or this one has given too many names
 */
export async function recordHost(
  db: Database,
  host: HostFacts,
  silentAfterMs: number,
): Promise<{ heldSlots: number } | undefined> {
  await sql`delete from hosts where cluster = ${host.cluster} and worker = ${host.worker} and name <> ${host.name}
    and last_seen_at < now() - ${silentAfterMs} * interval '1 millisecond'
    and not exists (select 1 from leases where leases.host = hosts.id)`.execute(db);
  const { rows } = await sql<{ heldSlots: number }>`
    insert into hosts (id, cluster, name, worker, labels, slots, version, not_accepting)
    select ${`${host.cluster}/${host.name}`}::text, ${host.cluster}::text, ${host.name}::text, ${host.worker}::text,
      ${JSON.stringify(host.labels)}::jsonb, ${host.slots}::int, ${host.version}::text, ${host.notAccepting}::text
    where (select count(*) from hosts where cluster = ${host.cluster} and worker = ${host.worker}) < ${MAX_HOSTS_A_WORKER}
      or exists (select 1 from hosts where id = ${`${host.cluster}/${host.name}`})
    on conflict (id) do update set worker = excluded.worker, labels = excluded.labels, slots = excluded.slots,
      version = excluded.version, not_accepting = excluded.not_accepting, last_seen_at = now()
      where hosts.worker = excluded.worker or hosts.last_seen_at < now() - ${silentAfterMs} * interval '1 millisecond'
    returning (select count(*)::int from leases where leases.host = hosts.id
      and leases.state in ('granted', 'active', 'releasing')) as "heldSlots"`.execute(db);
  return rows[0];
}

export interface HostRow {
  name: string;
  cluster: string;
  worker: string;
  labels: string[];
  slots: number;
  busy: number[];
  version: string;
  not_accepting: string | null;
  last_seen_at: Date;
  /** ms since the worker was last heard */
  silent_ms: number;
}

export async function listHosts(db: Database | Transaction<Tables>, cluster?: string): Promise<HostRow[]> {
  let query = db
    .selectFrom('hosts')
    .select(['name', 'cluster', 'worker', 'labels', 'slots', 'version', 'not_accepting', 'last_seen_at'])
    .select([
      sql<number>`(extract(epoch from now() - last_seen_at) * 1000)::float8`.as('silent_ms'),
      sql<number[]>`(select coalesce(jsonb_agg(slot), '[]') from leases
        where leases.host = hosts.id and leases.state in ('granted', 'active', 'releasing'))`.as('busy'),
    ])
    .orderBy('cluster')
    .orderBy('name');
  if (cluster !== undefined) query = query.where('cluster', '=', cluster);
  return query.execute();
}

/** Silence after which a worker does not count as connected, ms; it says hello every 5 s. */
export const SILENT_AFTER_MS = 15_000;

/** The hosts of a cluster whose worker was not silent for longer, as placement sees them. */
export async function listOffers(
  db: Database | Transaction<Tables>,
  cluster: string,
  silentAfterMs: number,
): Promise<{ hosts: HostOffer[]; freeSlots: number }> {
  const hosts = (await listHosts(db, cluster)).filter((host) => host.silent_ms < silentAfterMs).map(offerOf);
  const freeSlots = hosts.reduce((sum, host) => sum + Math.max(host.slots - host.busySlots.length, 0), 0);
  return { hosts, freeSlots };
}

/** As placement sees it. */
export function offerOf(host: HostRow): HostOffer {
  return {
    id: `${host.cluster}/${host.name}`,
    name: host.name,
    labels: host.labels,
    slots: host.slots,
    busySlots: host.busy,
    workerId: host.worker,
    notAccepting: host.not_accepting,
  };
}
