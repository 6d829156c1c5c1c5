// Proves that a flood of one project does not delay another, that priorities are kept, and that waiting raises them.
// Real Temporal, real Docker. Builds are queued while no worker is there, so the order of their starts is the queue's alone.
import { execFileSync } from 'node:child_process';
import type { Run } from '../domain/schemas/api';
import { House, oneRun, TEST_IMAGE } from './setup/house';
import { waitFor } from './setup/wait-for';

/** In which a line that gets nothing rises by one priority; a flood waits for much longer here. */
const STEP_MS = 15_000;

jest.setTimeout(180_000);

let house: House;
beforeAll(async () => {
  house = await House.open({ slots: 2, without: ['worker'], env: { SLIPWAY_AGE_STEP_MS: String(STEP_MS) } });
  house.add('one-by-one', 'worker', { SLIPWAY_SLOTS: '1' });
}, 120_000);
afterEach(() => Promise.all(['worker', 'one-by-one'].map((name) => house.terminate(name))), 60_000);
afterAll(async () => house?.stop(), 60_000);

interface HistoryEvent {
  eventType: string;
  activityTaskScheduledEventAttributes?: { priority?: { priorityKey?: number; fairnessKey?: string } };
}

/** The priorities under which Temporal was offered the runs of a build so far. */
function offersOf(project: string, number = 1): number[] {
  const args = ['workflow', 'show', '--workflow-id', `build/${project}/${number}`, '-o', 'json'];
  const text = execFileSync(
    process.env.SLIPWAY_TEMPORAL_CLI ?? 'temporal',
    [...args, '--address', house.temporal.address],
    { encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 },
  );
  const { events } = JSON.parse(text) as { events: HistoryEvent[] };
  return events.flatMap((event) => event.activityTaskScheduledEventAttributes?.priority?.priorityKey ?? []);
}

const offered = (project: string, count: number): Promise<unknown> =>
  waitFor(() => offersOf(project).length >= count, { what: `${count} offers of ${project}`, timeoutMs: 60_000 });

async function queueOne(name: string, priority?: number, definition = oneRun('#!/bin/sh\ntrue')): Promise<void> {
  await house.project(name, definition);
  await house.trigger(name, priority === undefined ? {} : { priority });
  await offered(name, 1);
}

const startOf = (run: Pick<Run, 'startedAt'>): number => Date.parse(run.startedAt ?? '');

async function startOrder(names: string[]): Promise<string[]> {
  const starts = await Promise.all(
    names.map(async (name) => {
      await house.finished(name, 1);
      return { name, at: startOf(await house.run(name, 1, 'work')) };
    }),
  );
  return starts.sort((a, b) => a.at - b.at).map(({ name }) => name);
}

test('C9 project a queues 500 runs, then project b 1: that one starts within the next 5', async () => {
  const BUILDS = 5;
  await house.project(
    'flood',
    `timeout: 5
triggers:
  - name: main
    runs:
      - name: run-{loop}
        container: ${TEST_IMAGE}
        script: work
        loop-on: [{ param: N, values: [${Array.from({ length: 100 }, (_, at) => at).join(', ')}] }]
scripts:
  work: "#!/bin/sh\\nsleep 0.5\\n"
`,
  );
  for (let at = 0; at < BUILDS; at += 1) await house.trigger('flood');
  for (let at = 1; at <= BUILDS; at += 1) {
    await waitFor(() => offersOf('flood', at).length >= 100, { what: `build ${at} is queued`, timeoutMs: 60_000 });
  }
  const startsOfFlood = async (): Promise<number[]> => {
    const builds = await Promise.all(Array.from({ length: BUILDS }, (_, at) => house.build('flood', at + 1)));
    return builds.flatMap((build) => build.runs.filter((run) => run.startedAt !== null).map(startOf));
  };
  await house.start('worker');
  await waitFor(async () => (await startsOfFlood()).length >= 4, { what: 'the flood is under way', timeoutMs: 60_000 });

  await house.project('drop', oneRun('#!/bin/sh\ntrue'));
  const { createdAt } = await house.trigger('drop');
  await house.finished('drop', 1);

  const start = startOf(await house.run('drop', 1, 'work'));
  const between = (await startsOfFlood()).filter((at) => at > Date.parse(createdAt) && at < start);
  expect(between.length).toBeLessThanOrEqual(5);
  for (let at = 1; at <= BUILDS; at += 1) await house.call('POST', `/v1/projects/flood/builds/${at}/cancel`);
  for (let at = 1; at <= BUILDS; at += 1) await house.finished('flood', at, 120_000);
});

test('C9 runs start by priority, whatever came first: that of the caller wins over that of the file', async () => {
  const ofFile = `priority: 4\n${oneRun('#!/bin/sh\ntrue')}`;
  await queueOne('last', 5);
  await queueOne('default');
  await queueOne('by-file', undefined, ofFile);
  await queueOne('by-caller', 1, ofFile);
  await house.start('one-by-one');
  const order = await startOrder(['last', 'default', 'by-file', 'by-caller']);

  expect(order).toEqual(['by-caller', 'default', 'by-file', 'last']);
});

test('C9 a run that waits is offered again with a higher priority, and so comes before a higher one that came later', async () => {
  await queueOne('patient', 4);
  await waitFor(() => offersOf('patient').at(-1) === 1, { what: 'it is offered first', timeoutMs: 120_000 });
  await queueOne('urgent', 3);
  await house.start('one-by-one');
  const order = await startOrder(['patient', 'urgent']);

  expect(order).toEqual(['patient', 'urgent']);
  expect(offersOf('patient').slice(0, 4)).toEqual([4, 3, 2, 1]);
  expect((await house.run('patient', 1, 'work')).attempts).toHaveLength(1);
});

test('C9 B9 being offered again does not lengthen the wait: its limit ends it all the same', async () => {
  const minutes = (1.5 * STEP_MS) / 60_000;
  await queueOne('limited', undefined, `timeouts: { waiting: ${minutes} }\n${oneRun('#!/bin/sh\ntrue')}`);
  const build = await house.finished('limited', 1);
  const run = await house.run('limited', 1, 'work');

  expect(offersOf('limited')).toEqual([3, 2]);
  expect(run).toMatchObject({ cause: 'waiting-timeout', message: expect.stringContaining('no worker of cluster') });
  expect(Date.parse(build.finishedAt ?? '') - Date.parse(build.createdAt)).toBeGreaterThanOrEqual(1.5 * STEP_MS);
});
