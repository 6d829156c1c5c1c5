// Owns the record-keeping activities as the build workflow calls them. Stored in histories: fields are only added.
import type { Cause, Outcome } from '../domain/schemas/words';

export interface RecordActivities {
  /** Finishes runs that no worker will finish. Idempotent. */
  closeRuns(closed: { runId: string; cause: Cause; message: string }[]): Promise<void>;
  /** Ends an attempt whose worker is gone and fences it. @returns how it ended: as given, or as was recorded before */
  closeAttempt(attempt: { runId: string; number: number; cause: Cause; message: string }): Promise<{ cause: Cause }>;
  /**
   * Where an attempt is being worked on; undefined when nobody got it yet. @param attempt.absentQueue of a worker that was
   * waited for in vain: a listed host of its is given to another @param attempt.waitedMs for how long
   * @returns `isHeard`: its worker said hello to the API meanwhile; `isDoorShut`: no worker at all could, so it may be
   * the gateway that is away, and not the host
   */
  locateAttempt(attempt: {
    runId: string;
    number: number;
    absentQueue?: string;
    waitedMs?: number;
  }): Promise<{ queue?: string; endedAs?: Cause; isHeard?: boolean; isDoorShut?: boolean }>;
  /** The cluster where a run waits now, and how often it was moved; nothing of a run that is not known. */
  placeRun(run: { runId: string }): Promise<{ cluster?: string; move?: number }>;
  /** The priority under which a run that was not taken is to be offered now, 1 (first) … 5 (last). */
  readPriority(run: { runId: string; stepMs: number }): Promise<{ priority: number }>;
  /** Says that the build ran out of time, before its runs are told to stop. Idempotent. */
  expireBuild(build: { buildId: string }): Promise<void>;
  /** Does what the maintenance of a cluster asks for now: moves waiting runs, cancels at the deadline. Idempotent. */
  maintainCluster(maintenance: { cluster: string; id: string }): Promise<MaintenanceState>;
  /** Judges the build from its runs. Idempotent. */
  finishBuild(build: { buildId: string }): Promise<{ outcome: Outcome; cause: Cause }>;
}

export interface MaintenanceState {
  /** It was ended, or replaced by another. */
  isOver: boolean;
  /** Runs and slots that are still in use. */
  left: number;
  /** Who drained it and why, for people who read the trace. */
  why: string;
}
