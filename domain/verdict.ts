// Owns every judgement: which outcome a cause means, what is tried again, what word is shown, how runs make a build.
// Pure; called by the build workflow, by the store when it closes rows, and by the API when it answers.
import type { Cause, Outcome, RunState, BuildState, Status } from './schemas/words';

/** One row a cause. `retries`: further attempts of the same run before this cause is final. */
const CAUSES: Record<Cause, { outcome: Outcome; retries: number }> = {
  ok: { outcome: 'passed', retries: 0 },
  'exit-code': { outcome: 'failed', retries: 0 },
  'out-of-memory': { outcome: 'failed', retries: 0 },
  'run-timeout': { outcome: 'timed-out', retries: 0 },
  'cancel-requested': { outcome: 'cancelled', retries: 0 },
  'fail-fast': { outcome: 'cancelled', retries: 0 },
  'needs-not-met': { outcome: 'skipped', retries: 0 },
  'image-missing': { outcome: 'errored', retries: 0 },
  'script-not-runnable': { outcome: 'errored', retries: 0 },
  'disk-full': { outcome: 'errored', retries: 1 },
  'engine-unavailable': { outcome: 'errored', retries: 2 },
  'container-lost': { outcome: 'errored', retries: 2 },
  'host-lost': { outcome: 'errored', retries: 2 },
  'artifact-upload': { outcome: 'errored', retries: 0 },
  internal: { outcome: 'errored', retries: 0 },
};

/** The outcome that a cause stands for. */
export function outcomeOf(cause: Cause): Outcome {
  return CAUSES[cause].outcome;
}

/** Whether a run whose `attemptsEnded`-th attempt (from 1) ended for `cause` gets another attempt. */
export function isRetried(cause: Cause, attemptsEnded: number): boolean {
  return attemptsEnded <= CAUSES[cause].retries;
}

/** What is known of one run when a build is judged. */
export interface JudgedRun {
  outcome: Outcome;
  cause: Cause;
}

/** From worst to best: a red test outranks all else, so that a cancel or an outage never hides it. */
const WORST_FIRST: readonly Outcome[] = ['failed', 'timed-out', 'errored', 'cancelled', 'passed', 'skipped'];

/**
 * Judges a build from its finished runs: the worst outcome wins, with the cause of the first run that has it.
 * A build in which every run was skipped is skipped. @param runs at least one, in plan order
 */
export function judgeBuild(runs: readonly JudgedRun[]): JudgedRun {
  for (const outcome of WORST_FIRST) {
    const worst = runs.find((run) => run.outcome === outcome);
    if (worst) return { outcome, cause: worst.cause };
  }
  return { outcome: 'passed', cause: 'ok' };
}

/** The word to show for a run or an attempt. */
export function runStatus(run: { state: RunState; outcome: Outcome | null; cancelRequested: boolean }): Status {
  if (run.state === 'finished') return run.outcome ?? 'errored';
  return run.cancelRequested ? 'cancelling' : run.state;
}

/** The word to show for a build; a failure is visible at once, also while other runs wait or run. */
export function buildStatus(build: {
  state: BuildState;
  outcome: Outcome | null;
  cancelRequested: boolean;
  anyNotPassed: boolean;
}): Status {
  if (build.state === 'finished') return build.outcome ?? 'errored';
  if (build.cancelRequested) return 'cancelling';
  if (build.anyNotPassed) return 'failing';
  return build.state;
}

/** Outcomes that make an unfinished build `failing`. */
export function isBad(outcome: Outcome): boolean {
  return outcome === 'failed' || outcome === 'errored' || outcome === 'timed-out';
}
