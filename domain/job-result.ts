// Owns what a worker answers when it has carried an attempt, and how the workflow reads it: a worker may say anything.
// Stored in histories, so fields are only ever added. Pure; written by activities/job.ts, read by workflows/run.ts.
import { isWorkerQueueOf } from './names';
import type { Cause } from './schemas/words';
import { fieldOf, plainText } from './untrusted';
import { isCause } from './verdict';

export type JobResult =
  /** Ended; the worker has recorded it, unless the run was cancelled before it got a host. */
  | { kind: 'finished'; cause: Cause; message: string; recorded: boolean }
  /** The lease is with another worker: send the job to its queue. */
  | { kind: 'elsewhere'; queue: string }
  /** The run waits in another cluster now; the rows say in which. */
  | { kind: 'moved' }
  /** No slot now: ask again later. */
  | { kind: 'waiting'; reason: string }
  /** Another supervisor or another attempt took over: ask the store how things stand. */
  | { kind: 'fenced' }
  /** The worker is going away and the container lives on: adopt it from this queue. */
  | { kind: 'detached'; queue: string };

/** @param cluster whose workers were asked: they may name no queue of another @returns undefined: it is no answer */
export function readJobResult(answer: unknown, cluster: string): JobResult | undefined {
  const kind = fieldOf(answer, 'kind');
  switch (kind) {
    case 'finished': {
      const cause = fieldOf(answer, 'cause');
      const message = plainText(fieldOf(answer, 'message'));
      return isCause(cause) ? { kind, cause, message, recorded: fieldOf(answer, 'recorded') === true } : undefined;
    }
    case 'elsewhere':
    case 'detached': {
      const queue = fieldOf(answer, 'queue');
      return isWorkerQueueOf(cluster, queue) ? { kind, queue } : undefined;
    }
    case 'waiting':
      return { kind, reason: plainText(fieldOf(answer, 'reason')) };
    case 'moved':
    case 'fenced':
      return { kind };
    default:
      return undefined;
  }
}
