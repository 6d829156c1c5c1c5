// Owns how workflows keep their records: by activities of the server, all but the verdict of a build.
// Called by the workflows of this folder.
import { patched, proxyActivities, proxyLocalActivities } from '@temporalio/workflow';
import type { LedgerActivities } from '../activities/on-demand-types';
import type { RecordActivities } from '../activities/record-types';

/** Without end: the store may be away for a while, and nothing may be lost. Each record is idempotent. */
const retry = { initialInterval: '1 second', backoffCoefficient: 2, maximumInterval: '30 seconds' } as const;

/** So long it takes until another orchestrator is asked when one died with a record in its hands. */
const ANSWER_LIMIT = '30 seconds';

const remote = proxyActivities<RecordActivities>({ startToCloseTimeout: ANSWER_LIMIT, retry });

/** Of on-demand hosts. */
export const ledger = proxyActivities<LedgerActivities>({ startToCloseTimeout: ANSWER_LIMIT, retry });

/**
 * Runs in the process that runs this workflow, which saves two tasks of the server a call. Only for what a build does when
 * nothing else is under way: no event says when the workflow saw the answer. A replay hands over in one go all answers that
 * are next to each other in the history, even those that came one by one (https://github.com/temporalio/sdk-python/issues/1881):
 * the workflow then acts otherwise than before, its history fits no orchestrator any more, and the build never ends.
 */
const local = proxyLocalActivities<RecordActivities>({ startToCloseTimeout: ANSWER_LIMIT, retry });

/** Histories of older code have markers of local activities in this place. */
const either = (): RecordActivities => (patched('records-as-activities') ? remote : local);

export const records: RecordActivities = {
  closeRuns: (closed) => either().closeRuns(closed),
  closeAttempt: (attempt) => either().closeAttempt(attempt),
  locateAttempt: (attempt) => either().locateAttempt(attempt),
  expireBuild: (build) => either().expireBuild(build),
  placeRun: (run) => remote.placeRun(run),
  readPriority: (run) => remote.readPriority(run),
  maintainCluster: (maintenance) => remote.maintainCluster(maintenance),
  finishBuild: (build) => local.finishBuild(build),
};
