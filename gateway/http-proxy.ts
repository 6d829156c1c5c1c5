// Owns the HTTP half of the gateway: what workers say to the API, and nothing else, passed on unchanged.
// Opened by the gateway's process. The API checks the same token again, and whether the attempt is of its cluster.
import {
  request as requestHttp,
  Agent as HttpAgent,
  type ClientRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type RequestListener,
} from 'node:http';
import { request as requestHttps, Agent as HttpsAgent } from 'node:https';
import type { RefusedCall } from '../adapters/refusal-audit';
import type { Identities, WorkerIdentity } from '../adapters/worker-identity';
import { HTTP_STATUS, WorkerRefusal } from '../adapters/worker-refusal';
import { withoutUndefined } from '../domain/without-undefined';
import type { Allowance } from './allowance';
import { peerOf } from './guests';

export interface HttpProxyOptions {
  /** Base URL of the API. */
  api: URL;
  identities: Identities;
  audit: (refused: RefusedCall) => void;
  /** A connection has shown who it belongs to. */
  onAdmitted: (peer: string, cluster: string) => void;
  /** Shared with the gRPC half. */
  allowance: Allowance;
  bodyLimits?: Partial<BodyLimits>;
}

const FOR_WORKERS = /^\/v1\/worker\/[A-Za-z0-9/-]+(?:\?|$)/;
/** What workers use. Of any other method Node sends a body without its length, so that the API takes it for a further request. */
const METHODS = ['POST', 'PUT'];
/** What a call of a worker is made of; anything else, e.g. a cookie or what concerns one connection only, goes no further. */
const REQUEST_HEADERS = ['authorization', 'content-type', 'content-length'];
/** What concerns one connection only, RFC 9110 section 7.6.1. */
const HOP_BY_HOP = new Set(['connection', 'keep-alive', 'trailer', 'transfer-encoding', 'upgrade']);
/** An API that says nothing for so long is away, ms, and so is a worker; a log or an artifact under way is not silence. */
const SILENT_MS = 60_000;

/** The API streams an artifact to its disk, and holds any other body whole. Of a stream this much is under way, bytes. */
const STREAMED = { path: /^\/v1\/worker\/attempts\/[^/?]+\/[^/?]+\/artifacts(?:\?|$)/, bytes: 256 << 10 };
/** A body of which nothing comes for so long is cut, ms, and so is one that is held whole and not here after a while. */
const BODY = { silentMs: 15_000, wholeMs: 60_000 };

type Exchange = Parameters<RequestListener>;
type BodyLimits = typeof BODY;

export function openHttpProxy(options: HttpProxyOptions): { listener: RequestListener; close(): void } {
  const isSecure = options.api.protocol === 'https:';
  const agent = isSecure ? new HttpsAgent({ keepAlive: true }) : new HttpAgent({ keepAlive: true });
  const via = { request: isSecure ? requestHttps : requestHttp, agent };
  const bodyLimits = { ...BODY, ...options.bodyLimits };
  const listener: RequestListener = (request, response) => {
    admit(options, [request, response])
      .then((who) => {
        // Somebody who hung up meanwhile will never end the request.
        if (!who || response.destroyed) return;
        const late = (): void =>
          options.audit({ ...callOf(request), who, refusal: new WorkerRefusal('request-unread') });
        pass([request, response], { api: options.api, via, bodyLimits, late });
      })
      // Nothing that one request says may end the process.
      .catch(() => response.destroy());
  };
  return { listener, close: () => agent.destroy() };
}

function callOf({ method = '', url = '', socket }: Exchange[0]): { call: string; peer: string } {
  return { call: `${method} ${url.split('?', 1)[0]}`, peer: peerOf(socket) };
}

/** @returns who it is, when it may pass; else it was refused */
async function admit(
  { identities, audit, onAdmitted, allowance }: HttpProxyOptions,
  exchange: Exchange,
): Promise<WorkerIdentity | undefined> {
  const [request, response] = exchange;
  const { method = '', url = '' } = request;
  const { call, peer } = callOf(request);
  let who: WorkerIdentity | undefined;
  try {
    if (!METHODS.includes(method) || !FOR_WORKERS.test(url)) throw new WorkerRefusal('method-not-allowed', call);
    const need = /^\/v1\/worker\/hello(?:\?|$)/.test(url) ? 'key' : 'enlisted';
    who = await identities.identify(request.headers.authorization, need);
    onAdmitted(peer, who.cluster);
    const leave = allowance.claim(who.cluster, bytesHeld(request));
    if (response.destroyed) leave();
    else response.once('close', leave);
    return who;
  } catch (error) {
    const refusal =
      error instanceof WorkerRefusal ? error : new WorkerRefusal('keys-unavailable', undefined, { cause: error });
    audit({ who, call, peer, refusal });
    refuse(exchange, refusal);
    return undefined;
  }
}

/** Of a body whose length is not said, as much as there may be. */
function bytesHeld({ url = '', headers }: Exchange[0]): number {
  const length = headers['transfer-encoding'] === undefined ? Number(headers['content-length'] ?? 0) : Infinity;
  return STREAMED.path.test(url) ? Math.min(length, STREAMED.bytes) : length;
}

/** Of a body that nobody wants so much is read, bytes, and for so long, ms, before its connection is closed. */
const LAST_READ = { bytes: 64 << 10, ms: 1_000 };

/** In the form of the API's own refusals. */
function refuse([request, response]: Exchange, { kind, reason, message }: WorkerRefusal): void {
  readOn(request, () => answer(response, { status: HTTP_STATUS[kind], code: reason, detail: message }));
}

/** Reads what nobody wants, within limits: a connection that is closed with bytes unread loses its answer on the way. */
function readOn(request: Exchange[0], then: () => void): void {
  let read = 0;
  const end = (): void => {
    clearTimeout(timer);
    request.off('end', end).off('data', count);
    then();
  };
  const count = (bytes: Buffer): void => {
    read += bytes.length;
    if (read > LAST_READ.bytes) end();
  };
  const timer = setTimeout(end, LAST_READ.ms).unref();
  request.once('end', end).on('data', count);
}

function answer(
  response: Exchange[1],
  { status, code, detail }: { status: number; code: string; detail: string },
): void {
  if (response.headersSent) return void response.destroy();
  const later = status === HTTP_STATUS.RESOURCE_EXHAUSTED ? { 'retry-after': '1' } : {};
  response.writeHead(status, { 'content-type': 'application/problem+json', connection: 'close', ...later });
  response.end(
    JSON.stringify({ type: `urn:slipway:problem:${code}`, title: code.replaceAll('-', ' '), status, detail }),
  );
}

interface Way {
  api: URL;
  via: { request: typeof requestHttp; agent: HttpAgent };
  bodyLimits: BodyLimits;
  /** The body did not come. */
  late: () => void;
}

function pass([request, response]: Exchange, { api, via, bodyLimits, late }: Way): void {
  const { method, url } = request;
  const onward = via.request(new URL(url ?? '/', api), {
    method,
    headers: workersOwn(request.headers),
    agent: via.agent,
  });
  onward.setTimeout(SILENT_MS, () => onward.destroy(new Error('the API is silent')));
  onward.on('error', () => {
    answer(response, { status: 503, code: 'api-away', detail: 'the API does not answer the gateway; try again' });
  });
  response.on('close', () => onward.destroy());
  request.on('error', () => onward.destroy());
  const unwatch = watchBody(request, { limits: bodyLimits, onward }, () => {
    late();
    const { reason, message } = new WorkerRefusal('request-unread');
    answer(response, { status: 408, code: reason, detail: message });
  });
  onward.on('response', (answered) => {
    unwatch();
    relay([request, response], onward, answered);
  });
  request.pipe(onward);
}

function relay([request, response]: Exchange, onward: ClientRequest, answered: IncomingMessage): void {
  const send = (last: object): void => {
    // The API may have gone, or the body have been given up, while the rest of it was read.
    if (response.headersSent) return;
    response.writeHead(answered.statusCode ?? 502, { ...endToEnd(answered.headers), ...last });
    answered.pipe(response);
  };
  answered.on('error', () => response.destroy());
  if (request.complete) return send({});
  // It wants no more of this body, e.g. of an attempt that is fenced; a next request could not come through behind it.
  request.unpipe(onward);
  readOn(request, () => send({ connection: 'close' }));
}

/**
 * Calls back once when the body of a request stops coming; what the API does not take yet is not its sender's fault.
 * @returns ends the watch
 */
function watchBody(
  request: Exchange[0],
  { limits, onward }: { limits: BodyLimits; onward: ClientRequest },
  stalled: () => void,
): () => void {
  const isWhole = !STREAMED.path.test(request.url ?? '');
  const begun = performance.now();
  let heard = begun;
  const stop = (): void => clearInterval(timer);
  const timer = setInterval(() => {
    const now = performance.now();
    if (request.complete) return stop();
    if (onward.writableNeedDrain) heard = now;
    const isLate = now - heard > limits.silentMs || (isWhole && now - begun > limits.wholeMs);
    if (!isLate) return;
    stop();
    stalled();
  }, limits.silentMs / 4).unref();
  request.on('data', () => (heard = performance.now()));
  request.once('close', stop);
  return stop;
}

/** Node gives a body without a length its own framing. */
function workersOwn(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  return withoutUndefined(Object.fromEntries(REQUEST_HEADERS.map((name) => [name, headers[name]])));
}

function endToEnd(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !HOP_BY_HOP.has(name)));
}
