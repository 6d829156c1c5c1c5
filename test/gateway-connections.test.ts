// Proves that no connection ends the gateway, whatever frames of HTTP/2 it sends and whenever it stops. The gateway is a
// process of its own in front of no Temporal at all: who sends most of this has no key.
import { once } from 'node:events';
import { randomUUID } from 'node:crypto';
import { connect as connectHttp2 } from 'node:http2';
import { connect } from 'node:net';
import { makeKey, servicePath, signToken, TestGateway, type TestKey } from './setup/gateway';
import { waitFor } from './setup/wait-for';

let gateway: TestGateway;
let key: TestKey;

beforeAll(async () => {
  key = await makeKey('a');
  gateway = await TestGateway.open({ temporal: '127.0.0.1:1', keys: [key], limits: { arrivalMs: 1_000 } });
});

afterAll(() => gateway.close());

/** Type, flags and stream; RFC 9113, section 4.1. */
function frame(type: number, flags: number, ...[stream, payload = Buffer.alloc(0)]: [number, Buffer?]): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** A header of RFC 7541 that goes into no table. */
const header = (name: string, value: string): Buffer =>
  Buffer.concat([Buffer.from([0, name.length]), Buffer.from(name), Buffer.from([value.length]), latin1(value)]);
const latin1 = (text: string): Buffer => Buffer.from(text, 'latin1');

/** POST over http, to an authority of one letter. */
const HEAD = Buffer.from('8386410178', 'hex');
const END_HEADERS = 4;
const END_STREAM = 1;

function headers(stream: number, path: string, more: Record<string, string> = {}): Buffer {
  const fields = Object.entries(more).map(([name, value]) => header(name, value));
  return frame(1, END_HEADERS, stream, Buffer.concat([HEAD, Buffer.from([4, path.length]), latin1(path), ...fields]));
}

const GRPC = { 'content-type': 'application/grpc' };
const KNOWN = servicePath('GetSystemInfo');
const PREFACE = Buffer.concat([latin1('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(4, 0, 0)]);
const reset = (stream: number): Buffer => frame(3, 0, stream, Buffer.from([0, 0, 0, 8]));
const data = (stream: number, hex: string, flags = 0): Buffer => frame(0, flags, stream, Buffer.from(hex, 'hex'));
const goAway = (): Buffer => frame(7, 0, 0, Buffer.alloc(8));

const CALLS: [string, (stream: number) => Buffer[]][] = [
  ['HEADERS without a content type and RST_STREAM', (id) => [headers(id, '/x'), reset(id)]],
  ['HEADERS of an unknown path and RST_STREAM', (id) => [headers(id, '/x', GRPC), reset(id)]],
  ['HEADERS of a known path and RST_STREAM', (id) => [headers(id, KNOWN, GRPC), reset(id)]],
  ['DATA of an unknown path and RST_STREAM', (id) => [headers(id, '/x', GRPC), data(id, '000000000901'), reset(id)]],
  ['DATA of a known path and RST_STREAM', (id) => [headers(id, KNOWN, GRPC), data(id, '000000000901'), reset(id)]],
  [
    'a deadline that is over and RST_STREAM',
    (id) => [headers(id, KNOWN, { ...GRPC, 'grpc-timeout': '0n' }), reset(id)],
  ],
  ['a deadline that is none', (id) => [headers(id, KNOWN, { ...GRPC, 'grpc-timeout': '\xff' })]],
  ['a path that is no text', (id) => [headers(id, '/\xe9\xff%zz', GRPC)]],
  ['headers that are none of gRPC', (id) => [headers(id, KNOWN, { ...GRPC, 'a!b': 'x', 'x-bin': '\xff\xff' })]],
  [
    'a message in an unknown encoding',
    (id) => [headers(id, KNOWN, { ...GRPC, 'grpc-encoding': '\xff' }), data(id, '010000000101', END_STREAM)],
  ],
  ['a message of 4 GiB and RST_STREAM', (id) => [headers(id, KNOWN, GRPC), data(id, '00ffffffff01'), reset(id)]],
  ['GOAWAY in the middle of a call', (id) => [headers(id, '/x', GRPC), goAway()]],
  ['GOAWAY before its calls', (id) => [goAway(), headers(id, '/x')]],
];

/** Sends bytes and hangs up. */
async function send(bytes: Buffer, hangUp: 'at once' | 'when answered'): Promise<void> {
  const socket = connect(gateway.port, '127.0.0.1').on('error', () => undefined);
  const closed = once(socket.resume(), 'close');
  await new Promise((done) => socket.write(bytes, done));
  if (hangUp === 'when answered') await Promise.race([closed, once(socket, 'data')]);
  socket.destroy();
  await closed;
}

async function expectGatewayToBeWell(): Promise<void> {
  // Answered after everything that it got before.
  await Promise.race([
    gateway.weigh(),
    waitFor(() => !gateway.isRunning, { what: 'the gateway ended or answered' }).catch(() => undefined),
  ]);
  expect(gateway.isRunning).toBe(true);
  const answer = await fetch(`http://${gateway.address}/x`);
  expect(await answer.text()).toBe('GET /x');
}

describe.each(CALLS)('C3 %s', (_what, call) => {
  const bytes = Buffer.concat([PREFACE, ...Array.from({ length: 20 }, (_, at) => call(1 + 2 * at)).flat()]);

  it.each([
    ['is answered', bytes, 'when answered'],
    ['hangs up at once', bytes, 'at once'],
    ['stops in the middle of a frame', bytes.subarray(0, -5), 'at once'],
  ] as const)('leaves the gateway well when its sender %s', async (_how, sent, hangUp) => {
    for (let connection = 0; connection < 5; connection += 1) await send(sent, hangUp);

    await expectGatewayToBeWell();
    expect(gateway.faults).toEqual([]);
  });
});

it('C3 a connection that resets call after call is closed, and on record', async () => {
  const calls = Array.from({ length: 400 }, (_, at) => [headers(1 + 2 * at, KNOWN, GRPC), reset(1 + 2 * at)]);
  const socket = connect(gateway.port, '127.0.0.1').on('error', () => undefined);
  const closed = once(socket.resume(), 'close');
  socket.write(Buffer.concat([PREFACE, ...calls.flat()]));

  await closed;

  const record = await waitFor(() => gateway.refused('broken-connection')[0], { what: 'it is on record' });
  expect(record).toMatchObject({ method: 'HTTP/2', peer: expect.stringMatching(/^127\.0\.0\.1:\d+$/) as string });
  expect(gateway.refused('broken-connection')).toHaveLength(1);
  await expectGatewayToBeWell();
});

it('O6 C3 calls whose message never comes are closed within their limit, those that wait for room included', async () => {
  const authorization = `Bearer ${await signToken(key, randomUUID())}`;
  const session = connectHttp2(`http://${gateway.address}`);
  const calls = Array.from({ length: 40 }, () => {
    const call = session.request({ ...GRPC, ':method': 'POST', ':path': KNOWN, authorization });
    call.on('error', () => undefined).resume();
    return once(call, 'close');
  });

  await Promise.all(calls);

  const of = (reason: string): number => gateway.refused(reason).length;
  await waitFor(() => of('request-unread') + of('too-many-bytes') === 40, { what: 'all are on record' });
  expect([of('request-unread'), of('too-many-bytes')]).toEqual([16, 24]);
  expect((await gateway.weigh()).openCalls).toBe(0);
  session.destroy();
});
