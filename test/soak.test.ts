// Proves that builds under way all the time, with a random part killed every few seconds, all end well: none lost, no byte of
// a log lost or doubled, no script started twice in one attempt, nothing left. Real Temporal, real Docker, real SIGKILL.
// A minute in `npm test`; SLIPWAY_SOAK_MINUTES=30 in `npm run test:scenarios`. SLIPWAY_SOAK_SEED repeats a sequence of kills,
// SLIPWAY_SOAK_PARTS=temporal,database kills those alone, SLIPWAY_SOAK_KEEP names a folder for what is left on disk.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Build } from '../domain/schemas/api';
import { openCrashRig, TIMES, type CrashRig } from './setup/crash-rig';
import { TEST_IMAGE } from './setup/house';
import { describeLostBuild, findIdlest, keepRemains, type LostBuild } from './setup/lost-build';
import { expectNothingLeft } from './setup/nothing-left';
import { openBuildWorkflows, poisonWorkflow, resetWorkflow } from './setup/open-workflows';
import { replayAll } from './setup/replayed';
import { waitFor } from './setup/wait-for';

const MINUTES = Number(process.env.SLIPWAY_SOAK_MINUTES ?? '1');
const SEED = Number(process.env.SLIPWAY_SOAK_SEED ?? Date.now() % 1_000_000);
const KEEP = process.env.SLIPWAY_SOAK_KEEP;
const PARTS = process.env.SLIPWAY_SOAK_PARTS?.split(',');
/** Shortest time between two kills, ms; the longest is three times that. */
const PAUSE_MS = Number(process.env.SLIPWAY_SOAK_PAUSE_MS ?? '2000');
const SLOTS = 6;
const OPEN_BUILDS = 4;
/** It goes on until so many were accepted, however slow the machine is: fewer would prove little. */
const LEAST_BUILDS = MINUTES * 5;
const LINES = 50;
/** Whatever dies, something of a build begins, ends or is written within a minute. Nothing for longer: it is lost. */
const LOST_AFTER_MS = 150_000;
const CALM_MS = 60_000;
/** Within that time the last builds end once nothing is killed any more. */
const END_MS = 300_000;

const indent = (text: string): string => text.replace(/^/gm, '    ');
/** Hosts vanish more often here than two further attempts could make up for. */
const PROJECT = `timeout: 10
retry: { infrastructure: 10 }
triggers:
  - name: main
    runs:
      - name: cell-{pause}
        container: '${TEST_IMAGE}'
        script: work
        matrix: { axes: { pause: ['0', '0.05', '0.2'] } }
      - { name: join, container: '${TEST_IMAGE}', script: work, needs: ['cell-{pause}'], params: { pause: '0' } }
scripts:
  work: |
${indent(`#!/bin/sh
echo started >> /archive/starts
i=0
while [ $i -lt ${LINES} ]; do i=$((i+1)); echo "line $i of $H_RUN"; sleep $pause; done`)}
`;

/** A small generator with a seed: the same seed, the same kills. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    return state / 2_147_483_648;
  };
}

/** The worker there is now; a host that is gone for good is followed by another. */
interface Fleet {
  worker: string;
  hosts: number;
}

type Kill = (rig: CrashRig, at: { fleet: Fleet; awayMs: number }) => Promise<void>;

const restarted =
  (member: string): Kill =>
  async ({ house }, { awayMs }) => {
    await house.kill9(member);
    await sleep(awayMs);
    await house.start(member);
  };

/** One that ended in the meantime is left alone. */
const onOpenBuild =
  (harm: (address: string, workflow: string) => void): Kill =>
  async ({ house: { temporal } }) => {
    const [workflow] = openBuildWorkflows(temporal.address);
    if (workflow === undefined) return;
    try {
      harm(temporal.address, workflow);
    } catch (error) {
      if (openBuildWorkflows(temporal.address).includes(workflow)) throw error;
    }
  };

const KILLS: Record<string, Kill> = {
  api: restarted('api'),
  orchestrator: restarted('orchestrator'),
  database: restarted('database'),
  temporal: async ({ house }, { awayMs }) => {
    await house.temporal.kill9();
    await sleep(awayMs * 3);
    await house.temporal.restart();
  },
  'worker killed': async ({ house }, { fleet, awayMs }) => {
    await house.kill9(fleet.worker);
    await sleep(awayMs);
    await house.start(fleet.worker);
  },
  'worker stopped': async ({ house }, { fleet, awayMs }) => {
    await house.terminate(fleet.worker);
    await sleep(awayMs);
    await house.start(fleet.worker);
  },
  engine: async ({ engine }, { awayMs }) => {
    await engine.kill9();
    await sleep(awayMs);
    await engine.start();
  },
  network: async ({ api, temporalLink }, { awayMs }) => {
    api.cut();
    temporalLink.cut();
    await sleep(awayMs * 3);
    api.mend();
    temporalLink.mend();
  },
  'worker paused': async ({ house }, { fleet, awayMs }) => {
    house.signal(fleet.worker, 'SIGSTOP');
    await sleep(awayMs);
    house.signal(fleet.worker, 'SIGCONT');
  },
  'disk full': async ({ blobsDisk }, { awayMs }) => {
    blobsDisk.fill();
    await sleep(awayMs);
    blobsDisk.free();
  },
  'workflow reset': onOpenBuild(resetWorkflow),
  'senseless signals': onOpenBuild(poisonWorkflow),
  'host gone': async ({ house, engine }, { fleet }) => {
    await house.kill9(fleet.worker);
    await engine.removeAll();
    rmSync(join(house.dir, fleet.hosts === 1 ? 'worker' : fleet.worker), { recursive: true, force: true });
    fleet.hosts += 1;
    fleet.worker = `host-${fleet.hosts}`;
    const env = { SLIPWAY_HOST: fleet.worker, SLIPWAY_WORKER_DIR: join(house.dir, fleet.worker) };
    house.add(fleet.worker, 'worker', env);
    await house.start(fleet.worker);
  },
};

let rig: CrashRig;
beforeAll(async () => {
  rig = await openCrashRig(SLOTS);
}, 180_000);
afterAll(async () => {
  if (KEEP && rig) await keepRemains(rig, KEEP);
  await rig?.stop();
}, 120_000);

test(
  'B2 B4 B5 B6 H7 builds under way while random parts are killed all pass: none lost, every byte once, every script once, nothing left',
  async () => {
    process.stdout.write(`soak: seed ${SEED}, ${MINUTES} min\n`);
    await rig.house.project('soak', PROJECT);
    const soak: Soak = { until: Date.now() + MINUTES * 60_000, builds: 0, kills: {}, isStopped: false };

    const loops = [triggerAllTheTime(soak), killAllTheTime(soak), lookOut(soak)];
    await Promise.all(loops).finally(() => (soak.isStopped = true));
    if (soak.lost) throw new Error(await sayWhatIsLost(soak.lost));

    const { last_number: count } = await rig.db.selectFrom('projects').select('last_number').executeTakeFirstOrThrow();
    const builds: Build[] = [];
    for (let number = 1; number <= count; number += 1) builds.push(await rig.house.finished('soak', number, END_MS));
    const faults: string[] = [];
    // One by one: hundreds of readers at once are more than the store has connections for.
    for (const build of builds) faults.push(...(await faultsOf(build)));
    faults.push(...rig.engine.startedTwice().map((name) => `${name} was started twice`));
    faults.push(...(await replayAll(rig.house.temporal.address)));
    await expectNothingLeft(rig);
    report({ builds, kills: soak.kills, faults });

    expect(count).toBe(soak.builds);
    expect(faults).toEqual([]);
  },
  MINUTES * 120_000 + 900_000,
);

interface Soak {
  /** When it ends at the earliest. */
  until: number;
  /** Builds that were accepted. */
  builds: number;
  kills: Record<string, number>;
  lost?: LostBuild;
  /** A build is lost, or one of the loops failed. */
  isStopped: boolean;
}

const goesOn = ({ isStopped, until, builds }: Soak): boolean =>
  !isStopped && (Date.now() < until || builds < LEAST_BUILDS);

/** Until every build is finished, or one is lost. */
async function lookOut(soak: Soak): Promise<void> {
  let overSince: number | undefined;
  while (goesOn(soak) || Date.now() < (overSince ??= Date.now()) + END_MS) {
    await sleep(1_000);
    // While the database is away nobody can say; asked again.
    const idlest = await findIdlest(rig).catch(() => 'unknown' as const);
    if (idlest === 'unknown') continue;
    if (!idlest && !goesOn(soak)) return;
    if (!idlest || idlest.idleMs < LOST_AFTER_MS) continue;
    soak.lost = idlest;
    soak.isStopped = true;
    return;
  }
}

/** Every part is up again by now. Whether the build goes on once nothing is killed is part of what is said. */
async function sayWhatIsLost(lost: LostBuild): Promise<string> {
  const text = await describeLostBuild(rig, lost);
  const later = await rig.house.finished(lost.project, lost.number, CALM_MS).catch(String);
  const end = typeof later === 'string' ? later : `${later.status} once nothing was killed any more`;
  return `build ${lost.number} (seed ${SEED}) is unfinished, and nothing was seen of it for ${lost.idleMs} ms\n${text}\n--- afterwards\n${end}`;
}

/** Keeps a few builds open. A trigger whose answer was lost is sent again under its key: there is one build for each key. */
async function triggerAllTheTime(soak: Soak): Promise<void> {
  while (goesOn(soak)) {
    const headers = { 'idempotency-key': `soak-${soak.builds}` };
    await waitFor(() => rig.house.call('POST', '/v1/projects/soak/builds', {}, headers), {
      what: `build ${soak.builds} is accepted`,
      timeoutMs: 120_000,
      intervalMs: 200,
    });
    soak.builds += 1;
    await waitFor(async () => (await openBuilds()) < OPEN_BUILDS || !goesOn(soak), {
      what: 'a build ends',
      timeoutMs: 300_000,
      intervalMs: 200,
    });
  }
}

async function openBuilds(): Promise<number> {
  const { builds } = await rig.house.call<{ builds: Build[] }>('GET', '/v1/projects/soak/builds?limit=20');
  return builds.filter((build) => build.state !== 'finished').length;
}

async function killAllTheTime(soak: Soak): Promise<void> {
  const next = random(SEED);
  const fleet = { worker: 'worker', hosts: 1 };
  const names = Object.keys(KILLS).filter((name) => PARTS?.includes(name) ?? true);
  while (goesOn(soak)) {
    await sleep(PAUSE_MS * (1 + 2 * next()));
    const name = names[Math.floor(next() * names.length)]!;
    soak.kills[name] = (soak.kills[name] ?? 0) + 1;
    await KILLS[name]!(rig, { fleet, awayMs: next() * (TIMES.heartbeatMs / 2) });
  }
}

const expectedLog = (run: string): string =>
  Array.from({ length: LINES }, (_, at) => `line ${at + 1} of ${run}\n`).join('');

/** What is wrong with a build, in words; empty when nothing is. */
async function faultsOf({ number, status, runs }: Build): Promise<string[]> {
  const bad = runs.filter((run) => run.status !== 'passed').map((run) => `${run.name} ${run.cause}: ${run.message}`);
  const faults = status === 'passed' ? [] : [`build ${number} is ${status}: ${bad.join('; ')}`];
  for (const { name } of runs) {
    const run = await rig.house.run('soak', number, name);
    const causes = run.attempts.map((attempt) => attempt.cause);
    const log = await rig.house.logOf('soak', number, name);
    // The engine loses what a container writes that ends while the engine is away; that must be on record.
    const isOnRecord = run.attempts
      .at(-1)
      ?.logGaps.some((gap) => gap.reason === 'engine-away' && gap.atByte === log.length);
    const isShort = log !== expectedLog(name);
    if (isShort && !(isOnRecord && expectedLog(name).startsWith(log))) faults.push(`log of ${number}/${name}`);
    if (isShort) gapsOnRecord += 1;
    const starts = await Promise.all(
      run.artifacts.map(async ({ url }) => (await rig.house.request('GET', url)).text()),
    );
    if (starts.join() !== 'started\n') faults.push(`starts of ${number}/${name}: ${starts.join()}`);
    const isLost = causes.slice(0, -1).every((cause) => cause === 'host-lost' || cause === 'container-lost');
    if (!isLost) faults.push(`attempts of ${number}/${name}: ${causes.join(', ')}`);
    lostAttempts += causes.length - 1;
  }
  return faults;
}
let lostAttempts = 0;
let gapsOnRecord = 0;

function report(seen: { builds: Build[]; kills: Record<string, number>; faults: string[] }): void {
  const words = Object.entries(seen.kills).map(([name, count]) => `${name} ${count}`);
  const runs = seen.builds.reduce((sum, build) => sum + build.runs.length, 0);
  process.stdout.write(
    `soak (seed ${SEED}, ${MINUTES} min): ${seen.builds.length} builds, ${runs} runs; killed: ${words.join(', ')}; ` +
      `containers started: ${rig.engine.starts.length}; attempts lost with a host or container: ${lostAttempts}; ends of logs that the engine lost, on record: ${gapsOnRecord}; ` +
      `faults: ${seen.faults.length}\n`,
  );
}
