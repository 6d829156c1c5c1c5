// Proves that whatever dies at whatever moment, a build ends as if nothing had happened: every call that an attempt makes and
// every record that the orchestrator keeps, before it arrived and after it took effect, times every part.
// Real Temporal, real Docker, real SIGKILL. `npm test` runs the parts that destroy most, `npm run test:scenarios` all, and
// that writes docs/crash-matrix.md and .json.
import { createHash } from 'node:crypto';
import type { Build, Run } from '../domain/schemas/api';
import type { Cause } from '../domain/schemas/words';
import { outcomeOf } from '../domain/verdict';
import { loseHost, PARTS, type Part } from './setup/crash-parts';
import { CALLS, openCrashRig, RECORD_CALLS, type CrashRig, type RecordName } from './setup/crash-rig';
import { TEST_IMAGE } from './setup/house';
import { waitFor } from './setup/wait-for';
import { expectNothingLeft } from './setup/nothing-left';
import { isWholeMatrix, writeMatrix, type Cell } from './setup/crash-report';

const BOUNDARIES = [...CALLS.flatMap((call) => [`${call} before`, `${call} after`]), 'mid script'];
const RECORDS = RECORD_CALLS.flatMap((call) => [`${call} before`, `${call} after`]);
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

function attemptsOf({ part, isHostGone }: Part, boundary: string): string[] {
  if (isHostGone) return attemptsWhenHostGone(boundary);
  // An engine that died with a start on its way cannot say whether it did it.
  return part === 'Docker engine restarted' && boundary === 'start before' ? ['container-lost', 'ok'] : ['ok'];
}

let rig: CrashRig;
afterEach(async () => rig?.stop(), 120_000);

const seen: Cell[] = [];
afterAll(() => {
  const whole = { parts: PARTS.map(({ part }) => part), boundaries: [...BOUNDARIES, ...RECORDS] };
  if (isWholeMatrix()) writeMatrix(seen, whole);
});

/** `npm test` runs the parts that destroy most; the scenarios run all. */
const partsOf = (...names: string[]): Part[] =>
  isWholeMatrix() ? PARTS : PARTS.filter(({ part }) => names.includes(part));

test.each(partsOf('worker killed', 'Docker engine restarted', 'host gone'))(
  'B4 B5 B6 H7 at every call of an attempt, before and after it: $part, and every run passes, its script started once an attempt, its log whole, nothing left',
  async (killed: Part) => {
    const { part, crash } = killed;
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
      cause: 'ok',
      attempts: attemptsOf(killed, name),
      log: sha(expectedLog(name)),
      starts: ['started\n'],
      engineStarts: 1,
    }));
    expect(await Promise.all(runs.map((run) => describeRun('matrix', run)))).toEqual(wanted);
    expect(rig.engine.startedTwice()).toEqual([]);
    await expectNothingLeft(rig);
  },
  600_000,
);

const LOST = { last: '[ $H_WORKER != test-host ] || exec sleep 600', work: ['host-lost', 'ok'] } as const;
/** How a build must go so that each record call is made: the last line of its script, and how it ends when nothing dies. */
const STORIES: Record<RecordName, { last: string; build: Cause; work: readonly Cause[]; after: Cause }> = {
  closeRuns: { last: 'exit 1', build: 'exit-code', work: ['exit-code'], after: 'needs-not-met' },
  closeAttempt: { ...LOST, build: 'ok', after: 'ok' },
  locateAttempt: { ...LOST, build: 'ok', after: 'ok' },
  expireBuild: { last: 'exec sleep 600', build: 'build-timeout', work: ['build-timeout'], after: 'build-timeout' },
  finishBuild: { last: 'true', build: 'ok', work: ['ok'], after: 'ok' },
};
const callOf = (boundary: string): RecordName => boundary.split(' ')[0] as RecordName;
const projectOf = (boundary: string): string => boundary.replace(' ', '-').toLowerCase();
const needsLostHost = (boundary: string): boolean => STORIES[callOf(boundary)].work[0] === 'host-lost';

const recordProject = (boundary: string): string => `timeout: 10
${callOf(boundary) === 'expireBuild' ? 'timeouts: { build: 0.2 }' : ''}
triggers:
  - name: ${boundary}
    runs:
      - { name: work, container: '${TEST_IMAGE}', script: work }
      - { name: after, container: '${TEST_IMAGE}', script: work, needs: [work] }
scripts:
  work: |
${indent(script('true') + STORIES[callOf(boundary)].last)}
`;

async function triggerRecords(boundaries: string[]): Promise<void> {
  for (const boundary of boundaries) {
    await rig.house.project(projectOf(boundary), recordProject(boundary));
    await rig.house.trigger(projectOf(boundary));
  }
}

/** Triggers a build for each boundary and waits until all are held. Some need a host that is lost, so there is one before. */
async function holdAtRecords(): Promise<void> {
  const { house, records } = rig;
  const onLostHost = RECORDS.filter(needsLostHost);
  await triggerRecords(onLostHost);
  for (const boundary of onLostHost) await house.runIn('running', projectOf(boundary), 1, 'work');
  await loseHost(rig);
  house.add('worker', 'worker', { SLIPWAY_HOST: 'next-host' });
  await house.start('worker');
  await triggerRecords(RECORDS.filter((boundary) => !needsLostHost(boundary)));
  // The orchestrator gives a record 30 s and then tries it again, which is not held: all are held for less.
  await waitFor(() => records.held === RECORDS.length, {
    what: 'every build is held at its record',
    timeoutMs: 30_000,
  }).catch((error: unknown) => {
    throw new Error(`${String(error)}: ${records.held} are held\n${house.log('orchestrator')}`);
  });
}

/** How the build at a boundary is to end: as if nothing had died, but that a host cannot end what ran on it when it went. */
function wantedBuild(boundary: string, isHostGone = false) {
  const { build, work, after } = STORIES[callOf(boundary)];
  const attempts = isHostGone && callOf(boundary) === 'expireBuild' ? ['host-lost'] : work;
  const runs: { name: string; cause: Cause; attempts: readonly string[] }[] = [
    { name: 'work', cause: work.at(-1)!, attempts },
    { name: 'after', cause: after, attempts: after === 'ok' ? ['ok'] : [] },
  ];
  return {
    status: outcomeOf(build),
    cause: build,
    runs: runs.map(({ name, cause, attempts }) => ({
      name,
      status: outcomeOf(cause),
      cause,
      attempts,
      log: sha(attempts.length > 0 ? expectedLog(name) : ''),
      starts: attempts.length > 0 && attempts.at(-1) !== 'host-lost' ? ['started\n'] : [],
      engineStarts: attempts.length > 0 ? 1 : 0,
    })),
  };
}

test.each(partsOf('orchestrator killed', 'database killed'))(
  'B4 B6 B10 H7 at every record that the orchestrator keeps, before and after it: $part, and every build ends as it would have, its scripts started once an attempt, its logs whole, nothing left',
  async ({ part, crash, isHostGone }: Part) => {
    rig = await openCrashRig(RECORDS.length);
    await holdAtRecords();
    expect(await Promise.all(RECORDS.map(isRecorded))).toEqual(RECORDS.map((boundary) => boundary.endsWith('after')));

    await crash(rig);
    const builds = await Promise.all(RECORDS.map((boundary) => rig.house.finished(projectOf(boundary), 1, 120_000)));

    const found = await Promise.all(builds.map(describeBuild));
    found.forEach(({ runs }, at) => seen.push({ part, boundary: RECORDS[at]!, attempts: runs[0]!.attempts }));
    expect(found).toEqual(RECORDS.map((boundary) => wantedBuild(boundary, isHostGone)));
    expect(rig.engine.startedTwice()).toEqual([]);
    await expectNothingLeft(rig);
  },
  600_000,
);

/** Whether the store has what a build is held at. */
async function isRecorded(boundary: string): Promise<boolean> {
  const { state, status, runs } = await rig.house.build(projectOf(boundary), 1);
  const { attempts } = await rig.house.run(projectOf(boundary), 1, 'work');
  switch (callOf(boundary)) {
    case 'closeRuns':
      return runs[1]?.state === 'finished';
    case 'closeAttempt':
      return attempts[0]?.state === 'finished';
    case 'locateAttempt':
      // It changes nothing.
      return boundary.endsWith('after');
    case 'expireBuild':
      return status === 'cancelling';
    case 'finishBuild':
      return state === 'finished';
  }
}

async function describeBuild({ project, status, cause, runs }: Build) {
  const whole = await Promise.all(runs.map(({ name }) => rig.house.run(project, 1, name)));
  return { status, cause, runs: await Promise.all(whole.map((run) => describeRun(project, run))) };
}

async function describeRun(project: string, run: Run) {
  const log = await rig.house.logOf(project, 1, run.name);
  const artifacts = await Promise.all(
    run.artifacts.map(async ({ url }) => (await rig.house.request('GET', url)).text()),
  );
  return {
    name: run.name,
    status: run.status,
    cause: run.cause,
    attempts: run.attempts.map((attempt) => attempt.cause!),
    log: sha(log),
    starts: artifacts,
    engineStarts: rig.engine.starts.filter(({ id }) => id === run.attempts.at(-1)?.containerId).length,
  };
}
