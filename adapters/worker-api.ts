// Owns the worker's side of the HTTP API: leases, progress, log bytes, artifacts, results.
// Called by the cluster worker and its activities. A server that is away is waited for, and so is one that does not know
// the worker now: its key or its place in the fleet may come back. Any other refusal is an error.
import { setTimeout as sleep } from 'node:timers/promises';
import { ErrorAnswer } from '../domain/schemas/api';
import * as shells from '../domain/schemas/shells';
import * as shapes from '../domain/schemas/worker-api';
import { ShownToken, type TokenSigner } from './cluster-keys';
import { retryAfterMs } from './retry-after';
import type { ArchivedFile } from './engine';
import type { z } from 'zod';

export type WorkerApiErrorReason = 'fenced' | 'unknown-call' | 'refused';

/** The API said no, for good. */
export class WorkerApiError extends Error {
  override readonly name = 'WorkerApiError';
  constructor(
    readonly reason: WorkerApiErrorReason,
    message: string,
  ) {
    super(message);
  }
}

/** Of a call that may be refused for a while. */
export interface Patience {
  signal?: AbortSignal;
  /** Called when the server does not take it now. @returns called when it has answered, or nobody waits any more */
  hold?: () => () => void;
}

/** The bytes to be sent cannot be had. */
export class SourceError extends Error {
  override readonly name = 'SourceError';
}

/** What one attempt's lease holder can say. */
export interface AttemptApi {
  progress(progress: shapes.Progress, signal?: AbortSignal): Promise<void>;
  /** Says what the ref of its run was found to be. @returns the commit that counts for its build */
  freeze(commit: string, signal?: AbortSignal): Promise<string>;
  /** @returns where the log ends now */
  appendLog(startByte: number, bytes: Buffer, signal?: AbortSignal): Promise<number>;
  /** Says that artifacts come. @returns what may come; undefined: an older server, which does not say */
  collecting(patience?: Patience): Promise<shapes.Collecting | undefined>;
  /** @throws SourceError when the file cannot be read; that is not tried again */
  putArtifact(file: ArchivedFile, patience?: Patience): Promise<shapes.Stored>;
  /** @returns whether what the attempt left is to be kept as it is */
  result(result: shapes.Result): Promise<{ isHeld: boolean }>;
  /** @returns false when the attempt is to be ended instead */
  handBack(said: shapes.HandBack): Promise<boolean>;
  /** Of its own host, or of one beside it. */
  release(beside?: string): Promise<void>;
}

/** What the worker that serves a shell can say. */
export interface ShellApi {
  /** Once. @throws WorkerApiError when it is not to be opened */
  take(signal: AbortSignal): Promise<shells.ShellOrders>;
  /** What was typed from a byte offset on; waits for it. */
  typed(from: number, signal: AbortSignal): Promise<Omit<shells.ShellTyped, 'bytes'> & { bytes: Buffer }>;
  shown(at: number, bytes: Buffer, signal: AbortSignal): Promise<{ unread: number }>;
  end(result: shells.ShellResult): Promise<void>;
}

const BACKOFF_MS = { first: 100, most: 3_000 };
const CALL_LIMIT_MS = 30_000;

interface Call {
  method: 'POST' | 'PUT';
  path: string;
  json?: unknown;
  /** Made anew for each try. */
  body?: () => Buffer | Source;
  signal?: AbortSignal;
  hold?: Patience['hold'];
}

/** The bytes of a file, read no faster than they are sent; it remembers why they broke off. */
class Source {
  private broken: { error: unknown } | undefined;

  constructor(private readonly file: ArchivedFile) {}

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    let left = this.file.sizeBytes;
    try {
      for await (const piece of this.file.open()) {
        left -= piece.length;
        if (left < 0) break;
        // Node's client waits for ever after a piece of no bytes.
        if (piece.length > 0) yield piece;
      }
      if (left !== 0) throw new Error('it changed while it was read');
    } catch (error) {
      this.broken = { error };
      throw error;
    }
  }

  throwIfBroken(): void {
    if (!this.broken) return;
    const { error } = this.broken;
    // A host that was lost is no matter of one file.
    if (['engine-unavailable', 'fenced'].includes((error as { reason?: string }).reason ?? '')) throw error;
    throw new SourceError((error as Error).message, { cause: error });
  }
}

export class WorkerApi {
  private readonly token: ShownToken;

  /** @param told what keeps the server from taking a call, once for each new reason */
  constructor(
    private readonly server: string,
    sign: TokenSigner,
    private readonly told: (why: string) => void,
  ) {
    this.token = new ShownToken(sign);
  }

  /** Asked once, since it is said again and again. @throws Error when there is no answer @throws WorkerApiError */
  async hello(hello: shapes.Hello, signal?: AbortSignal): Promise<shapes.HelloReply> {
    const answer = await this.tryOnce({ method: 'POST', path: '/v1/worker/hello', json: hello, signal });
    if (!answer) throw new Error('the server does not answer, or does not know this worker');
    return shapes.HelloReply.parse(answer.json);
  }

  async lease(ask: shapes.LeaseAsk, signal?: AbortSignal): Promise<shapes.LeaseReply> {
    return this.read(shapes.LeaseReply, { method: 'POST', path: '/v1/worker/lease', json: ask, signal });
  }

  /** The bytes of the release that the cluster is pinned to. Asked once. @throws Error when there is no answer */
  async openRelease(signal: AbortSignal): Promise<AsyncIterable<Uint8Array>> {
    const headers = { authorization: `Bearer ${await this.token.text()}` };
    const response = await fetch(`${this.server}/v1/worker/release`, { method: 'POST', headers, signal });
    if (response.ok && response.body) return response.body as AsyncIterable<Uint8Array>;
    throw new Error(detailOf(await response.text()) ?? `HTTP ${response.status}`);
  }

  /** Asked once, since the list ages: a server that is away is asked again with a new one. @throws when it is */
  async orphans(list: z.infer<typeof shapes.RemainsList>, signal?: AbortSignal): Promise<shapes.AttemptKey[]> {
    const answer = await this.tryOnce({ method: 'POST', path: '/v1/worker/orphans', json: list, signal });
    if (!answer) throw new Error('the server does not answer');
    return shapes.OrphanList.parse(answer.json).orphans;
  }

  /** How attempts stand by the rows. Asks until there is an answer. @throws WorkerApiError */
  async standings(ask: z.infer<typeof shapes.StandingAsk>, signal?: AbortSignal): Promise<shapes.Standing[]> {
    const call: Call = { method: 'POST', path: '/v1/worker/attempts', json: ask, signal };
    return (await this.read(shapes.StandingList, call)).attempts;
  }

  /** Tells of the hosts that this worker serves and makes. @returns those that it is to serve now @throws when there is no answer */
  async hosts(ask: z.infer<typeof shapes.HostsAsk>, signal?: AbortSignal): Promise<shapes.HostsReply> {
    const answer = await this.tryOnce({ method: 'POST', path: '/v1/worker/hosts', json: ask, signal });
    if (!answer) throw new Error('the server does not answer');
    return shapes.HostsReply.parse(answer.json);
  }

  /** The calls of one attempt under its fencing token. */
  attempt(holder: shapes.HolderKey): AttemptApi {
    const path = (what: string, query = ''): string =>
      `/v1/worker/attempts/${holder.runId}/${holder.attempt}/${what}?token=${holder.token}${query}`;
    /** The server knows nothing of what is not stored. */
    let isOld = false;
    return {
      progress: async (progress, signal) => {
        await this.call({ method: 'POST', path: path('progress'), json: progress, signal });
      },
      freeze: async (commit, signal) => {
        const call: Call = { method: 'POST', path: path('commit'), json: { commit }, signal };
        // A server of an earlier version freezes nothing.
        const kept = await this.read(shapes.FoundCommit, call).catch((error: unknown) =>
          unlessUnknown(error, { commit }),
        );
        return kept.commit;
      },
      appendLog: async (startByte, bytes, signal) => {
        const call: Call = { method: 'POST', path: path('log', `&offset=${startByte}`), body: () => bytes, signal };
        return (await this.read(shapes.LogEnd, call)).bytes;
      },
      collecting: async (patience) => {
        const call: Call = { method: 'POST', path: path('collecting'), json: {}, ...patience };
        const told = await this.read(shapes.Collecting, call).catch((error: unknown) =>
          unlessUnknown(error, undefined),
        );
        if (told) return told;
        isOld = true;
        const json = { state: 'collecting' } satisfies shapes.Progress;
        await this.call({ method: 'POST', path: path('progress'), json, ...patience });
        return undefined;
      },
      putArtifact: (file, patience) => {
        const query = `&size=${file.sizeBytes}&path=${encodeURIComponent(file.path)}`;
        const body = (): Source => new Source(file);
        return this.read(shapes.Stored, { method: 'PUT', path: path('artifacts', query), body, ...patience });
      },
      result: async ({ notStored, ...result }) => {
        const json = notStored && !isOld ? { ...result, notStored } : result;
        const reply = await this.read(shapes.ResultReply, { method: 'POST', path: path('result'), json });
        return { isHeld: typeof reply.heldUntil === 'string' };
      },
      handBack: async (said) => {
        const call: Call = { method: 'POST', path: path('hand-back'), json: said };
        return this.read(shapes.HandBackReply, call).then(
          ({ isTaken }) => isTaken,
          (error: unknown) => {
            // A server that is too old to know of this.
            if (error instanceof WorkerApiError && error.reason === 'refused') return false;
            throw error;
          },
        );
      },
      release: async (beside) => {
        const query = beside === undefined ? '' : `&beside=${encodeURIComponent(beside)}`;
        await this.call({ method: 'POST', path: path('release', query), json: {} });
      },
    };
  }

  /** The calls of one shell. */
  shell(id: string): ShellApi {
    const path = (what: string): string => `/v1/worker/shells/${id}/${what}`;
    return {
      take: (signal) => this.read(shells.ShellOrders, { method: 'POST', path: path('take'), json: {}, signal }),
      typed: async (from, signal) => {
        const call: Call = { method: 'POST', path: `${path('input')}?from=${from}`, json: {}, signal };
        const typed = await this.read(shells.ShellTyped, call);
        return { ...typed, bytes: Buffer.from(typed.bytes, 'base64') };
      },
      shown: (at, bytes, signal) => {
        const json = { at, bytes: bytes.toString('base64') };
        return this.read(shells.ShellTaken, { method: 'POST', path: path('output'), json, signal });
      },
      end: async (result) => {
        await this.call({ method: 'POST', path: path('end'), json: result });
      },
    };
  }

  private async read<Shape extends z.ZodType>(shape: Shape, call: Call): Promise<z.infer<Shape>> {
    return shape.parse(await this.call(call));
  }

  /** Tries until there is an answer: a killed or restarting API loses nothing. @throws WorkerApiError, AbortError */
  private async call(call: Call): Promise<unknown> {
    let goOn: (() => void) | undefined;
    try {
      for (let waitMs = BACKOFF_MS.first; ; waitMs = Math.min(waitMs * 2, BACKOFF_MS.most)) {
        call.signal?.throwIfAborted();
        const told = { afterMs: 0 };
        const answer = await this.tryOnce(call, told);
        if (answer !== undefined) return answer.json;
        goOn ??= call.hold?.();
        await sleep(Math.max(waitMs * (0.5 + Math.random()), told.afterMs), undefined, { signal: call.signal });
      }
    } finally {
      goOn?.();
    }
  }

  private lastTold = '';
  private tell(why: string): void {
    if (why !== this.lastTold) this.told(why);
    this.lastTold = why;
  }

  /** @param told gets when the server wants to be asked again, where it has said so */
  private async tryOnce(call: Call, told?: { afterMs: number }): Promise<{ json: unknown } | undefined> {
    const body = call.body?.();
    const limit = AbortSignal.timeout(CALL_LIMIT_MS);
    const init = {
      method: call.method,
      headers: {
        authorization: `Bearer ${await this.token.text()}`,
        'content-type': call.json === undefined ? 'application/octet-stream' : 'application/json',
      },
      body: call.json === undefined ? (body as RequestInit['body']) : JSON.stringify(call.json),
      // A stream may take as long as it has bytes; everything else is short.
      signal: body instanceof Source ? call.signal : anyOf(limit, call.signal),
      duplex: 'half',
    };
    let response: Response;
    let text: string;
    try {
      response = await fetch(this.server + call.path, init as RequestInit);
      text = await response.text();
    } catch {
      call.signal?.throwIfAborted();
      if (body instanceof Source) body.throwIfBroken();
      return undefined;
    }
    if (response.ok) {
      this.lastTold = '';
      return { json: text === '' ? undefined : JSON.parse(text) };
    }
    if (isStranger(response.status, text)) {
      // It may be refused for its date alone, which the next one has not.
      this.token.drop();
      this.tell(detailOf(text) ?? `HTTP ${response.status}`);
      return undefined;
    }
    // It is full: somebody will make room, and until then nothing of ours is lost.
    if (response.status === 507) this.tell(detailOf(text) ?? 'the server is full');
    if (response.status >= 500) return undefined;
    if (response.status === 429 && told) told.afterMs = retryAfterMs(response) ?? 0;
    if (response.status === 429 || response.status === 408) return undefined;
    throw refusal(response.status, text);
  }
}

/** The worker is not known, or not any more. */
function isStranger(status: number, text: string): boolean {
  return status === 401 || (status === 403 && text.includes('urn:slipway:problem:not-enlisted'));
}

function anyOf(limit: AbortSignal, signal: AbortSignal | undefined): AbortSignal {
  return signal ? AbortSignal.any([limit, signal]) : limit;
}

function unlessUnknown<T>(error: unknown, instead: T): T {
  if (error instanceof WorkerApiError && error.reason === 'unknown-call') return instead;
  throw error;
}

function refusal(status: number, text: string): WorkerApiError {
  const detail = detailOf(text) ?? `HTTP ${status}`;
  if (status === 409) return new WorkerApiError('fenced', detail);
  if (status === 404 && text.includes('urn:slipway:problem:unknown-route'))
    return new WorkerApiError('unknown-call', detail);
  return new WorkerApiError('refused', detail);
}

function detailOf(text: string): string | undefined {
  try {
    return ErrorAnswer.parse(JSON.parse(text)).detail;
  } catch {
    return undefined;
  }
}
