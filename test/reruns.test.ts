// Proves reruns: further attempts of the same build, with the same plan and images; what was before stays readable.
// Real Temporal, real Docker.
import { execFileSync } from 'node:child_process';
import type { Build, Run } from '../domain/schemas/api';
import { House, TEST_IMAGE } from './setup/house';

let house: House;
beforeAll(async () => {
  house = await House.open();
}, 120_000);
afterAll(async () => house?.stop(), 60_000);

/** `flaky` fails in its first attempt: it looks at its own container's name, which ends in the number of the attempt. */
const PROJECT = (image: string) => `timeout: 5
triggers:
  - name: main
    runs:
      - name: cell-{loop}
        container: ${image}
        script: cell
        matrix: { axes: { kind: [solid, flaky] } }
      - { name: join, container: '${image}', script: join, needs: [cell-solid, cell-flaky] }
      - { name: report, container: '${image}', script: join, needs: [cell-flaky], needs-on: always }
      - { name: alone, container: '${image}', script: join }
scripts:
  cell: |
    #!/bin/sh
    echo "$kind, attempt $H_ATTEMPT"
    echo "$kind $H_ATTEMPT" > /archive/out
    [ $kind = solid ] || [ $H_ATTEMPT -gt 1 ]
  join: |
    #!/bin/sh
    echo "attempt $H_ATTEMPT"
`;

const attemptsOf = (build: Build): Record<string, [string, number]> =>
  Object.fromEntries(build.runs.map((run) => [run.name, [run.status, run.attempt]]));

const rerun = (project: string, runs: unknown): Promise<Build> =>
  house.call('POST', `/v1/projects/${project}/builds/1/rerun`, { runs });

async function firstBuild(name: string, image = TEST_IMAGE): Promise<Build> {
  await house.project(name, PROJECT(image));
  await house.trigger(name);
  return house.finished(name, 1);
}

test('B8 failed only: the failed cell and what needs it run again, the join for the first time, all else stays', async () => {
  const first = await firstBuild('failed-only');
  expect(attemptsOf(first)).toEqual({
    'cell-solid': ['passed', 1],
    'cell-flaky': ['failed', 1],
    join: ['skipped', 0],
    report: ['passed', 1],
    alone: ['passed', 1],
  });

  const begun = await rerun('failed-only', 'failed');
  const second = await house.finished('failed-only', 1);

  expect(begun).toMatchObject({ number: 1, state: 'queued', outcome: null, reruns: 1, planDigest: first.planDigest });
  expect(attemptsOf(second)).toEqual({
    'cell-solid': ['passed', 1],
    'cell-flaky': ['passed', 2],
    join: ['passed', 1],
    report: ['passed', 2],
    alone: ['passed', 1],
  });
  expect(second).toMatchObject({ status: 'passed', reruns: 1, urls: { page: first.urls.page, self: first.urls.self } });
  expect(second.urls.trace).not.toBe(first.urls.trace);
}, 60_000);

test('B8 B13 log and artifacts of the first attempt stay readable beside those of the second', async () => {
  await firstBuild('readable');
  await rerun('readable', ['cell-flaky']);
  await house.finished('readable', 1);
  const run = await house.run('readable', 1, 'cell-flaky');
  const read = async (url: string) => (await house.request('GET', url)).text();

  expect(run.attempts.map(({ number, outcome }) => [number, outcome])).toEqual([
    [1, 'failed'],
    [2, 'passed'],
  ]);
  expect(await read(`${run.urls.log}?attempt=1`)).toBe('flaky, attempt 1\n');
  expect(await read(`${run.urls.log}?attempt=2`)).toBe('flaky, attempt 2\n');
  expect(await read(`${run.urls.artifacts}/out?attempt=1`)).toBe('flaky 1\n');
  expect(await read(run.artifacts[0]!.url)).toBe('flaky 2\n');
}, 60_000);

test('B8 all: every run gets a second attempt, also after a cancel, and a rerun can be cancelled and rerun', async () => {
  await firstBuild('all');
  await rerun('all', 'all');
  const cancelled = await house.call<Build>('POST', '/v1/projects/all/builds/1/cancel');
  await house.finished('all', 1);
  await rerun('all', 'all');
  const last = await house.finished('all', 1);

  expect(cancelled.status).toBe('cancelling');
  expect(last).toMatchObject({ status: 'passed', reruns: 2 });
  for (const run of last.runs) expect(run.status).toBe('passed');
}, 60_000);

test('B8 a rerun uses the image that the first attempt ran, although its name means another one by now', async () => {
  const image = 'slipway-test/moving:1';
  execFileSync('docker', ['tag', TEST_IMAGE, image]);
  try {
    await firstBuild('pinned', image);
    const before = await house.run('pinned', 1, 'alone');
    execFileSync('docker', ['import', '-', image], { input: tarOfNothing() });
    await rerun('pinned', ['alone']);
    const build = await house.finished('pinned', 1);
    const after = await house.run('pinned', 1, 'alone');

    expect(build.runs.find((run) => run.name === 'alone')?.status).toBe('passed');
    expect(after.attempts[1]?.imageDigest).toBe(before.attempts[0]?.imageDigest);
  } finally {
    execFileSync('docker', ['rmi', '-f', image]);
  }
}, 60_000);

test('B8 a build under way, one without a failure, and a run that does not exist are refused in words', async () => {
  await firstBuild('refused');
  const ask = async (runs: unknown) => {
    const answer = await house.request('POST', '/v1/projects/refused/builds/1/rerun', { runs });
    return { status: answer.status, detail: ((await answer.json()) as { detail: string }).detail };
  };

  expect(await ask(['nowhere'])).toEqual({
    status: 404,
    detail: expect.stringContaining('run refused/1/nowhere does not exist'),
  });
  const one = await house.call<Run>('POST', '/v1/projects/refused/builds/1/runs/cell-flaky/rerun');
  expect(one.state).toBe('queued');
  expect(await ask('all')).toMatchObject({ status: 409, detail: expect.stringContaining('is under way') });
  await house.finished('refused', 1);
  expect(await ask('failed')).toMatchObject({ status: 409, detail: expect.stringContaining('all runs of') });
}, 60_000);

/** Two blocks of zeros: an archive without an entry. */
const tarOfNothing = (): Buffer => Buffer.alloc(1024);
