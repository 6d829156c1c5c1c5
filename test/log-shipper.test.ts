// Proves the way of output to its log at home: each byte once and in order, whatever source and destination do.
// Source and destination are scripted; nothing real is started.
import fc from 'fast-check';
import { shipLog } from '../activities/log-shipper';

const HELD_BYTES = 4 * 1024 * 1024;

async function* sourceOf(parts: readonly Uint8Array[]): AsyncGenerator<Buffer> {
  for (const part of parts) yield Buffer.from(part);
}

/**
 * How the destination takes an append: as it should, only a part of it, with the reply lost (so that the caller repeats
 * it), not at all, or after somebody else (another supervisor of the same container) has put more of the same there.
 */
type Mood = 'well' | 'partly' | 'reply-lost' | 'not' | 'overtaken';
const MOODS: Mood[] = ['well', 'well', 'partly', 'reply-lost', 'not', 'overtaken'];

/** A log that knows what it must become, and what was put where. */
class Destination {
  bytes: Buffer;
  readonly sizes: number[] = [];
  private calls = 0;

  constructor(
    private readonly whole: Buffer,
    fromByte: number,
    private readonly moods: readonly Mood[],
  ) {
    this.bytes = whole.subarray(0, fromByte);
  }

  append = async (startByte: number, bytes: Buffer): Promise<number> => {
    await Promise.resolve();
    this.sizes.push(bytes.length);
    const mood = this.moods[this.calls] ?? 'well';
    this.calls += 1;
    if (mood === 'overtaken') {
      this.bytes = this.whole.subarray(0, Math.max(this.bytes.length, Math.min(startByte + 700, this.whole.length)));
    }
    if (mood === 'not') return this.bytes.length;
    const taken = mood === 'partly' ? bytes.subarray(0, Math.ceil(bytes.length / 2)) : bytes;
    // As the real one: nothing but an append at the very end is taken.
    if (startByte === this.bytes.length) this.bytes = Buffer.concat([this.bytes, taken]);
    // The client of the API repeats a call without a reply, and hears then where the log ends.
    return mood === 'reply-lost' ? this.append(startByte, bytes) : this.bytes.length;
  };
}

const cases = fc.record({
  parts: fc.array(fc.uint8Array({ maxLength: 2_000 }), { maxLength: 12 }),
  before: fc.uint8Array({ maxLength: 50 }),
  moods: fc.array(fc.constantFrom(...MOODS), { maxLength: 30 }),
});

test('R2 whatever pieces come and however appends are answered, each byte arrives once and in order', async () => {
  await fc.assert(
    fc.asyncProperty(cases, async ({ parts, before, moods }) => {
      const whole = Buffer.concat([before, ...parts]);
      const destination = new Destination(whole, before.length, moods);

      const end = await shipLog({ source: sourceOf(parts), append: destination.append }, before.length);

      expect(destination.bytes.equals(whole)).toBe(true);
      expect(end).toBe(whole.length);
    }),
    { numRuns: 200 },
  );
});

test('R2 when another supervisor is far ahead, what it has sent is passed over and not sent again', async () => {
  const whole = Buffer.from('0123456789');
  const destination = new Destination(whole, 0, []);
  destination.bytes = whole.subarray(0, 8);

  const end = await shipLog({ source: sourceOf([whole]), append: destination.append }, 0);

  expect(end).toBe(10);
  expect(String(destination.bytes)).toBe('0123456789');
  expect(destination.sizes).toEqual([10, 2]);
});

test('R2 a source that ends at once, or gives nothing but empty pieces, ships nothing', async () => {
  const destination = new Destination(Buffer.from('abc'), 3, []);

  expect(await shipLog({ source: sourceOf([]), append: destination.append }, 3)).toBe(3);
  expect(await shipLog({ source: sourceOf([Buffer.alloc(0)]), append: destination.append }, 3)).toBe(3);
  expect(destination.sizes).toEqual([]);
});

test('R2 a refused append is thrown, and the source is not read to its end', async () => {
  let given = 0;
  async function* endless(): AsyncGenerator<Buffer> {
    for (;;) {
      given += 1;
      yield Buffer.alloc(1024 * 1024);
    }
  }
  const append = () => Promise.reject(new Error('fenced'));

  await expect(shipLog({ source: endless(), append }, 0)).rejects.toThrow('fenced');
  expect(given).toBeLessThan(16);
});

test('R2 a refused append is thrown once a source that had nothing more to say ends', async () => {
  let letGo: () => void = () => undefined;
  const quiet = new Promise<void>((done) => (letGo = done));
  async function* silent(): AsyncGenerator<Buffer> {
    yield Buffer.from('x');
    await quiet;
  }
  const append = () => {
    // What the supervisor does on a refusal: it stops following.
    letGo();
    return Promise.reject(new Error('fenced'));
  };

  await expect(shipLog({ source: silent(), append }, 0)).rejects.toThrow('fenced');
});

test('R2 a source that breaks off is an error and not the end of the log', async () => {
  async function* breaking(): AsyncGenerator<Buffer> {
    yield Buffer.from('before');
    throw new Error('engine is gone');
  }
  const destination = new Destination(Buffer.from('before'), 0, []);

  await expect(shipLog({ source: breaking(), append: destination.append }, 0)).rejects.toThrow('engine is gone');
});

test('R2 a log that is shorter than what was sent is an error and not sent again', async () => {
  const append = async (startByte: number): Promise<number> => startByte - 1;

  await expect(shipLog({ source: sourceOf([Buffer.from('abc')]), append }, 5)).rejects.toThrow('shrank from 5 to 4');
});

test('R2 while the destination stands still, no more is read than is held at most and one piece', async () => {
  const pieceBytes = 300_000;
  let readBytes = 0;
  async function* endless(): AsyncGenerator<Buffer> {
    for (let count = 0; count < 100; count += 1) {
      readBytes += pieceBytes;
      yield Buffer.alloc(pieceBytes);
    }
  }
  let sentBytes = 0;
  let mostHeld = 0;
  const append = async (startByte: number, bytes: Buffer): Promise<number> => {
    // Everything that can be read while this append is under way is read in these turns.
    for (let turn = 0; turn < 50; turn += 1) await Promise.resolve();
    mostHeld = Math.max(mostHeld, readBytes - sentBytes - bytes.length);
    sentBytes += bytes.length;
    return startByte + bytes.length;
  };

  expect(await shipLog({ source: endless(), append }, 0)).toBe(100 * pieceBytes);

  expect(mostHeld).toBeGreaterThan(HELD_BYTES / 2);
  expect(mostHeld).toBeLessThanOrEqual(HELD_BYTES + pieceBytes);
});

test('R2 no append is larger than 2 MiB, and a piece that is larger is cut', async () => {
  const sizes: number[] = [];
  const append = async (startByte: number, bytes: Buffer): Promise<number> => {
    sizes.push(bytes.length);
    return startByte + bytes.length;
  };

  await shipLog({ source: sourceOf([Buffer.alloc(2_500_000)]), append }, 0);

  expect(sizes).toEqual([2 * 1024 * 1024, 2_500_000 - 2 * 1024 * 1024]);
});
