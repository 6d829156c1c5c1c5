// Owns the workflows of gateway.test.ts: one activity on the queue that the test names, or many at once.
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

export async function manyActivities({
  queue,
  name,
  count,
}: {
  queue: string;
  name: string;
  count: number;
}): Promise<void> {
  const activities = proxyActivities<Activities>({
    taskQueue: queue,
    startToCloseTimeout: '5 minutes',
    retry: { maximumAttempts: 1 },
  });
  await Promise.all(Array.from({ length: count }, () => activities[name]!()));
}
