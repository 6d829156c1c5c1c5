// Owns what the build workflow and the cluster workers say to each other: input and result of runJob and reattach.
// Stored in histories, so fields are only ever added. Types alone: the workflow bundle must not grow by it.
import type { Cause } from '../domain/schemas/words';

/** Names an attempt; everything else about it is fetched with the lease, never put in a history. */
export interface JobInput {
  runId: string;
  attempt: number;
  /** For people who read the trace. */
  run: string;
  /** How often the run had been moved between clusters when this was made; absent: made before that was told. */
  move?: number;
  /** The run was cancelled while nobody held its container: adopt it only to stop it. */
  cancel?: boolean;
}

export type JobResult =
  /** Ended; the worker has recorded it, unless the run was cancelled before it got a host. */
  | { kind: 'finished'; cause: Cause; message: string; recorded: boolean }
  /** The lease is with another worker: send the job to its queue. */
  | { kind: 'elsewhere'; queue: string }
  /** The run waits in another cluster now. */
  | { kind: 'moved'; cluster: string; move: number }
  /** No slot now: ask again later. */
  | { kind: 'waiting'; reason: string }
  /** Another supervisor or another attempt took over: ask the store how things stand. */
  | { kind: 'fenced' }
  /** The worker is going away and the container lives on: adopt it from this queue. */
  | { kind: 'detached'; queue: string };

export interface JobActivities {
  runJob(input: JobInput): Promise<JobResult>;
  reattach(input: JobInput): Promise<JobResult>;
}
