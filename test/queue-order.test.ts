// Proves whose turn it is: priorities and their ageing, the order of a queue, and who is refused a free slot for whom.
// Pure; no process is started.
import fc from 'fast-check';
import type { HostOffer } from '../domain/placement';
import { agedPriority, offerMs } from '../domain/priority';
import { decideGrant, takeTurns, type GrantQuestion, type WaitingRun } from '../domain/queue-order';

const STEP_MS = 600_000;

let made = 0;
const waits = (project: string, more: Partial<WaitingRun> = {}): WaitingRun => ({
  id: `${project}-${++made}`,
  project,
  priority: 3,
  waitedMs: 1_000,
  hostTag: null,
  ...more,
});
const host = (name: string, slots: number, busySlots: number[] = []): HostOffer => ({
  id: `local/${name}`,
  name,
  labels: [name],
  slots,
  busySlots,
  workerId: `worker-of-${name}`,
  notAccepting: null,
});
const question = (asker: WaitingRun, more: Partial<GrantQuestion> = {}): GrantQuestion => ({
  asker,
  worker: 'nobody',
  waiting: [],
  hosts: [host('only', 1)],
  holdings: new Map(),
  cluster: 'local',
  maxSlotsPerProject: null,
  ...more,
});
const answerTo = (...given: Parameters<typeof question>): string => {
  const choice = decideGrant(question(...given));
  return choice.kind === 'host' ? `${choice.host.name}/${choice.slot}` : choice.reason;
};
const projects = (runs: readonly WaitingRun[]): string => runs.map((run) => run.project).join('');

/** Small, so that ties and conflicts are frequent. */
const anyWaiting = fc.array(
  fc.record({
    project: fc.constantFrom('a', 'b', 'c'),
    priority: fc.integer({ min: 1, max: 5 }),
    waitedMs: fc.integer({ min: 0, max: 3 }),
    hostTag: fc.constantFrom(null, 'x', 'y', 'nowhere'),
  }),
  { minLength: 1, maxLength: 12 },
);
const anyHoldings = fc.dictionary(fc.constantFrom('a', 'b', 'c'), fc.integer({ min: 0, max: 4 }));
const anyHosts = fc
  .record({ x: fc.integer({ min: 0, max: 3 }), y: fc.integer({ min: 0, max: 3 }), busy: fc.boolean() })
  .map(({ x, y, busy }) => [host('x', x), host('y', y), host('full', 1, busy ? [1] : [])]);
const situation = fc.record({
  runs: anyWaiting.map((runs) => runs.map((run) => waits(run.project, run))),
  holdings: anyHoldings.map((held) => new Map(Object.entries(held))),
  hosts: anyHosts,
  maxSlotsPerProject: fc.option(fc.integer({ min: 1, max: 4 })),
});

describe('ageing', () => {
  test.each<[priority: number, unservedMs: number, aged: number]>([
    [3, 0, 3],
    [5, STEP_MS - 1, 5],
    [5, STEP_MS, 4],
    [5, 2.5 * STEP_MS, 3],
    [5, 100 * STEP_MS, 1],
    [1, STEP_MS, 1],
    [3, -5, 3],
  ])('C9 priority %p in a line that got nothing for %p ms counts as %p', (priority, unservedMs, aged) => {
    expect(agedPriority(priority, unservedMs, STEP_MS)).toBe(aged);
  });

  test('C9 a task is offered anew after one step, two, four, eight: a wait of weeks costs a dozen offers', () => {
    const week = 7 * 24 * 3_600_000;
    const offers = [];
    for (let waitedMs = 0; waitedMs < week; waitedMs += offerMs(waitedMs, STEP_MS)) offers.push(waitedMs / STEP_MS);

    expect(offers.slice(0, 5)).toEqual([0, 1, 2, 4, 8]);
    expect(offers).toHaveLength(11);
    expect(offerMs(week)).toBe(Infinity);
  });
});

describe('the order of a queue', () => {
  test('C9 a project that queues 500 does not delay one that queues 1: its run is next', () => {
    const flood = Array.from({ length: 500 }, () => waits('a', { waitedMs: 60_000 }));
    const turns = takeTurns([...flood, waits('b')], new Map([['a', 2]]));

    expect(projects(turns).indexOf('b')).toBe(0);
  });

  test('C9 projects take turns, and slots that are held count as turns that were had', () => {
    const runs = ['a', 'a', 'a', 'a', 'b', 'b', 'b', 'b'].map((project) => waits(project));

    expect(projects(takeTurns(runs, new Map()))).toBe('abababab');
    expect(projects(takeTurns(runs, new Map([['a', 2]])))).toBe('bbababaa');
  });

  test('C9 a higher priority comes first whatever its project holds, and priorities of one project are in order too', () => {
    const runs = [waits('a', { priority: 5 }), waits('b'), waits('a', { priority: 2 }), waits('a', { priority: 2 })];
    const turns = takeTurns(runs, new Map([['a', 9]]));

    expect(turns.map(({ project, priority }) => `${project}${priority}`)).toEqual(['a2', 'a2', 'b3', 'a5']);
  });

  test('C9 among equals who has waited longer is first, and those of one moment stay in the order of their build', () => {
    const runs = [1, 1, 7, 7].map((waitedMs) => waits('a', { waitedMs }));

    expect(takeTurns(runs, new Map())).toEqual([runs[2], runs[3], runs[0], runs[1]]);
  });

  test('C9 each turn goes to the best of those that are left, as a search through all of them finds it', () => {
    fc.assert(
      fc.property(situation, ({ runs, holdings }) => {
        const held = new Map(holdings);
        const holds = (run: WaitingRun): number => held.get(run.project) ?? 0;
        const left = [...runs];
        const turns = takeTurns(runs, holdings);

        expect(turns).toHaveLength(runs.length);
        for (const run of turns) {
          const rank = (one: WaitingRun) => [one.priority, holds(one), -one.waitedMs];
          const best = left.map(rank).sort((a, b) => a[0]! - b[0]! || a[1]! - b[1]! || a[2]! - b[2]!)[0];
          expect(rank(run)).toEqual(best);
          held.set(run.project, holds(run) + 1);
          left.splice(left.indexOf(run), 1);
        }
      }),
    );
  });
});

describe('a free slot', () => {
  test('C9 is not given to a project that holds some while a run of one that holds fewer asked for it lately', () => {
    const [a, b] = [waits('a', { waitedMs: 60_000 }), waits('b')];
    const holdings = new Map([['a', 1]]);

    expect(answerTo(a, { waiting: [b], holdings })).toBe(
      'it waits for its turn: a project that holds fewer slots comes first',
    );
    expect(answerTo(b, { waiting: [a], holdings })).toBe('only/1');
    expect(answerTo(a, { waiting: [b], holdings, hosts: [host('only', 2)] })).toMatch(/^only/);
  });

  test('C9 is kept for a run of higher priority, and the refused one is told which', () => {
    const [low, high] = [waits('a', { priority: 4 }), waits('a', { priority: 2 })];

    expect(answerTo(low, { waiting: [high] })).toBe('it waits for its turn: a run of priority 2 comes first');
    expect(answerTo(high, { waiting: [low] })).toBe('only/1');
  });

  test('C9 never lies idle for age alone: between equals the one that asks gets it', () => {
    const [young, old] = [waits('a', { waitedMs: 0 }), waits('a', { waitedMs: 1e9 })];

    expect(answerTo(young, { waiting: [old] })).toBe('only/1');
    expect(answerTo(young, { waiting: [waits('b', { waitedMs: 1e9 })] })).toBe('only/1');
  });

  test('C9 is not kept for a run that it does not fit, nor for one whose project has all that it may hold', () => {
    const elsewhere = waits('b', { hostTag: 'other', priority: 1 });
    const capped = waits('b', { priority: 1 });
    const more = { holdings: new Map([['b', 2]]), maxSlotsPerProject: 2 };

    expect(answerTo(waits('a'), { waiting: [elsewhere] })).toBe('only/1');
    expect(answerTo(waits('a'), { waiting: [capped], ...more })).toBe('only/1');
    expect(answerTo(waits('a'), { waiting: [capped] })).toMatch(/priority 1/);
  });

  test('C9 of a host that only the one that asks can use is given to it, for the others are thought onto the rest', () => {
    const hosts = [host('x', 1), host('y', 1)];
    const better = waits('b', { priority: 1 });

    expect(answerTo(waits('a', { hostTag: 'x' }), { waiting: [better], hosts })).toBe('x/1');
    expect(answerTo(waits('a'), { waiting: [{ ...better, hostTag: 'x' }], hosts, worker: 'worker-of-x' })).toBe('y/1');
  });

  test('C9 C8 is refused to a project at its cap, in words that say so also when there is none', () => {
    const more = { holdings: new Map([['a', 2]]), cluster: 'lab' };
    const full = [host('only', 1, [1])];

    expect(answerTo(waits('a'), { ...more, maxSlotsPerProject: 2 })).toBe('project a holds its 2 slots of cluster lab');
    expect(answerTo(waits('a'), { ...more, maxSlotsPerProject: 1, hosts: full })).toBe(
      'project a holds its one slot of cluster lab',
    );
    expect(answerTo(waits('a'), { ...more, maxSlotsPerProject: 3 })).toBe('only/1');
    expect(answerTo(waits('a'), { maxSlotsPerProject: 1, hosts: full })).toBe('all 1 slots of host only are leased');
    expect(answerTo(waits('a', { hostTag: 'q' }), { ...more, maxSlotsPerProject: 2 })).toMatch(/no host matches/);
  });

  test('C9 is always taken by somebody: of all that wait, one that it fits is granted when it asks', () => {
    fc.assert(
      fc.property(situation, ({ runs, ...rest }) => {
        const alone = runs.filter((asker) => decideGrant(question(asker, rest)).kind === 'host');
        const together = runs.filter((asker) => {
          const waiting = runs.filter((run) => run !== asker);
          return decideGrant(question(asker, { ...rest, waiting })).kind === 'host';
        });

        expect(together.length > 0).toBe(alone.length > 0);
      }),
    );
  });

  test('C9 is refused only for a run of higher priority, or of a project that holds fewer', () => {
    fc.assert(
      fc.property(situation, ({ runs: [asker, ...waiting], holdings, ...rest }) => {
        const holds = (run: WaitingRun): number => holdings.get(run.project) ?? 0;
        const alone = decideGrant(question(asker!, { ...rest, holdings }));
        const choice = decideGrant(question(asker!, { ...rest, holdings, waiting }));
        if (alone.kind === 'none') {
          expect(choice).toEqual(alone);
          return;
        }
        const better = waiting.filter(
          (run) => run.priority < asker!.priority || (run.priority === asker!.priority && holds(run) < holds(asker!)),
        );
        if (better.length === 0) expect(choice.kind).toBe('host');
        if (choice.kind === 'host') expect(choice.host.busySlots).not.toContain(choice.slot);
      }),
    );
  });

  test('C9 however runs ask and end, no project gets a slot while another with a run waiting holds fewer', () => {
    const steps = fc.array(fc.record({ ends: fc.nat(2), asks: fc.shuffledSubarray(['a', 'b', 'c']) }), {
      minLength: 20,
      maxLength: 40,
    });
    fc.assert(
      fc.property(steps, (steps) => {
        let slots = ['a', 'a', 'a'];
        for (const { ends, asks } of steps) {
          slots = slots.filter((_, at) => at !== ends);
          for (const project of asks) {
            const busySlots = slots.map((_, at) => at + 1);
            const holdings = new Map(['a', 'b', 'c'].map((one) => [one, slots.filter((slot) => slot === one).length]));
            const others = ['a', 'b', 'c'].filter((one) => one !== project).map((one) => waits(one));
            const more = { waiting: others, hosts: [host('only', 3, busySlots)], holdings };
            if (decideGrant(question(waits(project), more)).kind === 'none') continue;
            const free = 3 - slots.length;
            const fewer = others.filter((one) => holdings.get(one.project)! < holdings.get(project)!);
            expect(fewer.length).toBeLessThan(free);
            slots.push(project);
          }
        }
      }),
    );
  });
});
