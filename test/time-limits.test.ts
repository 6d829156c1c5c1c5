// Proves the time limits of five kinds: each ends what it is for, in its time, and says which one it was.
// Real Temporal, real Docker; one build a limit, all at once.
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Build, Run } from '../domain/schemas/api';
import { House, oneRun, TEST_IMAGE } from './setup/house';

/** Each limit, ms, and the tenth of it that an end may be off. */
const LIMIT_MS = 60_000;
const MINUTES = LIMIT_MS / 60_000;
const OFF_MS = LIMIT_MS / 10;

jest.setTimeout(240_000);

let house: House;
/** Says that it is a registry, and nothing more: a pull from it does not end. */
let registry: Server;
beforeAll(async () => {
  registry = createServer((request, response) => request.url === '/v2/' && response.end('{}'));
  await new Promise<void>((done) => registry.listen(0, '127.0.0.1', done));
  house = await House.open({ slots: 8 });
}, 120_000);
afterAll(async () => {
  registry.closeAllConnections();
  registry.close();
  await house?.stop();
}, 60_000);

const FOREVER = '#!/bin/sh\nexec sleep 600';
const limited = (limit: string, script = FOREVER): string => `timeouts: { ${limit}: ${MINUTES} }\n${oneRun(script)}`;

async function endOf(name: string, definition: string): Promise<{ build: Build; run: Run }> {
  await house.project(name, definition);
  const { number } = await house.trigger(name);
  return { build: await house.finished(name, number, 180_000), run: await house.run(name, number, 'work') };
}

const between = (from: string | null | undefined, to: string | null | undefined): number =>
  Date.parse(to ?? '') - Date.parse(from ?? '');

test.concurrent('B9 the limit of a run counts from the start of its container', async () => {
  const { build, run } = await endOf('run-limit', oneRun(FOREVER).replace('timeout: 10', `timeout: ${MINUTES}`));

  expect(run).toMatchObject({ cause: 'run-timeout', message: 'stopped after its time limit of 60 s' });
  expect(build.status).toBe('timed-out');
  expectOnTime(between(run.startedAt, run.finishedAt), LIMIT_MS);
});

test.concurrent('B9 the limit of silence counts from the last output', async () => {
  const { run } = await endOf(
    'idle',
    limited('idle', '#!/bin/sh\nfor i in 1 2 3; do sleep 1; echo $i; done\nexec sleep 600'),
  );

  expect(run).toMatchObject({
    status: 'timed-out',
    cause: 'idle-timeout',
    message: 'stopped after 60 s without output',
  });
  expectOnTime(between(run.startedAt, run.finishedAt), 3_000 + LIMIT_MS);
  expect(await house.logOf('idle', 1, 'work')).toBe('1\n2\n3\n');
});

test.concurrent('B9 the limit of the start counts from the lease and covers the pull of the image', async () => {
  const image = `127.0.0.1:${(registry.address() as AddressInfo).port}/never:1`;
  const { run } = await endOf('start', limited('start').replace(TEST_IMAGE, image));

  expect(run).toMatchObject({ status: 'timed-out', cause: 'start-timeout', startedAt: null });
  expect(run.message).toMatch(/^did not start within 60 s of getting its host/);
  expectOnTime(between(run.attempts[0]?.createdAt, run.finishedAt), LIMIT_MS);
});

test.concurrent('B9 C8 the limit of waiting ends a run that no host takes, and says what it waited for', async () => {
  const { build, run } = await endOf(
    'waiting',
    limited('waiting').replace('script: work', "script: work\n        host-tag: 'board'"),
  );

  expect(run).toMatchObject({ status: 'timed-out', cause: 'waiting-timeout', attempt: 0 });
  expect(run.message).toMatch(/^no host within 1 min: no host matches host-tag "board"/);
  expectOnTime(between(build.createdAt, run.finishedAt), LIMIT_MS);
});

test.concurrent('B9 the limit of the whole build stops what runs and what waits', async () => {
  const waits = `      - { name: after, container: '${TEST_IMAGE}', script: work, needs: [work] }\n`;
  const { build, run } = await endOf('whole', limited('build').replace('scripts:', `${waits}scripts:`));
  const after = await house.run('whole', 1, 'after');

  expect([run.cause, after.cause, build.cause]).toEqual(['build-timeout', 'build-timeout', 'build-timeout']);
  expect(build.status).toBe('timed-out');
  expect(after.message).toBe('the build ran out of time');
  expectOnTime(between(build.createdAt, build.finishedAt), LIMIT_MS);
});

function expectOnTime(tookMs: number, limitMs: number): void {
  expect(tookMs).toBeGreaterThanOrEqual(limitMs - OFF_MS);
  expect(tookMs).toBeLessThanOrEqual(limitMs + OFF_MS);
}
