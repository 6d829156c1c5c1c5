// Owns the rows of clusters and of their keys: the registry that placement, gateway and people read.
// Called by the API, the gateway and the orchestrator. Workers are in workers.ts, their hosts in hosts.ts.
import { sql, type RawBuilder, type Transaction } from 'kysely';
import type { ClusterOffer, ClusterRules } from '../../domain/cluster-choice';
import type { RefusedWorker } from '../../domain/waiting';
import type { CreateCluster, EditCluster, PublicKey } from '../../domain/schemas/clusters';
import { withoutUndefined } from '../../domain/without-undefined';
import type { ClusterAccess } from '../access-cache';
import type { Database } from './connect';
import { IS_REFUSED, LIVE, SERVES_HOSTS, UNKNOWN_MACHINE } from './hosts';
import type { DrainFacts, PinnedRelease, Tables } from './tables';

export interface ClusterRow {
  name: string;
  description: string;
  maintainer: string;
  kind: 'default' | 'specialised';
  weight: number;
  organisations: string[];
  owner: string | null;
  allow_privileged: boolean;
  max_cpus: number | null;
  max_memory_bytes: number | null;
  max_artifact_bytes: number | null;
  max_slots_per_project: number | null;
  active: boolean;
  enlist_automatically: boolean;
  drain: DrainFacts | null;
  release: PinnedRelease | null;
  created_at: Date;
  waiting: number;
  running: number;
  slots: number;
  busy_slots: number;
  connected: number;
  to_enlist: number;
}
export interface KeyRow {
  kid: string;
  x: string;
  created_at: Date;
  created_by: string;
  expires_at: Date | null;
  revoked_at: Date | null;
}

type Writable = Database | Transaction<Tables>;
const seenWithin = (ms: number): RawBuilder<boolean> => sql`last_seen_at > now() - ${ms} * interval '1 millisecond'`;

/** @param silentAfterMs workers silent for longer do not count as connected @param name only this one */
export async function listClusters(db: Database, silentAfterMs: number, name?: string): Promise<ClusterRow[]> {
  const { rows } = await sql<ClusterRow>`
    select c.*,
      (select count(*)::int from runs where cluster = c.name and state = 'queued') as waiting,
      (select count(*)::int from runs where cluster = c.name and state not in ('queued', 'finished')) as running,
      (select coalesce(sum(slots), 0)::int from hosts where cluster = c.name and removed_at is null
        and ${seenWithin(silentAfterMs)}) as slots,
      (select count(*)::int from leases l join hosts h on h.id = l.host
        where h.cluster = c.name and l.state in ${LIVE}) as busy_slots,
      (select count(*)::int from workers where cluster = c.name and enlisted_at is not null
        and ${seenWithin(silentAfterMs)}) as connected,
      (select count(*)::int from workers where cluster = c.name and enlisted_at is null
        and ${seenWithin(silentAfterMs)}) as to_enlist
    from clusters c where ${name ?? null}::text is null or c.name = ${name ?? null} order by c.name`.execute(db);
  return rows;
}

/** @returns false when the name is taken */
export async function createCluster(db: Database, wanted: CreateCluster, by: string): Promise<boolean> {
  return db.transaction().execute(async (tx) => {
    const { name, keys, ...rest } = wanted;
    const made = await tx
      .insertInto('clusters')
      .values({ name, ...columnsOf(rest) })
      .onConflict((conflict) => conflict.column('name').doNothing())
      .executeTakeFirst();
    if (made.numInsertedOrUpdatedRows !== 1n) return false;
    for (const key of keys) await addKey(tx, name, { key, by });
    return true;
  });
}

/** @returns false when there is no such cluster */
export async function editCluster(db: Database, name: string, changes: EditCluster): Promise<boolean> {
  const columns = columnsOf(changes);
  if (Object.keys(columns).length === 0) return exists(db, name);
  const edited = await db.updateTable('clusters').set(columns).where('name', '=', name).executeTakeFirst();
  await letAskAgain(db, name);
  return edited.numUpdatedRows === 1n;
}

/** Runs that the cluster did not take may be taken by it as it is now: they are woken like those that wait for a slot. */
async function letAskAgain(db: Database, cluster: string): Promise<void> {
  await sql`update runs set asked_at = now() - interval '1 minute'
    where cluster = ${cluster} and state = 'queued' and asked_at is null and waiting_since is not null`.execute(db);
}

async function exists(db: Database, name: string): Promise<boolean> {
  return (await db.selectFrom('clusters').select('name').where('name', '=', name).executeTakeFirst()) !== undefined;
}

/** Only what is given. */
function columnsOf(fields: EditCluster) {
  const { policy = {}, organisations, enlistAutomatically, ...same } = fields;
  return withoutUndefined({
    ...same,
    organisations: organisations && JSON.stringify(organisations),
    enlist_automatically: enlistAutomatically,
    allow_privileged: policy.allowPrivileged,
    max_cpus: policy.maxCpus,
    max_memory_bytes: policy.maxMemoryBytes,
    max_artifact_bytes: policy.maxArtifactBytes,
    max_slots_per_project: policy.maxSlotsPerProject,
  });
}

/** Refused while it has work; its history stays readable. */
export async function deleteCluster(db: Database, name: string): Promise<'deleted' | 'absent' | 'has-work'> {
  return db.transaction().execute(async (tx) => {
    const { rows } = await sql`select 1 from clusters where name = ${name} for update`.execute(tx);
    if (rows.length === 0) return 'absent';
    const work = await sql`
      select 1 from runs where cluster = ${name} and state <> 'finished' union all
      select 1 from leases l join hosts h on h.id = l.host where h.cluster = ${name} and l.state in ${LIVE} union all
      select 1 from made_hosts m join blueprints p on p.id = m.blueprint where p.cluster = ${name} and m.gone_at is null
      limit 1`.execute(tx);
    if (work.rows.length > 0) return 'has-work';
    await sql`delete from leases using hosts h where h.id = leases.host and h.cluster = ${name}`.execute(tx);
    await tx.deleteFrom('hosts').where('cluster', '=', name).execute();
    await tx.deleteFrom('clusters').where('name', '=', name).execute();
    return 'deleted';
  });
}

/** @returns false when the cluster has a key of this name */
export async function addKey(
  db: Writable,
  cluster: string,
  { key, by }: { key: PublicKey; by: string },
): Promise<boolean> {
  const added = await db
    .insertInto('cluster_keys')
    .values({
      cluster,
      kid: key.kid,
      x: key.x,
      created_by: by,
      expires_at: key.exp === undefined ? null : new Date(key.exp * 1000),
    })
    .onConflict((conflict) => conflict.columns(['cluster', 'kid']).doNothing())
    .executeTakeFirst();
  return added.numInsertedOrUpdatedRows === 1n;
}

/** Idempotent. @returns false when there is no such key */
export async function revokeKey(db: Database, cluster: string, kid: string): Promise<boolean> {
  const revoked = await db
    .updateTable('cluster_keys')
    .set({ revoked_at: sql`coalesce(revoked_at, now())` })
    .where('cluster', '=', cluster)
    .where('kid', '=', kid)
    .executeTakeFirst();
  return revoked.numUpdatedRows === 1n;
}

export async function listKeys(db: Database, cluster: string): Promise<KeyRow[]> {
  return db
    .selectFrom('cluster_keys')
    .select(['kid', 'x', 'created_at', 'created_by', 'expires_at', 'revoked_at'])
    .where('cluster', '=', cluster)
    .orderBy('created_at')
    .execute();
}

/** The keys that may vouch for a worker of the cluster, and its enlisted workers; of an unknown cluster neither. */
export async function readAccess(db: Database, cluster: string): Promise<ClusterAccess> {
  const [keys, workers] = await Promise.all([
    listKeys(db, cluster),
    db.selectFrom('workers').select('id').where('cluster', '=', cluster).where('enlisted_at', 'is not', null).execute(),
  ]);
  return {
    keys: keys.map(({ kid, x, expires_at, revoked_at }) => ({
      kid,
      jwk: { kty: 'OKP', crv: 'Ed25519', x },
      expiresAt: expires_at,
      revokedAt: revoked_at,
    })),
    enlisted: new Set(workers.map(({ id }) => id)),
  };
}

/** The columns of `clusters` that ClusterRules are made of. */
export const RULES = sql.raw(`name, kind, organisations, allow_privileged as "allowPrivileged", max_cpus as "maxCpus",
  max_memory_bytes as "maxMemoryBytes", max_artifact_bytes as "maxArtifactBytes"`);

/**
 * Everything that placement looks at; what a blueprint could make counts as a host.
 * @param silentAfterMs hosts whose worker was silent for longer do not count
 */
export async function clusterOffers(db: Writable, silentAfterMs: number): Promise<ClusterOffer[]> {
  const { rows } = await sql<ClusterOffer & { maintenance: DrainFacts | null }>`
    select ${RULES}, weight, active, drain as maintenance,
      (select coalesce(jsonb_agg(host), '[]') from (
        select jsonb_build_object('name', h.name, 'labels', h.labels, 'machine', h.machine,
          'isBare', h.engine <> 'docker') as host from hosts h
        where h.cluster = c.name and ${seenWithin(silentAfterMs)} and h.not_accepting is null and h.drain is null
          and h.removed_at is null and coalesce(h.quarantined_until, 'epoch') < now()
          and not exists (select 1 from workers w where w.cluster = c.name and w.id::text = h.worker and ${IS_REFUSED})
        union all
        select jsonb_build_object('name', p.name, 'labels', p.spec -> 'labels' || to_jsonb(p.name),
          'machine', ${JSON.stringify(UNKNOWN_MACHINE)}::jsonb || (p.spec -> 'machine'),
          'isBare', not coalesce((p.spec -> 'make' ->> 'containers')::boolean, false)) from blueprints p
        where p.cluster = c.name and p.removed_at is null and (p.spec ->> 'most')::int > 0
          and exists (select 1 from workers w where w.cluster = c.name and ${SERVES_HOSTS})) as offered) as hosts
    from clusters c order by name`.execute(db);
  return rows.map(({ maintenance, ...offer }) => ({ ...offer, drain: maintenance && sayDrain(maintenance) }));
}

/** What clusters may take, whether they do now, and who waits to be enlisted there. */
export async function clusterStates(
  db: Database,
  names: readonly string[],
  silentAfterMs: number,
): Promise<{ rules: ClusterRules; closed: string | null; strangerId: string | undefined; refused?: RefusedWorker }[]> {
  type State = { active: boolean; drain: DrainFacts | null; strangerId: string | null; refused: RefusedWorker | null };
  const { rows } = await sql<ClusterRules & State>`
    select ${RULES}, active, drain, (select id::text from workers where cluster = c.name and enlisted_at is null
      and ${seenWithin(silentAfterMs)} order by first_seen_at limit 1) as "strangerId",
      (select jsonb_build_object('host', coalesce(h.name, w.id::text), 'why', w.refusal) from workers w
        left join hosts h on h.cluster = w.cluster and h.worker = w.id::text and h.origin = 'worker'
        where w.cluster = c.name and ${IS_REFUSED} order by h.name limit 1) as refused
    from clusters c where name in (select jsonb_array_elements_text(${JSON.stringify(names)}::jsonb))`.execute(db);
  return rows.map(({ active, drain, strangerId, refused, ...rules }) => ({
    rules,
    closed: whyClosed({ active, drain }),
    strangerId: strangerId ?? undefined,
    ...(refused ? { refused } : {}),
  }));
}

/** As the rest of a sentence that begins with the cluster; null: it takes runs. */
export function whyClosed({ active, drain }: { active: boolean; drain: DrainFacts | null }): string | null {
  if (drain) return `was ${sayDrain(drain)}`;
  return active ? null : 'is not active';
}

export function sayDrain({ by, reason }: DrainFacts): string {
  return `drained by ${by}: ${reason}`;
}

/** Runs under way in a cluster, as PROJECT/NUMBER/RUN. */
export async function listRunning(db: Database, cluster: string): Promise<string[]> {
  const { rows } = await sql<{ place: string }>`
    select b.project || '/' || b.number || '/' || r.name as place from runs r join builds b on b.id = r.build_id
    where r.cluster = ${cluster} and r.state not in ('queued', 'finished')
    order by b.created_at, r.position limit 1000`.execute(db);
  return rows.map(({ place }) => place);
}
