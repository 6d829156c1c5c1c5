// Proves that a cancel of many running runs reaches their scripts soon, through the gateway. Real processes and Docker.
// SLIPWAY_CANCEL_RUNS: how many containers run at once, e.g. 300; by default few enough for any machine.
import { readFileSync } from 'node:fs';
import { House, oneRun } from './setup/house';
import { waitFor } from './setup/wait-for';

const COUNT = Number(process.env['SLIPWAY_CANCEL_RUNS'] ?? 12);
/** Runs that one build has open at once. */
const IN_BUILD = 100;
const LIMIT_MS = 60_000 + COUNT * 3_000;

let house: House;
beforeAll(async () => {
  house = await House.open({ gateway: true, slots: COUNT });
}, 120_000);
afterAll(async () => house?.stop(), 300_000);

/** The clock that a container shares with us, ms since the machine was started. */
const uptimeMs = (): number => Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]) * 1_000;

const WAITS = `#!/bin/sh
trap 'cut -d" " -f1 /proc/uptime > /archive/told; exit 0' TERM
sleep 100000 &
wait`;

async function beginAll(project: string): Promise<number[]> {
  const numbers: number[] = [];
  for (let left = COUNT; left > 0; left -= IN_BUILD) {
    const name = `${project}-${numbers.length}`;
    const values = Array.from({ length: Math.min(left, IN_BUILD) }, (_, at) => `'${at}'`).join(', ');
    const definition = oneRun(WAITS)
      .replace('timeout: 10\n', 'timeout: 60\n')
      .replace('name: work', "name: 'work-{n}'")
      .replace('        script: work', `        script: work\n        matrix: { axes: { n: [${values}] } }`);
    await house.project(name, definition);
    numbers.push((await house.trigger(name)).number);
  }
  return numbers;
}

const runsOf = async (project: string, builds: number[]) =>
  (await Promise.all(builds.map((number, at) => house.build(`${project}-${at}`, number)))).flatMap(({ runs }) => runs);

/** From the log of the worker, when it was told of each attempt. @returns ms after `fromMs`, in rising order */
function workerToldAfter(fromMs: number): number[] {
  const lines = house
    .wholeLog('worker')
    .split('\n')
    .filter((line) => line.includes('told to cancel this attempt'));
  const after = lines.map((line) => Date.parse((JSON.parse(line) as { time: string }).time) - fromMs);
  return after.filter((ms) => ms >= 0).toSorted((a, b) => a - b);
}

const sayWhen = (sorted: readonly number[], share: number): string =>
  `${((sorted[Math.ceil(sorted.length * share) - 1] ?? NaN) / 1_000).toFixed(1)} s`;

/** Reads from each script when it was told. @returns ms after `from`, in rising order */
async function toldAfter(project: string, builds: number[], fromMs: number): Promise<number[]> {
  const after: number[] = [];
  for (const [at, number] of builds.entries()) {
    for (const { name } of (await house.build(`${project}-${at}`, number)).runs) {
      const { artifacts } = await house.run(`${project}-${at}`, number, name);
      const told = artifacts.find(({ path }) => path === 'told');
      if (told) after.push(Number(await (await house.request('GET', told.url)).text()) * 1_000 - fromMs);
    }
  }
  return after.toSorted((a, b) => a - b);
}

test.each([
  ['its cluster', 'cluster'],
  ['its builds', 'builds'],
])(
  'B7 a cancel of %s reaches every script that runs',
  async (_what, how) => {
    const project = `at-scale-${how}`;
    const began = Date.now();
    const builds = await beginAll(project);
    await waitFor(async () => (await runsOf(project, builds)).every(({ state }) => state === 'running'), {
      what: 'all are running',
      timeoutMs: LIMIT_MS,
      intervalMs: 1_000,
    });
    const startedS = (Date.now() - began) / 1_000;

    const from = uptimeMs();
    const fromMs = Date.now();
    if (how === 'cluster') await house.operated('POST', '/v1/clusters/local/cancel');
    else
      await Promise.all(
        builds.map((number, at) => house.call('POST', `/v1/projects/${project}-${at}/builds/${number}/cancel`)),
      );

    await waitFor(async () => (await runsOf(project, builds)).every(({ state }) => state === 'finished'), {
      what: 'all are finished',
      timeoutMs: LIMIT_MS,
      intervalMs: 500,
    });
    const overMs = uptimeMs() - from;
    const told = await toldAfter(project, builds, from);
    const worker = workerToldAfter(fromMs);
    process.stdout.write(
      `cancel of ${how} with ${COUNT} running (started in ${startedS.toFixed(0)} s): worker told half ${sayWhen(worker, 0.5)}, ` +
        `all ${sayWhen(worker, 1)}; scripts half ${sayWhen(told, 0.5)}, 95 % ${sayWhen(told, 0.95)}, all ${sayWhen(told, 1)}; ` +
        `all finished ${(overMs / 1_000).toFixed(1)} s\n`,
    );
    expect(worker).toHaveLength(COUNT);
    expect(told).toHaveLength(COUNT);
    expect((await runsOf(project, builds)).map(({ outcome }) => outcome)).toEqual(Array.from(told, () => 'cancelled'));
  },
  LIMIT_MS * 3,
);
