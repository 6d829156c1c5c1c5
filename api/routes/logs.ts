// Owns the log of a run: its bytes by range, and its live stream that resumes at any byte.
// The offset is the id of each event, so a reader that comes back, to whichever copy of the API, misses and doubles nothing.
import { once } from 'node:events';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { Router, type Request, type Response } from 'express';
import { z } from 'zod';
import { readLog, type LogRange } from '../../adapters/log-store';
import { readLogState } from '../../adapters/store/logs';
import { readAttempt } from '../../adapters/store/runs';
import { runStatus } from '../../domain/verdict';
import { peerOf } from '../caller';
import type { ApiContext } from '../context';
import { notFound, Refusal } from '../problem';
import { Int, requireRun, type RunPath } from './builds';
import { parseRange } from './range';

const Query = z.object({
  attempt: Int.optional(),
  offset: z.coerce.number().int().optional(),
  limit: z.coerce.number().int().positive().optional(),
});

export function logRoutes(context: ApiContext): Router {
  const router = Router();
  router.get('/v1/projects/:project/builds/:number/runs/:run/log', (request, response) =>
    sendBytes(context, request, response),
  );
  router.get('/v1/projects/:project/builds/:number/runs/:run/log/events', (request, response) =>
    sendEvents(context, request, response),
  );
  return router;
}

interface LogPlace {
  runId: string;
  attempt: number;
}

async function locate(context: ApiContext, path: RunPath, wanted: number | undefined): Promise<LogPlace> {
  const run = await requireRun(context, path);
  const attempt = wanted ?? run.attempt;
  if (attempt > run.attempt) throw notFound(`attempt ${attempt} of run ${path.project}/${path.number}/${path.run}`);
  return { runId: run.id, attempt };
}

async function sendBytes(context: ApiContext, request: Request<RunPath>, response: Response): Promise<void> {
  const query = Query.parse(request.query);
  const place = await locate(context, request.params, query.attempt);
  const state = (await readLogState(context.db, place.runId, place.attempt)) ?? { bytes: 0, complete: false };
  response.set({
    'slipway-log-bytes': String(state.bytes),
    'slipway-log-complete': String(state.complete),
    'content-type': 'text/plain; charset=utf-8',
    'accept-ranges': 'bytes',
    'cache-control': 'no-cache',
  });
  const range = request.get('range')
    ? parseRange(request.range(state.bytes), response, state.bytes)
    : sliceOf(query, state.bytes);
  response.set('content-length', String(range.endByte - range.startByte));
  if (request.method === 'HEAD' || range.endByte === range.startByte) {
    response.end();
    return;
  }
  await pipeline(readLog(context, { ...place, fromByte: range.startByte, toByte: range.endByte }), response);
}

/** A negative offset counts from the end. */
function sliceOf(query: z.infer<typeof Query>, bytes: number): { startByte: number; endByte: number } {
  const offset = query.offset ?? 0;
  const startByte = Math.min(offset < 0 ? Math.max(bytes + offset, 0) : offset, bytes);
  return { startByte, endByte: Math.min(startByte + (query.limit ?? Infinity), bytes) };
}

/** Time between looks at a quiet log, ms. Rows are asked, since another copy of the API may take the appends. */
const LOOK_MS = 250;
const KEEP_ALIVE_MS = 15_000;
const EVENT_BYTES = 48 * 1024;

/** Takes a place among the readers until the stream ends. @throws Refusal 429 */
function enterReaders({ limits }: ApiContext, request: Pick<Request, 'socket'>, response: Response): void {
  const leave = limits.readers.enter(peerOf(request));
  if (!leave) {
    const detail = 'too many live logs are read at once from there; end some, or read the log without /events';
    throw new Refusal(429, 'too-many-readers', detail).after(5);
  }
  response.once('close', leave);
}

async function sendEvents(context: ApiContext, request: Request<RunPath>, response: Response): Promise<void> {
  const query = Query.parse(request.query);
  enterReaders(context, request, response);
  const place = await locate(context, request.params, query.attempt);
  let at = resumeAt(request.get('last-event-id'), query.offset ?? 0);
  const gone = new AbortController();
  response.on('close', () => gone.abort());
  const signal = AbortSignal.any([gone.signal, context.stopping]);
  response.writeHead(200, {
    'content-type': 'text/event-stream',
    'cache-control': 'no-store',
    'x-accel-buffering': 'no',
  });
  if (request.method === 'HEAD') return void response.end();
  response.write('retry: 500\n\n');
  let spokeAt = Date.now();
  while (!signal.aborted) {
    const now = await look(context, request.params, place);
    place.attempt = now.attempt;
    if (now.bytes > at) {
      const pieces = readShared(context, { ...place, fromByte: at, toByte: now.bytes });
      at = await writePieces(response, pieces, { at, signal });
      spokeAt = Date.now();
    } else if (now.complete) {
      response.end(
        `event: end\ndata: ${JSON.stringify({ bytes: at, status: now.status, attempt: place.attempt })}\n\n`,
      );
      return;
    } else if (Date.now() - spokeAt > KEEP_ALIVE_MS) {
      response.write(': still here\n\n');
      spokeAt = Date.now();
    }
    await sleep(LOOK_MS, undefined, { signal }).catch(() => undefined);
  }
  response.end();
}

/** Until the reader has gone. @returns where it is now */
async function writePieces(
  response: Response,
  pieces: AsyncIterable<Buffer>,
  { at, signal }: { at: number; signal: AbortSignal },
): Promise<number> {
  for await (const bytes of pieces) {
    at = await writeChunks(response, { at, bytes, signal });
    if (signal.aborted) break;
  }
  return at;
}

function resumeAt(lastEventId: string | undefined, offset: number): number {
  const last = Number(lastEventId ?? NaN);
  const at = Number.isSafeInteger(last) ? last : offset;
  if (at < 0)
    throw new Refusal(400, 'malformed-request', 'offset: a live stream begins at 0 or a positive byte offset');
  return at;
}

/** What was found for a moment, by what was asked: all who ask the same at once share one answer. */
class Shared<T> {
  private readonly known = new Map<string, Promise<T>>();

  /** @param forMs for which an answer counts once it is there */
  constructor(private readonly forMs: number) {}

  ask(key: string, find: () => Promise<T>): Promise<T> {
    const before = this.known.get(key);
    if (before) return before;
    const found = find();
    this.known.set(key, found);
    const forget = (): void => void this.known.delete(key);
    found.then(() => setTimeout(forget, this.forMs).unref(), forget);
    return found;
  }
}

const looks = new Shared<Awaited<ReturnType<typeof askRows>>>(LOOK_MS / 2);
/** Readers of one log are mostly at its end together, so they want the same few bytes. */
const ends = new Shared<Buffer>(LOOK_MS);

const look = (context: ApiContext, path: RunPath, place: LogPlace) =>
  looks.ask(`${place.runId}/${place.attempt}`, () => askRows(context, path, place));

async function* readShared(context: ApiContext, range: LogRange): AsyncGenerator<Buffer> {
  const { runId, attempt, fromByte, toByte } = range;
  if (toByte - fromByte > EVENT_BYTES) yield* readLog(context, range);
  else yield await ends.ask(`${runId}/${attempt}/${fromByte}-${toByte}`, () => collect(readLog(context, range)));
}

async function collect(source: AsyncIterable<Buffer>): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of source) parts.push(part);
  return Buffer.concat(parts);
}

/** A run that has no attempt yet is waited for. */
async function askRows(context: ApiContext, path: RunPath, place: LogPlace) {
  if (place.attempt === 0) {
    const run = await requireRun(context, path);
    const status = runStatus({ ...run, cancelRequested: false });
    return { attempt: run.attempt, bytes: 0, complete: run.state === 'finished' && run.attempt === 0, status };
  }
  const row = await readAttempt(context.db, place.runId, place.attempt);
  if (!row) throw notFound(`attempt ${place.attempt}`);
  const status = runStatus({ ...row, cancelRequested: false });
  return { attempt: place.attempt, bytes: row.log_bytes, complete: row.log_complete, status };
}

async function writeChunks(
  response: Response,
  { at, bytes, signal }: { at: number; bytes: Buffer; signal: AbortSignal },
): Promise<number> {
  let end = at;
  for (let from = 0; from < bytes.length && !signal.aborted; from += EVENT_BYTES) {
    const part = bytes.subarray(from, from + EVENT_BYTES);
    end += part.length;
    const written = response.write(`event: chunk\nid: ${end}\ndata: ${part.toString('base64')}\n\n`);
    if (!written) await once(response, 'drain', { signal }).catch(() => undefined);
  }
  return end;
}
