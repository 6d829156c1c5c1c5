// Owns the rows of hosts: the machines of workers, which say so themselves, and those listed by hand or made by a blueprint;
// how many slots each has, and whether and why it takes no runs. Which worker keeps which is in kept-hosts.ts.
// Called by the API; read inside the transaction that grants a lease.
import { sql, type Transaction } from 'kysely';
import { whyRetired } from '../../domain/on-demand';
import type { HostOffer } from '../../domain/placement';
import type { PutBlueprint } from '../../domain/schemas/blueprints';
import type { CreateHost, EditHost, MachineFacts, MadePhase, Reach } from '../../domain/schemas/hosts';
import { withoutUndefined } from '../../domain/without-undefined';
import type { Database } from './connect';
import { PROVE_EVERY_MS } from './quarantine';
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

/** Whether worker w serves hosts beside its own machine now. */
export const SERVES_HOSTS = sql<boolean>`(w.enlisted_at is not null
  and w.serves_hosts_at > now() - ${SILENT_AFTER_MS} * interval '1 millisecond')`;

/** Worker w was refused within that time. */
export const IS_REFUSED = sql<boolean>`(w.refused_at > now() - ${SILENT_AFTER_MS} * interval '1 millisecond')`;

export const UNKNOWN_MACHINE: MachineFacts = { os: null, arch: null, cpus: null, memoryBytes: null };
/** Nothing went wrong there lately. */
const WELL = { faults: 0, fault: null, quarantined_until: null };
/** States of a lease that somebody holds; and the same as SQL. */
export const LIVE_STATES = ['granted', 'active', 'releasing'] as const;
export const LIVE = sql.raw(`('${LIVE_STATES.join(`', '`)}')`);
export const idOf = (host: { cluster: string; name: string }): string => `${host.cluster}/${host.name}`;

/**
 * Registers a worker's own machine, or says that it is still there.
 * @param silentAfterMs a name may be taken over by another worker once its owner was silent for so long
 * A worker that has given its host another name leaves nothing behind but where work was.
 * @returns how many of its slots are under a live lease, and how often it is to prove itself; undefined when another living worker has a host of this name in
 *   the cluster, or it is a listed one, or this one has given too many names
 */
export async function recordHost(
  db: Database,
  host: HostFacts,
  silentAfterMs: number,
): Promise<{ heldSlots: number; proveEveryMs?: number } | undefined> {
  await sql`delete from hosts where cluster = ${host.cluster} and worker = ${host.worker} and name <> ${host.name}
    and origin = 'worker' and last_seen_at < now() - ${silentAfterMs} * interval '1 millisecond'
    and not exists (select 1 from leases where leases.host = hosts.id)`.execute(db);
  const { rows } = await sql<{ heldSlots: number; proveEveryMs: number | null }>`
    insert into hosts (id, cluster, name, worker, labels, slots, version, not_accepting, engine, machine)
    select ${idOf(host)}::text, ${host.cluster}::text, ${host.name}::text, ${host.worker}::text,
      ${JSON.stringify(host.labels)}::jsonb, ${host.slots}::int, ${host.version}::text, ${host.notAccepting}::text,
      ${host.engine ?? 'docker'}::text, ${JSON.stringify(host.machine ?? UNKNOWN_MACHINE)}::jsonb
    where (select count(*) from hosts where cluster = ${host.cluster} and worker = ${host.worker} and origin = 'worker')
      < ${MAX_HOSTS_A_WORKER} or exists (select 1 from hosts where id = ${idOf(host)})
    on conflict (id) do update set worker = excluded.worker, labels = excluded.labels, slots = excluded.slots,
      version = excluded.version, not_accepting = excluded.not_accepting, engine = excluded.engine,
      machine = case when ${host.machine !== undefined} then excluded.machine else hosts.machine end, last_seen_at = now(),
      origin = 'worker', reach = null, removed_at = null
      where hosts.removed_at is not null and hosts.origin <> 'made' or hosts.origin = 'worker' and (hosts.worker = excluded.worker
        or hosts.last_seen_at < now() - ${silentAfterMs} * interval '1 millisecond')
    returning (select count(*)::int from leases where leases.host = hosts.id and leases.state in ${LIVE}) as "heldSlots",
      ${PROVE_EVERY_MS} as "proveEveryMs"
    `.execute(db);
  const [recorded] = rows;
  if (!recorded) return undefined;
  const { heldSlots, proveEveryMs } = recorded;
  return { heldSlots, ...(proveEveryMs === null ? {} : { proveEveryMs }) };
}

/** Of a host that has not been heard yet. */
export const NEVER = sql<Date>`'epoch'`;

/** What runs are on a host. */
export const engineOf = ({ kind }: Reach): 'docker' | 'shell' => (kind.startsWith('docker-') ? 'docker' : 'shell');

/** Lists a host by hand. One that was removed comes back under its name. @returns false when the name is taken */
export async function createHost(db: Database, cluster: string, host: CreateHost): Promise<boolean> {
  const { labels, slots, reach } = host;
  const listed = {
    labels: JSON.stringify(labels),
    slots,
    reach: JSON.stringify(reach),
    engine: engineOf(reach),
    machine: JSON.stringify(UNKNOWN_MACHINE),
  };
  const fresh = {
    origin: 'listed' as const,
    worker: null,
    drain: null,
    removed_at: null,
    not_accepting: null,
    ...WELL,
  };
  const reset = { ...listed, ...fresh, last_seen_at: NEVER };
  const made = await db
    .insertInto('hosts')
    .values({ id: idOf({ cluster, name: host.name }), cluster, name: host.name, version: '', ...reset })
    .onConflict((conflict) =>
      conflict
        .column('id')
        .doUpdateSet(reset)
        .where('hosts.removed_at', 'is not', null)
        // The ledger of those that were made keeps their names.
        .where('hosts.origin', '<>', 'made'),
    )
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
    ...(reach ? { reach: JSON.stringify(reach), engine: engineOf(reach), ...WELL } : {}),
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

/** Takes a host out of use, or (null) back into it, out of quarantine too; what runs there finishes. @returns false when there is none of this name */
export async function setHostDrain(db: Database, host: HostKey, drain: HostDrainFacts | null): Promise<boolean> {
  const set = await db
    .updateTable('hosts')
    .set(drain ? { drain: JSON.stringify(drain) } : { drain: null, ...WELL })
    .where('id', '=', idOf(host))
    .where('removed_at', 'is', null)
    .executeTakeFirst();
  return set.numUpdatedRows === 1n;
}

export interface HostRow {
  name: string;
  cluster: string;
  worker: string | null;
  origin: 'worker' | 'listed' | 'made';
  engine: 'docker' | 'shell';
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
  /** ms since the host was last heard, by its worker where it is not its machine */
  silent_ms: number;
  /** Its worker serves hosts beside its own machine. */
  serves_others: boolean;
  /** Slots that were taken before its last fault. */
  busy_before: number;
  /** Why its worker is refused now; null: it is not, as far as that is known. */
  refusal: string | null;
  /** Null: no blueprint made it. */
  made: MadeFacts | null;
}

export interface MadeFacts {
  /** Name of its blueprint, and what that was when it was asked for. */
  blueprint: string;
  spec: PutBlueprint;
  phase: MadePhase;
  resource: string | null;
  /** Why it ends. */
  why: string | null;
  uses: number;
  ageSeconds: number;
}

/** As SQL, of row m of made_hosts. */
export const MADE_PHASE = sql<MadePhase>`case when m.ending_at is not null then 'ending'
  when m.ready_at is not null then 'ready' when m.made_at is not null then 'starting' else 'intended' end`;

/** Leases that a host was given in its life, as SQL. */
export const USES = sql<number>`(select count(*)::int from leases l where l.host = hosts.id)`;

const MADE = sql<MadeFacts | null>`(
  select jsonb_build_object('blueprint', b.name, 'spec', m.spec, 'phase', ${MADE_PHASE}, 'resource', m.resource,
    'why', m.why, 'uses', ${USES}, 'ageSeconds', extract(epoch from now() - m.intended_at))
  from made_hosts m join blueprints b on b.id = m.blueprint where m.host = hosts.id)`;

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
      sql<boolean>`exists (select 1 from workers w where w.cluster = hosts.cluster and w.id::text = hosts.worker
        and ${SERVES_HOSTS})`.as('serves_others'),
      sql<string | null>`(select w.refusal from workers w where w.cluster = hosts.cluster and w.id::text = hosts.worker
        and ${IS_REFUSED})`.as('refusal'),
      sql<number[]>`(select coalesce(jsonb_agg(slot), '[]') from leases
        where leases.host = hosts.id and leases.state in ${LIVE})`.as('busy'),
      sql<number>`(select count(*)::int from leases where leases.host = hosts.id and leases.state in ${LIVE}
        and leases.granted_at <= hosts.faulted_at)`.as('busy_before'),
      MADE.as('made'),
    ])
    .where('removed_at', 'is', null)
    .orderBy('cluster')
    .orderBy('name');
  if (cluster !== undefined) query = query.where('cluster', '=', cluster);
  if (name !== undefined) query = query.where('name', '=', name);
  return query.execute();
}

/**
 * The hosts of a cluster as placement sees them: those that were heard lately, and those kept by workers, which say why they
 * are not. @returns `silent`: machines of workers that are gone, which are offered to nobody
 */
export async function listOffers(
  db: Database | Transaction<Tables>,
  cluster: string,
  silentAfterMs: number,
): Promise<{ hosts: HostOffer[]; silent: HostOffer[]; freeSlots: number }> {
  const rows = await listHosts(db, cluster);
  const isThere = (host: HostRow): boolean => host.silent_ms < silentAfterMs || host.origin !== 'worker';
  const hosts = rows.filter(isThere).map((host) => offerOf(host, silentAfterMs));
  const silent = rows.filter((host) => !isThere(host)).map((host) => offerOf(host, silentAfterMs));
  const freeSlots = hosts
    .filter((host) => host.notAccepting === null)
    .reduce((sum, host) => sum + Math.max(host.slots - host.busySlots.length, 0), 0);
  return { hosts, silent, freeSlots };
}

/** As placement sees it. One that has failed is tried with one run at a time, beside what it had before. */
export function offerOf(host: HostRow, silentAfterMs: number): HostOffer {
  return {
    id: idOf(host),
    name: host.name,
    labels: host.labels,
    machine: host.machine,
    isBare: host.engine !== 'docker',
    slots: host.faults > 0 ? Math.min(host.slots, host.busy_before + 1) : host.slots,
    busySlots: host.busy,
    workerId: host.worker ?? '',
    notAccepting: whyRefused(host, silentAfterMs),
    isAway: host.silent_ms >= silentAfterMs,
    isComing: host.made?.phase === 'intended' || host.made?.phase === 'starting',
    reachedBy: host.reach === null ? undefined : host.reach.kind === 'container' ? 'own' : 'any',
    servesOthers: host.serves_others,
  };
}

/** Why a host takes no new runs now, in words; null: it does. */
export function whyRefused(host: HostRow, silentAfterMs: number): string | null {
  const unmade = host.made && whyUnmade(host.made, host.fault);
  if (unmade) return unmade;
  if (host.drain) return `drained by ${host.drain.by}: ${host.drain.reason}`;
  if (host.is_quarantined) return `left alone until it has proven that it works: ${host.fault}`;
  if (host.refusal !== null) return `its worker is refused: ${host.refusal}`;
  if (host.silent_ms < silentAfterMs) return host.not_accepting;
  if (host.origin === 'worker') return 'its worker is silent';
  if (host.worker === null) return 'no worker of the cluster serves it; start one there with SLIPWAY_SSH_KEY';
  return host.fault === null ? 'its worker has not reached it yet' : `its worker does not reach it: ${host.fault}`;
}

/** Why a host of a blueprint takes none, now or any more; null: it is not for that. */
function whyUnmade({ blueprint, spec, phase, why, ...made }: MadeFacts, fault: string | null): string | null {
  const last = fault === null ? '' : `; last: ${fault}`;
  if (phase === 'ending') return `it is being ended because ${why}${last}`;
  if (phase === 'intended') return `blueprint ${blueprint} is making it${last}`;
  if (phase === 'starting') return `blueprint ${blueprint} has made it, and it does not answer yet${last}`;
  return whyRetired(spec, made);
}
