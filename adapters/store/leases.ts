// Owns the grant of leases: one slot of a host for one attempt, under one lock a cluster and a rising fencing token.
// What their holders do is in holders.ts. Called by the API for workers only.
import { sql, type Transaction } from 'kysely';
import { whyForbidden, type ClusterRules, type Placement } from '../../domain/cluster-choice';
import { askOf, sayAsk } from '../../domain/host-tag';
import type { HostChoice } from '../../domain/placement';
import { DEFAULT_PRIORITY } from '../../domain/priority';
import { decideGrant } from '../../domain/queue-order';
import { longestMs } from '../../domain/build-input';
import { workerQueue } from '../../domain/names';
import type { Reach } from '../../domain/schemas/hosts';
import type { PlannedRun } from '../../domain/schemas/plan';
import type { HostBeside } from '../../domain/schemas/worker-api';
import type { Cause, RunState } from '../../domain/schemas/words';
import { findBeside, grantBeside } from './beside';
import { RULES, whyClosed } from './clusters';
import { commitOf, specAt } from './commits';
import type { Database } from './connect';
import { isHeld } from './holds';
import { listOffers, LIVE_STATES } from './hosts';
import { READY_AT, readHoldings, readWaiting, WAITED, waitingRun } from './queue';
import type { DrainFacts, Tables } from './tables';

export interface LeaseRequest {
  runId: string;
  attempt: number;
  worker: string;
  /** Of the worker that asks; a run of another cluster is none of its business. */
  cluster: string;
  /** How often the run had been moved when its task was made; absent: whoever asks does not know. */
  move?: number;
  /** A host whose worker was silent for longer is not offered, ms. */
  silentAfterMs: number;
  /** For a new attempt; one that exists keeps the cap it began with, or its log would not fit together. */
  logCapBytes: number;
  /** In which a line that gets nothing rises by one priority, ms. */
  ageStepMs: number;
  /** Why no slots are granted now, in words; null or absent: they are. */
  paused?: string | null;
}
export interface GrantedLease {
  kind: 'granted';
  token: number;
  project: string;
  build: number;
  run: string;
  spec: PlannedRun;
  host: string;
  /** How its worker reaches the host; absent: it is the worker's own machine. */
  reach?: Reach;
  /** The others that it has, by the names that the run gives them; absent: none. */
  beside?: HostBeside[];
  /** What to make the container from: the reference in the plan, or the digest that an earlier attempt ran. */
  image: string;
  leasedForMs: number;
  silentForMs: number;
  /** True once the container may exist: then it is adopted and never created again. */
  mayHaveStarted: boolean;
  logBytes: number;
  logCapBytes: number;
}
export type LeaseAnswer =
  | GrantedLease
  | { kind: 'elsewhere'; queue: string }
  | { kind: 'waiting'; reason: string }
  | { kind: 'cancelled' }
  | { kind: 'moved'; cluster: string; move: number }
  | { kind: 'foreign' }
  | { kind: 'clean'; token: number; cause: Cause; host?: string; reach?: Reach; beside?: HostBeside[] }
  | { kind: 'ended'; cause: Cause };

/**
 * Grants the attempt a slot, or says why not. Idempotent: an attempt that has a live lease keeps its slot, but under a new
 * token, so that of two supervisors of one attempt (one of them paused, or believed dead) the later one alone is heard.
 * One lock a cluster serialises grants; the unique indexes of `leases` would refuse a double grant anyway.
 */
export async function requestLease(db: Database, request: LeaseRequest): Promise<LeaseAnswer> {
  return db.transaction().execute(async (tx) => {
    const run = await lockRun(tx, request.runId);
    if (!run) return { kind: 'foreign' };
    const live = await findLive(tx, request);
    if ((live?.cluster ?? run.cluster) !== request.cluster) return notHere(run, request.cluster);
    if (live && live.worker !== request.worker) return followHost(live);
    const beside = live && run.spec.hosts && (await findBeside(tx, request));
    if (live?.state === 'finished' && live.is_held) return { kind: 'ended', cause: live.cause ?? 'internal' };
    if (live?.state === 'finished') return cleaning(live, beside);
    if (live) return grantOf(run, { ...live, token: await raiseToken(tx, live.token, request.worker) }, beside);
    if (run.state === 'finished') return { kind: 'ended', cause: run.cause ?? 'internal' };
    const ended = await findEnd(tx, request);
    if (ended || run.attempt > request.attempt) return { kind: 'ended', cause: ended ?? 'host-lost' };
    if (run.cancelled) return { kind: 'cancelled' };
    if (isOfEarlierMove(run, request)) return moved(run);
    return grant(tx, run, request);
  });
}

interface LockedRun {
  id: string;
  build_id: string;
  project: string;
  number: number;
  name: string;
  spec: PlannedRun;
  commit: string | null;
  cluster: string;
  placement: Placement;
  organisation: string | null;
  state: RunState;
  cause: Cause | null;
  attempt: number;
  cancelled: boolean;
  ready_at: Date;
  waited_ms: number;
  unserved_ms: number;
}

async function lockRun(tx: Transaction<Tables>, runId: string): Promise<LockedRun | undefined> {
  const { rows } = await sql<LockedRun>`
    select r.id, r.build_id, b.project, b.number, r.name, r.spec, ${commitOf('r')} as commit, r.cluster, r.placement, p.organisation, r.state, r.cause,
      r.attempt, (b.cancel_requested_at is not null or r.cancel_requested_at is not null) as cancelled,
      ${READY_AT} as ready_at, ${WAITED}
    from runs r join builds b on b.id = r.build_id join projects p on p.name = b.project
    where r.id = ${runId}::uuid for update of r`.execute(tx);
  return rows[0];
}

interface LiveLease {
  token: number;
  cluster: string;
  host: string;
  /** Who serves the host now; null: nobody. */
  worker: string | null;
  reach: Reach | null;
  state: RunState;
  cause: Cause | null;
  /** What it left is kept. */
  is_held: boolean;
  starting_at: Date | null;
  log_bytes: number;
  log_cap_bytes: number;
  leased_ms: number;
  silent_ms: number;
  /** Of the first attempt of the run in this cluster that got so far. */
  image: string | null;
}

/** How long ago, in ms by the clock of the store. */
const ago = (instant: string) => sql<number>`coalesce(extract(epoch from now() - ${sql.raw(instant)}) * 1000, 0)::int8`;

/** What the first attempt ran. Only of the same cluster: what a worker says of its image must not decide what others run. */
const FIRST_IMAGE = sql<string | null>`(select image_digest from attempts as earlier
  where earlier.run_id = leases.run_id and earlier.image_digest is not null and exists (
    select 1 from leases as theirs where theirs.run_id = earlier.run_id and theirs.attempt = earlier.number
      and split_part(theirs.host, '/', 1) = split_part(leases.host, '/', 1))
  order by number limit 1)`;

async function findLive(tx: Transaction<Tables>, request: LeaseRequest): Promise<LiveLease | undefined> {
  return tx
    .selectFrom('leases')
    .innerJoin('hosts', 'hosts.id', 'leases.host')
    .innerJoin('attempts', (join) =>
      join.onRef('attempts.run_id', '=', 'leases.run_id').onRef('attempts.number', '=', 'leases.attempt'),
    )
    .select([
      'token',
      'hosts.cluster',
      'hosts.name as host',
      'hosts.worker',
      'hosts.reach',
      'attempts.state',
      'attempts.cause',
      'starting_at',
      'log_bytes',
      'log_cap_bytes',
    ])
    .select([
      ago('granted_at').as('leased_ms'),
      ago('greatest(started_at, last_output_at)').as('silent_ms'),
      FIRST_IMAGE.as('image'),
      isHeld('leases').as('is_held'),
    ])
    .where('leases.run_id', '=', request.runId)
    .where('leases.attempt', '=', request.attempt)
    .where('leases.name', '=', '')
    .where('leases.state', 'in', LIVE_STATES)
    .executeTakeFirst();
}

async function raiseToken(tx: Transaction<Tables>, token: number, worker: string): Promise<number> {
  const { rows } = await sql<{ token: number }>`
    update leases set token = default, holder = ${worker}, why = 'another supervisor of its attempt'
    where token = ${token} returning token`.execute(tx);
  const raised = rows[0]?.token;
  if (raised === undefined) throw new Error(`lease ${token} vanished under its lock`);
  return raised;
}

/** How the attempt ended, if it has. */
async function findEnd(tx: Transaction<Tables>, request: LeaseRequest): Promise<Cause | undefined> {
  const attempt = await tx
    .selectFrom('attempts')
    .select('cause')
    .where('run_id', '=', request.runId)
    .where('number', '=', request.attempt)
    .where('state', '=', 'finished')
    .executeTakeFirst();
  return attempt?.cause ?? undefined;
}

/** A task of the cluster that a run has left may still be under way there; anybody else asks for what is not theirs. */
function notHere(run: LockedRun, asking: string): LeaseAnswer {
  return run.placement.before?.includes(asking) ? moved(run) : { kind: 'foreign' };
}

function moved({ cluster, placement }: LockedRun): LeaseAnswer {
  return { kind: 'moved', cluster, move: placement.moves ?? 0 };
}

/**
 * The run went away and came back while its task lay in the queue. Granted now, its script would be stopped by the news of
 * those moves when they reach the workflow; told of them first, the workflow sends another task.
 */
function isOfEarlierMove({ placement }: LockedRun, { move }: LeaseRequest): boolean {
  return move !== undefined && move < (placement.moves ?? 0);
}

function elsewhere(cluster: string, worker: string): LeaseAnswer {
  return { kind: 'elsewhere', queue: workerQueue(cluster, worker) };
}

/** To whoever serves the host of the attempt now. */
function followHost({ cluster, host, worker }: LiveLease): LeaseAnswer {
  if (worker !== null) return elsewhere(cluster, worker);
  return { kind: 'waiting', reason: `no worker serves its host ${host} now; another of cluster ${cluster} will` };
}

function cleaning({ token, cause, host, reach }: LiveLease, beside: HostBeside[] = []): LeaseAnswer {
  const others = beside.length > 0 ? { beside } : {};
  return { kind: 'clean', token, cause: cause ?? 'internal', ...(reach ? { host, reach } : {}), ...others };
}

function grantOf(run: LockedRun, live: LiveLease, beside: HostBeside[] = []): GrantedLease {
  return {
    kind: 'granted',
    token: live.token,
    project: run.project,
    build: run.number,
    run: run.name,
    spec: specForWorker(specAt(run.spec, run.commit)),
    host: live.host,
    ...(live.reach ? { reach: live.reach } : {}),
    ...(beside.length > 0 ? { beside } : {}),
    image: live.image ?? run.spec.container,
    leasedForMs: live.leased_ms,
    silentForMs: live.silent_ms,
    mayHaveStarted: live.starting_at !== null,
    logBytes: live.log_bytes,
    logCapBytes: live.log_cap_bytes,
  };
}

/** Without what a worker has no use for: one of an older version refuses a key that it does not know. */
function specForWorker(spec: PlannedRun): PlannedRun {
  const { priority: _, holdMs: __, resources, ...rest } = spec;
  const { artifactBytes: ___, ...others } = resources;
  return { ...rest, resources: others };
}

interface LockedCluster extends ClusterRules {
  active: boolean;
  drain: DrainFacts | null;
  max_slots_per_project: number | null;
}

/** One lock a cluster serialises grants. */
async function lockCluster(tx: Transaction<Tables>, name: string): Promise<LockedCluster | undefined> {
  const { rows } = await sql<LockedCluster>`
    select ${RULES}, active, drain, max_slots_per_project from clusters where name = ${name} for update`.execute(tx);
  return rows[0];
}

/** @param helps `no-slot-helps`: it is not woken when there is one, but when its cluster is changed */
async function putOff(
  tx: Transaction<Tables>,
  run: LockedRun,
  ...[reason, helps]: [reason: string, helps?: 'no-slot-helps']
): Promise<LeaseAnswer> {
  const waits = { waiting: reason, waiting_since: run.ready_at, asked_at: helps ? null : sql<Date>`now()` };
  await tx.updateTable('runs').set(waits).where('id', '=', run.id).execute();
  return { kind: 'waiting', reason };
}

async function grant(tx: Transaction<Tables>, run: LockedRun, request: LeaseRequest): Promise<LeaseAnswer> {
  if (request.paused) return putOff(tx, run, request.paused);
  const cluster = await lockCluster(tx, run.cluster);
  if (!cluster) return putOff(tx, run, `cluster ${run.cluster} is not registered`);
  const closed = whyClosed(cluster);
  if (closed !== null) return putOff(tx, run, `cluster ${cluster.name} ${closed}`);
  const forbidden = whyForbidden(cluster, run.spec, run);
  if (forbidden !== undefined) return putOff(tx, run, forbidden, 'no-slot-helps');
  const choice = await chooseSlot(tx, run, { ...request, maxSlotsPerProject: cluster.max_slots_per_project });
  if (choice.kind === 'none') return putOff(tx, run, choice.reason);
  return take(tx, run, { request, choice });
}

/** Makes the leases of all hosts that were chosen. */
async function take(
  tx: Transaction<Tables>,
  run: LockedRun,
  { request, choice }: { request: LeaseRequest; choice: Extract<HostChoice, { kind: 'host' }> },
): Promise<LeaseAnswer> {
  const { host, slot, beside } = choice;
  const { rows } = await sql<{ token: number; reach: Reach | null; image: string | null }>`
    with moved as (
      update runs set state = 'leasing', attempt = ${request.attempt}, waiting = null, asked_at = null
      where id = ${run.id}::uuid
    ), begun as (
      update builds set state = 'running', started_at = coalesce(started_at, now())
      where id = ${run.build_id}::uuid and state = 'queued'
    ), served as (
      insert into lines (cluster, project, priority, host_tag, served_at)
      values (${run.cluster}, ${run.project}, ${run.spec.priority ?? DEFAULT_PRIORITY}, ${askOf(run.spec) ?? ''}, now())
      on conflict (cluster, project, priority, host_tag) do update set served_at = now(), raised_run = null
    ), warmed as (
      insert into working_copies (host, url, used_at)
      select ${host.id}, ${run.spec.checkout?.url ?? null}::text, now() where ${run.spec.checkout !== undefined}
      on conflict (host, url) do update set used_at = now()
    ), attempted as (
      insert into attempts (run_id, number, state, host, worker, log_cap_bytes)
      values (${run.id}::uuid, ${request.attempt}, 'leasing', ${host.name}, ${host.workerId}, ${request.logCapBytes}::bigint)
      on conflict (run_id, number) do update set host = excluded.host, worker = excluded.worker, state = excluded.state
    )
    insert into leases (run_id, attempt, host, slot, holder, why, deadline_at)
    values (${run.id}::uuid, ${request.attempt}, ${host.id}, ${slot}, ${host.workerId}, ${sayWhy(run, request)},
      now() + ${longestMs(run.spec)} * interval '1 millisecond')
    returning token, (select reach from hosts where id = leases.host) as reach, ${FIRST_IMAGE} as image`.execute(tx);
  const [lease] = rows;
  if (!lease) throw new Error('no token came back from the grant');
  const others = await grantBeside(tx, request, {
    slots: new Map(Object.keys(run.spec.hosts ?? {}).map((name, at) => [name, beside[at]!])),
    holder: host.workerId,
    why: sayWhy(run, request),
    longestMs: longestMs(run.spec),
  });
  if (host.workerId !== request.worker) return elsewhere(run.cluster, host.workerId);
  const granted: LiveLease = {
    ...lease,
    cluster: run.cluster,
    host: host.name,
    worker: host.workerId,
    state: 'leasing',
    cause: null,
    is_held: false,
    starting_at: null,
    log_bytes: 0,
    log_cap_bytes: request.logCapBytes,
    leased_ms: 0,
    silent_ms: 0,
  };
  return grantOf(run, granted, others);
}

/** Ids of hosts on which an earlier run worked on the same repository, so that its mirror is there. */
async function warmHosts(tx: Transaction<Tables>, { checkout }: PlannedRun): Promise<ReadonlySet<string>> {
  if (!checkout) return new Set();
  const rows = await tx.selectFrom('working_copies').select('host').where('url', '=', checkout.url).execute();
  return new Set(rows.map(({ host }) => host));
}

function sayWhy({ project, number, name, spec }: LockedRun, { attempt }: LeaseRequest): string {
  const ask = askOf(spec);
  return `attempt ${attempt} of ${project}/${number}/${name}${ask === undefined ? '' : ` asks for ${sayAsk(ask)}`}`;
}

async function chooseSlot(
  tx: Transaction<Tables>,
  run: LockedRun,
  request: LeaseRequest & { maxSlotsPerProject: number | null },
): Promise<HostChoice> {
  const { cluster, id, spec } = run;
  const { maxSlotsPerProject } = request;
  if (spec.hosts && (await findBeside(tx, request)).length > 0) {
    return { kind: 'none', reason: 'what it had on its other hosts is still being taken back' };
  }
  const { hosts, freeSlots } = await listOffers(tx, cluster, request.silentAfterMs);
  const warm = await warmHosts(tx, spec);
  const waiting = freeSlots === 0 ? [] : await readWaiting(tx, { cluster, except: id, freeSlots });
  const needsHoldings = waiting.length > 0 || maxSlotsPerProject !== null;
  // It is here and its like are not, so it has the claim of whoever is in front of their line.
  const me = { ...run, priority: spec.priority ?? DEFAULT_PRIORITY, host_tag: askOf(spec) ?? null, place: 1 };
  return decideGrant({
    asker: waitingRun(me, request.ageStepMs),
    worker: request.worker,
    waiting: waiting.map((row) => waitingRun(row, request.ageStepMs)),
    hosts: hosts.map((host) => ({ ...host, isWarm: warm.has(host.id) })),
    holdings: needsHoldings ? await readHoldings(tx, cluster) : new Map(),
    cluster,
    maxSlotsPerProject,
  });
}
