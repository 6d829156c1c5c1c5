// Owns the release that the workers of a cluster are pinned to, and which of them are told to take it.
// Called by the API: by operators' calls, and for every worker that says hello.
import { sql, type Transaction } from 'kysely';
import { planRollout, type Rollout, type RolloutWorker } from '../../domain/rollout';
import type { Hello, HelloReply } from '../../domain/schemas/worker-api';
import type { Database } from './connect';
import type { PinnedRelease, Tables } from './tables';

/** @returns the pin before it; undefined: there was none, or no such cluster */
export async function pinRelease(
  db: Database,
  cluster: string,
  release: PinnedRelease | null,
): Promise<PinnedRelease | undefined> {
  return db.transaction().execute(async (tx) => {
    const before = await readPin(tx, cluster, 'for update');
    await tx
      .updateTable('clusters')
      .set({ release: release && JSON.stringify(release) })
      .where('name', '=', cluster)
      .execute();
    return before;
  });
}

export async function readPin(
  db: Database | Transaction<Tables>,
  cluster: string,
  lock: 'for update' | '' = '',
): Promise<PinnedRelease | undefined> {
  const { rows } = await sql<{ release: PinnedRelease | null }>`
    select release from clusters where name = ${cluster} ${sql.raw(lock)}`.execute(db);
  return rows[0]?.release ?? undefined;
}

/**
 * Keeps what a worker says of its release. @param isEnlisted one that is not gets no release
 * @returns what it is to take now; null: nothing
 */
export async function offerRelease(
  db: Database,
  { hello, isEnlisted, silentAfterMs }: { hello: Hello; isEnlisted: boolean; silentAfterMs: number },
): Promise<HelloReply['upgrade']> {
  const { cluster, worker, release } = hello;
  if (release === undefined) return null;
  await keep(db, hello);
  if (release === null || !isEnlisted || !(await readPin(db, cluster))) return null;
  return db.transaction().execute(async (tx) => {
    // Two that say hello at once must not both be the first.
    const pin = await readPin(tx, cluster, 'for update');
    if (!pin || pin.digest === release.runs) return null;
    if (!planRollout(pin, await readFleet(tx, { cluster, pin, silentAfterMs })).turn.includes(worker)) return null;
    await tx
      .updateTable('workers')
      .set({ release_offered: pin.id })
      .where('cluster', '=', cluster)
      .where('id', '=', worker)
      .execute();
    return { id: pin.id, signed: pin.signed };
  });
}

async function keep(db: Database, { cluster, worker, release }: Hello): Promise<void> {
  const runs = release?.runs ?? null;
  const failure = release?.failed ? JSON.stringify(release.failed) : null;
  await sql`update workers set takes_releases = ${release !== null}, release_failure = ${failure}::jsonb,
      release_since = case when release_digest is not distinct from ${runs}::text then release_since else now() end,
      release_digest = ${runs}::text
    where cluster = ${cluster} and id = ${worker}::uuid`.execute(db);
}

/** How far the pinned release is. */
export async function readRollout(
  db: Database,
  at: { cluster: string; pin: PinnedRelease; silentAfterMs: number },
): Promise<Rollout> {
  return planRollout(at.pin, await readFleet(db, at));
}

async function readFleet(
  db: Database | Transaction<Tables>,
  { cluster, pin, silentAfterMs }: { cluster: string; pin: PinnedRelease; silentAfterMs: number },
): Promise<RolloutWorker[]> {
  const { rows } = await sql<RolloutWorker>`
    select id::text, last_seen_at > now() - ${silentAfterMs} * interval '1 millisecond' as connected,
      (release_offered is not distinct from ${pin.id}::uuid) as offered,
      case when release_digest = ${pin.digest}
        then (extract(epoch from now() - greatest(release_since, ${pin.since}::timestamptz)) * 1000)::float8 end as "ranForMs",
      case when release_failure ->> 'id' = ${pin.id} then release_failure ->> 'reason' end as failure
    from workers where cluster = ${cluster} and enlisted_at is not null and takes_releases`.execute(db);
  return rows;
}
