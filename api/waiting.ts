// Owns the facts behind the sentence that says why a run waits: rows of its cluster, its build and its job.
// Called by the routes of builds and runs; the sentence is made by domain/waiting.ts.
import { listBlueprints, type BlueprintRow } from '../adapters/store/blueprints';
import { clusterStates } from '../adapters/store/clusters';
import { listOffers, SILENT_AFTER_MS } from '../adapters/store/hosts';
import { readJobs } from '../adapters/store/builds';
import { queuePositions, type QueuePosition } from '../adapters/store/queue';
import type { RunRow } from '../adapters/store/runs';
import { readOrganisation } from '../adapters/store/projects';
import { askOf } from '../domain/host-tag';
import { whyForbidden, type ClusterRules } from '../domain/cluster-choice';
import type { BlueprintStanding } from '../domain/on-demand';
import { whyHeldUp, whyWaiting, type ClusterNow } from '../domain/waiting';
import type { ApiContext } from './context';

type Standing = Pick<RunRow, 'name' | 'state' | 'spec'>;

/**
 * One sentence for each run that waits or is held up, by its name. @param runs those to be told about, of one build
 * @param all every run of the build
 */
export async function sayWaiting(
  context: ApiContext,
  buildId: string,
  { runs, all }: { runs: readonly RunRow[]; all: readonly Standing[] },
): Promise<Map<string, string>> {
  const open = runs.filter((run) => run.state !== 'finished');
  if (open.length === 0) return new Map();
  const waiting = open.filter((run) => run.state === 'queued' && run.cancel_requested_at === null);
  const names = [...new Set(open.map((run) => run.cluster))];
  const [clusters, jobs, positions, organisation, paused] = await Promise.all([
    readClusters(context, names),
    readJobs(context.db, buildId),
    readPositions(context, [...new Set(waiting.map((run) => run.cluster))]),
    readOrganisation(context.db, buildId),
    context.blobs.whyFull(),
  ]);
  const forbiddenIn = (run: RunRow): string | undefined => {
    const rules = clusters.get(run.cluster)?.rules;
    return rules && whyForbidden(rules, run.spec, { organisation });
  };
  const unfinished = new Set(all.filter((run) => run.state !== 'finished').map((run) => run.name));
  const limits = new Map(jobs.map(({ name, maxParallel }) => [name, maxParallel]));
  const limitOf = (job: string): { job: string; maxParallel: number } | undefined => {
    const maxParallel = limits.get(job);
    const open = all.filter((run) => run.spec.job === job && run.state !== 'finished' && run.state !== 'queued');
    return maxParallel !== undefined && open.length >= maxParallel ? { job, maxParallel } : undefined;
  };
  const trouble = context.troubles.say();
  const sayWhy = (run: RunRow): string | null => {
    const isCancelled = run.cancel_requested_at !== null;
    const cluster = clusters.get(run.cluster);
    if (run.state !== 'queued' || isCancelled) {
      const host = run.state === 'queued' ? null : run.host;
      return cluster ? whyHeldUp({ host, isCancelled }, cluster) : null;
    }
    const facts = {
      cluster: run.cluster,
      hostTag: askOf(run.spec),
      pinned: run.placement.pinned,
      forbidden: forbiddenIn(run),
      openNeeds: run.spec.needs.filter((need) => unfinished.has(need)),
      jobLimit: limitOf(run.spec.job),
      paused,
      noted: sayEnded(run),
      place: placeOf(positions.get(run.cluster)?.get(run.id)),
    };
    return whyWaiting(facts, cluster);
  };
  return new Map(
    open.flatMap((run) => {
      const parts = [trouble, sayWhy(run)].filter((part) => part !== null);
      return parts.length === 0 ? [] : [[run.name, parts.join('; ')]];
    }),
  );
}

const placeOf = (at: QueuePosition | undefined): { position: number; of: number } | undefined =>
  at && { position: at.position, of: at.length };

/** A page of a build asks every second, and the places of thousands of runs do not come for nothing, ms. */
const POSITIONS_MS = 2_000;
const known = new WeakMap<ApiContext, Map<string, { at: number; positions: Promise<Map<string, QueuePosition>> }>>();

function positionsIn(context: ApiContext, cluster: string): Promise<Map<string, QueuePosition>> {
  const all = known.get(context) ?? new Map();
  known.set(context, all);
  const before = all.get(cluster);
  if (before && performance.now() - before.at < POSITIONS_MS) return before.positions;
  const positions = queuePositions(context.db, cluster, context.ageStepMs);
  all.set(cluster, { at: performance.now(), positions });
  positions.catch(() => all.delete(cluster));
  return positions;
}

async function readPositions(
  context: ApiContext,
  names: readonly string[],
): Promise<Map<string, Map<string, QueuePosition>>> {
  const found = await Promise.all(names.map((name) => positionsIn(context, name)));
  return new Map(names.map((name, at) => [name, found[at]!]));
}

function sayEnded({ attempt, attempt_cause: cause, attempt_message: message }: RunRow): string | null {
  // It was handed back: its host could not begin it.
  if (cause === null) return message || null;
  return `attempt ${attempt} ended as ${cause}${message ? ` (${message})` : ''}, another is under way`;
}

const blueprintNow = ({ name, spec, phases, fault, ...row }: BlueprintRow): BlueprintStanding => ({
  name,
  spec,
  hosts: phases.length,
  isServed: row.is_served,
  restingUntil: row.resting_until?.toISOString() ?? null,
  fault,
});

async function readClusters(
  { db }: ApiContext,
  names: readonly string[],
): Promise<Map<string, ClusterNow & { rules: ClusterRules }>> {
  const states = await clusterStates(db, names, SILENT_AFTER_MS);
  const clusters = states.map(async (state): Promise<[string, ClusterNow & { rules: ClusterRules }]> => {
    const { name } = state.rules;
    const [{ hosts, silent }, blueprints] = await Promise.all([
      listOffers(db, name, SILENT_AFTER_MS),
      listBlueprints(db, name),
    ]);
    return [name, { ...state, hosts, silent, blueprints: blueprints.map(blueprintNow) }];
  });
  return new Map(await Promise.all(clusters));
}
