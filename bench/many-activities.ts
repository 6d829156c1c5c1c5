// Owns a workflow that has many activities at once, of which each does nothing.
// Bundled by figures/gateway.ts; runs inside Temporal's sandbox.
import { proxyActivities } from '@temporalio/workflow';

export interface Idle {
  nothing(): Promise<void>;
}

export async function manyActivities({ queue, count }: { queue: string; count: number }): Promise<void> {
  const { nothing } = proxyActivities<Idle>({
    taskQueue: queue,
    startToCloseTimeout: '5 minutes',
    retry: { maximumAttempts: 1 },
  });
  await Promise.all(Array.from({ length: count }, () => nothing()));
}
