// Proves that a worker which was paused beyond all its time-outs, and then goes on, is refused everywhere: whatever it was
// about to do for an attempt that was given to another host meanwhile has no effect.
// Real Temporal, real Docker, real SIGSTOP and SIGCONT.
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expectNothingLeft } from './setup/nothing-left';
import type { Run } from '../domain/schemas/api';
import { openCrashRig, TIMES, type CrashRig } from './setup/crash-rig';
import { oneRun, TEST_IMAGE } from './setup/house';
import { waitFor } from './setup/wait-for';

/** The calls that are under way while the worker is paused, and the word in the path of each. */
const CALLS = {
  'starting before': 'progress',
  'log before': 'log',
  'artifact before': 'artifacts',
  'result before': 'result',
};
/** In the last one it has been allowed to start the container, and is about to. */
const MOMENTS = [...Object.keys(CALLS), 'starting after'];

const PROJECT = `timeout: 10
triggers:
  - name: main
    runs:
${MOMENTS.map((name) => `      - { name: ${name}, container: '${TEST_IMAGE}', script: work }`).join('\n')}
scripts:
  work: |
    #!/bin/sh
    echo "on $H_WORKER"
    echo started >> /archive/starts
`;

let rig: CrashRig;
beforeAll(async () => {
  rig = await openCrashRig(MOMENTS.length);
}, 180_000);
afterAll(async () => rig?.stop(), 120_000);

test('H4 B6 start, log, artifact and result of a paused worker are refused once its attempts are with another host, and its log says so', async () => {
  const { house, api, dockerLink, db } = rig;
  await house.project('paused', PROJECT);
  await house.trigger('paused');
  await waitFor(() => api.held === MOMENTS.length, { what: 'every run is held at its call', timeoutMs: 60_000 });
  house.signal('worker', 'SIGSTOP');
  house.add('second', 'worker', { SLIPWAY_HOST: 'second-host', SLIPWAY_WORKER_DIR: join(house.dir, 'second') });
  await house.start('second');
  await house.finished('paused', 1, 120_000);
  const startedBefore = startsOfFirstAttempts(dockerLink.passed);

  house.signal('worker', 'SIGCONT');
  api.release('go-on');
  await waitFor(() => api.refused.length >= Object.keys(CALLS).length, {
    what: 'every late call is refused',
    timeoutMs: 30_000,
  });
  await expectNothingLeft(rig);

  const runs = await db.selectFrom('runs').select(['id', 'name']).execute();
  const late = (name: string) => {
    const { id } = runs.find((run) => run.name === name)!;
    return api.refused.filter((call) => call.includes(id)).map((call) => /attempts\/.+\/1\/(\w+)/.exec(call)?.[1]);
  };
  expect(Object.fromEntries(Object.keys(CALLS).map((name) => [name, late(name)[0]]))).toEqual(CALLS);
  expect(startsOfFirstAttempts(dockerLink.passed)).toEqual(startedBefore);
  for (const name of MOMENTS) {
    const run = await house.run('paused', 1, name);
    expect(run.attempts.map(({ cause, host }) => ({ cause, host }))).toEqual([
      { cause: 'host-lost', host: 'test-host' },
      { cause: 'ok', host: 'second-host' },
    ]);
    expect(await house.logOf('paused', 1, name)).toBe('on second-host\n');
    expect(run.artifacts.map((artifact) => artifact.path)).toEqual(['starts']);
  }
  expect(house.wholeLog('worker')).toContain('refused by the server as no longer the holder of this attempt');
  expect(house.wholeLog('api')).toMatch(/refused: fencing token \d+ of attempt 1 of run .+ is no longer the live one/);
}, 240_000);

/** Containers of first attempts that were started. */
function startsOfFirstAttempts(calls: readonly string[]): string[] {
  return calls.filter((call) => /slipway-[0-9a-f-]{36}-1\/start/.test(call));
}

test('B5 C7 a worker that is heard, and that Temporal does not reach for longer than the grace, is waited for: same attempt, one start', async () => {
  const { house, temporalLink } = rig;
  await house.project('heard', oneRun('#!/bin/sh\necho started >> /archive/starts\nsleep 20\necho done'));
  await house.trigger('heard');
  const runOf = (): Promise<Run> => house.run('heard', 1, 'work');
  await waitFor(async () => (await runOf()).state === 'running', { what: 'it runs', timeoutMs: 60_000 });
  temporalLink.cut();
  await sleep(1.5 * TIMES.heartbeatMs + 1.5 * TIMES.graceMs);
  expect((await runOf()).attempt).toBe(1);

  temporalLink.mend();
  const build = await house.finished('heard', 1, 120_000);
  const run = await runOf();

  expect([build.status, run.attempts.map(({ cause }) => cause)]).toEqual(['passed', ['ok']]);
  expect(await (await house.request('GET', `${run.urls.artifacts}/starts`)).text()).toBe('started\n');
  expect(await house.logOf('heard', 1, 'work')).toBe('done\n');
}, 300_000);
