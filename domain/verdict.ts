// Owns every judgement: which outcome a cause means, what is tried again, what word is shown, how runs make a build.
// Pure; called by the build workflow, by the store when it closes rows, and by the API when it answers.
import type { RetryBudget } from './schemas/plan';
import type { Cause, Outcome, RunState, BuildState, Status } from './schemas/words';

/** One row a cause. `budget`: which budget of the run pays for another attempt; without one the cause is final. */
const CAUSES: Record<Cause, { outcome: Outcome; budget?: keyof RetryBudget }> = {
  ok: { outcome: 'passed' },
  'exit-code': { outcome: 'failed', budget: 'failure' },
  'out-of-memory': { outcome: 'failed', budget: 'failure' },
  'log-limit': { outcome: 'failed', budget: 'failure' },
  'waiting-timeout': { outcome: 'timed-out' },
  'start-timeout': { outcome: 'timed-out', budget: 'timeout' },
  'run-timeout': { outcome: 'timed-out', budget: 'timeout' },
  'idle-timeout': { outcome: 'timed-out', budget: 'timeout' },
  'build-timeout': { outcome: 'timed-out' },
  'cancel-requested': { outcome: 'cancelled' },
  'workflow-terminated': { outcome: 'cancelled' },
  'fail-fast': { outcome: 'cancelled' },
  'needs-not-met': { outcome: 'skipped' },
  'image-missing': { outcome: 'errored' },
  'checkout-failed': { outcome: 'errored', budget: 'infrastructure' },
  'script-not-runnable': { outcome: 'errored' },
  'container-refused': { outcome: 'errored' },
  'disk-full': { outcome: 'errored', budget: 'infrastructure' },
  'engine-unavailable': { outcome: 'errored', budget: 'infrastructure' },
  'container-lost': { outcome: 'errored', budget: 'infrastructure' },
  'host-lost': { outcome: 'errored', budget: 'infrastructure' },
  'beside-lost': { outcome: 'errored', budget: 'infrastructure' },
  'artifact-upload': { outcome: 'errored' },
  internal: { outcome: 'errored' },
};

/** Further attempts that a run gets when its file says nothing else. */
export const DEFAULT_BUDGET: RetryBudget = { infrastructure: 2, failure: 0, timeout: 0 };

/** The budget that pays for a further attempt after `cause`; undefined: there is never one. */
export function budgetOf(cause: Cause): keyof RetryBudget | undefined {
  return CAUSES[cause].budget;
}

/** Whether people may want to look at what the script left: it ran, and did not end well. */
export function isWorthHolding(cause: Cause): boolean {
  return CAUSES[cause].outcome === 'failed' || cause === 'run-timeout' || cause === 'idle-timeout';
}

/** Whether it is a word of the closed list; what a worker says may be any. */
export function isCause(word: unknown): word is Cause {
  return typeof word === 'string' && Object.hasOwn(CAUSES, word);
}

/** The outcome that a cause stands for. */
export function outcomeOf(cause: Cause): Outcome {
  return CAUSES[cause].outcome;
}

/**
 * Whether a run gets another attempt. Each kind of cause has a budget of its own, so that a lost host does not use up
 * what a user gave to a flaky script.
 * @param ended causes of the attempts that ended so far, oldest first, of this rerun alone
 * @param budget what the file of the run says; absent kinds have their default
 */
export function isRetried(ended: readonly Cause[], budget: Partial<RetryBudget> = {}): boolean {
  const last = ended.at(-1);
  const kind = last && CAUSES[last].budget;
  if (!kind) return false;
  const used = ended.filter((cause) => CAUSES[cause].budget === kind).length;
  return used <= (budget[kind] ?? DEFAULT_BUDGET[kind]);
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
