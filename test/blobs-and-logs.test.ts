// Proves bytes at rest and logs: blobs whole or absent, logs byte for byte before and after compression, output formats.
// Real files, the embedded database as its own process.
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import fc from 'fast-check';
import { filesBelow, NO_ARCHIVE } from '../adapters/archive-files';
import { BlobError, FileBlobs } from '../adapters/blobs';
import { followContainer } from '../adapters/docker-log';
import { FrameReader, RecordReader, type LogReader } from '../adapters/docker-log-format';
import type { ArchivedFile, FoundContainer } from '../adapters/engine';
import { appendLog, compressLog, readLog } from '../adapters/log-store';
import { migrate, openStore, type Database } from '../adapters/store/connect';
import { FencedError, recordResult, releaseLease, type Holder } from '../adapters/store/holders';
import { recordHost } from '../adapters/store/hosts';
import { requestLease } from '../adapters/store/leases';
import { locateLog, logsToCompress, replaceChunks } from '../adapters/store/logs';
import { DEFAULT_TIMING } from '../domain/build-input';
import { makeBuild, startEmbedded, type EmbeddedProcess } from './setup/stores';
import { waitFor } from './setup/wait-for';

const sha = (bytes: Uint8Array): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const folder = mkdtempSync(join(tmpdir(), 'slipway-blobs-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function collect(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of source) parts.push(part);
  return Buffer.concat(parts);
}

/** Every file below a folder. */
const filesIn = (root: string): string[] =>
  existsSync(root)
    ? readdirSync(root, { recursive: true, encoding: 'utf8' }).filter((name) => statSync(join(root, name)).isFile())
    : [];

describe('blobs', () => {
  const fresh = (): { root: string; blobs: FileBlobs } => {
    const root = join(folder, randomUUID());
    return { root, blobs: new FileBlobs(root) };
  };

  test('R3 what was put is read back, whole and by range, with size and sha256', async () => {
    const { blobs } = fresh();
    const bytes = randomBytes(1_000_000);
    const parts = [bytes.subarray(0, 1), bytes.subarray(1, 700_000), bytes.subarray(700_000)];

    expect(await blobs.put('a/b/c', parts)).toEqual({ sizeBytes: bytes.length, digest: sha(bytes) });

    for (const [startByte, endByte] of [
      [0, bytes.length],
      [0, 1],
      [999_999, 1_000_000],
      [262_143, 262_145],
    ] as const) {
      expect(sha(await collect(blobs.read('a/b/c', { startByte, endByte })))).toBe(
        sha(bytes.subarray(startByte, endByte)),
      );
    }
  });

  test('O6 the last blob of a folder takes the folder along, while others are put into it', async () => {
    const { root, blobs } = fresh();
    const names = Array.from({ length: 40 }, (_, at) => `logs/run/${at % 2}/${at}`);

    await Promise.all(
      names.map(async (name) => {
        await blobs.put(name, [Buffer.from(name)]);
        await blobs.remove(name);
      }),
    );
    await blobs.remove('logs/run/0/gone-already');

    expect(readdirSync(root)).toEqual([]);
  });

  test('R3 a blob whose bytes break off is absent, and leaves no file behind', async () => {
    const { root, blobs } = fresh();
    async function* breaking() {
      yield Buffer.from('half of it');
      throw new Error('the line went dead');
    }

    await expect(blobs.put('logs/a', breaking())).rejects.toThrow('the line went dead');

    expect(filesIn(root)).toEqual([]);
    await expect(collect(blobs.read('logs/a', { startByte: 0, endByte: 4 }))).rejects.toMatchObject({
      reason: 'not-found',
    });
  });

  test('R3 a blob is not visible before it is whole, and a second put replaces it whole', async () => {
    const { blobs } = fresh();
    await blobs.put('one', [Buffer.from('old')]);
    const read = async (): Promise<string> => String(await collect(blobs.read('one', { startByte: 0, endByte: 3 })));
    const during: string[] = [];
    async function* slow() {
      yield Buffer.from('n');
      during.push(await read());
      yield Buffer.from('ew');
    }

    await blobs.put('one', slow());

    expect(during).toEqual(['old']);
    expect(await read()).toBe('new');
  });

  test('an empty blob is stored, and removing what is gone is fine', async () => {
    const { root, blobs } = fresh();

    expect(await blobs.put('empty', [])).toEqual({ sizeBytes: 0, digest: sha(Buffer.alloc(0)) });
    expect(filesIn(root)).toEqual(['empty']);
    await blobs.remove('empty');
    await blobs.remove('empty');
    expect(filesIn(root)).toEqual([]);
  });

  test.each(['', '/etc/passwd', '../up', 'a/../../up', 'a\0b', 'a b', '.hidden'])(
    'the key %j is refused',
    async (key) => {
      const { root, blobs } = fresh();

      await expect(blobs.put(key, [Buffer.from('x')])).rejects.toBeInstanceOf(BlobError);
      expect(() => blobs.read(key, { startByte: 0, endByte: 1 })).toThrow(BlobError);
      await expect(blobs.remove(key)).rejects.toBeInstanceOf(BlobError);
      expect(filesIn(root)).toEqual([]);
    },
  );

  test('R3 a folder that is a file is an error of the store, not of the run', async () => {
    const { root, blobs } = fresh();
    mkdirSync(root);
    writeFileSync(join(root, 'taken'), '');

    await expect(blobs.put('taken/below', [Buffer.from('x')])).rejects.toMatchObject({ reason: 'io' });
  });

  const small = join(folder, 'small');
  const isMounted = ((): boolean => {
    mkdirSync(small);
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small], { stdio: 'ignore' });
      return true;
    } catch {
      return false;
    }
  })();
  afterAll(() => isMounted && execFileSync('umount', [small]));

  // Mounting needs a right that not every machine gives to its tests.
  (isMounted ? test : test.skip)(
    'R3 a full disk is said to be full, and the half that was written is taken away',
    async () => {
      const blobs = new FileBlobs(small);

      await expect(blobs.put('large', [randomBytes(40_000), randomBytes(40_000)])).rejects.toMatchObject({
        reason: 'disk-full',
      });

      expect(filesIn(small)).toEqual([]);
      expect(await blobs.put('little', [randomBytes(40_000)])).toMatchObject({ sizeBytes: 40_000 });
      await blobs.remove('little');
    },
  );

  (isMounted ? test : test.skip)(
    'O6 a disk with less free space than it must have is full, and so is one that a write has found full, until there is room',
    async () => {
      const marked = new FileBlobs(small, 50_000);
      expect(await marked.whyFull()).toBeNull();
      writeFileSync(join(small, 'filler'), Buffer.alloc(20_000));
      expect(await new FileBlobs(small, 50_000).whyFull()).toMatch(/disk is full: 0 MiB of it are free/);
      // What makes room, as the packing of a log, is stored below the mark.
      expect(await marked.put('little', [Buffer.alloc(10)])).toMatchObject({ sizeBytes: 10 });

      const unmarked = new FileBlobs(small);
      writeFileSync(join(small, 'filler'), Buffer.alloc(61_440));
      await expect(unmarked.put('more', [Buffer.alloc(8_192)])).rejects.toMatchObject({ reason: 'disk-full' });
      expect(await unmarked.whyFull()).toBe("the server's disk is full");
      rmSync(join(small, 'filler'));
      await waitFor(async () => (await unmarked.whyFull()) === null, { what: 'there is room', timeoutMs: 5_000 });
    },
  );

  (isMounted ? test : test.skip)('O6 a disk that takes no writes says so once a write has failed', async () => {
    const blobs = new FileBlobs(small);
    execFileSync('mount', ['-o', 'remount,ro', small]);
    try {
      await expect(blobs.put('one', [Buffer.alloc(1)])).rejects.toMatchObject({ reason: 'io' });
      expect(await blobs.whyFull()).toMatch(/cannot store anything: EROFS/);
    } finally {
      execFileSync('mount', ['-o', 'remount,rw', small]);
    }
  });
});

describe('the files of /archive', () => {
  const make = (): string => {
    const root = join(folder, randomUUID());
    mkdirSync(join(root, 'deep', 'er'), { recursive: true });
    writeFileSync(join(root, 'deep', 'er', 'file'), 'below');
    writeFileSync(join(root, 'a'), '');
    return root;
  };
  const walk = async (root: string) => {
    const files: ArchivedFile[] = [];
    const left: Record<string, string> = {};
    for await (const entry of filesBelow(root)) {
      if (entry.kind === 'file') files.push(entry);
      else left[entry.path] = entry.why;
    }
    return { files, left };
  };

  test('R3 are walked to the bottom with path and size; a folder that is not there is named', async () => {
    const { files, left } = await walk(make());

    expect(files.map((file) => [file.path, file.sizeBytes])).toEqual([
      ['a', 0],
      ['deep/er/file', 5],
    ]);
    expect(String(await collect(files[1]!.open()))).toBe('below');
    expect(left).toEqual({});
    expect(await walk(join(folder, 'nowhere'))).toEqual({ files: [], left: { '/': NO_ARCHIVE } });
  });

  test('R3 nothing that leads out of the folder is among them: no link to a file, to a folder, or to nothing', async () => {
    const root = make();
    symlinkSync('/etc/passwd', join(root, 'link-to-file'));
    symlinkSync('/etc', join(root, 'link-to-folder'));
    symlinkSync('/nowhere', join(root, 'link-to-nothing'));

    const { files, left } = await walk(root);

    expect(files.map((file) => file.path)).toEqual(['a', 'deep/er/file']);
    expect(Object.keys(left)).toEqual(['link-to-file', 'link-to-folder', 'link-to-nothing']);
    expect(new Set(Object.values(left))).toEqual(new Set(['it is a symbolic link']));
  });

  test('R3 a name that is no UTF-8, a path that is too long and a folder that is too deep are named, and all else is found', async () => {
    const root = make();
    const long = Array.from({ length: 6 }, () => 'l'.repeat(200));
    mkdirSync(join(root, ...long.slice(0, -1)), { recursive: true });
    writeFileSync(join(root, ...long), '');
    mkdirSync(join(root, ...Array.from({ length: 131 }, () => 'd')), { recursive: true });
    writeFileSync(Buffer.concat([Buffer.from(`${root}/m`), Buffer.from([0xfc]), Buffer.from('n\n')]), '');
    writeFileSync(join(root, 'zz'), '');

    const { files, left } = await walk(root);

    expect(files.map((file) => file.path)).toEqual(['a', 'deep/er/file', 'zz']);
    expect(Object.entries(left).map(([path, why]) => [path.slice(0, 12), why])).toEqual([
      ['d/d/d/d/d/d/', 'it is a folder more than 128 folders deep'],
      ['llllllllllll', 'its path is longer than 1024 bytes'],
      ['m\\xfcn\\x0a', 'its name is not UTF-8'],
    ]);
  });

  test('R3 a folder that is exchanged for a link after the walk is not followed', async () => {
    const root = make();
    const { files } = await walk(root);
    rmSync(join(root, 'deep'), { recursive: true });
    mkdirSync(join(root, 'elsewhere', 'er'), { recursive: true });
    writeFileSync(join(root, 'elsewhere', 'er', 'file'), 'other');
    symlinkSync(join(root, 'elsewhere'), join(root, 'deep'));

    await expect(collect(files[1]!.open())).rejects.toThrow('something else has taken the place of its folder');
  });

  test('R3 a file that is exchanged for a link after the walk is not followed', async () => {
    const root = make();
    const [file] = (await walk(root)).files;
    rmSync(join(root, 'a'));
    symlinkSync('/etc/passwd', join(root, 'a'));

    await expect(collect(file!.open())).rejects.toThrow('a link has taken its place');
  });
});

describe('logs', () => {
  let database: EmbeddedProcess;
  let db: Database;
  const dataDir = mkdtempSync(join(tmpdir(), 'slipway-logs-'));
  const root = join(dataDir, 'blobs');
  const blobs = new FileBlobs(root);
  beforeAll(async () => {
    database = await startEmbedded(dataDir);
    db = openStore(database.url, 4);
    await migrate(db);
  }, 90_000);
  afterAll(async () => {
    await db?.destroy();
    await database?.end('SIGTERM');
    rmSync(dataDir, { recursive: true, force: true });
  });

  async function heldAttempt(): Promise<Holder> {
    const { runIds, cluster } = await makeBuild(db);
    const runId = runIds[0]!;
    const worker = randomUUID();
    await recordHost(
      db,
      { cluster, name: 'host', worker, labels: [], slots: 1, version: '1', notAccepting: null },
      60_000,
    );
    const lease = await requestLease(db, {
      runId,
      attempt: 1,
      worker,
      cluster,
      silentAfterMs: 60_000,
      logCapBytes: 1_000_000,
      ageStepMs: DEFAULT_TIMING.ageStepMs,
    });
    if (lease.kind !== 'granted') throw new Error(lease.kind);
    return { runId, attempt: 1, token: lease.token, cluster };
  }

  async function fill(holder: Holder, parts: readonly Buffer[]): Promise<Buffer> {
    let startByte = 0;
    for (const bytes of parts) {
      expect(await appendLog({ db, blobs }, holder, { startByte, bytes })).toEqual({
        appended: true,
        bytes: startByte + bytes.length,
      });
      startByte += bytes.length;
    }
    return Buffer.concat(parts);
  }

  const slice = (holder: Holder, fromByte: number, toByte: number): Promise<Buffer> =>
    collect(readLog({ db, blobs }, { runId: holder.runId, attempt: 1, fromByte, toByte }));
  const blobsOf = (holder: Holder): string[] =>
    filesIn(join(root, 'logs')).filter((name) => name.startsWith(holder.runId));
  const end = async (holder: Holder): Promise<void> => {
    await recordResult(db, holder, { cause: 'ok', message: '', exitCode: 0 });
    await releaseLease(db, holder);
  };

  test('R2 a range is read across the borders of chunks, before and after compression', async () => {
    const holder = await heldAttempt();
    const all = await fill(
      holder,
      ['one\n', 'two', '\nthree\n', 'x'].map((text) => Buffer.from(text)),
    );
    const every: (readonly [number, number])[] = [];
    for (let from = 0; from <= all.length; from += 1) {
      for (let to = from; to <= all.length; to += 1) every.push([from, to] as const);
    }
    const expectEvery = async (): Promise<void> => {
      for (const [from, to] of every)
        expect(String(await slice(holder, from, to))).toBe(String(all.subarray(from, to)));
    };

    await expectEvery();
    await end(holder);
    await compressLog({ db, blobs }, { ...holder, bytes: all.length });
    await expectEvery();
  });

  test('R2 bytes that are at home already, or come too early, are not stored: neither row nor blob', async () => {
    const holder = await heldAttempt();
    await fill(holder, [Buffer.from('0123456789')]);
    const before = blobsOf(holder);

    for (const startByte of [0, 5, 11]) {
      expect(await appendLog({ db, blobs }, holder, { startByte, bytes: Buffer.from('again') })).toEqual({
        appended: false,
        bytes: 10,
      });
    }
    expect(await appendLog({ db, blobs }, holder, { startByte: 10, bytes: Buffer.alloc(0) })).toMatchObject({
      bytes: 10,
    });

    expect(blobsOf(holder)).toEqual(before);
    await fill({ ...holder }, []);
    expect(await appendLog({ db, blobs }, holder, { startByte: 10, bytes: Buffer.from('!') })).toEqual({
      appended: true,
      bytes: 11,
    });
    expect(String(await slice(holder, 0, 11))).toBe('0123456789!');
  });

  test('R2 a worker that was fenced appends nothing and leaves no blob', async () => {
    const holder = await heldAttempt();
    await end(holder);

    await expect(appendLog({ db, blobs }, holder, { startByte: 0, bytes: Buffer.from('late') })).rejects.toBeInstanceOf(
      FencedError,
    );
    expect(blobsOf(holder)).toEqual([]);
  });

  test('R2 a compressed log is one object of gzip members with an index of bytes and lines; the chunks are gone', async () => {
    const holder = await heldAttempt();
    const lines = Buffer.from(Array.from({ length: 400_000 }, (_, at) => `line ${at}\n`).join(''));
    const parts = [];
    for (let at = 0; at < lines.length; at += 300_001) parts.push(lines.subarray(at, at + 300_001));
    await fill(holder, parts);
    await end(holder);
    const [waiting] = await waitFor(
      async () => (await logsToCompress(db, 1)).filter((one) => one.runId === holder.runId),
      { what: 'the log is to be compressed' },
    );

    await compressLog({ db, blobs }, waiting!);

    const { index, chunks } = await locateLog(db, {
      runId: holder.runId,
      attempt: 1,
      fromByte: 0,
      toByte: lines.length,
    });
    expect(chunks).toEqual([]);
    expect(blobsOf(holder)).toHaveLength(1);
    expect(index!.blocks.length).toBeGreaterThan(3);
    const packed = await collect(
      blobs.read(index!.blob, { startByte: 0, endByte: statSync(join(root, index!.blob)).size }),
    );
    expect(packed.length).toBeLessThan(lines.length / 2);
    expect(gunzipSync(packed).equals(lines)).toBe(true);
    let startByte = 0;
    for (const block of index!.blocks) {
      const bytes = gunzipSync(packed.subarray(block.blobOffset, block.blobOffset + block.blobBytes));
      const before = lines.subarray(0, startByte).filter((byte) => byte === 10).length;
      expect([block.startByte, block.sizeBytes, block.firstLine]).toEqual([startByte, bytes.length, before + 1]);
      startByte += bytes.length;
    }
    expect(startByte).toBe(lines.length);
    expect((await logsToCompress(db, 0)).some((one) => one.runId === holder.runId)).toBe(false);
  });

  test('R2 compressed twice at once, one object is kept and the log reads the same', async () => {
    const holder = await heldAttempt();
    const all = await fill(holder, [randomBytes(5_000), randomBytes(7_000)]);
    await end(holder);
    const log = { ...holder, bytes: all.length };

    await Promise.all([compressLog({ db, blobs }, log), compressLog({ db, blobs }, log)]);
    await compressLog({ db, blobs }, log);

    expect(blobsOf(holder)).toHaveLength(1);
    expect((await slice(holder, 0, all.length)).equals(all)).toBe(true);
  });

  test('R2 a log that is compressed while it is read is read to its end', async () => {
    const holder = await heldAttempt();
    const all = await fill(holder, [randomBytes(3_000), randomBytes(3_000), randomBytes(3_000)]);
    await end(holder);
    const reading = readLog({ db, blobs }, { ...holder, fromByte: 0, toByte: all.length });

    const first = await reading.next();
    await compressLog({ db, blobs }, { ...holder, bytes: all.length });
    const rest = await collect(reading);

    expect(Buffer.concat([first.value as Buffer, rest]).equals(all)).toBe(true);
  });

  test.each(['chunk', 'object'])(
    'R2 a lost %s is an error and neither a short log nor an endless read',
    async (what) => {
      const holder = await heldAttempt();
      const all = await fill(holder, [Buffer.from('aaa'), Buffer.from('bbb')]);
      await end(holder);
      if (what === 'object') await compressLog({ db, blobs }, { ...holder, bytes: all.length });
      for (const name of blobsOf(holder)) await blobs.remove(`logs/${name}`);

      await expect(slice(holder, 0, all.length)).rejects.toMatchObject({ reason: 'not-found' });
    },
  );

  test('R2 an index that does not reach the end is an error and neither a short log nor an endless read', async () => {
    const holder = await heldAttempt();
    await fill(holder, [Buffer.from('aaa')]);
    await end(holder);
    await replaceChunks(db, { runId: holder.runId, attempt: 1, index: { blob: 'logs/none', blocks: [] } });

    await expect(slice(holder, 0, 3)).rejects.toThrow('bytes 0 to 3');
  });

  test('R2 whatever is appended, repeated or doubled, every range gives exactly the bytes, before and after compression', async () => {
    const writers = fc.record({
      parts: fc.array(fc.uint8Array({ minLength: 1, maxLength: 3_000 }), { minLength: 1, maxLength: 8 }),
      /** How each part is sent: once, twice in a row, twice at once, or after a part that begins too early. */
      ways: fc.array(fc.constantFrom('once', 'twice', 'at once', 'too early'), { minLength: 8, maxLength: 8 }),
      ranges: fc.array(
        fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.double({ min: 0, max: 1, noNaN: true })),
        {
          minLength: 1,
          maxLength: 5,
        },
      ),
    });
    await fc.assert(
      fc.asyncProperty(writers, async ({ parts, ways, ranges }) => {
        const holder = await heldAttempt();
        let at = 0;
        for (const [index, part] of parts.entries()) {
          const send = (startByte: number, bytes = Buffer.from(part)) =>
            appendLog({ db, blobs }, holder, { startByte, bytes });
          if (ways[index] === 'too early') await send(at + 1);
          await Promise.all(ways[index] === 'at once' ? [send(at), send(at)] : [send(at)]);
          if (ways[index] === 'twice') await send(at);
          at += part.length;
        }
        const all = Buffer.concat(parts);
        const wanted = ranges.map(([a, b]) =>
          [a, b].map((part) => Math.round(part * all.length)).sort((x, y) => x - y),
        );
        const expectAll = async (): Promise<void> => {
          for (const [from, to] of wanted) {
            expect((await slice(holder, from!, to!)).equals(all.subarray(from, to))).toBe(true);
          }
        };

        await expectAll();
        await end(holder);
        await compressLog({ db, blobs }, { ...holder, bytes: all.length });
        await expectAll();
        expect(blobsOf(holder)).toHaveLength(1);
      }),
      { numRuns: 30 },
    );
  }, 60_000);
});

describe('output of a container', () => {
  const frame = (payload: Uint8Array, stream = 1): Buffer => {
    const header = Buffer.alloc(8);
    header[0] = stream;
    header.writeUInt32BE(payload.length, 4);
    return Buffer.concat([header, payload]);
  };

  const varint = (value: number): Buffer => {
    const bytes = [];
    for (let rest = value; ; rest = Math.floor(rest / 128)) {
      if (rest < 128) return Buffer.from([...bytes, rest]);
      bytes.push((rest % 128) | 0x80);
    }
  };
  const text = (tag: number, value: Uint8Array): Buffer =>
    Buffer.concat([Buffer.from([tag]), varint(value.length), value]);

  interface Line {
    bytes: Uint8Array;
    /** Pieces that the engine cuts a long line into; only the last ends it. */
    partial: 'none' | 'first' | 'last' | 'old';
  }
  const record = ({ bytes, partial }: Line): Buffer => {
    const meta = partial === 'last' ? [0x08, 1, 0x12, 2, 65, 66, 0x18, 2] : [0x12, 2, 65, 66, 0x18, 1];
    const entry = Buffer.concat([
      text(0x0a, Buffer.from('stdout')),
      Buffer.concat([Buffer.from([0x10]), varint(1_790_000_000_000_000)]),
      ...(bytes.length > 0 ? [text(0x1a, bytes)] : []),
      ...(partial === 'none' ? [] : [Buffer.from([0x20, 1])]),
      ...(partial === 'first' || partial === 'last' ? [text(0x2a, Buffer.from(meta))] : []),
    ]);
    const size = Buffer.alloc(4);
    size.writeUInt32BE(entry.length);
    return Buffer.concat([size, entry, size]);
  };
  const printed = (lines: readonly Line[]): Buffer =>
    Buffer.concat(
      lines.flatMap(({ bytes, partial }) =>
        partial === 'none' || partial === 'last' ? [bytes, Buffer.from('\n')] : [bytes],
      ),
    );

  const split = (bytes: Buffer, cuts: readonly number[]): Buffer[] => {
    const places = [...new Set(cuts.map((cut) => Math.round(cut * bytes.length)))].sort((a, b) => a - b);
    return [0, ...places].map((from, at) => bytes.subarray(from, places[at] ?? bytes.length));
  };
  const feed = (reader: LogReader, parts: readonly Buffer[]): Buffer =>
    Buffer.concat(parts.map((part) => Buffer.from(reader.read(part))));
  const cuts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 40 });
  const payload = fc.uint8Array({ maxLength: 300 });

  test('R2 frames cut at any place give the payload of both streams, byte for byte', () => {
    const frames = fc.array(fc.tuple(payload, fc.constantFrom(1, 2)), { maxLength: 12 });
    fc.assert(
      fc.property(frames, cuts, (made, places) => {
        const input = Buffer.concat(made.map(([bytes, stream]) => frame(bytes, stream)));

        expect(feed(new FrameReader(), split(input, places))).toEqual(Buffer.concat(made.map(([bytes]) => bytes)));
      }),
    );
  });

  test('R2 frames fed one byte at a time give the same', () => {
    const input = Buffer.concat([
      frame(Buffer.from('hello ')),
      frame(Buffer.alloc(0)),
      frame(Buffer.from('world\n'), 2),
    ]);

    expect(
      String(
        feed(
          new FrameReader(),
          [...input].map((byte) => Buffer.from([byte])),
        ),
      ),
    ).toBe('hello world\n');
  });

  test('R2 records cut at any place give the lines as they were printed, partial ones joined', () => {
    const lines = fc.array(
      fc.record({ bytes: payload, partial: fc.constantFrom<Line['partial']>('none', 'first', 'last', 'old') }),
      { maxLength: 12 },
    );
    fc.assert(
      fc.property(lines, cuts, (made, places) => {
        const reader = new RecordReader();

        expect(feed(reader, split(Buffer.concat(made.map(record)), places))).toEqual(printed(made));
        expect(reader.isBroken).toBe(false);
      }),
    );
  });

  test('R2 a line of 40 KiB that the engine cut into pieces comes out as one', () => {
    const line = randomBytes(40 * 1024).map((byte) => (byte === 10 ? 11 : byte));
    const pieces: Line[] = [
      { bytes: line.subarray(0, 16_384), partial: 'first' },
      { bytes: line.subarray(16_384, 32_768), partial: 'first' },
      { bytes: line.subarray(32_768), partial: 'last' },
    ];

    expect(feed(new RecordReader(), [Buffer.concat(pieces.map(record))])).toEqual(
      Buffer.concat([line, Buffer.from('\n')]),
    );
  });

  test.each<[string, (good: Buffer) => Buffer]>([
    ['a size of nothing', () => Buffer.alloc(12)],
    ['a size beyond any line', () => Buffer.from([0x7f, 0, 0, 0, 1, 2, 3, 4])],
    ['a size that is not repeated', (good) => Buffer.concat([good.subarray(0, -1), Buffer.from([good.at(-1)! ^ 1])])],
    ['a field of a type we do not know', () => Buffer.from([0, 0, 0, 2, 0x0d, 0, 0, 0, 0, 2])],
    ['text', () => Buffer.from('{"log":"hello\\n","stream":"stdout"}\n')],
  ])('R2 %s is noticed as another format, after every line before it was given', (_what, damage) => {
    const reader = new RecordReader();
    const good = record({ bytes: Buffer.from('good'), partial: 'none' });

    expect(String(feed(reader, [good, damage(good)]))).toBe('good\n');
    expect(reader.isBroken).toBe(true);
    expect(String(reader.read(good))).toBe('');
  });

  test('R2 a log that somebody shortens while it is read has a gap on record, and what is written afterwards comes whole', async () => {
    const logFile = join(folder, `${randomUUID()}.log`);
    const lines = (from: number, to: number): Buffer =>
      Buffer.concat(
        Array.from({ length: to - from }, (_, at) =>
          record({ bytes: Buffer.from(`line ${from + at}`), partial: 'none' }),
        ),
      );
    const facts: string[] = [];
    let end = (): void => undefined;
    const exited = new Promise<void>((done) => (end = done));
    const { signal } = new AbortController();
    const unreadFile = join(folder, 'none');
    const container = { name: 'n', logFile, beginning: null } as unknown as FoundContainer;
    const follow = { fromByte: 0, signal, exited, unreadFile, onFact: (fact: string) => facts.push(fact) };
    writeFileSync(logFile, lines(0, 3));
    const read: string[] = [];
    const reading = (async () => {
      for await (const bytes of followContainer(undefined as never, container, follow)) read.push(bytes.toString());
    })();
    const seen = (line: string) => waitFor(() => read.join('').includes(line), { what: `${line} is read` });
    await seen('line 2');
    truncateSync(logFile, 0);
    appendFileSync(logFile, lines(7, 8));
    await seen('line 7');
    // Shortened and longer than before at the next look.
    writeFileSync(logFile, lines(20, 40));
    await seen('line 39');
    end();
    await reading;
    const whole = (from: number, to: number) =>
      Array.from({ length: to - from }, (_, at) => `line ${from + at}\n`).join('');

    expect(read.join('')).toBe(whole(0, 3) + whole(7, 8) + whole(20, 40));
    expect(facts).toEqual(['damaged', 'damaged']);
    writeFileSync(logFile, lines(0, 1));
    const more = { ...follow, fromByte: whole(0, 3).length };
    expect(await collect(followContainer(undefined as never, container, more))).toEqual(Buffer.alloc(0));
    expect(facts).toHaveLength(3);
  });
});
