// Owns the orchestrator's record-keeping activities: thin, idempotent writes to the store.
// Registered by workers/orchestrator.ts; retried without end, since the store may be away for a while.
import { Context } from '@temporalio/activity';
import { readWorkerQueue, workerQueue } from '../domain/names';
import type { Cause, Outcome } from '../domain/schemas/words';
import type { MaintenanceState, RecordActivities } from './record-types';

/** What the activities need of the store; adapters/store has the functions. */
export interface RecordPorts {
  closeRuns(closed: { runId: string; cause: Cause; message: string }[]): Promise<void>;
  closeAttempt(attempt: { runId: string; number: number; cause: Cause; message: string }): Promise<void>;
  locateAttempt(attempt: {
    runId: string;
    number: number;
    absent?: string;
    waitedMs?: number;
  }): Promise<
    { worker: string | null; cluster: string; cause: Cause | null; isHeard: boolean; isDoorShut: boolean } | undefined
  >;
  placeRun(runId: string): Promise<{ cluster: string; move: number } | undefined>;
  readPriority(runId: string, stepMs: number): Promise<number>;
  expireBuild(buildId: string): Promise<unknown>;
  /** @param by id of the workflow that asks */
  finishBuild(buildId: string, by: string | undefined): Promise<{ outcome: Outcome; cause: Cause }>;
  maintainCluster(maintenance: { cluster: string; id: string }): Promise<MaintenanceState>;
}

export function makeRecordActivities(ports: RecordPorts): RecordActivities {
  const locate = async ({ absentQueue, ...attempt }: Parameters<RecordActivities['locateAttempt']>[0]) => {
    const absent = absentQueue === undefined ? undefined : readWorkerQueue(absentQueue);
    const found = await ports.locateAttempt({ ...attempt, absent });
    if (!found) return {};
    return {
      queue: found.worker === null ? undefined : workerQueue(found.cluster, found.worker),
      endedAs: found.cause ?? undefined,
      isHeard: found.isHeard,
      isDoorShut: found.isDoorShut,
    };
  };
  return {
    closeRuns: (closed) => ports.closeRuns(closed.map(withoutPass)),
    closeAttempt: async (attempt) => {
      const before = await locate(attempt);
      if (before.endedAs) return { cause: before.endedAs };
      await ports.closeAttempt(attempt);
      return { cause: (await locate(attempt)).endedAs ?? attempt.cause };
    },
    locateAttempt: locate,
    placeRun: async ({ runId }) => (await ports.placeRun(runId)) ?? {},
    readPriority: async ({ runId, stepMs }) => ({ priority: await ports.readPriority(runId, stepMs) }),
    expireBuild: async ({ buildId }) => void (await ports.expireBuild(buildId)),
    finishBuild: ({ buildId }) => ports.finishBuild(buildId, Context.current().info.workflowExecution?.workflowId),
    maintainCluster: (maintenance) => ports.maintainCluster(maintenance),
  };
}

/** A run that passed was recorded by whoever held its lease; that one which is not recorded did is only said. */
function withoutPass<Closed extends { cause: Cause; message: string }>(closed: Closed): Closed {
  if (closed.cause !== 'ok') return closed;
  return { ...closed, cause: 'internal', message: 'its worker said that it passed, and has recorded nothing' };
}
