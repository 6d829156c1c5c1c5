// Owns what workflows are started with: their names and their inputs. Stored in histories: never renamed, only added to.
// Made by adapters/temporal.ts, read by workflows/.
import { fieldOf } from './untrusted';
import type { HostToMake } from './schemas/blueprints';
import type { NeedCondition, RetryBudget } from './schemas/plan';
import type { Outcome } from './schemas/words';

export const BUILD_WORKFLOW = 'build';
export const MAINTENANCE_WORKFLOW = 'maintenance';
export const ON_DEMAND_WORKFLOW = 'onDemandHost';
export const SHELL_WORKFLOW = 'shell';

/** A shell into a run that is held; everything else of it is in the rows. */
export interface ShellInput {
  shell: string;
  /** Of the worker that serves the host. */
  queue: string;
}

/** A host that a blueprint makes. */
export interface OnDemandInput {
  host: HostToMake;
  /** Set when it begins again in its middle: nothing is to be made any more. */
  isMade?: boolean;
  /** Why it ends; absent: it does not. */
  why?: string;
}

/** Names the maintenance of a cluster; everything else of it is in the rows. */
export interface MaintenanceInput {
  cluster: string;
  id: string;
}

/** One run as the workflow needs it. What it executes is fetched by the worker with the lease. Fields are only added. */
export interface BuildRun {
  id: string;
  name: string;
  job: string;
  cluster: string;
  timeoutMs: number;
  /** Indexes into `runs`; absent: none. */
  needs?: number[];
  needsCondition?: NeedCondition;
  /** Absent: DEFAULT_LIMITS. */
  waitingTimeoutMs?: number;
  startTimeoutMs?: number;
  /** 1 (first) … 5 (last); absent: DEFAULT_PRIORITY. */
  priority?: number;
  retry?: Partial<RetryBudget>;
  /** How often it was moved between clusters before; absent: never. */
  moves?: number;
  /** Number of its first attempt in this workflow; absent: 1. */
  firstAttempt?: number;
  /** It ended before this workflow began and is not run again. */
  endedAs?: Outcome;
}

export interface BuildInput {
  buildId: string;
  project: string;
  number: number;
  runs: BuildRun[];
  /** Only jobs with a limit. */
  jobs: { name: string; maxParallel?: number; failFast: boolean }[];
  /** Runs open at once. */
  window: number;
  timing: BuildTiming;
  /** Limit of the whole build; absent: DEFAULT_LIMITS. */
  timeoutMs?: number;
}

const isText = (value: unknown): boolean => typeof value === 'string';
const areTexts = (value: unknown, names: readonly string[]): boolean =>
  names.every((name) => isText(fieldOf(value, name)));
const isNumber = (value: unknown): boolean => typeof value === 'number';

/** Whether it is what a build is started with: anybody at Temporal can start a workflow, with anything in its input. */
export function isBuildInput(input: unknown): input is BuildInput {
  const [runs, jobs, timing] = ['runs', 'jobs', 'timing'].map((name) => fieldOf(input, name));
  if (!Array.isArray(runs) || !Array.isArray(jobs) || !areTexts(input, ['buildId', 'project'])) return false;
  const isRun = (run: unknown): boolean => {
    const needs = fieldOf(run, 'needs') ?? [];
    const isPlaced = areTexts(run, ['id', 'name', 'job', 'cluster']) && isNumber(fieldOf(run, 'timeoutMs'));
    return isPlaced && Array.isArray(needs) && needs.every(isNumber);
  };
  const pauses = fieldOf(timing, 'askAgainMs');
  const times = [
    fieldOf(input, 'window'),
    ...['heartbeatTimeoutMs', 'reattachGraceMs', 'detachGraceMs', 'runMarginMs'].map((name) => fieldOf(timing, name)),
    fieldOf(pauses, 'first'),
    fieldOf(pauses, 'most'),
  ];
  return times.every(isNumber) && runs.every(isRun) && jobs.every((job) => areTexts(job, ['name']));
}

export const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;

/** Limits of a file that sets none, ms: no wait is without an end. */
export const DEFAULT_LIMITS = { waitingMs: 7 * 24 * HOUR_MS, startMs: HOUR_MS, buildMs: 30 * 24 * HOUR_MS };

/** All in ms. */
export interface BuildTiming {
  heartbeatTimeoutMs: number;
  /** How long a worker may stay away before its host counts as lost. */
  reattachGraceMs: number;
  /** The same for a worker that said it goes away, as in an upgrade. */
  detachGraceMs: number;
  /**
   * How long a run that is being cancelled waits for its silent worker, which alone can say that nothing of it runs any
   * more; absent, as in older histories: as long as any other.
   */
  cancelGraceMs?: number;
  /** Added to a run's own limit: the worker stops it first, this is the net below. */
  runMarginMs: number;
  /**
   * First and longest pause before a slot is asked for again, and the growth between (absent: 2). A run is woken when
   * there is one, so it asks seldom by itself: each time costs some dozen events of a history that holds 51,200.
   */
  askAgainMs: { first: number; most: number; factor?: number };
  /** A line that gets nothing for so long rises by one priority; absent, as in older histories: never. */
  ageStepMs?: number;
}

export const DEFAULT_TIMING = {
  heartbeatTimeoutMs: 12_000,
  reattachGraceMs: 15_000,
  detachGraceMs: 60_000,
  cancelGraceMs: 10 * MINUTE_MS,
  runMarginMs: HOUR_MS,
  askAgainMs: { first: 500, most: 6 * HOUR_MS, factor: 4 },
  ageStepMs: 10 * MINUTE_MS,
} satisfies BuildTiming;

/** A lease that is older has outlived every limit of its run; the sweep takes it back once its host is silent as well. */
export function longestMs({ startTimeoutMs, timeoutMs }: Pick<BuildRun, 'startTimeoutMs' | 'timeoutMs'>): number {
  return (startTimeoutMs ?? DEFAULT_LIMITS.startMs) + timeoutMs + DEFAULT_TIMING.runMarginMs;
}
