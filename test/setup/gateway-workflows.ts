// Owns the workflow of tests that need no more than one activity on a queue.
// Bundled by the test; runs inside Temporal's sandbox.
import { ActivityCancellationType, proxyActivities } from '@temporalio/workflow';

export interface OneActivity {
  queue: string;
  name: string;
  argument?: string;
  heartbeatTimeoutMs?: number;
}

type Activities = Record<string, (argument?: string) => Promise<unknown>>;

export async function oneActivity({ queue, name, argument, heartbeatTimeoutMs }: OneActivity): Promise<unknown> {
  const activities = proxyActivities<Activities>({
    taskQueue: queue,
    startToCloseTimeout: '2 minutes',
    heartbeatTimeout: heartbeatTimeoutMs ?? 60_000,
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: { maximumAttempts: 1 },
  });
  return activities[name]!(argument);
}
