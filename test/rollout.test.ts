// Proves whose turn it is to take a release, over every order in which workers come, go and fail. Pure.
import fc from 'fast-check';
import { planRollout, type RolloutRules, type RolloutWorker } from '../domain/rollout';

const worker = (id: string, more: Partial<RolloutWorker> = {}): RolloutWorker => ({
  id,
  connected: true,
  offered: false,
  ranForMs: null,
  failure: null,
  ...more,
});
const has = (ranForMs: number): Partial<RolloutWorker> => ({ offered: true, ranForMs });
const fleet = (...more: Partial<RolloutWorker>[]): RolloutWorker[] => more.map((one, at) => worker(`w${at}`, one));
const RULES: RolloutRules = { canaries: 1, holdMs: 1_000 };

test.each<[title: string, workers: RolloutWorker[], then: [turn: string[], state: string]]>([
  ['nobody takes releases', [], [[], 'no worker of this cluster takes releases']],
  ['the first by its id is the canary', fleet({}, {}), [['w0'], 'canary w0 is to take it; 0 of 2 workers have it']],
  ['one that is away is no canary', fleet({ connected: false }, {}), [['w1'], 'canary w1 is to take it; 0 of 2']],
  ['it is watched', fleet(has(400), {}), [[], '1 canary watched for another 1 s; 1 of 2 workers has it']],
  ['then comes the next', fleet(has(1_000), {}, {}), [['w1'], 'rolling out; 1 of 3 workers has it']],
  ['one at a time in a small fleet', fleet(has(1_000), { offered: true }, {}), [['w1'], 'rolling out; 1 of 3']],
  ['all have it', fleet(has(1_000), has(0)), [[], 'done: 2 of 2 workers have it']],
  ['one failed', fleet(has(9_000), { failure: 'bad' }, {}), [[], 'paused: worker w1 could not take it (bad); 1 of 3']],
  ['the canary died of it', fleet({ offered: true, connected: false }, {}), [[], 'paused: canary w0 is silent']],
  ['nobody is there', fleet({ connected: false }), [[], 'it waits for a worker to be connected; 0 of 1']],
])('C2 %s', (_title, workers, [turn, state]) => {
  const rollout = planRollout(RULES, workers);

  expect(rollout.turn).toEqual(turn);
  expect(rollout.state).toContain(state);
});

test('C2 two canaries take it at once, and both are waited for', () => {
  const rules = { canaries: 2, holdMs: 1_000 };

  expect(planRollout(rules, fleet({}, {}, {})).turn).toEqual(['w0', 'w1']);
  expect(planRollout(rules, fleet(has(5_000), has(10), {})).turn).toEqual([]);
  expect(planRollout(rules, fleet(has(5_000), has(1_000), {})).turn).toEqual(['w2']);
});

/** Steps of a rollout, carried out by a fleet as workers would. */
const steps = fc.array(
  fc.record({
    who: fc.integer({ min: 0, max: 11 }),
    what: fc.constantFrom('hello', 'upgraded', 'silent', 'back', 'time'),
  }),
  { maxLength: 200 },
);

test('C2 whatever the order of events: nobody but canaries takes it before they were watched, and never more than a quarter at once after that', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 3 }), steps, (size, canaries, events) => {
      const workers = fleet(...Array.from({ length: size }, () => ({})));
      const rules = { canaries, holdMs: 10 };
      for (const { who, what } of events) {
        const one = workers[who % size]!;
        if (what === 'time') workers.filter((w) => w.ranForMs !== null).forEach((w) => (w.ranForMs! += 4));
        if (what === 'silent') one.connected = false;
        if (what === 'back') one.connected = true;
        if (what === 'upgraded' && one.offered && one.ranForMs === null) one.ranForMs = 0;
        if (what === 'hello' && one.connected && planRollout(rules, workers).turn.includes(one.id)) one.offered = true;

        const offered = workers.filter((w) => w.offered);
        const tested = offered.filter((w) => (w.ranForMs ?? -1) >= 10);
        const underWay = offered.filter((w) => w.ranForMs === null);
        if (tested.length < Math.min(canaries, size)) expect(offered.length).toBeLessThanOrEqual(canaries);
        expect(underWay.length).toBeLessThanOrEqual(Math.max(canaries, Math.floor(size / 4), 1));
      }
    }),
  );
});

test('C2 a fleet that stays and fails nothing gets it whole', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 20 }), (size, canaries) => {
      const workers = fleet(...Array.from({ length: size }, () => ({})));
      const rules = { canaries, holdMs: 10 };
      for (let round = 0; round < 4 * size + 4; round++) {
        const { turn } = planRollout(rules, workers);
        for (const one of workers) {
          if (one.ranForMs !== null) one.ranForMs += 10;
          if (turn.includes(one.id)) Object.assign(one, has(0));
        }
      }

      expect(planRollout(rules, workers).state).toBe(
        `done: ${size} of ${size} worker${size === 1 ? ' has' : 's have'} it`,
      );
    }),
  );
});
