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

const LINKS = ['api', 'dockerLink'] as const;

/** Lets all held calls go. @param broken links whose calls die with the part; the others go on while it is dead */
function letGo(rig: CrashRig, ...broken: (typeof LINKS)[number][]): void {
  for (const link of LINKS) rig[link].release(broken.includes(link) ? 'cut' : 'go-on');
}

/** A host that is gone for good, with everything on it. */
async function loseHost({ house, engine }: CrashRig): Promise<void> {
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
  ...['api', 'orchestrator'].map((member) => ({
    part: `${member} killed`,
    crash: async (rig: CrashRig) => {
      await rig.house.kill9(member);
      letGo(rig, 'api');
      await rig.house.start(member);
    },
  })),
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
      letGo(rig, 'api');
      await sleep(2_000);
      await rig.house.start('database');
    },
  },
  {
    part: 'network cut',
    crash: async ({ api, temporalLink, dockerLink }) => {
      api.cut();
      temporalLink.cut();
      dockerLink.release('go-on');
      await sleep(AWAY_MS);
      api.mend();
      temporalLink.mend();
    },
  },
];
