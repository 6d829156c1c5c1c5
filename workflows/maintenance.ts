// Owns the maintenance of a cluster: moves what may wait elsewhere, watches what still runs, ends it at the deadline, and
// stays until the cluster is taken up again. The rows say what is to happen; this makes it happen, and shows it in the trace.
// Started by the orchestrator's sweep, one workflow a maintenance.
//
//   draining (N left) ──N = 0──> drained ──────────┐
//        └──deadline: what runs is cancelled──^     ├── rows say it is over ──> ends
//        └──────────────────────────────────────────┘
import { condition, continueAsNew, setCurrentDetails, setHandler, workflowInfo } from '@temporalio/workflow';
import type { MaintenanceInput } from '../domain/build-input';
import { maintenanceChanged } from './messages';
import { records } from './run';

/** Pauses between looks, ms: while work is left, and when there is none any more. */
const LOOK_MS = { draining: 2_000, drained: 60_000 };

export async function maintenance(input: MaintenanceInput): Promise<string> {
  let changes = 0;
  setHandler(maintenanceChanged, () => void (changes += 1));
  while (!workflowInfo().continueAsNewSuggested) {
    const seen = changes;
    const now = await records.maintainCluster(input);
    if (now.isOver) return 'the cluster takes new runs again';
    setCurrentDetails(now.left > 0 ? `draining (${now.left} left); ${now.why}` : `drained; ${now.why}`);
    await condition(() => changes !== seen, now.left > 0 ? LOOK_MS.draining : LOOK_MS.drained);
  }
  return continueAsNew<typeof maintenance>(input);
}
