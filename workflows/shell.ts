// Owns one shell into a run that is held: the worker of its host serves it, and when that one is gone it is said so.
// Started by the API, one workflow a shell, so that the trace says who opened it and how it ended.
import { ActivityFailure, CancellationScope, proxyActivities } from '@temporalio/workflow';
import type { ShellActivities, ShellRecords } from '../activities/shell-types';
import type { ShellInput } from '../domain/build-input';

/** Longer than a run may be held. */
const LONGEST = '25 hours';

const { shellEnds } = proxyActivities<ShellRecords>({
  startToCloseTimeout: '30 seconds',
  retry: { initialInterval: '1 second', maximumInterval: '30 seconds' },
});

/** @returns how it ended, in words */
export async function shell({ shell: id, queue }: ShellInput): Promise<string> {
  const worker = proxyActivities<ShellActivities>({
    taskQueue: queue,
    startToCloseTimeout: LONGEST,
    scheduleToStartTimeout: '20 seconds',
    heartbeatTimeout: '15 seconds',
    // What was typed is gone: it cannot be opened twice.
    retry: { maximumAttempts: 1 },
  });
  try {
    return await worker.serveShell({ shell: id });
  } catch (error) {
    const message = sayWhy(error);
    await CancellationScope.nonCancellable(() => shellEnds({ shell: id, message }));
    return message;
  }
}

function sayWhy(error: unknown): string {
  if (!(error instanceof ActivityFailure)) return 'its workflow was cancelled';
  const { cause } = error;
  if (cause?.name === 'TimeoutFailure') return 'the worker of its host is gone; open another once it is back';
  return cause?.message ?? error.message;
}
