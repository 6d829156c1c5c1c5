// Owns the orchestrator process: runs the build workflows and keeps their records, and delivers what the API accepted.
// Stateless: run n of them. Started by `slipway up`, by docker-compose, or by hand: node dist/workers/orchestrator.js
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure } from '@temporalio/common';
import { Worker, bundleWorkflowCode } from '@temporalio/worker';
import type { Logger } from 'pino';
import type { LedgerActivities } from '../activities/on-demand-types';
import type { ShellRecords } from '../activities/shell-types';
import { endShell } from '../adapters/store/shells';
import { makeRecordActivities } from '../activities/records';
import { FileBlobs } from '../adapters/blobs';
import { embeddedUrl } from '../adapters/embedded-database';
import { compressLog } from '../adapters/log-store';
import { sweepOutbox, wakeWaiting } from '../adapters/outbox';
import { sweepAbandoned } from '../adapters/reaper';
import { runProcess, type Running } from '../adapters/process';
import { readSettings } from '../adapters/settings';
import { finishBuild, requestBuildCancel } from '../adapters/store/builds';
import { migrateWhenThere, openStore, type Database } from '../adapters/store/connect';
import { logsToCompress } from '../adapters/store/logs';
import { maintainCluster } from '../adapters/store/maintenance';
import {
  chooseMaker,
  hostEnds,
  hostFault,
  hostGone,
  hostMade,
  MadeHostError,
  planOnDemand,
} from '../adapters/store/on-demand';
import { readPriority } from '../adapters/store/queue';
import { closeAttempt, closeRuns, locateAttempt, placeRun } from '../adapters/store/runs';
import { Temporal } from '../adapters/temporal';
import { forAll } from '../domain/for-all';
import { ORCHESTRATOR_QUEUE, workerQueue } from '../domain/names';
import { connectToTemporal, installRuntime, runWorkers } from './temporal-worker';

const SWEEP_MS = 1_000;
/** Records that may wait for their answer at once; one more fails after 5 s and is tried again. */
const CONNECTIONS = 16;
/** A log is compressed once nobody is likely to follow it any more, ms after its end. */
const COMPRESS_AFTER_MS = 10_000;

runProcess('orchestrator', orchestrate);

async function orchestrate(log: Logger): Promise<Running> {
  installRuntime(log);
  const settings = readSettings();
  const db = openStore(settings.DATABASE_URL ?? embeddedUrl(join(settings.dataDir, 'run')), CONNECTIONS);
  await migrateWhenThere(db, (why) => log.warn({ why }, 'the record store does not answer yet; waiting for it'));
  const temporal = Temporal.open(settings);
  const { connection, namespace } = await connectToTemporal(log);
  await temporal.ensureSearchAttributes();
  const worker = await Worker.create({
    connection,
    namespace,
    taskQueue: ORCHESTRATOR_QUEUE,
    workflowBundle: await findBundle(),
    activities: {
      ...makeRecordActivities({
        closeRuns: (closed) => closeRuns(db, closed),
        closeAttempt: (attempt) => closeAttempt(db, attempt),
        locateAttempt: (attempt) => locateAttempt(db, attempt),
        placeRun: (runId) => placeRun(db, runId),
        readPriority: (runId, stepMs) => readPriority(db, runId, stepMs),
        expireBuild: (buildId) => requestBuildCancel(db, buildId, 'build-timeout'),
        finishBuild: (buildId, by) => finishBuild(db, buildId, by),
        maintainCluster: (maintenance) => maintainCluster(db, maintenance),
      }),
      ...ledgerActivities(db),
      ...shellRecords(db),
    },
    maxConcurrentActivityTaskExecutions: 50,
    shutdownGraceTime: '5s',
  });
  const blobs = new FileBlobs(join(settings.dataDir, 'blobs'), settings.SLIPWAY_SERVER_MIN_FREE_BYTES);
  const stopping = new AbortController();
  const told = { signal: stopping.signal, log };
  const [running] = runWorkers([worker], { log });
  const sweeps = [
    every(SWEEP_MS, told, () => sweepOutbox({ db, temporal })),
    every(SWEEP_MS, told, () => planOnDemand(db, settings.SLIPWAY_AGE_STEP_MS)),
    every(SWEEP_MS, told, async () => {
      // Nobody would get a slot.
      if ((await blobs.whyFull()) === null) await wakeWaiting({ db, temporal }, settings.SLIPWAY_AGE_STEP_MS);
    }),
    every(SWEEP_MS * 5, told, () => sweepAbandoned({ db, temporal, log })),
    every(SWEEP_MS * 5, told, () => compressEndedLogs({ db, blobs })),
  ];
  return {
    stop: async () => {
      stopping.abort();
      worker.shutdown();
      await Promise.all([running, ...sweeps]);
      await connection.close();
      await temporal.close();
      await db.destroy();
    },
  };
}

function ledgerActivities(db: Database): LedgerActivities {
  return {
    chooseMaker: async (host) => {
      const worker = await chooseMaker(db, host);
      return worker === undefined ? {} : { queue: workerQueue(host.cluster, worker) };
    },
    hostMade: (host) => hostMade(db, host).catch(endIfImpossible),
    hostFault: (host) => hostFault(db, host),
    hostEnds: (host) => hostEnds(db, host),
    hostGone: (host) => hostGone(db, host),
  };
}

/** Repeating it would not change what the worker said. */
function endIfImpossible(error: unknown): never {
  if (!(error instanceof MadeHostError)) throw error;
  throw ApplicationFailure.nonRetryable(error.message, error.name);
}

const shellRecords = (db: Database): ShellRecords => ({
  shellEnds: ({ shell, message }) => endShell(db, shell, { exitCode: null, message }),
});

/** Built once by `npm run build`; a checkout that was not built bundles at each start. */
async function findBundle(): Promise<{ codePath: string } | { code: string }> {
  const codePath = join(__dirname, '..', 'workflow-bundle.js');
  if (existsSync(codePath)) return { codePath };
  const workflowsPath = join(__dirname, '..', 'workflows');
  const converter = join(workflowsPath, 'data-converter');
  return bundleWorkflowCode({ workflowsPath, payloadConverterPath: converter, failureConverterPath: converter });
}

async function compressEndedLogs(ports: { db: Database; blobs: FileBlobs }): Promise<void> {
  await forAll(await logsToCompress(ports.db, COMPRESS_AFTER_MS), (ended) => compressLog(ports, ended));
}

/** Repeats one round until told to stop; a failed round is logged once in a row and tried again. */
async function every(
  ms: number,
  { signal, log }: { signal: AbortSignal; log: Logger },
  round: () => Promise<unknown>,
): Promise<void> {
  let failing = false;
  while (!signal.aborted) {
    try {
      await round();
      failing = false;
    } catch (error) {
      if (!failing) log.warn({ error: String(error) }, 'sweep failed, will be tried again');
      failing = true;
    }
    await sleep(ms, undefined, { signal }).catch(() => undefined);
  }
}
