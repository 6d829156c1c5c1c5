// Owns figure C3: builds a minute through the gateway beside those of a worker that reaches Temporal and API directly, and
// the CPU time that the gateway takes for an activity of Temporal, and for a run with all its calls.
// Called through figures/index.ts.
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker, type WorkerOptions } from '@temporalio/worker';
import { makeClusterKey, makeTokenSigner } from '../../adapters/cluster-keys';
import { WorkerApi } from '../../adapters/worker-api';
import { clusterQueue } from '../../domain/names';
import { oneRun, type House } from '../../test/setup/house';
import { manyActivities, type Idle } from '../many-activities';
import { alternate, repeat } from '../alternate';
import { NO_OP, runBuilds } from '../builds';
import { sized, SLOTS, type Bench, type Figure } from '../figure';

const BUILDS = 60;
/** Activities that do nothing, all at once. */
const ACTIVITIES = 500;
/** Clusters of one house, and of the first two each the name of its project. */
const THROUGH = 'local';
const DIRECT = 'direct';
const BARE = 'bare';
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
      const activities = sized(bench, ACTIVITIES);
      const bare = await bareActivities(bench, house, activities);
      const what = `builds that do nothing, ${count} of one container, through the gateway and directly`;
      return [
        { figure: 'C3', what, unit: 'per-min', ours, floor, goal: { kind: 'ratio-at-least', value: 0.95 } },
        {
          figure: 'C3',
          what: `CPU of the gateway, each of ${activities} activities of Temporal at once`,
          unit: 'ms',
          ours: bare,
          goal: { kind: 'at-most', value: 5 },
        },
        {
          figure: 'C3',
          what: 'CPU of the gateway, each of those builds with its calls to the API',
          unit: 'ms',
          ours: cpu,
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

/** An SDK's worker of a cluster of its own, and nothing of ours behind the gateway. @returns ms of CPU each, one a repeat */
async function bareActivities(bench: Bench, house: House, count: number): Promise<number[]> {
  Runtime.install({ logger: new DefaultLogger('ERROR'), shutdownSignals: [] });
  const { publicKey, privateKey } = await makeClusterKey();
  await house.register(BARE, publicKey);
  const worker = randomUUID();
  const sign = makeTokenSigner(privateKey, { cluster: BARE, worker });
  const hello = { worker, cluster: BARE, host: BARE, labels: [], slots: 1, version: '0', notAccepting: 'no runs' };
  await new WorkerApi(house.gatewayUrl, sign, (why) => bench.say(why)).hello({
    ...hello,
    load: 0,
    freeDiskBytes: null,
  });
  const metadata = { authorization: `Bearer ${await sign()}` };
  const connections = await Promise.all([
    NativeConnection.connect({ address: new URL(house.gatewayUrl).host, metadata }),
    NativeConnection.connect({ address: house.temporal.address }),
  ]);
  const client = new Client({ connection: await Connection.connect({ address: house.temporal.address }) });
  const [ofCluster, orchestrator] = connections;
  const stops: (() => Promise<void>)[] = [];
  const cpuEach = async (): Promise<number> => {
    const before = cpuMs(house.pid('gateway'));
    await client.workflow.execute(manyActivities, {
      args: [{ queue: clusterQueue(BARE), count }],
      taskQueue: BARE,
      workflowId: randomUUID(),
    });
    return (cpuMs(house.pid('gateway')) - before) / count;
  };
  try {
    const activities: Idle = { nothing: async () => undefined };
    stops.push(await serve({ connection: ofCluster, taskQueue: clusterQueue(BARE), activities }));
    stops.push(await serve({ connection: orchestrator, taskQueue: BARE, workflowsPath: WORKFLOWS }));
    await cpuEach();
    return await repeat({ ...bench, house }, bench.repeats, cpuEach);
  } finally {
    for (const stop of stops) await stop();
    await Promise.all([...connections, client.connection].map((connection) => connection.close()));
  }
}

const WORKFLOWS = join(__dirname, '..', 'many-activities.js');

async function serve(options: WorkerOptions): Promise<() => Promise<void>> {
  const worker = await Worker.create(options);
  const running = worker.run();
  return async () => {
    worker.shutdown();
    await running;
  };
}

/** User and system time of a process so far. Linux alone has this file. */
function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
}
