// Owns the moves of waiting runs from one cluster to another: who must leave, who may go where, and what Temporal has been
// told of it. A run is moved while nobody holds its lease, so a task of it in the old cluster finds it gone.
// Called by the orchestrator's sweep, the maintenance of a cluster, and its preview.
import { sql, type Transaction } from 'kysely';
import { chooseMove, drawAt, movedFrom, type ClusterOffer, type Placement } from '../../domain/cluster-choice';
import type { PlannedRun } from '../../domain/schemas/plan';
import { clusterOffers } from './clusters';
import type { Database } from './connect';
import type { BuildKey } from './deliveries';
import type { Tables } from './tables';

/** Hosts whose worker was silent for longer are no reason to go somewhere, ms. */
const SILENT_AFTER_MS = 15_000;
/** Runs that one round moves. */
const PAGE = 200;

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

/** Names of clusters that take no runs now and in which runs wait that did not ask for them. */
export async function clustersToLeave(db: Database): Promise<string[]> {
  const { rows } = await sql<{ name: string }>`
    select name from clusters where (not active or drain is not null) and exists (
      select 1 from runs where runs.cluster = clusters.name and runs.state = 'queued'
        and not (runs.placement ->> 'pinned')::boolean)`.execute(db);
  return rows.map(({ name }) => name);
}

/** Where the waiting runs of a cluster could go if it took none. Nothing is changed. */
export async function planMoves(db: Database | Transaction<Tables>, cluster: string): Promise<MovePlan> {
  const clusters = await clusterOffers(db, SILENT_AFTER_MS);
  const from = clusters.find(({ name }) => name === cluster);
  const waiting = await listWaiting(db, cluster);
  const start = Math.random();
  const plan: MovePlan = { moves: [], stays: [] };
  waiting.forEach((run, position) => {
    const to = run.placement.pinned ? undefined : whereTo(clusters, run, drawAt(start, position));
    if (to) plan.moves.push({ run, to: to.cluster, placement: movedFrom(run, to, whyLeft(from)) });
    else
      plan.stays.push({ run, why: run.placement.pinned ? 'it names this cluster' : 'no other cluster is open to it' });
  });
  return plan;
}

function whereTo(clusters: readonly ClusterOffer[], run: WaitingRun, draw: number) {
  return chooseMove(clusters, run.spec, { asking: { organisation: run.organisation }, from: run.cluster, draw });
}

const whyLeft = (cluster: ClusterOffer | undefined): string => cluster?.drain ?? 'which takes no runs now';

async function listWaiting(db: Database | Transaction<Tables>, cluster: string): Promise<WaitingRun[]> {
  const { rows } = await sql<WaitingRun>`
    select r.id, b.project || '/' || b.number || '/' || r.name as place, r.spec, r.cluster, r.placement, p.organisation
    from runs r join builds b on b.id = r.build_id join projects p on p.name = b.project
    where r.cluster = ${cluster} and r.state = 'queued' and r.cancel_requested_at is null
    order by (r.placement ->> 'pinned')::boolean, b.created_at, r.position limit ${PAGE}`.execute(db);
  return rows;
}

/** Moves what may wait elsewhere, up to a page. Idempotent. @returns how many were moved */
export async function moveWaiting(db: Database, cluster: string): Promise<number> {
  const { moves } = await planMoves(db, cluster);
  let moved = 0;
  for (const { run, to, placement } of moves) {
    // Under the lock of the run, as a grant is: of the two only one happens.
    const { rows } = await sql`
      with locked as (select id from runs where id = ${run.id}::uuid for update)
      update runs set cluster = ${to}, placement = ${JSON.stringify(placement)}::jsonb, waiting = null,
        moved_at = now(), move_delivered_at = null
      where id = (select id from locked) and cluster = ${cluster} and state = 'queued' and not exists (
        select 1 from leases where run_id = runs.id and attempt > runs.base_attempt and leases.state in ('granted', 'active'))
      returning id`.execute(db);
    moved += rows.length;
  }
  return moved;
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
