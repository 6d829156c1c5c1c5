// Proves the HTTP half of the gateway against hostile requests: what reaches the API is one request a call, a worker's own,
// and nothing that its sender hid in it. The gateway's real front and proxy, before an API that writes down what it gets.
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, request as httpRequest, type IncomingMessage, type Server } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { Identities } from '../adapters/worker-identity';
import type { RefusedCall } from '../adapters/refusal-audit';
import { Allowance } from '../gateway/allowance';
import { openFront, type Front } from '../gateway/front';
import { openHttpProxy } from '../gateway/http-proxy';
import type { WorkerRefusal } from '../adapters/worker-refusal';
import { makeKey, signToken, type TestKey } from './setup/gateway';
import { waitFor } from './setup/wait-for';

interface Seen {
  method: string;
  url: string;
  headers: IncomingMessage['headers'];
  body: string;
}

const MAX_CALLS = 8;
const MESSAGE_BYTES = 1 << 20;
const allowance = new Allowance({ calls: MAX_CALLS, grpcCalls: 4, messageBytes: MESSAGE_BYTES });
const worker = randomUUID();
let key: TestKey;
let token: string;
let api: Server;
let front: Front;
let proxy: ReturnType<typeof openHttpProxy>;
let seen: Seen[] = [];
let refused: RefusedCall[] = [];
/** Set by a test: the API does not answer before. */
let hold: Promise<void> = Promise.resolve();
let open = 0;
let mostOpen = 0;

beforeAll(async () => {
  key = await makeKey('a');
  token = await signToken(key, worker);
  api = createServer((request, response) => {
    if (request.url === '/v1/worker/early') return void response.writeHead(409).end('{}');
    const chunks: Buffer[] = [];
    open += 1;
    mostOpen = Math.max(mostOpen, open);
    response.on('close', () => (open -= 1));
    request.on('data', (bytes: Buffer) => chunks.push(bytes));
    request.on('end', () => {
      const { method = '', url = '', headers } = request;
      seen.push({ method, url, headers, body: Buffer.concat(chunks).toString('latin1') });
      void hold.then(() => response.setHeader('content-type', 'application/json').end('{}'));
    });
  });
  api.listen(0, '127.0.0.1');
  await once(api, 'listening');
  const access = { keys: [key], enlisted: new Set([worker]) };
  proxy = openHttpProxy({
    api: new URL(`http://127.0.0.1:${(api.address() as AddressInfo).port}`),
    identities: new Identities({ accessOf: () => Promise.resolve(access) }),
    audit: (call) => refused.push(call),
    onAdmitted: (peer, cluster) => front.prove(peer, cluster),
    allowance,
    bodyLimits: { silentMs: 1_000, wholeMs: 3_000 },
  });
  front = await openFront({
    host: '127.0.0.1',
    port: 0,
    grpc: (connection) => connection.destroy(),
    http: proxy.listener,
    limits: { silentMs: 1_000 },
  });
});

beforeEach(() => {
  seen = [];
  refused = [];
  hold = Promise.resolve();
  mostOpen = 0;
});

afterAll(() => {
  front.destroy();
  front.stop();
  proxy.close();
  api.closeAllConnections();
  api.close();
});

/** Sends bytes as they are. @returns what came back until the end, or until nothing came for a while */
async function raw(bytes: string | Buffer, { quietMs = 500 } = {}): Promise<string> {
  const socket = connect(front.port, '127.0.0.1');
  const got: Buffer[] = [];
  socket.on('error', () => undefined);
  await new Promise<void>((done) => {
    const timer = setTimeout(done, quietMs);
    socket.on('data', (some) => {
      got.push(some);
      timer.refresh();
    });
    socket.on('close', () => done());
    socket.write(bytes);
  });
  socket.destroy();
  return Buffer.concat(got).toString('latin1');
}

const lines = (...all: string[]): string => all.map((line) => `${line}\r\n`).join('');
const authorized = (): string[] => ['host: gateway', `authorization: Bearer ${token}`];
const statusesOf = (answer: string): string[] => [...answer.matchAll(/HTTP\/1\.1 (\d+) /g)].map(([, code]) => code!);

const HIDDEN = lines('POST /v1/projects/x/builds HTTP/1.1', 'host: api', 'content-length: 2', '') + '{}';
const asChunk = (text: string): string => `${text.length.toString(16)}\r\n${text}\r\n0\r\n\r\n`;

test.each(['GET', 'DELETE', 'OPTIONS', 'HEAD', 'PATCH', 'TRACE', 'PROPFIND', 'POST', 'PUT'])(
  'C3 a request hidden in the body of a %s never reaches the API as one of its own',
  async (method) => {
    const head = lines(`${method} /v1/worker/hello HTTP/1.1`, ...authorized(), 'transfer-encoding: chunked', '');

    await raw(head + asChunk(HIDDEN));

    expect(seen.filter(({ url }) => url !== '/v1/worker/hello')).toEqual([]);
    expect(seen.map(({ body }) => body)).toEqual(['POST', 'PUT'].includes(method) ? [HIDDEN] : []);
  },
);

test.each([
  ['two lengths', ['content-length: 2', 'content-length: 60']],
  ['a length and chunks', [`content-length: ${HIDDEN.length}`, 'transfer-encoding: chunked']],
  ['an unknown coding', ['transfer-encoding: xchunked']],
  ['a coding with a blank before the colon', ['transfer-encoding : chunked']],
  ['a length that is no number', ['content-length: +2']],
])('C3 a request with %s is not passed on', async (_what, headers) => {
  const answer = await raw(lines('POST /v1/worker/hello HTTP/1.1', ...authorized(), ...headers, '') + asChunk(HIDDEN));

  expect(statusesOf(answer)).toEqual(['400']);
  expect(seen).toEqual([]);
});

test.each([
  '/v1/clusters',
  '/v1/worker/../clusters',
  '/v1/worker/%2e%2e/clusters',
  '/v1/worker/..%2fclusters',
  '/v1/worker/hello/..;/x',
  '//evil.example/v1/worker/hello',
  'http://evil.example/v1/worker/hello',
  'http://evil.example',
  '/v1/worker\\..\\clusters',
  '/v1/worker',
  '/v1/workers',
  '/V1/WORKER/hello',
  '*',
  '/v1/worker/hello#/../../clusters',
])('C3 the target %s is refused, on record, and never asked for', async (target) => {
  const answer = await raw(lines(`POST ${target} HTTP/1.1`, ...authorized(), 'content-length: 0', ''));

  expect(['403', '400']).toContain(statusesOf(answer)[0]);
  expect(seen).toEqual([]);
  if (statusesOf(answer)[0] === '403')
    expect(refused.map(({ refusal }) => refusal.reason)).toEqual(['method-not-allowed']);
});

test('C3 slashes and queries that look like addresses stay paths of the API', async () => {
  for (const target of ['/v1/worker//evil/x', '/v1/worker/hello?/../../clusters', '/v1/worker/hello?//evil/']) {
    await raw(lines(`POST ${target} HTTP/1.1`, ...authorized(), 'content-length: 0', 'connection: close', ''));
  }

  expect(seen.map(({ url }) => url)).toEqual([
    '/v1/worker//evil/x',
    '/v1/worker/hello?/../../clusters',
    '/v1/worker/hello?//evil/',
  ]);
});

test('C3 no header of the sender reaches the API but what a call of a worker is made of', async () => {
  const odd = ['cookie: a=b', 'x-forwarded-for: 10.0.0.1', 'connection: authorization, x-hop', 'x-hop: 1', 'via: evil'];
  const head = lines('POST /v1/worker/hello HTTP/1.1', ...authorized(), ...odd, 'content-type: application/json');

  await raw(head + lines('content-length: 2', '') + '{}');

  expect(Object.keys(seen[0]!.headers).toSorted()).toEqual([
    'authorization',
    'connection',
    'content-length',
    'content-type',
    'host',
  ]);
  expect(seen[0]!.headers.host).toMatch(/^127\.0\.0\.1:\d+$/);
});

test('C3 an upgrade, a CONNECT and an expectation open nothing', async () => {
  const upgrade = ['connection: upgrade', 'upgrade: websocket', 'content-length: 0'];
  await raw(lines('POST /v1/worker/hello HTTP/1.1', ...authorized(), ...upgrade, '') + HIDDEN);
  await raw(lines('CONNECT 127.0.0.1:22 HTTP/1.1', ...authorized(), ''));
  const asked = ['expect: 200-maybe', 'content-length: 0'];
  expect(statusesOf(await raw(lines('POST /v1/worker/hello HTTP/1.1', ...authorized(), ...asked, '')))).toEqual([
    '417',
  ]);

  expect(seen.map(({ url }) => url)).toEqual(['/v1/worker/hello']);
});

test('C3 headers without an end, or too large, are cut', async () => {
  const huge = lines('POST /v1/worker/hello HTTP/1.1', `x: ${'y'.repeat(20_000)}`, '');
  expect(statusesOf(await raw(huge))).toEqual(['431']);

  expect(seen).toEqual([]);
  expect((await raw('', { quietMs: 5_000 })).length).toBe(0);
  await waitFor(() => front.connections() === 0, { what: 'who says nothing is cut', timeoutMs: 5_000 });
});

test('C3 a flood of calls in one connection keeps to the limit of the cluster; the rest is told to come later', async () => {
  let release = (): void => undefined;
  hold = new Promise((done) => (release = done));
  const one = lines('POST /v1/worker/hello HTTP/1.1', ...authorized(), 'content-length: 0', '');
  const answer = raw(one.repeat(200), { quietMs: 3_000 });
  await waitFor(() => refused.length > 0, { what: 'one is refused', timeoutMs: 5_000 });
  release();

  const statuses = statusesOf(await answer);

  expect(mostOpen).toBeLessThanOrEqual(MAX_CALLS);
  expect(statuses.filter((status) => status === '429').length).toBeGreaterThan(0);
  expect(refused.every(({ refusal, who }) => refusal.reason === 'too-many-calls' && who?.cluster === 'a')).toBe(true);
  // Its room is free again.
  hold = Promise.resolve();
  expect(statusesOf(await raw(one))).toEqual(['200']);
});

test('C3 a caller that hangs up gives its room back, whenever it does', async () => {
  hold = new Promise(() => undefined);
  const half = lines('POST /v1/worker/hello HTTP/1.1', ...authorized(), 'content-length: 100', '') + 'half';
  for (let round = 0; round < 3; round += 1) {
    const sockets = Array.from({ length: MAX_CALLS }, () =>
      connect(front.port, '127.0.0.1').on('error', () => undefined),
    );
    for (const socket of sockets) socket.write(half);
    if (round > 0) await new Promise((done) => setTimeout(done, 300));
    for (const socket of sockets) socket.destroy();
  }
  hold = Promise.resolve();
  await waitFor(() => open === 0, { what: 'the API is let go', timeoutMs: 10_000 });

  const one = lines('POST /v1/worker/hello HTTP/1.1', ...authorized(), 'content-length: 0', '');
  await waitFor(async () => statusesOf(await raw(one))[0] === '200', { what: 'there is room', timeoutMs: 10_000 });
});

test('C3 an upload that the API does not want ends with its answer, and the next call of the worker comes through at once', async () => {
  const send = async (path: string, body: Buffer): Promise<number> => {
    const headers = { authorization: `Bearer ${token}` };
    return (await fetch(`http://127.0.0.1:${front.port}${path}`, { method: 'PUT', headers, body })).status;
  };
  for (let round = 0; round < 3; round += 1) {
    expect(await send('/v1/worker/early', Buffer.alloc(8 << 20)).catch(() => 409)).toBe(409);
    const began = performance.now();
    expect(await send('/v1/worker/hello', Buffer.from('{}'))).toBe(200);
    // Behind what is left of an upload that is not read on, a call waits for 5 s.
    expect(performance.now() - began).toBeLessThan(4_500);
  }
});

test('C3 a long upload is not cut while bytes come', async () => {
  const upload = httpRequest({ port: front.port, method: 'PUT', path: '/v1/worker/attempts/x/1/artifacts' });
  upload.setHeader('authorization', `Bearer ${token}`);
  const answered = once(upload, 'response') as Promise<[IncomingMessage]>;
  for (let part = 0; part < 6; part += 1) {
    upload.write('x'.repeat(1_000));
    await new Promise((done) => setTimeout(done, 400));
  }
  upload.end();

  const [response] = await answered;

  expect(response.statusCode).toBe(200);
  expect(seen[0]!.body).toHaveLength(6_000);
});

test('O6 C3 bodies that do not come are cut, and their room is free again', async () => {
  const half = (length: number): string =>
    lines('POST /v1/worker/attempts/x/1/log HTTP/1.1', ...authorized(), `content-length: ${length}`, '') + 'half';
  const answer = await raw(half(100), { quietMs: 10_000 });
  expect(statusesOf(answer)).toEqual(['408']);
  expect(answer).toContain('urn:slipway:problem:request-unread');
  expect(refused.map(({ refusal, who }) => [refusal.reason, who?.worker])).toEqual([['request-unread', worker]]);

  // One that sends a byte now and then keeps nothing either.
  const socket = connect(front.port, '127.0.0.1').on('error', () => undefined);
  const closed = once(socket.resume(), 'close');
  const drip = setInterval(() => socket.write('x'), 200);
  socket.write(half(10_000));
  await closed;
  clearInterval(drip);

  await waitFor(() => open === 0, { what: 'the API is let go', timeoutMs: 10_000 });
  expect(refused).toHaveLength(2);
  expect(seen).toEqual([]);
});

test('O6 C3 bodies under way are bounded for a cluster; above that it is told to come later, and when', async () => {
  const bytes = MESSAGE_BYTES;
  const head = lines('POST /v1/worker/attempts/x/1/log HTTP/1.1', ...authorized(), `content-length: ${bytes}`, '');
  const small = lines('POST /v1/worker/hello HTTP/1.1', ...authorized(), 'content-length: 2', '') + '{}';
  // What gRPC has under way counts as well.
  const grpc = Array.from({ length: 3 }, () => allowance.enter('a'));
  for (const share of grpc) share.shrink(3 * MESSAGE_BYTES);
  const sockets = Array.from({ length: 3 }, () => connect(front.port, '127.0.0.1').on('error', () => undefined));
  for (const socket of sockets) socket.write(head + 'half');
  await waitFor(() => open === 3, { what: 'three are let in' });

  const answer = await raw(head + 'half', { quietMs: 5_000 });

  expect(statusesOf(answer)).toEqual(['429']);
  expect(answer).toMatch(/retry-after: 1\r\n/i);
  expect(answer).toContain('urn:slipway:problem:too-many-bytes');
  expect(refused[0]?.refusal.reason).toBe('too-many-bytes');
  for (const socket of sockets) socket.destroy();
  for (const share of grpc) share.release();
  await waitFor(() => open === 0, { what: 'the API is let go', timeoutMs: 10_000 });
  expect(statusesOf(await raw(small))).toEqual(['200']);
});

describe('O6 C3 the allowance of a cluster', () => {
  const limits = { calls: 10, grpcCalls: 6, messageBytes: 100 };
  const reasonOf = (asked: () => unknown): string => {
    try {
      asked();
      return 'taken';
    } catch (refusal) {
      return (refusal as WorkerRefusal).reason;
    }
  };

  it('is one for both halves, and one of each cluster', () => {
    const shared = new Allowance(limits);
    const grpc = Array.from({ length: 6 }, () => shared.enter('a'));
    expect(reasonOf(() => shared.enter('a'))).toBe('too-many-calls');
    const http = Array.from({ length: 4 }, () => shared.claim('a', 1));
    expect(reasonOf(() => shared.claim('a', 1))).toBe('too-many-calls');
    expect(reasonOf(() => shared.claim('b', 1))).toBe('taken');

    http[0]!();
    http[0]!();

    expect(reasonOf(() => shared.claim('a', 1))).toBe('taken');
    expect(reasonOf(() => shared.claim('a', 1))).toBe('too-many-calls');
    for (const share of grpc) share.release();
    expect(reasonOf(() => shared.enter('a'))).toBe('taken');
  });

  it('leaves room to polls and heartbeats, however much output there is', async () => {
    const shared = new Allowance({ ...limits, calls: 100 });
    for (let at = 0; at < 12; at += 1) shared.claim('a', Infinity);
    expect(reasonOf(() => shared.claim('a', 1))).toBe('too-many-bytes');

    await Promise.all(Array.from({ length: 4 }, () => shared.enter('a').granted));
  });

  it('does not count what arrives after its call was refused', () => {
    const shared = new Allowance(limits);
    const [keeps, late] = [shared.claim('a', 1), shared.enter('a')];
    late.release();
    late.shrink(10_000);

    expect(reasonOf(() => shared.claim('a', 100))).toBe('taken');
    keeps();
  });
});
