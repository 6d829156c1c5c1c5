// Proves that builds do not notice an upgrade: all processes are replaced by a changed version while they run, and workers of
// two versions serve one cluster. Real Temporal, real Docker; the changed version is a real copy with changed workflows.
import { join } from 'node:path';
import { makeChangedProgram, type ChangedProgram } from './setup/changed-program';
import type { Cluster } from '../domain/schemas/clusters';
import { House, oneRun, TEST_IMAGE } from './setup/house';
import { waitFor } from './setup/wait-for';

const NEXT = '0.2.0-next';

/** The same program with another version, and workflows that do one thing more before their verdict. */
let next: ChangedProgram;
beforeAll(async () => {
  next = await makeChangedProgram(NEXT, [
    [
      '  const verdict = await',
      "  if (patched('a-pause-before-the-verdict')) await sleep(10);\n  const verdict = await",
    ],
    ['  sleep,\n', '  patched,\n  sleep,\n'],
  ]);
}, 120_000);
afterAll(() => next?.remove());

let house: House;
afterEach(async () => house?.stop(), 120_000);

interface WorkerRow {
  host: string;
  version: string;
  connected: boolean;
  busySlots: number;
}
const workers = async () => (await house.call<{ workers: WorkerRow[] }>('GET', '/v1/workers')).workers;

test('B11 C7 every process is replaced by a changed version while a build runs: same container, log whole, verdict passed', async () => {
  house = await House.open();
  const script =
    '#!/bin/sh\necho started >> /archive/starts\nfor i in $(seq 1 200); do echo "line $i"; sleep 0.1; done';
  const after = `      - { name: after, container: '${TEST_IMAGE}', script: short, needs: [work] }\n`;
  const definition = oneRun(script).replace('scripts:', `${after}scripts:`);
  await house.project('upgraded', `${definition}  short: "#!/bin/sh\\ntrue\\n"\n`);
  await house.trigger('upgraded');
  const before = await house.runIn('running', 'upgraded', 1, 'work');

  for (const member of ['orchestrator', 'api', 'worker', 'database']) {
    house.upgrade(member, next.program);
    await house.terminate(member);
    await house.start(member);
  }
  await waitFor(async () => (await workers()).every((worker) => worker.version === NEXT), {
    what: 'the worker of the next version is there',
  });
  const build = await house.finished('upgraded', 1, 120_000);
  const run = await house.run('upgraded', 1, 'work');

  expect(build.status).toBe('passed');
  expect(run.attempts.map((attempt) => attempt.containerId)).toEqual([before.attempts[0]?.containerId]);
  expect(await house.logOf('upgraded', 1, 'work')).toBe(
    Array.from({ length: 200 }, (_, at) => `line ${at + 1}\n`).join(''),
  );
  expect(await (await house.request('GET', run.artifacts[0]!.url)).text()).toBe('started\n');
}, 240_000);

test('C7 B5 ten workers are restarted one after the other under load, half of them as another version: no run fails or is repeated, and who differs says so once', async () => {
  house = await House.open({ slots: 2, without: ['worker'] });
  const names = Array.from({ length: 10 }, (_, at) => `w${at}`);
  for (const name of names) {
    house.add(name, 'worker', { SLIPWAY_HOST: name, SLIPWAY_WORKER_DIR: join(house.dir, name) });
    await house.start(name);
  }
  const cells = Array.from({ length: 60 }, (_, at) => String(at)).join(', ');
  await house.project(
    'load',
    oneRun('#!/bin/sh\necho started >> /archive/starts\nsleep 3').replace(
      'script: work',
      `script: work\n        matrix: { axes: { cell: [${cells}] } }`,
    ),
  );
  await house.trigger('load');
  await waitFor(async () => (await workers()).some((worker) => worker.busySlots > 0), { what: 'runs are under way' });
  for (const [at, name] of names.entries()) {
    if (at % 2 === 0) house.upgrade(name, next.program);
    await house.terminate(name);
    await house.start(name);
  }
  const build = await house.finished('load', 1, 240_000);
  const versions = new Set((await workers()).map((worker) => worker.version));

  expect(build).toMatchObject({ status: 'passed', counts: { total: 60, passed: 60 } });
  const repeated = build.runs.filter((run) => run.attempt !== 1).map(({ name }) => house.run('load', 1, name));
  const why = (await Promise.all(repeated)).map(({ name, attempts }) => ({
    name,
    attempts: attempts.map(({ host, cause, message }) => `${host} ${cause} ${message}`),
  }));
  expect(why).toEqual([]);
  for (const run of build.runs) {
    expect(await (await house.request('GET', `${run.urls.artifacts}/starts`)).text()).toBe('started\n');
  }
  expect(versions.size).toBe(2);
  const told = names.map((name) => house.wholeLog(name).split('the server is of another version').length - 1);
  expect(told).toEqual(names.map((_, at) => (at % 2 === 0 ? 1 : 0)));
  const { fleet } = await house.call<Cluster>('GET', '/v1/clusters/local');
  const isOdd = (host: string | null): boolean => Number(host?.slice(1)) % 2 === 1;
  expect(fleet.map(({ isSameVersion }) => isSameVersion)).toEqual(fleet.map(({ host }) => isOdd(host)));
}, 420_000);
