// Owns the parts that the crash matrix kills: how each dies, what becomes of the calls that are held, and how it comes back.
// Called by the crash matrix, once all calls of a round are held.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { TIMES, type CrashRig } from './crash-rig';

export interface Part {
  part: string;
  /** Kills it, lets the held calls go, and brings it back. */
  crash: (rig: CrashRig) => Promise<void>;
  isHostGone?: true;
}

/** Longer than a heartbeat time-out, so that Temporal gives the activities up, and shorter than the grace time. */
const AWAY_MS = TIMES.heartbeatMs + 2_000;

const LINKS = ['api', 'dockerLink', 'records'] as const;

/** Lets all held calls go. @param broken links whose calls die with the part; the others go on while it is dead */
function letGo(rig: CrashRig, ...broken: (typeof LINKS)[number][]): void {
  for (const link of LINKS) rig[link].release(broken.includes(link) ? 'cut' : 'go-on');
}

/** The worker's host is gone for good, with everything on it. */
export async function loseHost({ house, engine }: CrashRig): Promise<void> {
  await house.kill9('worker');
  await engine.removeAll();
  rmSync(join(house.dir, 'worker'), { recursive: true });
}

export const PARTS: Part[] = [
  {
    part: 'worker killed',
    crash: async (rig) => {
      await rig.house.kill9('worker');
      letGo(rig, 'api', 'dockerLink');
      await rig.house.start('worker');
    },
  },
  {
    part: 'Docker engine restarted',
    crash: async (rig) => {
      await rig.engine.kill9();
      letGo(rig, 'dockerLink');
      await rig.engine.start();
    },
  },
  {
    part: 'host gone',
    isHostGone: true,
    crash: async (rig) => {
      const { house } = rig;
      await loseHost(rig);
      letGo(rig, 'api', 'dockerLink');
      house.add('second', 'worker', { SLIPWAY_HOST: 'second-host', SLIPWAY_WORKER_DIR: join(house.dir, 'second') });
      await house.start('second');
    },
  },
  {
    part: 'worker stopped',
    crash: async (rig) => {
      rig.house.signal('worker', 'SIGTERM');
      letGo(rig, 'api', 'dockerLink');
      await rig.house.terminate('worker');
      await rig.house.start('worker');
    },
  },
  {
    part: 'api killed',
    crash: async (rig) => {
      await rig.house.kill9('api');
      letGo(rig, 'api');
      await rig.house.start('api');
    },
  },
  {
    part: 'orchestrator killed',
    crash: async (rig) => {
      await rig.house.kill9('orchestrator');
      letGo(rig, 'api', 'records');
      await rig.house.start('orchestrator');
    },
  },
  {
    part: 'Temporal killed',
    crash: async (rig) => {
      await rig.house.temporal.kill9();
      letGo(rig, 'api');
      await sleep(AWAY_MS);
      await rig.house.temporal.restart();
    },
  },
  {
    part: 'database killed',
    crash: async (rig) => {
      await rig.house.kill9('database');
      letGo(rig, 'api', 'records');
      await sleep(2_000);
      await rig.house.start('database');
    },
  },
  {
    part: 'network cut',
    crash: async ({ api, temporalLink, records, dockerLink }) => {
      const links = [api, temporalLink, records];
      for (const link of links) link.cut();
      dockerLink.release('go-on');
      await sleep(AWAY_MS);
      for (const link of links) link.mend();
    },
  },
];
