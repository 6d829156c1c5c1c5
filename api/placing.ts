// Owns the placing of a build's runs at the trigger: facts from the store, decision by domain/cluster-choice.ts.
// Called by the trigger and by the preview of a plan.
import { clusterOffers } from '../adapters/store/clusters';
import { chooseCluster, drawAt, type Asking, type Placement } from '../domain/cluster-choice';
import type { Plan } from '../domain/schemas/plan';
import type { ApiContext } from './context';
import { Refusal } from './problem';
import { SILENT_AFTER_MS } from '../adapters/store/hosts';

export interface Place {
  cluster: string;
  placement: Placement;
}

const STATUS = { 'unknown-cluster': 422, 'no-cluster': 422, 'not-authorised': 403, policy: 403 };

/** One place a run, in the order of the plan. @throws Refusal 422 or 403 naming the run and the cluster */
export async function placeRuns(context: ApiContext, plan: Plan, asking: Asking): Promise<Place[]> {
  const clusters = await clusterOffers(context.db, SILENT_AFTER_MS);
  const start = Math.random();
  return plan.runs.map((run, position) => {
    const choice = chooseCluster(clusters, run, { asking, draw: drawAt(start, position) });
    if (choice.kind === 'placed') return choice;
    throw new Refusal(STATUS[choice.code], choice.code, choice.detail);
  });
}
