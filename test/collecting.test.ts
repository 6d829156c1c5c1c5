// Proves the way home of artifacts: what cannot be stored is named and decides nothing, nothing is read faster than it is
// sent, an error of a file is not taken for a server that is away, and a limit of time stands still while the server is.
// A server of a few lines; no engine, no store.
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { collect } from '../activities/collect';
import { HoldableTimer, type Stopped } from '../activities/limits';
import type { Archived } from '../adapters/engine';
import { artifactLimitsOf } from '../domain/artifact-limits';
import { WorkerApi, type AttemptApi } from '../adapters/worker-api';

type Answer = (request: IncomingMessage, response: ServerResponse) => void;
let answer: Answer;
const server = createServer((request, response) => answer(request, response));
let api: AttemptApi;
beforeAll(async () => {
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address() as AddressInfo;
  const worker = new WorkerApi(
    `http://127.0.0.1:${port}`,
    () => Promise.resolve('token'),
    () => undefined,
  );
  api = worker.attempt({ runId: '5f0c8f5e-7e4f-4a55-9d0c-0c6b1d3b8a10', attempt: 1, token: 1 });
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});

const limits = { fileBytes: 100, bytes: 200, files: 4 };
const file = (path: string, text: string, sizeBytes = text.length): Archived => ({
  kind: 'file',
  path,
  sizeBytes,
  async *open() {
    yield Buffer.from(text);
  },
});
const orders = () => ({ detach: new AbortController().signal, cancel: new AbortController().signal });

interface Played {
  entries: Archived[];
  put?: AttemptApi['putArtifact'];
  stored?: { path: string; sizeBytes: number; digest: string }[];
  leftMs?: number;
  stopped?: Stopped;
}

async function play({ entries, put, stored = [], leftMs = 60_000, stopped }: Played) {
  const sent: string[] = [];
  const putArtifact: AttemptApi['putArtifact'] = async (one, patience) => {
    sent.push(one.path);
    for await (const _ of one.open());
    return put ? put(one, patience) : { sizeBytes: one.sizeBytes, digest: '' };
  };
  const archived = (async function* () {
    yield* entries;
  })();
  const ports = { archived, api: { putArtifact, collecting: async () => ({ limits, stored }) } };
  const collected = await collect(ports, { ...orders(), stopped, leftMs });
  return { sent, ...collected };
}

test('R3 each file that can be stored is, whatever is wrong with others, and those are named with the reason', async () => {
  const broken: Archived = {
    ...(file('broken', 'x') as Extract<Archived, { kind: 'file' }>),
    // oxlint-disable-next-line require-yield -- it breaks before its first piece
    async *open() {
      throw new Error('it cannot be read: EIO');
    },
  };
  const entries = [
    { kind: 'not-stored', path: 'link', why: 'it is a symbolic link' } as const,
    broken,
    file('large', 'x', 101),
    ...['a', 'b', 'c', 'd'].map((path) => file(path, 'x'.repeat(90))),
  ];

  expect(await play({ entries })).toEqual({
    sent: ['broken', 'a', 'b'],
    isLate: false,
    isCancelled: false,
    isRefused: false,
    notStored: {
      count: 5,
      files: expect.arrayContaining([
        { path: 'link', why: 'it is a symbolic link' },
        { path: 'broken', why: 'it cannot be read: EIO' },
        { path: 'large', why: 'it has 101 bytes, and one file may have 100' },
        { path: 'c', why: 'all files of a run may have 200 bytes together' },
      ]),
    },
  });
});

test('R3 P2 how much a run may store is what it asks for, within what its cluster lets it', () => {
  const GIBIBYTE = 1024 ** 3;
  const limitsOf = (asked: number | null, most: number | null) => {
    const { bytes, fileBytes } = artifactLimitsOf(asked, most);
    return [bytes / GIBIBYTE, fileBytes / GIBIBYTE];
  };

  expect(limitsOf(null, null)).toEqual([8, 2]);
  expect(limitsOf(20 * GIBIBYTE, null)).toEqual([20, 20]);
  expect(limitsOf(null, GIBIBYTE)).toEqual([1, 1]);
  expect(limitsOf(20 * GIBIBYTE, GIBIBYTE)).toEqual([1, 1]);
});

test('R3 the list of what is not stored is short, however much that is', async () => {
  const entries = Array.from({ length: 500 }, (_, at) => ({ kind: 'not-stored', path: `l${at}`, why: 'w' }) as const);
  const { notStored } = await play({ entries });

  expect(notStored?.count).toBe(500);
  expect(notStored?.files).toHaveLength(50);
});

test('R3 B4 a supervisor that comes later sends only what is not stored yet', async () => {
  const digest = `sha256:${createHash('sha256').update('same').digest('hex')}`;
  const stored = ['same', 'other'].map((path) => ({ path, sizeBytes: 4, digest }));

  const { sent } = await play({ entries: [file('same', 'same'), file('other', 'diff'), file('new', 'new')], stored });

  expect(sent).toEqual(['other', 'new']);
});

test('B9 the time of a run holds until its last artifact; what is stored by then stays', async () => {
  const put: AttemptApi['putArtifact'] = (one, { signal } = {}) =>
    one.path === 'slow'
      ? new Promise((_, fail) => signal!.addEventListener('abort', () => fail(signal!.reason)))
      : Promise.resolve({ sizeBytes: 1, digest: '' });
  const { sent, isLate, notStored } = await play({ entries: [file('a', 'a'), file('slow', 's')], put, leftMs: 50 });

  expect({ sent, isLate }).toEqual({ sent: ['a', 'slow'], isLate: true });
  expect(notStored).toMatchObject({ count: 1, files: [{ path: '/', why: /time of the run was over/ }] });
});

test('B9 a limit stands still while it is held, and only then', async () => {
  let fired = 0;
  const timer = new HoldableTimer(0, () => (fired += 1));
  const release = [timer.hold(), timer.hold()];
  await new Promise((done) => setTimeout(done, 20));
  release[0]!();
  await new Promise((done) => setTimeout(done, 20));
  expect(fired).toBe(0);
  release[1]!();
  await new Promise((done) => setTimeout(done, 20));
  expect(fired).toBe(1);
});

const ofServer = (put: AttemptApi['putArtifact'] = (one, patience) => api.putArtifact(one, patience)) => put;

test('R3 a file that cannot be read, or is not what it was, ends its upload once and for all', async () => {
  let calls = 0;
  answer = (request, response) => {
    calls += 1;
    request.on('error', () => undefined).resume();
    request.on('end', () => response.end('{"sizeBytes":1,"digest":"d"}'));
  };
  const put = ofServer();
  const breaking = {
    ...(file('breaking', '', 9) as Extract<Archived, { kind: 'file' }>),
    async *open() {
      yield Buffer.from('half');
      throw new Error('it cannot be read: EIO');
    },
  };

  await expect(put(breaking)).rejects.toMatchObject({ name: 'SourceError', message: 'it cannot be read: EIO' });
  for (const size of [1, 9]) {
    await expect(put(file('grown', 'four', size) as never)).rejects.toThrow('it changed while it was read');
  }
  expect(calls).toBeLessThanOrEqual(3);
  const inPieces = {
    ...(file('pieces', '', 2) as Extract<Archived, { kind: 'file' }>),
    async *open() {
      for (const text of ['', 'a', '', 'b', '']) yield Buffer.from(text);
    },
  };
  expect(await put(inPieces)).toEqual({ sizeBytes: 1, digest: 'd' });
});

test('O6 a server that is full is asked again, and the time of the run stands still meanwhile', async () => {
  let calls = 0;
  answer = (request, response) => {
    calls += 1;
    response.statusCode = calls < 3 ? 507 : 200;
    request.resume().on('end', () => response.end(calls < 3 ? '{}' : '{"sizeBytes":4,"digest":"d"}'));
  };
  let held = 0;
  const hold = () => {
    held += 1;
    return () => void (held -= 100);
  };

  expect(await api.putArtifact(file('a', 'four') as never, { hold })).toEqual({ sizeBytes: 4, digest: 'd' });
  expect({ calls, held }).toEqual({ calls: 3, held: -99 });
});

test('R3 of a large file no more is read than the server takes', async () => {
  const piece = Buffer.alloc(256 * 1024);
  let read = 0;
  const large = {
    ...(file('large', '', 1024 * piece.length) as Extract<Archived, { kind: 'file' }>),
    async *open() {
      for (let at = 0; at < 1024; at += 1) {
        read += piece.length;
        yield piece;
      }
    },
  };
  const begun = new Promise<IncomingMessage>((done) => (answer = (request) => done(request)));
  const gone = new AbortController();
  const sending = api.putArtifact(large, { signal: gone.signal });
  sending.catch(() => undefined);
  const request = await begun;
  request.pause();
  let before = -1;
  // As long as it takes for the pipes between them to be full.
  while (before !== read) {
    before = read;
    await new Promise((done) => setTimeout(done, 200));
  }
  gone.abort();

  expect(read).toBeLessThan(32 * 1024 * 1024);
});
