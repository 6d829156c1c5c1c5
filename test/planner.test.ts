// Proves that reading project files and planning delays nobody: turns of callers, limits of time, memory and number.
// Real threads of the compiled program; the event loop of the test stands for that of the API.
import { join } from 'node:path';
import { Planner, type PlannerLimits } from '../adapters/planner';
import { planDigest } from '../adapters/plan-digest';
import { readProjectFile } from '../adapters/project-file';
import { makePlan } from '../domain/plan';
import { DIST, oneRun } from './setup/house';

const ENTRY = join(DIST, 'adapters', 'planner-thread.js');
const open: Planner[] = [];
const newPlanner = (limits?: PlannerLimits): Planner => {
  const planner = new Planner(ENTRY, limits);
  open.push(planner);
  return planner;
};
afterEach(async () => {
  await Promise.all(open.splice(0).map((planner) => planner.close()));
});

const SHORT = oneRun('true');
/** Valid, and dear: 12 triggers of 1,000 cells with 200 overrides each, through aliases. */
const DEAR = (() => {
  const axis = Array.from({ length: 10 }, (_, at) => at).join(',');
  const override = (at: number): string => `{match: {A: '${at % 10}', B: '${at % 10}'}, params: {P${at}: x}}`;
  const overrides = Array.from({ length: 200 }, (_, at) => override(at)).join(',');
  const matrix = `&m {axes: {A: [${axis}], B: [${axis}], C: [${axis}]}, overrides: [${overrides}]}`;
  const trigger = (at: number): string =>
    `- {name: t${at}, runs: [{name: "r{loop}", container: b, script: s, matrix: ${at === 0 ? matrix : '*m'}}]}\n`;
  return `timeout: 1\nscripts: {s: x}\ntriggers:\n${Array.from({ length: 12 }, (_, at) => trigger(at)).join('')}`;
})();

test('P5 a plan is the one that is made without a thread, with its digest', async () => {
  const wanted = { params: { A: 'b' }, priority: 2 };
  const read = readProjectFile(SHORT);
  const made = read.kind === 'valid' ? makePlan(read.file, wanted) : read;
  if (made.kind !== 'plan') throw new Error(made.kind);

  const answer = await newPlanner().ask({ definition: SHORT, plan: wanted }, 'me');

  expect(answer).toEqual({ kind: 'plan', plan: made.plan, digest: planDigest(made.plan) });
});

test('P1 problems of a file and of a request come back as they are found', async () => {
  const planner = newPlanner();

  expect(await planner.ask({ definition: 'a: [' }, 'me')).toEqual(readProjectFile('a: ['));
  expect(await planner.ask({ definition: SHORT }, 'me')).toEqual({
    kind: 'valid',
    description: '',
    triggers: ['main'],
  });
  expect(await planner.ask({ definition: SHORT, plan: { params: {}, trigger: 'x' } }, 'me')).toMatchObject({
    kind: 'refused',
    problems: [{ code: 'unknown-trigger' }],
  });
});

test('O6 while a dear file is read, short files are read and answered', async () => {
  const planner = newPlanner();
  await planner.ask({ definition: SHORT }, 'other');
  const order: string[] = [];

  await Promise.all([
    planner.ask({ definition: DEAR }, 'me').then(({ kind }) => order.push(`dear ${kind}`)),
    planner.ask({ definition: SHORT }, 'other').then(({ kind }) => order.push(`short ${kind}`)),
  ]);

  expect(order).toEqual(['short valid', 'dear valid']);
});

test('P5 a short text with a large plan is planned like any other', async () => {
  const cells = Array.from({ length: 1000 }, (_, at) => at).join(',');
  const definition = oneRun(`: ${'x'.repeat(5000)}`).replace(
    'script: work',
    `script: work\n        matrix: {axes: {a: [${cells}]}}`,
  );

  expect(await newPlanner().ask({ definition, plan: { params: {} } }, 'me')).toMatchObject({ kind: 'plan' });
});

test('O6 a file that takes longer than it may is refused, and the next one is read by another thread', async () => {
  const planner = newPlanner({ deadlineMs: 1, mostOfOne: 1024 ** 2, most: 1024 ** 2 });

  await expect(planner.ask({ definition: DEAR }, 'me')).rejects.toMatchObject({ reason: 'too-costly' });

  await expect(planner.ask({ definition: DEAR }, 'me')).rejects.toMatchObject({ reason: 'too-costly' });
});

test('O6 callers take turns, and one that asks for too much at once is told to come again', async () => {
  const size = SHORT.length + 1_000;
  const planner = newPlanner({ deadlineMs: 60_000, mostOfOne: 3 * size, most: 5 * size });
  const order: string[] = [];
  const ask = async (caller: string): Promise<void> => {
    await planner.ask({ definition: SHORT }, caller);
    order.push(caller);
  };

  const asked = ['flood', 'flood', 'flood', 'flood', 'other'].map(ask);
  await expect(ask('flood')).rejects.toMatchObject({ reason: 'busy' });
  asked.push(ask('other'));
  await expect(ask('third')).rejects.toMatchObject({ reason: 'busy' });
  await Promise.all(asked);

  // The first was in the thread already when the others came.
  expect(order).toEqual(['flood', 'flood', 'other', 'flood', 'other', 'flood']);
});

test('F3 a hundred asks at once for a file with a star in its script are all planned', async () => {
  const planner = newPlanner();
  const definition = oneRun('cc *.c -o a && ./a');

  const answers = await Promise.all(
    Array.from({ length: 100 }, () => planner.ask({ definition, plan: { params: {} } }, 'me')),
  );

  expect(new Set(answers.map(({ kind }) => kind))).toEqual(new Set(['plan']));
});
