// Owns the release that the workers of a cluster are pinned to: an operator's PUT and DELETE, and its bytes for workers.
// The server passes on what a maker of releases has signed; whether it is to be believed, each worker decides.
import { randomUUID } from 'node:crypto';
import { pipeline } from 'node:stream/promises';
import { Router, type Response } from 'express';
import { readSigned, ReleaseSignatureError } from '../../adapters/release-signature';
import { pinRelease, readPin } from '../../adapters/store/releases';
import * as shapes from '../../domain/schemas/clusters';
import type { SignedRelease } from '../../domain/schemas/worker-api';
import { recordDone } from '../caller';
import type { ApiContext } from '../context';
import { notFound, Refusal } from '../problem';
import { answerCluster, operate } from './clusters';

/** Above this it is no release of a worker, bytes. */
const MAX_BYTES = 1024 ** 3;

export function releaseRoutes(context: ApiContext): Router {
  const router = Router();

  router.put('/v1/clusters/:cluster/release', async (request, response) => {
    const { row, caller, intent } = await operate(context, request, 'cluster.upgrade');
    const { signed, canaries, holdMs } = shapes.PinRelease.parse(request.query);
    const release = readRelease(signed);
    const blob = `releases/${randomUUID()}`;
    await store(context, { blob, release, body: request as AsyncIterable<Buffer> });
    const since = new Date().toISOString();
    const pin = { id: randomUUID(), signed, ...release, blob, canaries, holdMs, by: caller.name, since };
    const before = await pinRelease(context.db, row.name, pin);
    if (before) await context.blobs.remove(before.blob);
    await recordDone(context, caller, { ...intent, detail: `${release.version}, ${release.digest}` });
    response.json(await answerCluster(context, row.name));
  });

  router.delete('/v1/clusters/:cluster/release', async (request, response) => {
    const { row, caller, intent } = await operate(context, request, 'cluster.upgrade');
    const before = await pinRelease(context.db, row.name, null);
    if (before) await context.blobs.remove(before.blob);
    await recordDone(context, caller, { ...intent, detail: before ? `not ${before.version} any more` : 'none' });
    response.json(await answerCluster(context, row.name));
  });

  return router;
}

/** To a worker of the cluster. @throws Refusal 404 when it is pinned to none */
export async function sendRelease({ db, blobs }: ApiContext, cluster: string, response: Response): Promise<void> {
  const pin = await readPin(db, cluster);
  if (!pin) throw notFound(`a release for cluster ${cluster}`);
  response.set({ 'content-type': 'application/octet-stream', 'content-length': String(pin.sizeBytes) });
  await pipeline(blobs.read(pin.blob, { startByte: 0, endByte: pin.sizeBytes }), response);
}

/** @throws Refusal 422 */
function readRelease(signed: string): SignedRelease {
  let release: SignedRelease;
  try {
    release = readSigned(signed);
  } catch (error) {
    if (!(error instanceof ReleaseSignatureError)) throw error;
    throw new Refusal(422, 'not-a-release', error.message);
  }
  if (release.sizeBytes <= MAX_BYTES) return release;
  throw new Refusal(413, 'too-large', `a release of ${release.sizeBytes} bytes is larger than the ${MAX_BYTES} taken`);
}

async function store(
  { blobs }: ApiContext,
  { blob, release, body }: { blob: string; release: SignedRelease; body: AsyncIterable<Buffer> },
): Promise<void> {
  const stored = await blobs.put(blob, upTo(body, release.sizeBytes));
  if (stored.digest === release.digest) return;
  await blobs.remove(blob);
  throw differs(release);
}

async function* upTo(body: AsyncIterable<Buffer>, sizeBytes: number): AsyncGenerator<Buffer> {
  let taken = 0;
  for await (const part of body) {
    taken += part.length;
    if (taken > sizeBytes)
      throw new Refusal(422, 'other-bytes', `the file is longer than the ${sizeBytes} bytes signed`);
    yield part;
  }
}

const differs = ({ version, digest }: SignedRelease): Refusal =>
  new Refusal(
    422,
    'other-bytes',
    `these bytes are not those of ${version} that were signed (${digest}); sign the file again`,
  );
