// Owns a worker of a cluster: takes the cluster's new work and the follow-ups to itself, and says hello to the API.
// Holds no credential but the key of its cluster. Started by `slipway worker`, `slipway up` or docker-compose.
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker, type NativeConnection, type WorkerOptions } from '@temporalio/worker';
import Dockerode from 'dockerode';
import type { Logger } from 'pino';
import { makeJobActivities, type JobPorts } from '../activities/job';
import { makeTokenSigner } from '../adapters/cluster-keys';
import { DockerEngine } from '../adapters/docker-engine';
import { patient } from '../adapters/patient-engine';
import { runProcess, type Running } from '../adapters/process';
import { readSettings, SettingsError, type Settings } from '../adapters/settings';
import { WorkerApi, WorkerApiError } from '../adapters/worker-api';
import { clusterQueue, containerName, readContainerName, workerQueue } from '../domain/names';
import type { AttemptKey, HelloReply } from '../domain/schemas/worker-api';
import { version } from '../package.json';
import { connectToTemporal, installRuntime } from './temporal-worker';

const HELLO_MS = 5_000;
/** A server that does not answer at the start is asked again so soon, ms. */
const RETRY_MS = 500;
const SWEEP_MS = 15_000;

runProcess('worker', work);

async function work(log: Logger): Promise<Running> {
  installRuntime(log);
  const settings = readSettings();
  const { SLIPWAY_CLUSTER_KEY: key, SLIPWAY_CLUSTER: cluster } = settings;
  if (key === undefined) {
    throw new SettingsError(
      `SLIPWAY_CLUSTER_KEY: the private key of cluster ${cluster} is missing; make one with: slipway cluster key ${cluster}`,
    );
  }
  const dir = settings.SLIPWAY_WORKER_DIR ?? join(settings.dataDir, 'worker');
  const { id, idFile, lastAliveAt } = readWorkerId(dir, settings.SLIPWAY_CLUSTER);
  const sign = makeTokenSigner(key, { cluster, worker: id });
  const server = (settings.SLIPWAY_SERVER ?? settings.baseUrl).replace(/\/+$/, '');
  const ports: JobPorts = {
    // Without an agent of ours: docker-modem prints its whole depth into a debug line at every call (seconds each, seen).
    engine: patient(new DockerEngine(new Dockerode(), join(dir, 'runs'), lastAliveAt)),
    api: new WorkerApi(server, sign, (why) =>
      log.warn({ server, why }, 'the server does not take this worker; it asks again'),
    ),
    worker: { id, cluster: settings.SLIPWAY_CLUSTER, stopGraceMs: settings.SLIPWAY_STOP_GRACE_MS },
    held: new Map(),
    heartbeatMs: Math.min(2_000, settings.SLIPWAY_HEARTBEAT_TIMEOUT_MS / 4),
    log,
  };
  const stopping = new AbortController();
  const told = { signal: stopping.signal, log };
  await untilEnlisted(ports, settings, told);
  // First of all: what an earlier life of this worker left must not share the machine with new work.
  await sweep(ports, stopping.signal).catch((error: unknown) => log.warn({ error: String(error) }, 'sweep put off'));
  const { connection, namespace } = await connectToTemporal(log, { sign, gateway: server });
  const workers = await createWorkers({ connection, namespace, ports, settings });
  const running = workers.map((worker) => worker.run());
  for (const run of running) {
    run.catch((error: unknown) => {
      log.fatal({ error: String(error) }, 'the worker ended');
      process.exit(1);
    });
  }
  const rounds = [
    repeat(HELLO_MS, told, () => {
      utimesSync(idFile, new Date(), new Date());
      return hello(ports, settings, stopping.signal);
    }),
    repeat(SWEEP_MS, told, () => sweep(ports, stopping.signal)),
  ];
  return {
    stop: async () => {
      stopping.abort();
      for (const worker of workers) worker.shutdown();
      await Promise.all([...running, ...rounds]);
      await connection.close();
    },
  };
}

interface Identity {
  id: string;
  /** Its age says until when this worker was last there. */
  idFile: string;
  lastAliveAt: Date;
}

/** Kept on disk, so that a restarted worker serves the same queue and finds its containers. */
function readWorkerId(dir: string, cluster: string): Identity {
  mkdirSync(dir, { recursive: true });
  const idFile = join(dir, `${cluster}.id`);
  if (!existsSync(idFile)) writeFileSync(idFile, randomUUID(), { flag: 'wx' });
  return { id: readFileSync(idFile, 'utf8').trim(), idFile, lastAliveAt: statSync(idFile).mtime };
}

/** Waits for the server, and for somebody to enlist this worker there. */
async function untilEnlisted(
  ports: JobPorts,
  settings: Settings,
  { signal, log }: { signal: AbortSignal; log: Logger },
): Promise<void> {
  let told = '';
  for (;;) {
    const answer = await hello(ports, settings, signal).catch((error: unknown) => {
      if (error instanceof WorkerApiError || signal.aborted) throw error;
      return undefined;
    });
    if (answer?.enlisted) return;
    const { id, cluster } = ports.worker;
    const why = answer
      ? `it waits to be enlisted: slipway cluster enlist ${cluster} ${id}`
      : 'the server does not answer yet; waiting for it';
    if (why !== told) log.warn({ worker: id, cluster }, why);
    told = why;
    await sleep(answer ? HELLO_MS : RETRY_MS, undefined, { signal });
  }
}

async function hello(ports: JobPorts, settings: Settings, signal: AbortSignal): Promise<HelloReply> {
  const labels = settings.SLIPWAY_LABELS.split(',').map((label) => label.trim());
  const freeDiskBytes = await freeBytes(settings);
  return ports.api.hello(
    {
      worker: ports.worker.id,
      cluster: settings.SLIPWAY_CLUSTER,
      host: settings.SLIPWAY_HOST,
      labels: labels.filter((label) => label !== ''),
      slots: settings.SLIPWAY_SLOTS,
      version,
      load: loadavg()[0],
      freeDiskBytes,
      notAccepting: whyNotAccepting(freeDiskBytes, settings),
    },
    signal,
  );
}

async function freeBytes(settings: Settings): Promise<number | null> {
  const dir = settings.SLIPWAY_WORKER_DIR ?? join(settings.dataDir, 'worker');
  const disk = await statfs(dir).catch(() => undefined);
  return disk ? disk.bavail * disk.bsize : null;
}

const GIBIBYTE = 1024 ** 3;
const inGib = (bytes: number): string => `${(bytes / GIBIBYTE).toFixed(1)} GiB`;

function whyNotAccepting(freeDiskBytes: number | null, { SLIPWAY_MIN_FREE_BYTES: least }: Settings): string | null {
  if (freeDiskBytes === null || freeDiskBytes >= least) return null;
  return `only ${inGib(freeDiskBytes)} of its disk are free, ${inGib(least)} are needed`;
}

/**
 * Two workers in one process: new work of the cluster, as many at once as there are slots, and follow-ups to this one.
 * At a stop activities are told at once (no grace time): they let go, and their containers live on.
 */
async function createWorkers(at: {
  connection: NativeConnection;
  namespace: string;
  ports: JobPorts;
  settings: Settings;
}): Promise<Worker[]> {
  const { connection, namespace, ports, settings } = at;
  const { cluster, id } = ports.worker;
  const common: Omit<WorkerOptions, 'taskQueue'> = {
    connection,
    namespace,
    activities: makeJobActivities(ports),
    maxHeartbeatThrottleInterval: '2s',
    defaultHeartbeatThrottleInterval: '2s',
    shutdownGraceTime: 0,
  };
  return Promise.all([
    Worker.create({
      ...common,
      taskQueue: clusterQueue(cluster),
      maxConcurrentActivityTaskExecutions: settings.SLIPWAY_SLOTS,
      maxConcurrentActivityTaskPolls: 2,
    }),
    Worker.create({
      ...common,
      taskQueue: workerQueue(cluster, id),
      maxConcurrentActivityTaskExecutions: Math.max(settings.SLIPWAY_SLOTS * 2, 50),
      maxConcurrentActivityTaskPolls: 1,
    }),
  ]);
}

/** Removes containers and folders of attempts that no live lease stands behind; the server frees the slots of what is gone. */
async function sweep(ports: JobPorts, signal: AbortSignal): Promise<void> {
  const worker = ports.worker.id;
  const remains = await ports.engine.listRemains();
  const known = new Map([...remains, ...ports.held.keys()].flatMap((name) => entryOf(name)));
  const orphans = await ports.api.orphans({ worker, found: [...known.values()] }, signal);
  for (const { runId, attempt } of orphans) {
    const name = containerName(runId, attempt);
    if (!ports.held.has(name)) await ports.engine.remove(name);
  }
}

function entryOf(name: string): [string, AttemptKey][] {
  const key = readContainerName(name);
  return key ? [[name, key]] : [];
}

async function repeat(
  ms: number,
  { signal, log }: { signal: AbortSignal; log: Logger },
  round: () => Promise<unknown>,
): Promise<void> {
  while (!signal.aborted) {
    await sleep(ms, undefined, { signal }).catch(() => undefined);
    if (signal.aborted) return;
    await round().catch((error: unknown) => {
      if (!signal.aborted) log.warn({ error: String(error) }, 'a round failed, will be tried again');
    });
  }
}
