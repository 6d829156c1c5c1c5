// Proves that a cancel is honest, idempotent and complete, whatever the run is doing. Real Temporal, real Docker.
import { execFileSync } from 'node:child_process';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { WorkerList } from '../domain/schemas/api';
import type { z } from 'zod';
import { House, oneRun, TEST_IMAGE } from './setup/house';
import { waitFor } from './setup/wait-for';

let house: House;
beforeAll(async () => {
  house = await House.open({ slots: 3, env: { SLIPWAY_STOP_GRACE_MS: '2000' } });
}, 120_000);
afterAll(async () => house?.stop(), 60_000);

const file = (runs: string, scripts: string): string =>
  `timeout: 10\ntriggers:\n  - name: main\n    runs:\n${runs}\nscripts:\n${scripts}\n`;
const run = (name: string, script: string, more = ''): string =>
  `      - { name: ${name}, container: '${TEST_IMAGE}', script: ${script}${more} }\n`;

const SCRIPTS = `  quick: |
    #!/bin/sh
    echo quick
  silent: |
    #!/bin/sh
    trap 'exit 9' TERM
    while true; do sleep 0.1; done
  stubborn: |
    #!/bin/sh
    trap '' TERM
    echo kept > /archive/kept
    echo begun
    while true; do sleep 0.1; done
`;

const busySlots = async (): Promise<number> => {
  const { workers } = await house.call<z.infer<typeof WorkerList>>('GET', '/v1/workers');
  return workers.reduce((sum, worker) => sum + worker.busySlots, 0);
};
const containersOf = (project: string): string[] =>
  execFileSync('docker', ['ps', '-aq', '--filter', `label=dev.slipway.project=${project}`], { encoding: 'utf8' })
    .split('\n')
    .filter((id) => id !== '');

test('B7 a build is cancelled with a passed, a silent, a stubborn and a waiting run: passed stays, the rest is gone', async () => {
  const runs =
    run('passed', 'quick') +
    run('silent', 'silent') +
    run('stubborn', 'stubborn') +
    run('waits', 'quick', ', needs: [silent]');
  await house.project('mixed', file(runs, SCRIPTS));
  const { number } = await house.trigger('mixed');
  await house.runIn('finished', 'mixed', number, 'passed');
  await house.runIn('running', 'mixed', number, 'silent');
  await waitFor(async () => (await house.logOf('mixed', number, 'stubborn')).includes('begun'), {
    what: 'stubborn begins',
  });

  const first = await house.request('POST', `/v1/projects/mixed/builds/${number}/cancel`);
  const second = await house.request('POST', `/v1/projects/mixed/builds/${number}/cancel`);
  const asked = (await second.json()) as { status: string };
  const seen = new Set<string>();
  const build = await waitFor(
    async () => {
      const now = await house.build('mixed', number);
      seen.add(now.status);
      // Said only after the processes are gone: a container that lives means that the build is still cancelling.
      if (containersOf('mixed').length > 0 && (await house.build('mixed', number)).state === 'finished') {
        throw new Error('finished while a container of it lives');
      }
      return now.state === 'finished' && now;
    },
    { what: 'the build is finished', timeoutMs: 30_000 },
  );

  expect([first.status, second.status, asked.status]).toEqual([202, 202, 'cancelling']);
  expect([...seen].sort()).toEqual(['cancelled', 'cancelling']);
  expect(Object.fromEntries(build.runs.map((one) => [one.name, one.status]))).toEqual({
    passed: 'passed',
    silent: 'cancelled',
    stubborn: 'cancelled',
    waits: 'cancelled',
  });
  expect(await waitFor(async () => (await busySlots()) === 0, { what: 'no lease is left' })).toBe(true);
  expect(containersOf('mixed')).toEqual([]);
  expect((await house.request('POST', `/v1/projects/mixed/builds/${number}/cancel`)).status).toBe(200);
}, 90_000);

test('B7 R3 one run of a build is cancelled: the others go on, and what it left in /archive is kept', async () => {
  await house.project('single', file(run('stop', 'stubborn') + run('go', 'quick'), SCRIPTS));
  const { number } = await house.trigger('single');
  await waitFor(async () => (await house.logOf('single', number, 'stop')).includes('begun'), {
    what: 'the run begins',
  });

  await house.call('POST', `/v1/projects/single/builds/${number}/runs/stop/cancel`);
  const build = await house.finished('single', number);
  const stopped = await house.run('single', number, 'stop');

  expect(build.runs.map((one) => [one.name, one.status, one.cause])).toEqual([
    ['stop', 'cancelled', 'cancel-requested'],
    ['go', 'passed', 'ok'],
  ]);
  expect(stopped.artifacts.map((artifact) => artifact.path)).toEqual(['kept']);
}, 90_000);

test('B7 a cancel that comes while Temporal is away is kept and carried out when it is back', async () => {
  await house.project('away', file(run('silent', 'silent'), SCRIPTS));
  const { number } = await house.trigger('away');
  await house.runIn('running', 'away', number, 'silent');

  await house.temporal.kill9();
  const answer = await house.request('POST', `/v1/projects/away/builds/${number}/cancel`);
  await house.temporal.restart();

  expect(answer.status).toBe(202);
  expect((await house.finished('away', number)).status).toBe('cancelled');
}, 120_000);

test('B7 a cancel that comes while the worker is dead stops the container when the worker is back', async () => {
  await house.project('dead', file(run('silent', 'silent'), SCRIPTS));
  const { number } = await house.trigger('dead');
  await house.runIn('running', 'dead', number, 'silent');

  await house.kill9('worker');
  await house.call('POST', `/v1/projects/dead/builds/${number}/cancel`);
  const meanwhile = await house.build('dead', number);
  await house.start('worker');

  expect(meanwhile.status).toBe('cancelling');
  expect((await house.finished('dead', number)).status).toBe('cancelled');
  expect(containersOf('dead')).toEqual([]);
}, 120_000);

test('B7 P3 a build of 1,000 runs is cancelled while most of them wait: every run ends cancelled or passed', async () => {
  const cells = Array.from({ length: 1000 }, (_, at) => `'${at}'`).join(', ');
  const definition = `timeout: 10
triggers:
  - name: main
    runs:
      - name: many
        container: '${TEST_IMAGE}'
        script: silent
        matrix: { axes: { cell: [${cells}] } }
scripts:
${SCRIPTS}`;
  await house.project('thousand', definition);
  const { number } = await house.trigger('thousand');
  await waitFor(async () => (await house.build('thousand', number)).counts.running > 0, { what: 'the first runs' });

  await house.call('POST', `/v1/projects/thousand/builds/${number}/cancel`);
  const build = await house.finished('thousand', number, 120_000);

  expect(build.status).toBe('cancelled');
  expect(build.counts).toMatchObject({ total: 1000, cancelled: 1000, queued: 0, running: 0 });
  expect(containersOf('thousand')).toEqual([]);
}, 180_000);

describe('without pushed cancellations', () => {
  let quiet: House;
  beforeAll(async () => {
    quiet = await House.open({ withoutPush: true, env: { SLIPWAY_STOP_GRACE_MS: '500' } });
  }, 120_000);
  afterAll(async () => quiet?.stop(), 60_000);

  test('B7 a cancel reaches a silent script by the heartbeats of its worker alone', async () => {
    await quiet.project('by-heartbeat', oneRun('#!/bin/sh\nexec sleep 600'));
    const { number } = await quiet.trigger('by-heartbeat');
    await quiet.runIn('running', 'by-heartbeat', number, 'work');
    await quiet.call('POST', `/v1/projects/by-heartbeat/builds/${number}/cancel`);
    const build = await quiet.finished('by-heartbeat', number, 30_000);

    expect(build.status).toBe('cancelled');
  }, 90_000);
});

describe('at every stage', () => {
  let registry: Server;
  beforeAll(async () => {
    registry = createServer(() => undefined);
    await new Promise<void>((done) => registry.listen(0, '127.0.0.1', done));
  });
  afterAll(() => {
    registry.closeAllConnections();
    registry.close();
  });

  test('B7 a cancel while its image is pulled does not wait for the pull', async () => {
    const image = `127.0.0.1:${(registry.address() as AddressInfo).port}/never:1`;
    await house.project('pulling', oneRun('#!/bin/sh\ntrue').replace(TEST_IMAGE, image));
    const { number } = await house.trigger('pulling');
    await house.runIn('leasing', 'pulling', number, 'work');
    await house.call('POST', `/v1/projects/pulling/builds/${number}/cancel`);
    const build = await house.finished('pulling', number, 12_000);

    expect(build).toMatchObject({ status: 'cancelled', cause: 'cancel-requested' });
  }, 60_000);

  test('B7 a cancel while it waits for a host ends the run without an attempt', async () => {
    const definition = oneRun('#!/bin/sh\ntrue').replace('script: work', "script: work\n        host-tag: 'none'");
    await house.project('waiting', definition);
    const { number } = await house.trigger('waiting');
    await waitFor(async () => (await house.run('waiting', number, 'work')).waiting?.includes('matches'), {
      what: 'it waits for a host',
    });
    await house.call('POST', `/v1/projects/waiting/builds/${number}/runs/work/cancel`);
    await house.finished('waiting', number, 30_000);

    expect(await house.run('waiting', number, 'work')).toMatchObject({ status: 'cancelled', attempt: 0, attempts: [] });
  }, 60_000);

  test('B7 a cancel while artifacts come home stops that: the run is cancelled, its exit code is kept', async () => {
    await house.project('collecting', oneRun('#!/bin/sh\nfor i in $(seq 1 3000); do echo $i > /archive/$i; done'));
    const { number } = await house.trigger('collecting');
    await house.runIn('collecting', 'collecting', number, 'work');
    await house.call('POST', `/v1/projects/collecting/builds/${number}/cancel`);
    await house.finished('collecting', number, 60_000);
    const run = await house.run('collecting', number, 'work');

    expect(run).toMatchObject({ status: 'cancelled', cause: 'cancel-requested', exitCode: 0 });
    expect(run.artifacts.length).toBeLessThan(3000);
  }, 120_000);
});
