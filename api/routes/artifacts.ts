// Owns the artifacts of a run: the list, and each file with range reads. What a run wrote is never trusted as a page.
import { pipeline } from 'node:stream/promises';
import { Router, type Request, type Response } from 'express';
import { z } from 'zod';
import { listArtifacts } from '../../adapters/store/runs';
import type { ApiContext } from '../context';
import { notFound } from '../problem';
import { viewArtifact } from '../views';
import { Int, requireRun, type RunPath } from './builds';
import { parseRange } from './range';

const Query = z.object({ attempt: Int.optional() });

export function artifactRoutes(context: ApiContext): Router {
  const router = Router();
  const base = '/v1/projects/:project/builds/:number/runs/:run/artifacts';

  router.get(base, async (request, response) => {
    const run = await requireRun(context, request.params);
    const attempt = Query.parse(request.query).attempt ?? run.attempt;
    const rows = await listArtifacts(context.db, run.id, attempt);
    const place = { project: request.params.project, build: Number(request.params.number), run: run.name, attempt };
    response.json({ artifacts: rows.map((row) => viewArtifact(row, place, context.links)) });
  });

  router.get(`${base}/*path`, (request, response) => sendArtifact(context, request, response));
  return router;
}

async function sendArtifact(
  context: ApiContext,
  request: Request<RunPath & { path: string[] }>,
  response: Response,
): Promise<void> {
  const run = await requireRun(context, request.params);
  const attempt = Query.parse(request.query).attempt ?? run.attempt;
  const path = request.params.path.join('/');
  const artifact = (await listArtifacts(context.db, run.id, attempt)).find((one) => one.path === path);
  if (!artifact) throw notFound(`artifact ${path} of run ${run.name}, attempt ${attempt}`);
  response.set({
    'content-type': artifact.content_type,
    etag: `"${artifact.digest}"`,
    'accept-ranges': 'bytes',
    'cache-control': 'private, no-cache',
    'x-content-type-options': 'nosniff',
    // A page that a build wrote must not act as a page of ours.
    'content-security-policy': "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:",
  });
  if (request.fresh) {
    response.status(304).end();
    return;
  }
  const range = parseRange(request.range(artifact.size_bytes), response, artifact.size_bytes);
  response.set('content-length', String(range.endByte - range.startByte));
  if (request.method === 'HEAD' || range.startByte === range.endByte) response.end();
  else await pipeline(context.blobs.read(artifact.blob, range), response);
}
