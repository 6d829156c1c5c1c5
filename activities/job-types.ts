// Owns what the build workflow and the cluster workers say to each other by runJob and reattach; domain/job-result.ts has the
// answer.
// Stored in histories, so fields are only ever added. Types alone: the workflow bundle must not grow by it.
import type { JobResult } from '../domain/job-result';

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

export interface JobActivities {
  runJob(input: JobInput): Promise<JobResult>;
  reattach(input: JobInput): Promise<JobResult>;
}
