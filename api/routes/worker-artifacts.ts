// Owns what workers say of the artifacts of an attempt, under /v1/worker: that they come, and each file.
// Opened by worker.ts. Limits are checked before the bytes come, while they come, and with the row.
import { randomUUID } from 'node:crypto';
import { extname } from 'node:path';
import { Router, type Request, type RequestHandler, type Response } from 'express';
import { lookup } from 'mime-types';
import { z } from 'zod';
import { readLimits, recordArtifact, TooMuchError, whyNotStored } from '../../adapters/store/artifacts';
import { recordProgress, type Holder } from '../../adapters/store/holders';
import { listArtifacts } from '../../adapters/store/runs';
import type * as shapes from '../../domain/schemas/worker-api';
import type { ApiContext } from '../context';
import { Refusal } from '../problem';

/** As an index takes it. */
const MOST_PATH_BYTES = 1024;
const ArtifactQuery = z.object({
  path: z
    .string()
    .min(1)
    .refine((path) => Buffer.byteLength(path) <= MOST_PATH_BYTES, `must have ${MOST_PATH_BYTES} bytes at most`)
    .refine(
      (path) =>
        !path.startsWith('/') && !path.includes('\0') && !path.split('/').some((part) => /^\.{0,2}$/.test(part)),
      'must be relative, without empty, "." or ".." parts',
    ),
  size: z.coerce.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER).optional(),
});

interface WorkerRoute {
  /** Path of an attempt. */
  attempt: string;
  holderOf: (request: Request, response: Response) => Holder;
  beforeBytes: RequestHandler;
}

export function workerArtifactRoutes(context: ApiContext, { attempt, holderOf, beforeBytes }: WorkerRoute): Router {
  const router = Router();

  router.post(`${attempt}/collecting`, async (request, response) => {
    const holder = holderOf(request, response);
    await recordProgress(context.db, holder, { state: 'collecting' });
    const stored = await listArtifacts(context.db, holder.runId, holder.attempt);
    const answer: shapes.Collecting = {
      limits: await readLimits(context.db, holder.runId),
      stored: stored.map(({ path, size_bytes: sizeBytes, digest }) => ({ path, sizeBytes, digest })),
    };
    response.json(answer);
  });

  router.put(`${attempt}/artifacts`, beforeBytes, async (request, response) => {
    const query = ArtifactQuery.parse(request.query);
    const stored = await storeArtifact(context, { ...query, holder: holderOf(request, response), bytes: request });
    response.json(stored);
  });
  return router;
}

interface Sent extends z.infer<typeof ArtifactQuery> {
  holder: Holder;
  bytes: AsyncIterable<Buffer>;
}

async function storeArtifact({ db, blobs }: ApiContext, { holder, path, size, bytes }: Sent): Promise<shapes.Stored> {
  const limits = await readLimits(db, holder.runId);
  // Asked before the bytes come, so that nobody sends a gigabyte for nothing, and again with the row.
  const why = await whyNotStored(db, holder, { path, sizeBytes: size ?? 0, limits });
  if (why !== undefined) throw tooMuch(path, why);
  const blob = `artifacts/${holder.runId}/${holder.attempt}/${randomUUID()}`;
  const stored = await blobs.put(blob, upTo(bytes, { path, size, mostBytes: limits.fileBytes }));
  const contentType = lookup(extname(path)) || 'application/octet-stream';
  try {
    const before = await recordArtifact(db, holder, { path, ...stored, contentType, blob, limits });
    if (before !== undefined) await blobs.remove(before);
  } catch (error) {
    await blobs.remove(blob);
    throw error instanceof TooMuchError ? tooMuch(path, error.message) : error;
  }
  return stored;
}

/** @throws Refusal when there are more than there may be, or others than was said */
async function* upTo(
  bytes: AsyncIterable<Buffer>,
  { path, size, mostBytes }: { path: string; size: number | undefined; mostBytes: number },
): AsyncGenerator<Buffer> {
  let sizeBytes = 0;
  for await (const piece of bytes) {
    sizeBytes += piece.length;
    if (sizeBytes > mostBytes) throw tooMuch(path, `one file may have ${mostBytes} bytes`);
    if (sizeBytes > (size ?? Infinity)) break;
    yield piece;
  }
  if (size !== undefined && sizeBytes !== size) {
    throw new Refusal(400, 'malformed-request', `artifact ${path} was said to have ${size} bytes, and has others`);
  }
}

const tooMuch = (path: string, why: string): Refusal =>
  new Refusal(413, 'too-large', `artifact ${path} is not stored: ${why}`);
