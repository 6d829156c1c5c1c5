// Owns the decision what a build does next: start, skip or stop which runs.
// Pure; called by the build workflow after every change, which only carries the commands out.
import type { NeedCondition } from './schemas/plan';
import type { Cause, Outcome } from './schemas/words';

/** One run as the scheduler sees it; needs are indexes into the same list. */
export interface ScheduledRun {
  job: string;
  needs: readonly number[];
  needsCondition: NeedCondition;
}
export interface JobLimits {
  name: string;
  maxParallel?: number;
  failFast: boolean;
}
/** waiting → started → finished, or waiting → finished when it is skipped or cancelled before its start. */
export type RunProgress =
  | { kind: 'waiting' }
  | { kind: 'started' }
  /** `earlier`: before this rerun; its needs are judged by it, but it sets off no fail-fast. */
  | { kind: 'finished'; outcome: Outcome; earlier?: true };

export type ScheduleCommand =
  | { kind: 'start'; run: number }
  | { kind: 'skip'; run: number; cause: Extract<Cause, 'needs-not-met' | 'fail-fast'> }
  | { kind: 'stop'; run: number; cause: Extract<Cause, 'fail-fast'> };

export interface Schedule {
  runs: readonly ScheduledRun[];
  jobs: readonly JobLimits[];
  /** Runs started and not finished at once in one build, 1 or more. */
  window: number;
}

/**
 * Says what to do now. Calling it again after carrying out the commands (with the progress that follows from them)
 * returns nothing new until a run finishes; it may have to be called again at once, since a skip can decide others.
 * @param progress one entry a run, in plan order
 */
export function decide(schedule: Schedule, progress: readonly RunProgress[]): ScheduleCommand[] {
  const load = countLoad(schedule, progress);
  const commands: ScheduleCommand[] = [];
  schedule.runs.forEach((run, index) => {
    const now = progress[index];
    const tripped = load.tripped.has(run.job);
    if (now?.kind === 'started' && tripped) commands.push({ kind: 'stop', run: index, cause: 'fail-fast' });
    if (now?.kind !== 'waiting') return;
    if (tripped) return void commands.push({ kind: 'skip', run: index, cause: 'fail-fast' });
    const verdict = judgeNeeds(run, progress);
    if (verdict === 'not-met') commands.push({ kind: 'skip', run: index, cause: 'needs-not-met' });
    if (verdict === 'met' && load.take(run.job)) commands.push({ kind: 'start', run: index });
  });
  return commands;
}

interface Load {
  /** Jobs whose fail-fast has been set off. */
  tripped: Set<string>;
  /** Takes one place of the window and of the job, if both have one. */
  take(job: string): boolean;
}

function countLoad(schedule: Schedule, progress: readonly RunProgress[]): Load {
  const limits = new Map(schedule.jobs.map((job) => [job.name, job]));
  const started = new Map<string, number>();
  const tripped = new Set<string>();
  let open = 0;
  schedule.runs.forEach((run, index) => {
    const now = progress[index];
    if (now?.kind === 'started') {
      open += 1;
      started.set(run.job, (started.get(run.job) ?? 0) + 1);
    }
    const isNews = now?.kind === 'finished' && !now.earlier;
    if (isNews && limits.get(run.job)?.failFast && setsOffFailFast(now.outcome)) tripped.add(run.job);
  });
  const take = (job: string): boolean => {
    const count = started.get(job) ?? 0;
    if (open >= schedule.window || count >= (limits.get(job)?.maxParallel ?? Infinity)) return false;
    open += 1;
    started.set(job, count + 1);
    return true;
  };
  return { tripped, take };
}

function setsOffFailFast(outcome: Outcome): boolean {
  return outcome === 'failed' || outcome === 'errored' || outcome === 'timed-out';
}

/** A skipped need counts as not successful, so a chain of successes stops with its first gap. */
function judgeNeeds(run: ScheduledRun, progress: readonly RunProgress[]): 'open' | 'met' | 'not-met' {
  const outcomes: Outcome[] = [];
  for (const need of run.needs) {
    const now = progress[need];
    if (now?.kind !== 'finished') return 'open';
    outcomes.push(now.outcome);
  }
  switch (run.needsCondition) {
    case 'always':
      return 'met';
    case 'success':
      return outcomes.every((outcome) => outcome === 'passed') ? 'met' : 'not-met';
    case 'failure':
      return outcomes.some(setsOffFailFast) ? 'met' : 'not-met';
  }
}
