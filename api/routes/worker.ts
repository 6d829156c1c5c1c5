// Owns /v1/worker: what cluster workers say and ask. Each call about an attempt names its fencing token.
// A worker shows a token that it signs with the key of its cluster, and speaks for its own cluster's work alone.
import express, { Router, type Request, type ErrorRequestHandler, type RequestHandler, type Response } from 'express';
import { z } from 'zod';
import { BlobError } from '../../adapters/blobs';
import { appendLog } from '../../adapters/log-store';
import { freezeCommit } from '../../adapters/store/commits';
import {
  FencedError,
  findOrphans,
  isForeign,
  recordProgress,
  recordResult,
  releaseCleaned,
  releaseLease,
  requireLive,
  type Holder,
} from '../../adapters/store/holders';
import { recordHost, SILENT_AFTER_MS } from '../../adapters/store/hosts';
import { keepHosts, recordProbes } from '../../adapters/store/kept-hosts';
import { blueprintsToSweep, compareFound } from '../../adapters/store/on-demand';
import { handBack } from '../../adapters/store/hand-back';
import { requestLease } from '../../adapters/store/leases';
import { recordProof } from '../../adapters/store/quarantine';
import { offerRelease } from '../../adapters/store/releases';
import { readStandings } from '../../adapters/store/standings';
import { recordWorker } from '../../adapters/store/workers';
import type { WorkerIdentity } from '../../adapters/worker-identity';
import { WorkerRefusal } from '../../adapters/worker-refusal';
import { pagePath } from '../../domain/names';
import { version } from '../../package.json';
import type { MachineFacts } from '../../domain/schemas/hosts';
import * as shapes from '../../domain/schemas/worker-api';
import type { ApiContext } from '../context';
import { readWorkerJson } from '../json-body';
import { requireRoom } from '../limits';
import { Refusal } from '../problem';
import { sendRelease } from './releases';
import { workerShellRoutes } from './shells';
import { workerArtifactRoutes } from './worker-artifacts';

const LOG_LIMIT_BYTES = 4 * 1024 * 1024;
const HolderPath = z.object({ runId: z.uuid(), attempt: z.coerce.number().int().positive().max(shapes.INT_MAX) });
const LogQuery = z.object({ offset: z.coerce.number().int().nonnegative() });

export function workerRoutes(context: ApiContext): Router {
  const router = Router();
  const attempt = '/v1/worker/attempts/:runId/:attempt';
  router.use('/v1/worker', context.troubles.watch(), requireWorker(context));
  const bodies = { limit: context.maxBodyBytes, room: context.limits.workerBodies };
  router.use('/v1/worker', readWorkerJson(bodies, clusterOf));

  router.post('/v1/worker/hello', async (request, response) => {
    response.json(await greet(context, shapes.Hello.parse(request.body), workerOf(response)));
  });

  router.post('/v1/worker/lease', async (request, response) => {
    response.json(await lease(context, shapes.LeaseAsk.parse(request.body), workerOf(response)));
  });

  router.post('/v1/worker/orphans', async (request, response) => {
    response.json(await tellOrphans(context, shapes.RemainsList.parse(request.body), workerOf(response)));
  });

  router.post('/v1/worker/attempts', async (request, response) => {
    response.json(await tellStandings(context, shapes.StandingAsk.parse(request.body), workerOf(response)));
  });

  router.post('/v1/worker/hosts', async (request, response) => {
    response.json(await tellHosts(context, shapes.HostsAsk.parse(request.body), workerOf(response)));
  });

  router.post(`${attempt}/progress`, async (request, response) => {
    const { startedAt, ...progress } = shapes.Progress.parse(request.body);
    const started = startedAt === undefined ? undefined : new Date(startedAt);
    await recordProgress(context.db, holderOf(request, response), { ...progress, startedAt: started });
    response.json({});
  });

  router.post(`${attempt}/commit`, async (request, response) => {
    const { commit } = shapes.FoundCommit.parse(request.body);
    response.json({ commit: await freezeCommit(context.db, holderOf(request, response), commit) });
  });

  router.post(`${attempt}/log`, ...takeLog(context));

  router.use(workerArtifactRoutes(context, { attempt, holderOf, beforeBytes: beforeBytes(context) }));

  router.post(`${attempt}/result`, async (request, response) => {
    const until = await recordResult(context.db, holderOf(request, response), shapes.Result.parse(request.body));
    response.json({ heldUntil: until?.toISOString() ?? null });
  });

  router.post(`${attempt}/release`, async (request, response) => {
    const holder = holderOf(request, response);
    const { beside } = shapes.ReleaseQuery.parse(request.query);
    const isForeigner = !(await releaseLease(context.db, holder, beside)) && (await isForeign(context.db, holder));
    if (isForeigner) throw new WorkerRefusal('foreign-attempt', holder.runId);
    response.json({});
  });

  router.post(`${attempt}/hand-back`, takeBack(context));

  router.use(workerShellRoutes(context, workerOf));

  router.post('/v1/worker/release', (_request, response) => sendRelease(context, workerOf(response).cluster, response));

  router.use('/v1/worker', refuseWorkers(context));
  return router;
}

/** An append of a log: asked for before a byte of it is read, so that a worker that may not sends nothing into our memory. */
function takeLog(context: ApiContext): RequestHandler[] {
  return [
    beforeBytes(context),
    requireRoom(context.limits.workerBodies, LOG_LIMIT_BYTES, clusterOf),
    express.raw({ type: () => true, limit: LOG_LIMIT_BYTES, inflate: false }),
    async (request, response) => {
      const { offset } = LogQuery.parse(request.query);
      const bytes = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
      const end = await appendLog(context, holderOf(request, response), { startByte: offset, bytes });
      response.json({ bytes: end.bytes });
    },
  ];
}

/** Whose room a body takes. */
const clusterOf = (_request: Request, response: Response): string => `cluster ${workerOf(response).cluster}`;

function takeBack({ db }: ApiContext): RequestHandler {
  return async (request, response) => {
    const isTaken = await handBack(db, holderOf(request, response), shapes.HandBack.parse(request.body));
    response.json({ isTaken });
  };
}

async function greet(context: ApiContext, hello: shapes.Hello, who: WorkerIdentity): Promise<shapes.HelloReply> {
  requireSelf(who, hello);
  const { worker, cluster, host, labels, slots, notAccepting = null } = hello;
  const { engine, ...machine } = hello.machine ?? {};
  const enlisted = await recordWorker(context.db, hello);
  if (enlisted === undefined) {
    throw new Refusal(
      429,
      'too-many-workers',
      `cluster ${cluster} has as many workers as it may, or too many new ones at once; dismiss some, or wait a minute`,
    );
  }
  const facts = { worker, cluster, name: host, labels, slots, version: hello.version, notAccepting, engine };
  const said = hello.machine ? { ...facts, machine: machine as MachineFacts } : facts;
  const upgrade = await offerRelease(context.db, { hello, isEnlisted: enlisted, silentAfterMs: SILENT_AFTER_MS });
  if (!enlisted) return { enlisted, serverVersion: version, upgrade, knowsMachines: true };
  if (hello.proof) await recordProof(context.db, { cluster, worker, host }, hello.proof);
  const recorded = await recordHost(context.db, said, SILENT_AFTER_MS);
  if (!recorded) {
    throw new Refusal(
      403,
      'host-taken',
      `another living worker serves host ${host} of cluster ${cluster}; give this one a name of its own (SLIPWAY_HOST)`,
    );
  }
  return { enlisted, serverVersion: version, upgrade, knowsMachines: true, ...recorded };
}

async function lease(context: ApiContext, ask: shapes.LeaseAsk, who: WorkerIdentity): Promise<shapes.LeaseReply> {
  requireSelf(who, { worker: ask.worker, cluster: who.cluster });
  const answer = await requestLease(context.db, {
    ...ask,
    cluster: who.cluster,
    silentAfterMs: SILENT_AFTER_MS,
    logCapBytes: context.logCapBytes,
    ageStepMs: context.ageStepMs,
    paused: await context.blobs.whyFull(),
  });
  if (answer.kind === 'foreign') throw new WorkerRefusal('foreign-attempt', ask.runId);
  if (answer.kind !== 'granted') return answer;
  const { project, build, run } = answer;
  return { ...answer, runUrl: context.links.base + pagePath.run(project, build, run) };
}

async function tellOrphans(
  { db }: ApiContext,
  { worker, found, hosts = [], isPart = false }: z.infer<typeof shapes.RemainsList>,
  who: WorkerIdentity,
): Promise<z.infer<typeof shapes.OrphanList>> {
  requireSelf(who, { worker, cluster: who.cluster });
  if (!isPart) await releaseCleaned(db, { ...who, hosts }, found);
  return { orphans: await findOrphans(db, who.cluster, found) };
}

async function tellStandings(
  { db }: ApiContext,
  { worker, attempts }: z.infer<typeof shapes.StandingAsk>,
  who: WorkerIdentity,
): Promise<z.infer<typeof shapes.StandingList>> {
  requireSelf(who, { worker, cluster: who.cluster });
  return { attempts: await readStandings(db, who.cluster, attempts) };
}

function requireSelf(who: WorkerIdentity, named: { worker: string; cluster: string }): void {
  if (named.worker === who.worker && named.cluster === who.cluster) return;
  throw new WorkerRefusal('foreign-worker', `${named.worker} of ${named.cluster}`);
}

async function tellHosts(
  { db }: ApiContext,
  { worker, probes, found = [], ...ask }: z.infer<typeof shapes.HostsAsk>,
  who: WorkerIdentity,
): Promise<shapes.HostsReply> {
  const engine = ask.engine ?? null;
  requireSelf(who, { worker, cluster: who.cluster });
  await recordProbes(db, who, probes);
  const hosts = await keepHosts(db, { ...who, engine });
  const orphans = found.length === 0 ? [] : await compareFound(db, { ...who, engine }, found);
  return { hosts, orphans, blueprints: await blueprintsToSweep(db, who.cluster) };
}

/** Refuses bytes before they come: of a stranger, and those for which there is no room; these a worker keeps, and asks again. */
function beforeBytes({ db, blobs }: ApiContext): RequestHandler {
  return async (request, response, next) => {
    await requireLive(db, holderOf(request, response));
    const full = await blobs.whyFull();
    if (full !== null) throw new BlobError('disk-full', full);
    next();
  };
}

function holderOf(request: Request, response: Response): Holder {
  const { cluster } = workerOf(response);
  const holder = { ...HolderPath.parse(request.params), ...shapes.HolderQuery.parse(request.query), cluster };
  // An error handler does not see the parameters of the route.
  response.locals['holder'] = holder;
  return holder;
}

const workerOf = (response: Response): WorkerIdentity => response.locals['worker'] as WorkerIdentity;

function requireWorker({ identities }: ApiContext): RequestHandler {
  return async (request, response, next) => {
    const need = request.path === '/hello' ? 'key' : 'enlisted';
    response.locals['worker'] = await identities.identify(request.get('authorization'), need);
    next();
  };
}

/** Puts on record who was refused as a worker, and tells a stranger to an attempt from one who was fenced. */
function refuseWorkers(context: ApiContext): ErrorRequestHandler {
  // oxlint-disable-next-line max-params -- Express knows an error handler by its four parameters
  return async (error: unknown, request, response, next) => {
    const who = response.locals['worker'] as WorkerIdentity | undefined;
    const holder = response.locals['holder'] as Holder | undefined;
    let refusal = error;
    if (error instanceof FencedError && holder && (await isForeign(context.db, holder))) {
      refusal = new WorkerRefusal('foreign-attempt', holder.runId);
    }
    if (refusal instanceof WorkerRefusal) {
      context.refusals.record({ who, call: `${request.method} ${request.path}`, refusal });
    }
    next(refusal);
  };
}
