// Owns a worker of a cluster: takes the cluster's new work and the follow-ups to itself, and says hello to the API.
// Holds no credential but the key of its cluster. Loaded by cluster.ts.
import { setMaxListeners } from 'node:events';
import { utimesSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker, type NativeConnection, type WorkerOptions } from '@temporalio/worker';
import type { Logger } from 'pino';
import { makeJobActivities } from '../activities/job';
import { makeMakerActivities } from '../activities/on-demand';
import { makeShellActivities } from '../activities/shell';
import { makeTokenSigner } from '../adapters/cluster-keys';
import { runProcess, type Running } from '../adapters/process';
import { runningRelease } from '../adapters/releases';
import { readSettings, SettingsError, type Settings } from '../adapters/settings';
import { WorkerApi } from '../adapters/worker-api';
import { clusterQueue, workerQueue } from '../domain/names';
import { Engines } from './engines';
import { Greeter, HELLO_MS } from './greeting';
import { HostRounds } from './host-rounds';
import { Makers } from './makers';
import { sweep, type WorkerPorts } from './sweep';
import { TemporalReach } from './temporal-reach';
import { Upgrader } from './upgrader';
import { connectToTemporal, installRuntime, runWorkers, serverOf } from './temporal-worker';
import { readWorkerId } from './worker-id';

const SWEEP_MS = 15_000;

runProcess('worker', work);

async function work(log: Logger, end: (why: string) => void): Promise<Running> {
  installRuntime(log);
  const settings = readSettings();
  const { SLIPWAY_CLUSTER_KEY: key, SLIPWAY_CLUSTER: cluster } = settings;
  if (key === undefined) {
    throw new SettingsError(
      `SLIPWAY_CLUSTER_KEY: the private key of cluster ${cluster} is missing; make one with: slipway cluster key ${cluster}`,
    );
  }
  const dir = settings.workerDir;
  const { id, idFile, lastAliveAt } = readWorkerId(dir, settings.SLIPWAY_CLUSTER);
  const sign = makeTokenSigner(key, { cluster, worker: id });
  const server = serverOf(settings);
  const leaving = new AbortController();
  // Each run under way listens.
  setMaxListeners(0, leaving.signal);
  const engines = new Engines(settings, lastAliveAt);
  const ports: WorkerPorts = {
    engines,
    makers: new Makers(engines.docker, settings.SLIPWAY_SSH_KEY ?? ''),
    api: new WorkerApi(server, sign, (why) =>
      log.warn({ server, why }, 'the server does not take this worker; it asks again'),
    ),
    worker: { id, cluster: settings.SLIPWAY_CLUSTER, stopGraceMs: settings.SLIPWAY_STOP_GRACE_MS },
    held: new Map(),
    unknownSince: new Map(),
    heartbeatMs: Math.min(2_000, settings.SLIPWAY_HEARTBEAT_TIMEOUT_MS / 4),
    leaving: leaving.signal,
    log,
  };
  const stopping = new AbortController();
  const told = { signal: stopping.signal, log };
  const greeter = new Greeter({ ...ports, settings, log, upgrader: new Upgrader({ ...ports, settings, log, end }) });
  await greeter.untilEnlisted(stopping.signal);
  // First of all: what an earlier life of this worker left must not share the machine with new work.
  await sweep(ports, stopping.signal).catch((error: unknown) => log.warn({ error: String(error) }, 'sweep put off'));
  const { connection, namespace } = await connectToTemporal(log, { sign, gateway: server });
  const workers = await createWorkers({ connection, namespace, ports, settings });
  const running = runWorkers([workers.ofCluster, workers.own], { log });
  const reach = new TemporalReach(() => askTemporal(connection));
  greeter.watch(reach);
  const rounds = beginRounds(ports, { settings, told, idFile, greeter, reach });
  runningRelease()?.ready();
  return {
    ...(settings.SLIPWAY_ON_STOP === 'drain'
      ? { drain: () => drain({ greeter, ofCluster: workers.ofCluster, emptied: running[0]!, told }) }
      : {}),
    stop: async () => {
      stopping.abort();
      leaving.abort();
      for (const worker of [workers.ofCluster, workers.own]) shutDown(worker);
      await Promise.all([...running, ...rounds, greeter.farewell()]);
      engines.close();
      await connection.close();
    },
  };
}

/** What it does again and again until it is told to stop. */
function beginRounds(
  ports: WorkerPorts,
  at: {
    settings: Settings;
    told: { signal: AbortSignal; log: Logger };
    idFile: string;
    greeter: Greeter;
    reach: TemporalReach;
  },
): Promise<void>[] {
  const { settings, told, idFile, greeter, reach } = at;
  return [
    repeat(told, { everyMs: HELLO_MS }, () => {
      utimesSync(idFile, new Date(), new Date());
      return greeter.hello(told.signal);
    }),
    repeat(told, { everyMs: HELLO_MS }, () => reach.look()),
    repeat(told, { everyMs: SWEEP_MS }, () => sweep(ports, told.signal)),
    ...(settings.SLIPWAY_SSH_KEY === undefined ? [] : [serveHosts(ports, { settings, told, reach })]),
  ];
}

/** Within this time Temporal answers a worker that it hears, ms. */
const ANSWER_MS = 5_000;

async function askTemporal(connection: NativeConnection): Promise<unknown> {
  return connection.withDeadline(Date.now() + ANSWER_MS, () => connection.workflowService.getSystemInfo({}));
}

/** A round at once, and then one after the other. */
async function serveHosts(
  ports: WorkerPorts,
  { settings, told, reach }: { settings: Settings; told: { signal: AbortSignal; log: Logger }; reach: TemporalReach },
): Promise<void> {
  const minFreeBytes = settings.SLIPWAY_MIN_FREE_BYTES;
  const rounds = new HostRounds({ ...ports, minFreeBytes, reach, log: told.log });
  const round = (): Promise<void> => rounds.round(told.signal);
  await round().catch((error: unknown) => told.log.warn({ error: String(error) }, 'hosts are asked for again soon'));
  await repeat(told, { everyMs: HELLO_MS }, round);
}

const DRAIN_ROUND_MS = 1_000;

/**
 * Takes no new work and waits until what this worker has is done. Its own queue is served all the while: a run that was
 * just sent here comes by it, and so does one whose heartbeats were lost. A grant may be under way while the server hears
 * that this worker takes nothing more, so its word that no slot is held counts the second time.
 */
async function drain(worker: {
  greeter: Greeter;
  ofCluster: Worker;
  /** The new work of the cluster that was taken is done. */
  emptied: Promise<void>;
  told: { signal: AbortSignal; log: Logger };
}): Promise<void> {
  const { greeter, ofCluster, emptied, told } = worker;
  greeter.refuseNewRuns('it is being stopped');
  shutDown(ofCluster);
  let emptyRounds = 0;
  const isEmpty = async (): Promise<void> => {
    const { heldSlots = 0 } = await greeter.hello(told.signal);
    emptyRounds = heldSlots === 0 ? emptyRounds + 1 : 0;
  };
  // The first at once, so that nothing more is granted here.
  await isEmpty().catch((error: unknown) => told.log.warn({ error: String(error) }, 'the server is told again soon'));
  await Promise.all([emptied, repeat(told, { everyMs: DRAIN_ROUND_MS, isOver: () => emptyRounds >= 2 }, isEmpty)]);
}

/** A worker that is being shut down already is left to it. */
function shutDown(worker: Worker): void {
  if (worker.getState() === 'RUNNING') worker.shutdown();
}

const NO_LIMIT = '365 days';
/** Tasks that a worker of listed hosts takes beyond its own slots, to ask whether such a host is for them. */
const ASKERS = 4;
/** Runs on listed hosts that one worker follows at once. */
const MOST_LISTED = 1_000;

/**
 * Two workers in one process: new work of the cluster, as many at once as there are slots, and follow-ups to this one.
 * How long activities go on at a stop is not the SDK's affair but ours: `leaving` makes them let go.
 */
async function createWorkers(at: {
  connection: NativeConnection;
  namespace: string;
  ports: WorkerPorts;
  settings: Settings;
}): Promise<{ ofCluster: Worker; own: Worker }> {
  const { connection, namespace, ports, settings } = at;
  const { cluster, id } = ports.worker;
  const servesHosts = settings.SLIPWAY_SSH_KEY !== undefined;
  const common: Omit<WorkerOptions, 'taskQueue'> = {
    connection,
    namespace,
    activities: { ...makeJobActivities(ports), ...makeMakerActivities(ports), ...makeShellActivities(ports) },
    maxHeartbeatThrottleInterval: '2s',
    defaultHeartbeatThrottleInterval: '2s',
    shutdownGraceTime: NO_LIMIT,
  };
  const [ofCluster, own] = await Promise.all([
    Worker.create({
      ...common,
      taskQueue: clusterQueue(cluster),
      maxConcurrentActivityTaskExecutions: settings.SLIPWAY_SLOTS + (servesHosts ? ASKERS : 0),
      maxConcurrentActivityTaskPolls: 2,
    }),
    Worker.create({
      ...common,
      taskQueue: workerQueue(cluster, id),
      maxConcurrentActivityTaskExecutions: servesHosts ? MOST_LISTED : Math.max(settings.SLIPWAY_SLOTS * 2, 50),
      maxConcurrentActivityTaskPolls: 1,
    }),
  ]);
  return { ofCluster, own };
}

async function repeat(
  { signal, log }: { signal: AbortSignal; log: Logger },
  { everyMs, isOver = () => false }: { everyMs: number; isOver?: () => boolean },
  round: () => Promise<unknown>,
): Promise<void> {
  while (!signal.aborted && !isOver()) {
    await sleep(everyMs, undefined, { signal }).catch(() => undefined);
    if (signal.aborted) return;
    await round().catch((error: unknown) => {
      if (!signal.aborted) log.warn({ error: String(error) }, 'a round failed, will be tried again');
    });
  }
}
