// Proves what is kept of a log that is too long: the same bytes whoever ships them, from wherever he takes over.
// Pure; the real thing, with a worker that is killed, is in logs-come-home.test.ts.
import fc from 'fast-check';
import { capLog, capOf } from '../activities/log-cap';

const CAP = { headBytes: 40, tailBytes: 10 };

/** Text whose every byte tells its place. */
const output = (size: number): Buffer => Buffer.from(Array.from({ length: size }, (_, at) => 97 + ((at * 7) % 26)));

async function* inPieces(bytes: Buffer, sizes: readonly number[]): AsyncGenerator<Buffer> {
  for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
    const size = sizes[turn % sizes.length] ?? 1;
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

async function logOf(raw: Buffer, sizes: readonly number[], fromByte = 0) {
  const source = inPieces(raw.subarray(Math.min(fromByte, CAP.headBytes)), sizes);
  const capped = capLog(source, CAP, fromByte);
  const parts: Buffer[] = [];
  for await (const part of capped.bytes) parts.push(part);
  return { text: Buffer.concat(parts).toString(), lost: capped.lost() };
}

const NOTICE = '\n[slipway: the log reached its cap of 50 bytes; at most its last 10 follow when the run ends]\n';

test('R2 a log up to its head is the output itself', async () => {
  expect(await logOf(output(40), [7])).toEqual({ text: output(40).toString(), lost: undefined });
});

test('R2 a log that is a little longer lacks nothing', async () => {
  const raw = output(50).toString();
  expect(await logOf(output(50), [7])).toEqual({ text: raw.slice(0, 40) + NOTICE + raw.slice(40), lost: undefined });
});

test('R2 a longer log keeps its beginning and its end, says between them how much is missing, and reports the gap', async () => {
  const raw = output(1_000).toString();
  expect(await logOf(output(1_000), [64])).toEqual({
    text: `${raw.slice(0, 40)}${NOTICE}[slipway: 950 bytes are left out here]\n${raw.slice(-10)}`,
    lost: { atByte: 40 + NOTICE.length, lostBytes: 950 },
  });
});

test('R2 whoever takes over at any byte of the log, with the output in any pieces, adds exactly the rest', async () => {
  const sizes = fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 5 });
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 0, max: 300 }),
      sizes,
      sizes,
      fc.double({ min: 0, max: 1, noNaN: true }),
      async (...of) => {
        const [size, first, second, share] = of;
        const whole = await logOf(output(size), first);
        const at = Math.floor(share * whole.text.length);
        const rest = await logOf(output(size), second, at);

        expect(whole.text.slice(0, at) + rest.text).toBe(whole.text);
        expect(rest.lost).toEqual(whole.lost);
      },
    ),
    { numRuns: 500 },
  );
});

test('R2 the tail takes a quarter of a small cap and never more than a mebibyte', () => {
  expect(capOf(4096)).toEqual({ headBytes: 3072, tailBytes: 1024 });
  expect(capOf(512 * 1024 * 1024)).toEqual({ headBytes: 511 * 1024 * 1024, tailBytes: 1024 * 1024 });
});
