// Owns the facts behind the sentence that says why a run waits: rows of its cluster, its build and its job.
// Called by the routes of builds and runs; the sentence is made by domain/waiting.ts.
import { clusterOffers, clusterStates } from '../adapters/store/clusters';
import { listHosts } from '../adapters/store/hosts';
import { offerOf } from '../adapters/store/leases';
import { readPlan } from '../adapters/store/builds';
import type { RunRow } from '../adapters/store/runs';
import { readOrganisation } from '../adapters/store/projects';
import { whyForbidden } from '../domain/cluster-choice';
import { whyWaiting, type ClusterNow } from '../domain/waiting';
import type { ApiContext } from './context';
import { SILENT_AFTER_MS } from './views';

type Standing = Pick<RunRow, 'name' | 'state' | 'spec'>;

/**
 * One sentence a waiting run, by its name. @param runs those to be told about, of one build
 * @param all every run of the build
 */
export async function sayWaiting(
  context: ApiContext,
  buildId: string,
  { runs, all }: { runs: readonly RunRow[]; all: readonly Standing[] },
): Promise<Map<string, string>> {
  const waiting = runs.filter((run) => run.state === 'queued');
  if (waiting.length === 0) return new Map();
  const names = [...new Set(waiting.map((run) => run.cluster))];
  const [clusters, { jobs }, offers, organisation] = await Promise.all([
    readClusters(context, names),
    readPlan(context.db, buildId),
    clusterOffers(context.db, SILENT_AFTER_MS),
    readOrganisation(context.db, buildId),
  ]);
  const forbiddenIn = (run: RunRow): string | undefined => {
    const offer = offers.find(({ name }) => name === run.cluster);
    return offer && whyForbidden(offer, run.spec, { organisation });
  };
  const unfinished = new Set(all.filter((run) => run.state !== 'finished').map((run) => run.name));
  const limits = new Map(jobs.map(({ name, maxParallel }) => [name, maxParallel]));
  const limitOf = (job: string): { job: string; maxParallel: number } | undefined => {
    const maxParallel = limits.get(job);
    const open = all.filter((run) => run.spec.job === job && run.state !== 'finished' && run.state !== 'queued');
    return maxParallel !== undefined && open.length >= maxParallel ? { job, maxParallel } : undefined;
  };
  return new Map(
    waiting.map((run) => {
      const facts = {
        cluster: run.cluster,
        hostTag: run.spec.hostTag,
        pinned: run.placement.pinned,
        forbidden: forbiddenIn(run),
        openNeeds: run.spec.needs.filter((need) => unfinished.has(need)),
        jobLimit: limitOf(run.spec.job),
        noted: sayEnded(run),
        place: undefined,
      };
      return [run.name, whyWaiting(facts, clusters.get(run.cluster))];
    }),
  );
}

function sayEnded({ attempt, attempt_cause: cause, attempt_message: message }: RunRow): string | null {
  if (cause === null) return null;
  return `attempt ${attempt} ended as ${cause}${message ? ` (${message})` : ''}, another is under way`;
}

async function readClusters(context: ApiContext, names: readonly string[]): Promise<Map<string, ClusterNow>> {
  const [states, hosts] = await Promise.all([clusterStates(context.db, names, SILENT_AFTER_MS), listHosts(context.db)]);
  return new Map(
    states.map(({ name, ...state }) => [
      name,
      {
        ...state,
        hosts: hosts.filter((host) => host.cluster === name && host.silent_ms < SILENT_AFTER_MS).map(offerOf),
      },
    ]),
  );
}
