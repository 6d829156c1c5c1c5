// Proves that whatever dies at whatever moment, a build ends as if nothing had happened: every call that an attempt makes,
// before it arrived and after it took effect, times every part. Real Temporal, real Docker, real SIGKILL.
// `npm test` runs three parts, `npm run test:scenarios` all, and that writes docs/crash-matrix.md and .json.
import { createHash } from 'node:crypto';
import type { Run } from '../domain/schemas/api';
import { PARTS, type Part } from './setup/crash-parts';
import { CALLS, openCrashRig, type CrashRig } from './setup/crash-rig';
import { TEST_IMAGE } from './setup/house';
import { waitFor } from './setup/wait-for';
import { expectNothingLeft } from './setup/nothing-left';
import { isWholeMatrix, writeMatrix, type Cell } from './setup/crash-report';

const BOUNDARIES = [...CALLS.flatMap((call) => [`${call} before`, `${call} after`]), 'mid script'];
const LINES = 40;
const script = (pause: string): string => `#!/bin/sh
echo started >> /archive/starts
i=0
while [ $i -lt ${LINES} ]; do i=$((i+1)); echo "line $i of $H_RUN"; ${pause}; done
`;
const expectedLog = (run: string): string =>
  Array.from({ length: LINES }, (_, at) => `line ${at + 1} of ${run}\n`).join('');
const sha = (text: string): string => createHash('sha256').update(text).digest('hex');

const indent = (text: string): string => text.replace(/^/gm, '    ');
const PROJECT = `timeout: 10
triggers:
  - name: main
    runs:
${BOUNDARIES.map(
  (name) =>
    `      - { name: ${name}, container: '${TEST_IMAGE}', script: ${name === 'mid script' ? 'slow' : 'quick'} }`,
).join('\n')}
scripts:
  quick: |
${indent(script('true'))}
  slow: |
${indent(script('sleep 0.5'))}
`;

/** Attempts that a run has when its host vanished at that boundary: before its lease and after its result, one. */
function attemptsWhenHostGone(boundary: string): string[] {
  const at = CALLS.findIndex((call) => boundary.startsWith(`${call} `));
  const isDecided = boundary === 'result after' || at > CALLS.indexOf('result');
  return boundary === 'lease before' || isDecided ? ['ok'] : ['host-lost', 'ok'];
}

let rig: CrashRig;
afterEach(async () => rig?.stop(), 120_000);

const seen: Cell[] = [];
afterAll(() => {
  if (isWholeMatrix()) writeMatrix(seen, BOUNDARIES);
});

/** `npm test` runs the three that destroy most; the scenarios run all. */
const parts = isWholeMatrix() ? PARTS : PARTS.slice(0, 3);

test.each(parts)(
  'B4 B5 B6 H7 at every call of an attempt, before and after it: $part, and every run passes, its script started once an attempt, its log whole, nothing left',
  async ({ part, crash, isHostGone }: Part) => {
    rig = await openCrashRig(BOUNDARIES.length);
    const { house, api, dockerLink } = rig;
    await house.project('matrix', PROJECT);
    await house.trigger('matrix');
    await waitFor(() => api.held + dockerLink.held === BOUNDARIES.length - 1, {
      what: 'every run is held at its call',
      timeoutMs: 120_000,
    }).catch((error: unknown) => {
      throw new Error(`${String(error)}: ${api.held} calls of the API, ${dockerLink.held} of the engine are held`);
    });
    await house.runIn('running', 'matrix', 1, 'mid script');

    await crash(rig);
    await house.finished('matrix', 1, 120_000).catch(async (error: unknown) => {
      const { runs } = await house.build('matrix', 1);
      const open = runs.filter((run) => run.state !== 'finished').map(({ name, state }) => `${name}: ${state}`);
      throw new Error(`${String(error)}; ${open.join(', ')}\n${house.log('worker')}`);
    });

    const runs = await Promise.all(BOUNDARIES.map((name) => house.run('matrix', 1, name)));
    for (const run of runs) seen.push({ part, boundary: run.name, attempts: run.attempts.map((one) => one.cause!) });
    const wanted = runs.map(({ name }) => ({
      name,
      status: 'passed',
      attempts: isHostGone ? attemptsWhenHostGone(name) : ['ok'],
      log: sha(expectedLog(name)),
      starts: ['started\n'],
    }));
    expect(await Promise.all(runs.map(describeRun))).toEqual(wanted);
    await expectNothingLeft(rig);
  },
  600_000,
);

async function describeRun(run: Run) {
  const log = await rig.house.logOf('matrix', 1, run.name);
  const artifacts = await Promise.all(
    run.artifacts.map(async ({ url }) => (await rig.house.request('GET', url)).text()),
  );
  return {
    name: run.name,
    status: run.status,
    attempts: run.attempts.map((attempt) => attempt.cause),
    log: sha(log),
    starts: artifacts,
  };
}
