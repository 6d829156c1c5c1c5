// Proves what a build does next: windows, limits, fail-fast and needs, by table and over random plans.
// Pure; no process is started.
import fc from 'fast-check';
import type { NeedCondition } from '../domain/schemas/plan';
import { Outcome } from '../domain/schemas/words';
import { outcomeOf } from '../domain/verdict';
import {
  decide,
  type JobLimits,
  type RunProgress,
  type Schedule,
  type ScheduleCommand,
  type ScheduledRun,
} from '../domain/schedule';

const run = (job: string, needs: number[] = [], needsCondition: NeedCondition = 'success'): ScheduledRun => ({
  job,
  needs,
  needsCondition,
});
const cells = (job: string, count: number): ScheduledRun[] => Array.from({ length: count }, () => run(job));
const scheduleOf = (runs: ScheduledRun[], jobs: JobLimits[] = [], window = 100): Schedule => ({ runs, jobs, window });

const WAITING: RunProgress = { kind: 'waiting' };
const STARTED: RunProgress = { kind: 'started' };
const ended = (outcome: Outcome): RunProgress => ({ kind: 'finished', outcome });
const starts = (schedule: Schedule, progress: RunProgress[]): number[] =>
  decide(schedule, progress).flatMap((command) => (command.kind === 'start' ? [command.run] : []));

test('no more runs are open at once than the window holds, and the earliest of the plan go first', () => {
  const schedule = scheduleOf(cells('a', 5), [], 2);

  expect(starts(schedule, [WAITING, WAITING, WAITING, WAITING, WAITING])).toEqual([0, 1]);
  expect(starts(schedule, [STARTED, STARTED, WAITING, WAITING, WAITING])).toEqual([]);
  expect(starts(schedule, [ended('passed'), STARTED, WAITING, WAITING, WAITING])).toEqual([2]);
});

test('P3 max-parallel holds among the cells of its own job and leaves the other jobs alone', () => {
  const schedule = scheduleOf([...cells('a', 3), ...cells('b', 2)], [{ name: 'a', maxParallel: 1, failFast: false }]);

  expect(starts(schedule, [WAITING, WAITING, WAITING, WAITING, WAITING])).toEqual([0, 3, 4]);
  expect(starts(schedule, [STARTED, WAITING, WAITING, STARTED, STARTED])).toEqual([]);
  expect(starts(schedule, [ended('failed'), WAITING, WAITING, STARTED, STARTED])).toEqual([1]);
});

test.each<Outcome>(['failed', 'errored', 'timed-out'])(
  'P3 fail-fast: a cell that is %s stops the started cells of its job, skips the waiting ones, and touches no other job',
  (outcome) => {
    const schedule = scheduleOf([...cells('a', 4), run('b')], [{ name: 'a', failFast: true }], 3);

    expect(decide(schedule, [ended(outcome), STARTED, ended('passed'), WAITING, WAITING])).toEqual([
      { kind: 'stop', run: 1, cause: 'fail-fast' },
      { kind: 'skip', run: 3, cause: 'fail-fast' },
      { kind: 'start', run: 4 },
    ]);
  },
);

test.each<Outcome>(['passed', 'cancelled', 'skipped'])(
  'P3 fail-fast is not set off by a cell that is %s',
  (outcome) => {
    const schedule = scheduleOf(cells('a', 2), [{ name: 'a', failFast: true }]);

    expect(decide(schedule, [ended(outcome), WAITING])).toEqual([{ kind: 'start', run: 1 }]);
  },
);

test('P3 without fail-fast the other cells of a failed job go on', () => {
  expect(decide(scheduleOf(cells('a', 2), [{ name: 'a', failFast: false }]), [ended('failed'), STARTED])).toEqual([]);
});

/** For each outcome of the one need: does the run start (or is it skipped)? */
const NEEDS: Record<NeedCondition, Outcome[]> = {
  success: ['passed'],
  failure: ['failed', 'errored', 'timed-out'],
  always: [...Outcome.options],
};
const needCases = Object.entries(NEEDS).flatMap(([condition, outcomes]) =>
  Outcome.options.map((outcome) => [condition as NeedCondition, outcome, outcomes.includes(outcome)] as const),
);

test.each(needCases)('P3 needs %s: after a run that is %s the next one starts: %s', (condition, outcome, isStarted) => {
  const schedule = scheduleOf([run('a'), run('b', [0], condition)]);

  expect(decide(schedule, [ended(outcome), WAITING])).toEqual([
    isStarted ? { kind: 'start', run: 1 } : { kind: 'skip', run: 1, cause: 'needs-not-met' },
  ]);
});

test.each<NeedCondition>(['success', 'failure', 'always'])(
  'P3 needs %s: nothing is decided before every need is finished',
  (condition) => {
    const schedule = scheduleOf([run('a'), run('a'), run('join', [0, 1], condition)]);

    expect(decide(schedule, [ended('failed'), STARTED, WAITING])).toEqual([]);
  },
);

test('P3 a chain of successes is skipped link by link behind its first gap, while an always at its end still starts', () => {
  const schedule = scheduleOf([run('a'), run('b', [0]), run('c', [1]), run('tidy', [2], 'always')]);
  const progress = [ended('failed'), WAITING, WAITING, WAITING];
  const seen: unknown[] = [];
  for (let commands = decide(schedule, progress); commands.length > 0; commands = decide(schedule, progress)) {
    for (const command of commands) {
      seen.push([command.kind, command.run]);
      progress[command.run] = command.kind === 'start' ? STARTED : ended('skipped');
    }
  }

  expect(seen).toEqual([
    ['skip', 1],
    ['skip', 2],
    ['start', 3],
  ]);
});

interface Simulation {
  schedule: Schedule;
  /** Outcome of each run if it is started and not stopped. */
  outcomes: Outcome[];
  /** Which of the open runs ends next: a fraction of their number. */
  order: number[];
}

const simulations: fc.Arbitrary<Simulation> = fc.integer({ min: 1, max: 25 }).chain((count) => {
  const runOf = (at: number) =>
    fc.record({
      job: fc.constantFrom('a', 'b', 'c'),
      needs: at === 0 ? fc.constant([]) : fc.uniqueArray(fc.integer({ min: 0, max: at - 1 }), { maxLength: 4 }),
      needsCondition: fc.constantFrom<NeedCondition>('success', 'failure', 'always'),
    });
  const limit = (name: string) =>
    fc.record({
      name: fc.constant(name),
      maxParallel: fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined }),
      failFast: fc.boolean(),
    });
  return fc.record({
    schedule: fc.record({
      runs: fc.tuple(...Array.from({ length: count }, (_, at) => runOf(at))),
      jobs: fc.tuple(limit('a'), limit('b')),
      window: fc.integer({ min: 1, max: 6 }),
    }),
    outcomes: fc.array(fc.constantFrom<Outcome>('passed', 'passed', 'passed', 'failed', 'errored', 'timed-out'), {
      minLength: count,
      maxLength: count,
    }),
    order: fc.array(fc.double({ min: 0, max: 0.999, noNaN: true }), { minLength: count, maxLength: count }),
  });
});

/** Plays a build as the workflow does, one end at a time, and checks every step. */
function play({ schedule, outcomes, order }: Simulation): RunProgress[] {
  const progress: RunProgress[] = schedule.runs.map(() => WAITING);
  const stopped = new Set<number>();
  for (let step = 0; ; step += 1) {
    carryOutAll(schedule, progress, stopped);
    const open = progress.flatMap((one, at) => (one.kind === 'started' ? [at] : []));
    if (open.length === 0) return progress;
    const next = open[Math.floor((order[step] ?? 0) * open.length)]!;
    progress[next] = ended(stopped.has(next) ? 'cancelled' : outcomes[next]!);
  }
}

/** Until nothing new is decided: a skip can decide others. */
function carryOutAll(schedule: Schedule, progress: RunProgress[], stopped: Set<number>): void {
  for (let isNew = true; isNew;) {
    const commands = decide(schedule, progress);
    for (const command of commands) carryOut(schedule, progress, command);
    for (const command of commands) if (command.kind === 'stop') stopped.add(command.run);
    expectLimits(schedule, progress);
    isNew = commands.some((command) => command.kind !== 'stop');
  }
}

function carryOut(schedule: Schedule, progress: RunProgress[], command: ScheduleCommand): void {
  const { run: at } = command;
  // Only what waits is started or skipped, so nothing is started twice.
  expect(progress[at]).toEqual(command.kind === 'stop' ? STARTED : WAITING);
  if (command.kind === 'skip') progress[at] = ended(outcomeOf(command.cause));
  if (command.kind !== 'start') return;
  expect(schedule.runs[at]!.needs.every((need) => progress[need]?.kind === 'finished')).toBe(true);
  progress[at] = STARTED;
}

function expectLimits(schedule: Schedule, progress: RunProgress[]): void {
  const open = schedule.runs.filter((_, at) => progress[at]?.kind === 'started');
  expect(open.length).toBeLessThanOrEqual(schedule.window);
  for (const job of schedule.jobs) {
    const ofJob = open.filter((one) => one.job === job.name).length;
    expect(ofJob).toBeLessThanOrEqual(job.maxParallel ?? Infinity);
  }
}

test('P3 any plan with any outcomes ends with every run finished, each started at most once, after its needs, in its limits', () => {
  fc.assert(
    fc.property(simulations, (simulation) => {
      const progress = play(simulation);

      expect(progress.filter((one) => one.kind !== 'finished')).toEqual([]);
    }),
    { numRuns: 500 },
  );
});

test('P3 a join over any number of cells starts exactly once, however they end and in whatever order', () => {
  const joins = fc.record({
    outcomes: fc.array(fc.constantFrom(...Outcome.options), { minLength: 1, maxLength: 12 }),
    order: fc.array(fc.double({ min: 0, max: 0.999, noNaN: true }), { minLength: 13, maxLength: 13 }),
    window: fc.integer({ min: 1, max: 5 }),
  });
  fc.assert(
    fc.property(joins, ({ outcomes, order, window }) => {
      const join = run('join', [...outcomes.keys()], 'always');
      const schedule = scheduleOf([...cells('cell', outcomes.length), join], [], window);

      const progress = play({ schedule, outcomes: [...outcomes, 'passed'], order });

      expect(progress.at(-1)).toEqual(ended('passed'));
    }),
  );
});
