// Owns the moves of waiting runs from one cluster to another: who must leave, who may go where, and what Temporal has been
// told of it. A run is moved while nobody holds its lease, so a task of it in the old cluster finds it gone.
// Called by the orchestrator's sweep, the maintenance of a cluster, and its preview.
import { sql } from 'kysely';
import {
  chooseByHost,
  chooseMove,
  drawAt,
  hasHost,
  isOpen,
  movedFrom,
  whyForbidden,
  type ClusterOffer,
  type Placement,
} from '../../domain/cluster-choice';
import type { PlannedRun } from '../../domain/schemas/plan';
import { clusterOffers } from './clusters';
import type { Database } from './connect';
import type { BuildKey } from './deliveries';
import { SILENT_AFTER_MS } from './hosts';

/** Runs that are looked at together. */
const PAGE = 200;
/** Pages that one round looks at: many that must stay must not hide those behind them. */
const MAX_PAGES = 50;

interface WaitingRun {
  id: string;
  place: string;
  spec: PlannedRun;
  cluster: string;
  placement: Placement;
  organisation: string | null;
}

export interface MovePlan {
  moves: { run: WaitingRun; to: string; placement: Placement }[];
  stays: { run: WaitingRun; why: string }[];
}

/**
 * Names of clusters in which runs wait that did not ask for them and cannot stay: it takes none now, it is gone, or it does
 * not serve their organisation any more.
 */
export async function clustersToLeave(db: Database): Promise<string[]> {
  const { rows } = await sql<{ name: string }>`
    select distinct r.cluster as name from runs r join builds b on b.id = r.build_id join projects p on p.name = b.project
      left join clusters c on c.name = r.cluster
    where r.state = 'queued' and not (r.placement ->> 'pinned')::boolean
      and (c.name is null or not c.active or c.drain is not null
        or not (c.kind = 'default' and c.organisations = '[]' or c.organisations ? coalesce(p.organisation, '')))`.execute(
    db,
  );
  return rows.map(({ name }) => name);
}

interface Asked {
  cluster: string;
  /** Null: any host will do. */
  hostTag: string | null;
}

/** Clusters in which runs wait that did not ask for them, and for which hosts. */
async function listAsked(db: Database): Promise<Asked[]> {
  const { rows } = await sql<Asked>`
    select distinct cluster, host_tag as "hostTag" from runs
    where state = 'queued' and not (placement ->> 'pinned')::boolean`.execute(db);
  return rows;
}

/** Where the waiting runs of a cluster could go if it took none. Nothing is changed. */
export async function planMoves(db: Database, cluster: string): Promise<MovePlan> {
  const clusters = await clusterOffers(db, SILENT_AFTER_MS);
  return planPage(db, { clusters, choose: chooseMove }, { cluster, offset: 0 });
}

interface Page {
  cluster: string;
  /** Only runs that ask for it, or for none. */
  hostTag?: string | null;
  /** Runs at the front that were looked at and stay. */
  offset: number;
}

interface Choosing {
  clusters: readonly ClusterOffer[];
  choose: typeof chooseMove;
}

async function planPage(db: Database, { clusters, choose }: Choosing, page: Page): Promise<MovePlan> {
  const from = clusters.find(({ name }) => name === page.cluster);
  const waiting = await listWaiting(db, page);
  const start = Math.random();
  const plan: MovePlan = { moves: [], stays: [] };
  waiting.forEach((run, position) => {
    const at = { asking: { organisation: run.organisation }, from: run.cluster, draw: drawAt(start, position) };
    const to = run.placement.pinned ? undefined : choose(clusters, run.spec, at);
    if (to) plan.moves.push({ run, to: to.cluster, placement: movedFrom(run, to, whyLeft(from, page)) });
    else
      plan.stays.push({ run, why: run.placement.pinned ? 'it names this cluster' : 'no other cluster is open to it' });
  });
  return plan;
}

function whyLeft(cluster: ClusterOffer | undefined, { hostTag }: Page): string {
  if (hostTag === null) return 'whose workers are all away';
  if (hostTag !== undefined) return `which has no host that matches host-tag "${hostTag}"`;
  if (!cluster) return 'which is not registered any more';
  if (!isOpen(cluster)) return cluster.drain ?? 'which takes no runs now';
  return 'which may not take it any more';
}

async function listWaiting(db: Database, { cluster, hostTag, offset }: Page): Promise<WaitingRun[]> {
  const { rows } = await sql<WaitingRun>`
    select r.id, b.project || '/' || b.number || '/' || r.name as place, r.spec, r.cluster, r.placement, p.organisation
    from runs r join builds b on b.id = r.build_id join projects p on p.name = b.project
    where r.cluster = ${cluster} and r.state = 'queued' and r.cancel_requested_at is null
      and (${hostTag === undefined} or r.host_tag is not distinct from ${hostTag ?? null}::text)
    order by (r.placement ->> 'pinned')::boolean, b.created_at, r.position, r.id
    limit ${PAGE} offset ${offset}`.execute(db);
  return rows;
}

/**
 * Moves what cannot stay and may wait elsewhere: all of a cluster that takes no runs, of another one those that it may not
 * take any more. Idempotent. @returns how many were moved
 */
export async function moveWaiting(db: Database, cluster: string): Promise<number> {
  const clusters = await clusterOffers(db, SILENT_AFTER_MS);
  const from = clusters.find(({ name }) => name === cluster);
  const mustLeave = (run: WaitingRun): boolean =>
    from === undefined ||
    !isOpen(from) ||
    whyForbidden(from, run.spec, { organisation: run.organisation }) !== undefined;
  return movePages(db, { clusters, choose: chooseMove }, { page: { cluster }, mustLeave });
}

/**
 * Moves runs whose cluster has no host for them, e.g. since its workers are all away, to a cluster that has one. While none
 * has, they wait where they are. Idempotent. @returns how many were moved
 */
export async function moveToHosts(db: Database): Promise<number> {
  const pages = await listAsked(db);
  if (pages.length === 0) return 0;
  const clusters = await clusterOffers(db, SILENT_AFTER_MS);
  let moved = 0;
  for (const page of pages) {
    if (isServed(clusters, page)) continue;
    moved += await movePages(db, { clusters, choose: chooseByHost }, { page, mustLeave: () => true });
  }
  return moved;
}

/** Its own cluster has such a host, or no cluster has: there is nothing to look at, however many wait. */
function isServed(clusters: readonly ClusterOffer[], { cluster, hostTag }: Asked): boolean {
  const having = clusters.filter((one) => isOpen(one) && hasHost(one, hostTag ?? undefined));
  return having.length === 0 || having.some(({ name }) => name === cluster);
}

async function movePages(
  db: Database,
  choosing: Choosing,
  { page, mustLeave }: { page: Omit<Page, 'offset'>; mustLeave: (run: WaitingRun) => boolean },
): Promise<number> {
  let moved = 0;
  let offset = 0;
  for (let count = 0; count < MAX_PAGES; count += 1) {
    const { moves, stays } = await planPage(db, choosing, { ...page, offset });
    let gone = 0;
    for (const move of moves) if (mustLeave(move.run) && (await moveOne(db, move))) gone += 1;
    moved += gone;
    offset += moves.length + stays.length - gone;
    if (moves.length + stays.length < PAGE || (moves.length === 0 && stays.every(({ run }) => run.placement.pinned)))
      break;
  }
  return moved;
}

/** Under the lock of the run, as a grant is: of the two only one happens. */
async function moveOne(db: Database, { run, to, placement }: MovePlan['moves'][number]): Promise<boolean> {
  const { rows } = await sql`
    with locked as (select id from runs where id = ${run.id}::uuid for update)
    update runs set cluster = ${to}, placement = ${JSON.stringify(placement)}::jsonb, waiting = null,
      moved_at = now(), move_delivered_at = null
    where id = (select id from locked) and cluster = ${run.cluster} and state = 'queued' and not exists (
      select 1 from leases where run_id = runs.id and attempt > runs.base_attempt and leases.state in ('granted', 'active'))
    returning id`.execute(db);
  return rows.length === 1;
}

/** Moves that the workflow of the build has not been told of. */
export async function movesToDeliver(
  db: Database,
): Promise<(BuildKey & { runId: string; run: string; cluster: string; move: number })[]> {
  const { rows } = await sql<BuildKey & { runId: string; run: string; cluster: string; move: number }>`
    select b.project, b.number, b.reruns, r.id as "runId", r.name as run, r.cluster,
      coalesce((r.placement ->> 'moves')::int, 0) as move
    from runs r join builds b on b.id = r.build_id
    where r.moved_at is not null and r.move_delivered_at is null and b.dispatched_at is not null and b.state <> 'finished'
    limit ${PAGE}`.execute(db);
  return rows;
}

/** @param move that was told: a later one still has to be */
export async function markMoveDelivered(db: Database, { runId, move }: { runId: string; move: number }): Promise<void> {
  await sql`update runs set move_delivered_at = now()
    where id = ${runId}::uuid and coalesce((placement ->> 'moves')::int, 0) = ${move}`.execute(db);
}
