// Proves that a build outlives every process of ours: same container, started once, log byte for byte, same URLs.
// Real Temporal, real Docker, real SIGKILL.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { House, oneRun } from './setup/house';
import { waitFor } from './setup/wait-for';

/** Prints a line each 100 ms for `seconds`, and leaves one line in /archive/starts each time it is started. */
const ticking = (seconds: number): string => `#!/bin/sh
echo started >> /archive/starts
i=0
while [ $i -lt ${seconds * 10} ]; do i=$((i+1)); echo "line $i"; sleep 0.1; done
`;
const expectedLog = (seconds: number): string =>
  Array.from({ length: seconds * 10 }, (_, at) => `line ${at + 1}\n`).join('');
const sha = (text: string): string => createHash('sha256').update(text).digest('hex');
const containerState = (id: string): string =>
  execFileSync('docker', ['inspect', '--format', '{{.State.Status}}', id], { encoding: 'utf8' }).trim();

let house: House;
beforeAll(async () => {
  house = await House.open();
}, 120_000);
afterAll(async () => house?.stop(), 60_000);

async function begin(name: string, seconds: number) {
  await house.project(name, oneRun(ticking(seconds)));
  const build = await house.trigger(name);
  const run = await house.runIn('running', name, build.number, 'work');
  const { containerId } = run.attempts[0] ?? {};
  if (!containerId) throw new Error('no container id is shown');
  return { build, containerId };
}

async function expectUndisturbed(name: string, seconds: number, before: { containerId: string; urls: string }) {
  const build = await house.finished(name, 1, 120_000);
  const run = await house.run(name, 1, 'work');
  const starts = await house.request('GET', `${run.urls.artifacts}/starts`);

  expect({ status: build.status, page: build.urls.page }).toEqual({ status: 'passed', page: before.urls });
  expect(run.attempts.map((attempt) => attempt.containerId)).toEqual([before.containerId]);
  expect(await starts.text()).toBe('started\n');
  expect(sha(await house.logOf(name, 1, 'work'))).toBe(sha(expectedLog(seconds)));
}

test('B4 Temporal is away for 25 s, longer than the heartbeat time-out: the container is neither stopped nor started again', async () => {
  const { build, containerId } = await begin('temporal-away', 45);

  await house.temporal.kill9();
  await sleep(25_000);
  const duringOutage = containerState(containerId);
  await house.temporal.restart();

  expect(duringOutage).toBe('running');
  await expectUndisturbed('temporal-away', 45, { containerId, urls: build.urls.page });
}, 180_000);

test.each([['api'], ['orchestrator'], ['worker']])(
  'B4 the %s is killed in mid-run: same container, started once, log byte-identical, same URLs',
  async (member) => {
    const name = `${member}-killed`;
    const { build, containerId } = await begin(name, 12);

    await house.kill9(member);
    await house.start(member);

    await expectUndisturbed(name, 12, { containerId, urls: build.urls.page });
  },
  120_000,
);

test('B4 API, orchestrator, worker, database and Temporal server are killed all at once: the build goes on', async () => {
  const { build, containerId } = await begin('all-killed', 20);

  await Promise.all(['api', 'orchestrator', 'worker', 'database'].map((member) => house.kill9(member)));
  await house.temporal.kill9();
  await house.temporal.restart();
  await house.start('database');
  await Promise.all(['api', 'orchestrator', 'worker'].map((member) => house.start(member)));

  await expectUndisturbed('all-killed', 20, { containerId, urls: build.urls.page });
}, 180_000);

test('B4 the worker is stopped by SIGTERM: it lets go at once, the container lives on, the next one adopts it', async () => {
  const { build, containerId } = await begin('worker-stopped', 12);

  await house.terminate('worker');
  const afterStop = containerState(containerId);
  await house.start('worker');

  expect(afterStop).toBe('running');
  await expectUndisturbed('worker-stopped', 12, { containerId, urls: build.urls.page });
}, 120_000);

test('B13 the URLs of a finished build answer the same bytes after everything was started again', async () => {
  await house.project('forever', oneRun(ticking(1)));
  const { number } = await house.trigger('forever');
  await house.finished('forever', number);
  const read = async () => {
    const run = await house.run('forever', number, 'work');
    const bodies = await Promise.all(
      [run.urls.self, run.urls.log, `${run.urls.artifacts}/starts`].map(async (url) =>
        (await house.request('GET', url)).text(),
      ),
    );
    return bodies;
  };
  const before = await read();

  await Promise.all(['api', 'orchestrator', 'worker', 'database'].map((member) => house.kill9(member)));
  await house.start('database');
  await Promise.all(['api', 'orchestrator', 'worker'].map((member) => house.start(member)));

  expect(await waitFor(read, { what: 'the API answers', timeoutMs: 20_000 })).toEqual(before);
}, 120_000);
