// Proves that builds which Temporal no longer drives are finished or go on, and that nothing of them is left.
// Real Temporal, real Docker; workflows are terminated by hand, do not fit the code, or went with their server's data.
import { execFileSync } from 'node:child_process';
import { makeChangedProgram } from './setup/changed-program';
import { DIST, House, oneRun, TEST_IMAGE } from './setup/house';
import { waitFor } from './setup/wait-for';

let house: House;
beforeEach(async () => {
  house = await House.open({ env: { SLIPWAY_STOP_GRACE_MS: '500' } });
}, 120_000);
afterEach(async () => house?.stop(), 60_000);

const withAfter = (script: string): string =>
  oneRun(script).replace(
    'scripts:',
    `      - { name: after, container: '${TEST_IMAGE}', script: work, needs: [work] }\nscripts:`,
  );

const containersOf = (project: string): string =>
  execFileSync('docker', ['ps', '-aq', '--filter', `label=dev.slipway.project=${project}`], { encoding: 'utf8' });

const busySlots = async (): Promise<number> => {
  const { workers } = await house.call<{ workers: { busySlots: number }[] }>('GET', '/v1/workers');
  return workers.reduce((sum, worker) => sum + worker.busySlots, 0);
};

test('H7 B10 a workflow that was terminated by hand: its build ends as cancelled, container and lease are gone', async () => {
  await house.project('by-hand', withAfter('#!/bin/sh\nexec sleep 600'));
  await house.trigger('by-hand');
  await house.runIn('running', 'by-hand', 1, 'work');
  const args = ['workflow', 'terminate', '--workflow-id', 'build/by-hand/1', '--address', house.temporal.address];
  execFileSync(process.env.SLIPWAY_TEMPORAL_CLI ?? 'temporal', args);

  const build = await house.finished('by-hand', 1, 120_000);
  await waitFor(async () => containersOf('by-hand') === '' && (await busySlots()) === 0, {
    what: 'container and lease are gone',
    timeoutMs: 90_000,
  });

  expect(build.status).toBe('cancelled');
  const message = 'its workflow was terminated in Temporal';
  const ended = { status: 'cancelled', cause: 'workflow-terminated', message };
  expect(build.runs).toMatchObject([
    { name: 'work', ...ended },
    { name: 'after', ...ended },
  ]);
}, 240_000);

/** Its output and its container tell whether it was the same one all the time. */
const COUNTING = '#!/bin/sh\necho started >> /archive/starts\nfor i in $(seq 1 45); do echo "line $i"; sleep 1; done';
const counting = `${withAfter(COUNTING).replace('script: work, needs', 'script: short, needs')}  short: "#!/bin/sh\\ntrue\\n"\n`;

async function expectSameRun(project: string, containerId: string | null | undefined): Promise<void> {
  const run = await house.run(project, 1, 'work');
  expect(run.attempts.map((attempt) => attempt.containerId)).toEqual([containerId]);
  expect(await house.logOf(project, 1, 'work')).toBe(
    Array.from({ length: 45 }, (_, at) => `line ${at + 1}\n`).join(''),
  );
  expect(await (await house.request('GET', run.artifacts[0]!.url)).text()).toBe('started\n');
}

test('B4 a Temporal server that lost all its data: the build goes on from its rows, same container, same attempt', async () => {
  await house.project('wiped', counting);
  const { urls } = await house.trigger('wiped');
  const before = await house.runIn('running', 'wiped', 1, 'work');

  await house.temporal.restartEmpty();
  const build = await house.finished('wiped', 1, 200_000);

  expect(build).toMatchObject({ status: 'passed', urls });
  await expectSameRun('wiped', before.attempts[0]?.containerId);
}, 300_000);

test('B4 B11 a workflow whose history fits no orchestrator: the build goes on from its rows, same container, same attempt', async () => {
  const other = await makeChangedProgram('0.0.9', [
    [
      '  setHandler(buildView',
      '  await records.locateAttempt({ runId: input.runs[0]!.id, number: 1 });\n  setHandler(buildView',
    ],
  ]);
  try {
    house.upgrade('orchestrator', other.program);
    await house.terminate('orchestrator');
    await house.start('orchestrator');
    await house.project('misfit', counting);
    const { urls } = await house.trigger('misfit');
    const before = await house.runIn('running', 'misfit', 1, 'work');

    house.upgrade('orchestrator', DIST);
    await house.kill9('orchestrator');
    await house.start('orchestrator');
    const build = await house.finished('misfit', 1, 300_000);

    expect(house.wholeLog('orchestrator')).toContain('begins again from its rows');
    expect(build).toMatchObject({ status: 'passed', urls });
    await expectSameRun('misfit', before.attempts[0]?.containerId);
  } finally {
    other.remove();
  }
}, 400_000);
