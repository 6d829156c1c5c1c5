// Owns the HTTP half of the gateway: what workers say to the API, and nothing else, passed on unchanged.
// Opened by the gateway's process. The API checks the same token again, and whether the attempt is of its cluster.
import { request as requestHttp, Agent as HttpAgent, type IncomingHttpHeaders, type RequestListener } from 'node:http';
import { request as requestHttps, Agent as HttpsAgent } from 'node:https';
import type { RefusedCall } from '../adapters/refusal-audit';
import type { Identities, WorkerIdentity } from '../adapters/worker-identity';
import { HTTP_STATUS, WorkerRefusal } from '../adapters/worker-refusal';
import { withoutUndefined } from '../domain/without-undefined';
import { peerOf } from './guests';

export interface HttpProxyOptions {
  /** Base URL of the API. */
  api: URL;
  identities: Identities;
  audit: (refused: RefusedCall) => void;
  /** A connection has shown who it belongs to. */
  onAdmitted: (peer: string, cluster: string) => void;
  /** Calls that one cluster may have open. */
  maxCallsPerCluster?: number;
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
/** As many as a cluster may have connections: in one of them a worker could send any number of calls without an answer. */
const MAX_CALLS = 1_024;

type Exchange = Parameters<RequestListener>;

export function openHttpProxy(options: HttpProxyOptions): { listener: RequestListener; close(): void } {
  const isSecure = options.api.protocol === 'https:';
  const agent = isSecure ? new HttpsAgent({ keepAlive: true }) : new HttpAgent({ keepAlive: true });
  const pass = passer(options.api, { request: isSecure ? requestHttps : requestHttp, agent });
  const rooms = new Rooms(options.maxCallsPerCluster ?? MAX_CALLS);
  const listener: RequestListener = (request, response) => {
    void admit({ ...options, rooms }, [request, response]).then((isAdmitted) => {
      // Somebody who hung up meanwhile will never end the request.
      if (isAdmitted && !response.destroyed) pass(request, response);
    });
  };
  return { listener, close: () => agent.destroy() };
}

/** Calls that each cluster has open. */
class Rooms {
  private readonly open = new Map<string, number>();

  constructor(private readonly most: number) {}

  /** Takes a place until the answer is out, or the caller is gone. @returns false when there is none */
  enter(cluster: string, response: Exchange[1]): boolean {
    const count = this.open.get(cluster) ?? 0;
    if (count >= this.most) return false;
    if (response.destroyed) return true;
    this.open.set(cluster, count + 1);
    response.once('close', () => this.leave(cluster));
    return true;
  }

  private leave(cluster: string): void {
    const left = (this.open.get(cluster) ?? 1) - 1;
    if (left === 0) this.open.delete(cluster);
    else this.open.set(cluster, left);
  }
}

async function admit(
  { identities, audit, onAdmitted, rooms }: HttpProxyOptions & { rooms: Rooms },
  exchange: Exchange,
): Promise<boolean> {
  const [request, response] = exchange;
  const { method = '', url = '' } = request;
  const peer = peerOf(request.socket);
  const call = `${method} ${url.split('?', 1)[0]}`;
  let who: WorkerIdentity | undefined;
  try {
    if (!METHODS.includes(method) || !FOR_WORKERS.test(url)) throw new WorkerRefusal('method-not-allowed', call);
    const need = /^\/v1\/worker\/hello(?:\?|$)/.test(url) ? 'key' : 'enlisted';
    who = await identities.identify(request.headers.authorization, need);
    onAdmitted(peer, who.cluster);
    if (!rooms.enter(who.cluster, response)) throw new WorkerRefusal('too-many-calls');
    return true;
  } catch (error) {
    const refusal =
      error instanceof WorkerRefusal ? error : new WorkerRefusal('keys-unavailable', undefined, { cause: error });
    audit({ who, call, peer, refusal });
    refuse(exchange, refusal);
    return false;
  }
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
  response.writeHead(status, { 'content-type': 'application/problem+json', connection: 'close' });
  response.end(
    JSON.stringify({ type: `urn:slipway:problem:${code}`, title: code.replaceAll('-', ' '), status, detail }),
  );
}

function passer(api: URL, via: { request: typeof requestHttp; agent: HttpAgent }): RequestListener {
  return (request, response) => {
    const { method, url } = request;
    const onward = via.request(new URL(url ?? '/', api), {
      method,
      headers: workersOwn(request.headers),
      agent: via.agent,
    });
    onward.setTimeout(SILENT_MS, () => onward.destroy(new Error('the API is silent')));
    onward.on('response', (answered) => {
      const relay = (last: object): void => {
        response.writeHead(answered.statusCode ?? 502, { ...endToEnd(answered.headers), ...last });
        answered.pipe(response);
      };
      answered.on('error', () => response.destroy());
      if (request.complete) return relay({});
      // It wants no more of this body, e.g. of an attempt that is fenced; a next request could not come through behind it.
      request.unpipe(onward);
      readOn(request, () => relay({ connection: 'close' }));
    });
    onward.on('error', () => {
      answer(response, { status: 503, code: 'api-away', detail: 'the API does not answer the gateway; try again' });
    });
    response.on('close', () => onward.destroy());
    request.on('error', () => onward.destroy());
    request.pipe(onward);
  };
}

/** Node gives a body without a length its own framing. */
function workersOwn(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  return withoutUndefined(Object.fromEntries(REQUEST_HEADERS.map((name) => [name, headers[name]])));
}

function endToEnd(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !HOP_BY_HOP.has(name)));
}
