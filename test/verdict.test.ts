// Proves the judgements: one outcome a cause, one word a state, and no combination that hides a failure.
// Tables over every combination; no process is started.
import { absenceGraceMs } from '../domain/absence';
import { viewBuild } from '../api/views';
import { BuildState, Cause, Outcome, RunState, type Status } from '../domain/schemas/words';
import { buildStatus, isBad, isRetried, judgeBuild, outcomeOf, runStatus, type JudgedRun } from '../domain/verdict';

const CAUSE_OF: Record<Outcome, Cause> = {
  passed: 'ok',
  failed: 'exit-code',
  errored: 'host-lost',
  cancelled: 'cancel-requested',
  'timed-out': 'run-timeout',
  skipped: 'needs-not-met',
};
const ended = (outcome: Outcome): JudgedRun => ({ outcome, cause: CAUSE_OF[outcome] });

/** Every combination of `length` outcomes, in order. */
function combinations(length: number): Outcome[][] {
  if (length === 0) return [[]];
  return combinations(length - 1).flatMap((rest) => Outcome.options.map((outcome) => [outcome, ...rest]));
}

test('B10 every cause stands for exactly one outcome, and every outcome has a cause', () => {
  const outcomes = Cause.options.map((cause) => outcomeOf(cause));

  expect(new Set(outcomes)).toEqual(new Set(Outcome.options));
  expect(Object.fromEntries(Cause.options.map((cause) => [cause, outcomeOf(cause)]))).toEqual({
    ok: 'passed',
    'exit-code': 'failed',
    'out-of-memory': 'failed',
    'log-limit': 'failed',
    'waiting-timeout': 'timed-out',
    'start-timeout': 'timed-out',
    'run-timeout': 'timed-out',
    'idle-timeout': 'timed-out',
    'build-timeout': 'timed-out',
    'workflow-terminated': 'cancelled',
    'cancel-requested': 'cancelled',
    'fail-fast': 'cancelled',
    'needs-not-met': 'skipped',
    'image-missing': 'errored',
    'script-not-runnable': 'errored',
    'container-refused': 'errored',
    'checkout-failed': 'errored',
    'disk-full': 'errored',
    'engine-unavailable': 'errored',
    'container-lost': 'errored',
    'host-lost': 'errored',
    'beside-lost': 'errored',
    'artifact-upload': 'errored',
    internal: 'errored',
  });
});

test('B10 whatever the other runs did, a build with a failed run is failed, by the cause of its first failed run', () => {
  const others = combinations(3);
  const hidden = others.filter((runs) => {
    const judged = judgeBuild([...runs.map(ended), { outcome: 'failed', cause: 'out-of-memory' }]);
    const first = runs.includes('failed') ? 'exit-code' : 'out-of-memory';
    return judged.outcome !== 'failed' || judged.cause !== first;
  });

  expect(others).toHaveLength(6 ** 3);
  expect(hidden).toEqual([]);
});

test('B10 a build passes only when nothing but passed and skipped runs are in it, and one of them passed', () => {
  const wrong = combinations(4).filter((runs) => {
    const isClean = runs.every((outcome) => outcome === 'passed' || outcome === 'skipped') && runs.includes('passed');
    return (judgeBuild(runs.map(ended)).outcome === 'passed') !== isClean;
  });

  expect(wrong).toEqual([]);
});

test.each<[Outcome[], Outcome]>([
  [['cancelled', 'failed'], 'failed'],
  [['passed', 'cancelled'], 'cancelled'],
  [['errored', 'timed-out'], 'timed-out'],
  [['cancelled', 'errored'], 'errored'],
  [['skipped', 'passed'], 'passed'],
  [['skipped', 'skipped'], 'skipped'],
])('B10 runs that ended %j make a build that is %s', (runs, outcome) => {
  expect(judgeBuild(runs.map(ended))).toEqual({ outcome, cause: CAUSE_OF[outcome] });
});

test('B10 the order of the runs does not change the outcome of the build', () => {
  const wrong = combinations(3).filter(
    (runs) => judgeBuild(runs.map(ended)).outcome !== judgeBuild([...runs].reverse().map(ended)).outcome,
  );

  expect(wrong).toEqual([]);
});

const WORDS = [...RunState.options.filter((state) => state !== 'finished'), ...Outcome.options];
interface Shown {
  state: BuildState;
  outcome: Outcome | null;
  cancelRequested: boolean;
  counts: Record<string, number>;
}

/** Every way a build can be shown: state × outcome × cancel × counts of runs (0 or 1 of each word). */
const shownBuilds: Shown[] = BuildState.options
  .flatMap((state) => (state === 'finished' ? Outcome.options : [null]).map((outcome) => ({ state, outcome })))
  .flatMap((shown) => [false, true].map((cancelRequested) => ({ ...shown, cancelRequested })))
  .flatMap((shown) =>
    Array.from({ length: 2 ** WORDS.length }, (_, bits) => {
      const counts = Object.fromEntries(WORDS.filter((_word, at) => bits & (1 << at)).map((word) => [word, 1]));
      return { ...shown, counts };
    }),
  );

function statusOf(shown: Shown): Status {
  const row = {
    id: 'id',
    project: 'p',
    number: 1,
    state: shown.state,
    outcome: shown.outcome,
    cause: shown.outcome && CAUSE_OF[shown.outcome],
    trigger: 't',
    params: {},
    reason: '',
    plan_digest: '',
    cancel_requested_at: shown.cancelRequested ? new Date(0) : null,
    reruns: 0,
    rerun_at: null,
    created_at: new Date(0),
    started_at: null,
    finished_at: null,
    counts: shown.counts,
    commits: [],
  };
  return viewBuild(row, { base: '', temporalUi: '', namespace: 'default' }).status;
}

test('B10 over all combinations of state, outcome, cancel and counts a build shows exactly one word, and the right one', () => {
  const wrong: unknown[] = [];
  for (const shown of shownBuilds) {
    const status = statusOf(shown);
    const anyBad = Object.keys(shown.counts).some((word) => ['failed', 'errored', 'timed-out'].includes(word));
    const expected = shown.outcome ?? (shown.cancelRequested ? 'cancelling' : anyBad ? 'failing' : shown.state);
    if (status !== expected) wrong.push({ shown, status, expected });
  }

  expect(shownBuilds).toHaveLength((2 + 6) * 2 * 2 ** 11);
  expect(wrong.slice(0, 3)).toEqual([]);
});

test('B10 queued, passed and failed runs together make a build that is failing, not queued and not running', () => {
  const counts = { queued: 1, passed: 1, failed: 1 };

  expect(statusOf({ state: 'queued', outcome: null, cancelRequested: false, counts })).toBe('failing');
  expect(statusOf({ state: 'running', outcome: null, cancelRequested: false, counts })).toBe('failing');
});

test('B10 a cancelled or skipped run alone does not make a build failing', () => {
  expect(Outcome.options.filter(isBad)).toEqual(['failed', 'errored', 'timed-out']);
  expect(buildStatus({ state: 'running', outcome: null, cancelRequested: false, anyNotPassed: false })).toBe('running');
});

test('B10 a run shows its outcome once finished, cancelling while it is being cancelled, and else its state', () => {
  for (const state of RunState.options) {
    for (const outcome of state === 'finished' ? Outcome.options : [null]) {
      expect(runStatus({ state, outcome, cancelRequested: true })).toBe(outcome ?? 'cancelling');
      expect(runStatus({ state, outcome, cancelRequested: false })).toBe(outcome ?? state);
    }
  }
});

/** Attempts of a run whose every attempt ends for the same cause. */
function attemptsOf(cause: Cause, budget?: Parameters<typeof isRetried>[1]): number {
  const ended = [cause];
  while (ended.length < 50 && isRetried(ended, budget)) ended.push(cause);
  return ended.length;
}
const severalAttempts = (budget?: Parameters<typeof isRetried>[1]) =>
  Object.fromEntries(Cause.options.map((cause) => [cause, attemptsOf(cause, budget)]).filter(([, n]) => n !== 1));

test('B6 B10 what is the fault of the machine is tried again within a budget, what is the fault of the build never', () => {
  expect(severalAttempts()).toEqual({
    'checkout-failed': 3,
    'disk-full': 3,
    'engine-unavailable': 3,
    'container-lost': 3,
    'host-lost': 3,
    'beside-lost': 3,
  });
  for (const cause of Object.keys(severalAttempts()) as Cause[]) expect(outcomeOf(cause)).toBe('errored');
});

test('B6 a file may ask for more or fewer attempts by what went wrong; what was asked to stop is never tried again', () => {
  expect(severalAttempts({ infrastructure: 0 })).toEqual({});
  expect(severalAttempts({ infrastructure: 0, failure: 1, timeout: 3 })).toEqual({
    'exit-code': 2,
    'out-of-memory': 2,
    'log-limit': 2,
    'start-timeout': 4,
    'run-timeout': 4,
    'idle-timeout': 4,
  });
  const never: Cause[] = ['cancel-requested', 'workflow-terminated', 'fail-fast', 'build-timeout', 'waiting-timeout'];
  for (const cause of never) expect(attemptsOf(cause, { infrastructure: 9, failure: 9, timeout: 9 })).toBe(1);
});

test('B6 each kind of trouble has a budget of its own: lost hosts do not use up the tries of a flaky script', () => {
  expect(isRetried(['host-lost', 'exit-code', 'host-lost'], { failure: 1 })).toBe(true);
  expect(isRetried(['host-lost', 'exit-code', 'container-lost', 'disk-full'], { failure: 1 })).toBe(false);
  expect(isRetried(['host-lost', 'exit-code', 'exit-code'], { failure: 1 })).toBe(false);
});

test.each([
  ['B6', 'nobody hears: lost at once', { isHeard: false, isDoorShut: false }, 0],
  ['B6', 'an older store did not ask for', {}, 0],
  ['B5', 'says hello: as long as one that was stopped', { isHeard: true, isDoorShut: false }, 60_000],
  ['B5', 'is silent like everybody else: minutes', { isHeard: false, isDoorShut: true }, 300_000],
])('%s a worker that did not come and that %s', (...[, , found, graceMs]) => {
  expect(absenceGraceMs(found, 60_000)).toBe(graceMs);
});
