// Owns /v1/worker: what cluster workers say and ask. Each call about an attempt names its fencing token.
// Guarded by the worker token; a worker holds no other credential.
import { createHash, randomUUID, timingSafeEqual } from 'node:crypto';
import { extname } from 'node:path';
import express, { Router, type Request, type RequestHandler } from 'express';
import { lookup } from 'mime-types';
import { z } from 'zod';
import { appendLog } from '../../adapters/log-store';
import { recordArtifact } from '../../adapters/store/logs';
import {
  findOrphans,
  recordProgress,
  recordResult,
  releaseCleaned,
  releaseLease,
  requireLive,
  type Holder,
} from '../../adapters/store/holders';
import { recordHost } from '../../adapters/store/hosts';
import { requestLease } from '../../adapters/store/leases';
import { pagePath } from '../../domain/names';
import * as shapes from '../../domain/schemas/worker-api';
import type { ApiContext } from '../context';
import { Refusal } from '../problem';
import { SILENT_AFTER_MS } from '../views';

const LOG_LIMIT_BYTES = 4 * 1024 * 1024;
const HolderPath = z.object({ runId: z.uuid(), attempt: z.coerce.number().int().positive() });
const LogQuery = z.object({ offset: z.coerce.number().int().nonnegative() });
const ArtifactPath = z
  .string()
  .min(1)
  .max(1024)
  .refine(
    (path) => !path.startsWith('/') && !path.includes('\0') && !path.split('/').some((part) => /^\.{0,2}$/.test(part)),
    {
      message: 'must be relative, without empty, "." or ".." parts',
    },
  );

export function workerRoutes(context: ApiContext): Router {
  const router = Router();
  const attempt = '/v1/worker/attempts/:runId/:attempt';
  router.use('/v1/worker', requireWorker(context.workerToken));

  router.post('/v1/worker/hello', async (request, response) => {
    const { worker, cluster, host, ...rest } = shapes.Hello.parse(request.body);
    const isMine = await recordHost(context.db, { worker, cluster, name: host, ...rest }, SILENT_AFTER_MS);
    if (!isMine) {
      throw new Refusal(
        403,
        'host-taken',
        `another living worker serves host ${host} of cluster ${cluster}; give this one a name of its own (SLIPWAY_HOST)`,
      );
    }
    response.json({});
  });

  router.post('/v1/worker/lease', async (request, response) => {
    response.json(await lease(context, shapes.LeaseAsk.parse(request.body)));
  });

  router.post('/v1/worker/orphans', async (request, response) => {
    const { worker, found } = shapes.RemainsList.parse(request.body);
    await releaseCleaned(context.db, worker, found);
    response.json({ orphans: await findOrphans(context.db, found) });
  });

  router.post(`${attempt}/progress`, async (request, response) => {
    const { startedAt, ...progress } = shapes.Progress.parse(request.body);
    await recordProgress(context.db, holderOf(request), {
      ...progress,
      startedAt: startedAt ? new Date(startedAt) : undefined,
    });
    response.json({});
  });

  router.post(
    `${attempt}/log`,
    express.raw({ type: () => true, limit: LOG_LIMIT_BYTES }),
    async (request, response) => {
      const { offset } = LogQuery.parse(request.query);
      const bytes = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
      const end = await appendLog(context, holderOf(request), { startByte: offset, bytes });
      response.json({ bytes: end.bytes });
    },
  );

  router.put(`${attempt}/artifacts`, async (request, response) => {
    response.json(await storeArtifact(context, request));
  });

  router.post(`${attempt}/result`, async (request, response) => {
    await recordResult(context.db, holderOf(request), shapes.Result.parse(request.body));
    response.json({});
  });

  router.post(`${attempt}/release`, async (request, response) => {
    await releaseLease(context.db, holderOf(request));
    response.json({});
  });

  return router;
}

async function lease(context: ApiContext, ask: shapes.LeaseAsk): Promise<shapes.LeaseReply> {
  const answer = await requestLease(context.db, {
    ...ask,
    silentAfterMs: SILENT_AFTER_MS,
    logCapBytes: context.logCapBytes,
  });
  if (answer.kind !== 'granted') return answer;
  const { project, build, run } = answer;
  return { ...answer, runUrl: context.links.base + pagePath.run(project, build, run) };
}

async function storeArtifact(context: ApiContext, request: Request): Promise<shapes.Stored> {
  const holder = holderOf(request);
  const path = ArtifactPath.parse(request.query['path']);
  // Asked before the bytes come, so that a fenced worker does not send a gigabyte for nothing, and again with the row.
  await requireLive(context.db, holder);
  const blob = `artifacts/${holder.runId}/${holder.attempt}/${randomUUID()}`;
  const stored = await context.blobs.put(blob, request as AsyncIterable<Buffer>);
  const contentType = lookup(extname(path)) || 'application/octet-stream';
  try {
    await recordArtifact(context.db, holder, { path, ...stored, contentType, blob });
  } catch (error) {
    await context.blobs.remove(blob);
    throw error;
  }
  return stored;
}

function holderOf(request: Request): Holder {
  return { ...HolderPath.parse(request.params), ...shapes.HolderQuery.parse(request.query) };
}

function requireWorker(token: string | undefined): RequestHandler {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return (request, _response, next) => {
    const given = /^Bearer (.+)$/.exec(request.get('authorization') ?? '')?.[1] ?? '';
    if (token === undefined || !timingSafeEqual(digest(given), digest(token))) {
      throw new Refusal(401, 'unknown-worker', 'name the worker token of this server (SLIPWAY_WORKER_TOKEN)');
    }
    next();
  };
}
