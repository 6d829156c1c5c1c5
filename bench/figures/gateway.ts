// Owns figure C3: builds a minute through the gateway beside those of a worker that reaches Temporal and API directly, and
// the CPU time that the gateway takes for each activity. Called through figures/index.ts.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeClusterKey } from '../../adapters/cluster-keys';
import { oneRun, type House } from '../../test/setup/house';
import { alternate } from '../alternate';
import { NO_OP, runBuilds } from '../builds';
import { sized, SLOTS, type Figure } from '../figure';

const BUILDS = 60;
/** Clusters of one house, and each the name of its project. */
const THROUGH = 'local';
const DIRECT = 'direct';
/** The kernel counts CPU time in hundredths of a second, whatever its own clock. */
const TICK_MS = 10;

export const gateway: Figure = {
  id: 'C3',
  async measure(given) {
    const house = await given.openHouse({ gateway: true });
    const bench = { ...given, house };
    try {
      await addDirectWorker(house);
      const count = sized(bench, BUILDS, SLOTS);
      for (const cluster of [THROUGH, DIRECT]) {
        await house.project(cluster, oneRun(NO_OP, `cluster: ${cluster}\n`));
        // In service for a while: what a process compiles once is no cost of an activity.
        await runBuilds(bench, cluster, { count, feeders: SLOTS });
      }
      const perMinute = async (cluster: string): Promise<number> =>
        (count / (await runBuilds(bench, cluster, { count, feeders: SLOTS }))) * 60;
      const cpu: number[] = [];
      const { ours, floor } = await alternate(bench, {
        ours: async () => {
          const before = cpuMs(house.pid('gateway'));
          const rate = await perMinute(THROUGH);
          cpu.push((cpuMs(house.pid('gateway')) - before) / count);
          return rate;
        },
        floor: () => perMinute(DIRECT),
      });
      const what = `builds that do nothing, ${count} of one container, through the gateway and directly`;
      return [
        { figure: 'C3', what, unit: 'per-min', ours, floor, goal: { kind: 'ratio-at-least', value: 0.95 } },
        {
          figure: 'C3',
          what: 'CPU of the gateway, each activity with its calls to the API',
          unit: 'ms',
          ours: cpu,
          goal: { kind: 'at-most', value: 5 },
        },
      ];
    } finally {
      await house.stop();
    }
  },
};

/** Beside the one that goes through the gateway, on the same server: what else happens there falls on both. */
async function addDirectWorker(house: House): Promise<void> {
  const key = await makeClusterKey();
  await house.register(DIRECT, key.publicKey);
  house.add(DIRECT, 'worker', {
    SLIPWAY_CLUSTER: DIRECT,
    SLIPWAY_CLUSTER_KEY: key.privateKey,
    SLIPWAY_HOST: DIRECT,
    SLIPWAY_WORKER_DIR: join(house.dir, DIRECT),
    SLIPWAY_SERVER: house.url,
    TEMPORAL_ADDRESS: house.temporal.address,
  });
  await house.start(DIRECT);
}

/** User and system time of a process so far. Linux alone has this file. */
function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
}
