// Owns the HTTP half of the gateway: what workers say to the API, and nothing else, passed on unchanged.
// Opened by the gateway's process. The API checks the same token again, and whether the attempt is of its cluster.
import { request as requestHttp, Agent as HttpAgent, type IncomingHttpHeaders, type RequestListener } from 'node:http';
import { request as requestHttps, Agent as HttpsAgent } from 'node:https';
import type { RefusedCall } from '../adapters/refusal-audit';
import type { Identities } from '../adapters/worker-identity';
import { WorkerRefusal } from '../adapters/worker-refusal';
import { peerOf } from './guests';

export interface HttpProxyOptions {
  /** Base URL of the API. */
  api: URL;
  identities: Identities;
  audit: (refused: RefusedCall) => void;
  /** A connection has shown who it belongs to. */
  onAdmitted: (peer: string, cluster: string) => void;
}

const FOR_WORKERS = /^\/v1\/worker\/[A-Za-z0-9/-]+(?:\?|$)/;
/** What concerns one connection only, RFC 9110 section 7.6.1; the host is the API's own. */
const HOP_BY_HOP = new Set([
  'connection',
  'host',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'expect',
]);
/** An API that says nothing for so long is away, ms; a log or an artifact under way is not silence. */
const SILENT_MS = 60_000;

type Exchange = Parameters<RequestListener>;

export function openHttpProxy(options: HttpProxyOptions): { listener: RequestListener; close(): void } {
  const isSecure = options.api.protocol === 'https:';
  const agent = isSecure ? new HttpsAgent({ keepAlive: true }) : new HttpAgent({ keepAlive: true });
  const pass = passer(options.api, { request: isSecure ? requestHttps : requestHttp, agent });
  const listener: RequestListener = (request, response) => {
    void admit(options, [request, response]).then((isAdmitted) => isAdmitted && pass(request, response));
  };
  return { listener, close: () => agent.destroy() };
}

async function admit({ identities, audit, onAdmitted }: HttpProxyOptions, exchange: Exchange): Promise<boolean> {
  const [request] = exchange;
  const { method = '', url = '' } = request;
  const peer = peerOf(request.socket);
  const call = `${method} ${url.split('?', 1)[0]}`;
  try {
    if (!FOR_WORKERS.test(url)) throw new WorkerRefusal('method-not-allowed', call);
    const need = /^\/v1\/worker\/hello(?:\?|$)/.test(url) ? 'key' : 'enlisted';
    const who = await identities.identify(request.headers.authorization, need);
    onAdmitted(peer, who.cluster);
    return true;
  } catch (error) {
    const refusal =
      error instanceof WorkerRefusal ? error : new WorkerRefusal('keys-unavailable', undefined, { cause: error });
    audit({ call, peer, refusal });
    refuse(exchange, refusal);
    return false;
  }
}

const STATUS = {
  INVALID_ARGUMENT: 400,
  UNAUTHENTICATED: 401,
  PERMISSION_DENIED: 403,
  RESOURCE_EXHAUSTED: 429,
  UNAVAILABLE: 503,
} as const;

/** In the form of the API's own refusals; the rest of the request is not read. */
function refuse([, response]: Exchange, { kind, reason, message }: WorkerRefusal): void {
  answer(response, { status: STATUS[kind], code: reason, detail: message });
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
      headers: endToEnd(request.headers),
      agent: via.agent,
    });
    onward.setTimeout(SILENT_MS, () => onward.destroy(new Error('the API is silent')));
    onward.on('response', (answered) => {
      response.writeHead(answered.statusCode ?? 502, endToEnd(answered.headers));
      answered.pipe(response);
      answered.on('error', () => response.destroy());
    });
    onward.on('error', () => {
      answer(response, { status: 503, code: 'api-away', detail: 'the API does not answer the gateway; try again' });
    });
    response.on('close', () => onward.destroy());
    request.on('error', () => onward.destroy());
    request.pipe(onward);
  };
}

function endToEnd(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !HOP_BY_HOP.has(name)));
}
