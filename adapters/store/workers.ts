// Owns the rows of workers: who has said hello for a cluster, and who may work for it. Called by the API.
import { sql } from 'kysely';
import type { Hello } from '../../domain/schemas/worker-api';
import { LIVE, SILENT_AFTER_MS } from './hosts';
import type { Database } from './connect';
import type { ReleaseFailure } from './tables';

export interface WorkerRow {
  id: string;
  cluster: string;
  enlisted_at: Date | null;
  slots: number;
  version: string;
  not_accepting: string | null;
  load: number | null;
  free_disk_bytes: number | null;
  takes_releases: boolean;
  release_failure: ReleaseFailure | null;
  first_seen_at: Date;
  last_seen_at: Date;
  host: string | null;
  busy_slots: number;
  silent_ms: number;
}

/** Workers that nobody has enlisted, a cluster at most: whoever has a key could otherwise fill the table. */
const MAX_STRANGERS = 1_000;
/** The same where the cluster enlists by itself; those that are long gone make room. */
const MAX_WORKERS = 10_000;
const GONE_DAYS = 30;
/** New ones of a cluster within a minute; a fleet that is larger comes one after the other. */
const MAX_NEW_A_MINUTE = 200;

/**
 * Registers a worker, or says that it is still there. Where the cluster enlists by itself, a new one counts at once; one
 * that was dismissed stays so. After a while without any worker at all the cluster's row says when that ended: the door of the
 * fleets may have been shut (see locateAttempt). @returns whether it is enlisted; undefined: there are too many, so it was not registered
 */
export async function recordWorker(db: Database, hello: Hello): Promise<boolean | undefined> {
  const { worker, cluster, slots, version, notAccepting = null, load = null, freeDiskBytes = null } = hello;
  const { rows } = await sql<{ enlisted: boolean }>`
    with door as (
      update clusters set door_opened_at = now() where name = ${cluster} and not exists (
        select 1 from workers where enlisted_at is not null and last_seen_at > now() - ${SILENT_AFTER_MS} * interval '1 millisecond')
    )
    insert into workers (id, cluster, enlisted_at, slots, version, not_accepting, load, free_disk_bytes)
    select ${worker}::uuid, c.name, case when c.enlist_automatically then now() end, ${slots}::int, ${version}::text,
      ${notAccepting}::text, ${load}::float8, ${freeDiskBytes}::bigint
    from clusters c where c.name = ${cluster} and (
      exists (select 1 from workers where cluster = ${cluster} and id = ${worker}::uuid)
      or (select count(*) from workers where cluster = ${cluster}
        and first_seen_at > now() - interval '1 minute') < ${MAX_NEW_A_MINUTE}
      and case when c.enlist_automatically
        then (select count(*) from workers where cluster = ${cluster}
          and last_seen_at > now() - ${GONE_DAYS} * interval '1 day') < ${MAX_WORKERS}
        else (select count(*) from workers where cluster = ${cluster} and enlisted_at is null) < ${MAX_STRANGERS} end)
    on conflict (cluster, id) do update set slots = excluded.slots, version = excluded.version,
      not_accepting = excluded.not_accepting, load = excluded.load, free_disk_bytes = excluded.free_disk_bytes,
      last_seen_at = now()
    returning enlisted_at is not null as enlisted`.execute(db);
  return rows[0]?.enlisted;
}

/** Notes why the server does not let an enlisted worker in now. What it says of itself does not come home meanwhile. */
export async function noteRefused(db: Database, who: { cluster: string; worker: string }, why: string): Promise<void> {
  await db
    .updateTable('workers')
    .set({ refused_at: sql`now()`, refusal: why })
    .where('cluster', '=', who.cluster)
    .where('id', '=', who.worker)
    .where('enlisted_at', 'is not', null)
    .execute();
}

/** Its hosts are offered no more from now on. @returns false when the worker has never said hello for this cluster */
export async function setEnlisted(
  db: Database,
  worker: { cluster: string; id: string },
  enlisted: boolean,
): Promise<boolean> {
  const set = await db
    .updateTable('workers')
    .set({ enlisted_at: enlisted ? sql`coalesce(enlisted_at, now())` : null })
    .where('cluster', '=', worker.cluster)
    .where('id', '=', worker.id)
    .executeTakeFirst();
  if (!enlisted) await closeHosts(db, worker);
  return set.numUpdatedRows === 1n;
}

async function closeHosts(db: Database, worker: { cluster: string; id: string }): Promise<void> {
  await db
    .updateTable('hosts')
    .set({ not_accepting: 'its worker was dismissed' })
    .where('cluster', '=', worker.cluster)
    .where('worker', '=', worker.id)
    .where('origin', '=', 'worker')
    .execute();
  // Another worker of the cluster takes them over.
  await db
    .updateTable('hosts')
    .set({ worker: null, last_seen_at: sql`'epoch'` })
    .where('cluster', '=', worker.cluster)
    .where('worker', '=', worker.id)
    .where('origin', '=', 'listed')
    .execute();
}

/** In the order in which they first came. */
export async function listWorkers(db: Database, cluster: string): Promise<WorkerRow[]> {
  const { rows } = await sql<WorkerRow>`
    select w.*, h.name as host, (extract(epoch from now() - w.last_seen_at) * 1000)::float8 as silent_ms,
      (select count(*)::int from leases l where l.host = h.id and l.state in ${LIVE}) as busy_slots
    from workers w left join hosts h on h.cluster = w.cluster and h.worker = w.id::text and h.origin = 'worker'
    where w.cluster = ${cluster} order by w.first_seen_at, w.id`.execute(db);
  return rows;
}
