// Owns the proof that the page shows every byte of a log once, however it arrives and wherever it is opened.
// Run by jest.
import fc from 'fast-check';
import { afterNewline, countNewlines, firstLineStart, toVisible } from '../web/src/log/lines';
import { LogSearch, stepMatch } from '../web/src/log/search';
import { escapeBefore } from '../web/src/log/styles';
import { targetOf } from '../web/src/log/target';
import { LogWindow } from '../web/src/log/window';

const encode = (text: string): Uint8Array => new TextEncoder().encode(text);

const textsOf = (window: LogWindow): string[] =>
  Array.from({ length: window.lineCount }, (_, at) => window.line(at).text);

/** What a reader must see: lines split at newlines, the last one only when it is not empty. */
function expectedLines(text: string): string[] {
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  return lines.map(toVisible);
}

const logText = fc
  .array(fc.oneof(fc.constantFrom('\n', '\r', 'ž', '🚢', '\x1b[31m', 'a b'), fc.string({ maxLength: 12 })), {
    maxLength: 60,
  })
  .map((parts) => parts.join('').replaceAll('\u0000', ''));

describe('U1 the log window', () => {
  it('U1 shows the same lines however the bytes are cut into chunks', () => {
    fc.assert(
      fc.property(logText, fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 40 }), (text, sizes) => {
        const bytes = encode(text);
        const window = new LogWindow();
        window.reset(new Uint8Array(), 0);
        for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
          const size = sizes[turn % sizes.length] ?? 1;
          window.append(bytes.subarray(at, at + size));
          at += size;
        }
        expect(textsOf(window)).toEqual(expectedLines(new TextDecoder().decode(bytes)));
        expect(window.endByte).toBe(bytes.length);
      }),
    );
  });

  it('U1 shows every line once when it is opened in the middle and grown upwards', () => {
    fc.assert(
      fc.property(logText, fc.nat(400), fc.integer({ min: 30, max: 90 }), (text, from, step) => {
        const bytes = encode(text.replaceAll('\r', ''));
        const startByte = Math.min(from, bytes.length);
        const window = new LogWindow();
        window.reset(bytes.subarray(startByte), startByte);
        for (let guard = 0; window.startByte > 0 && guard < 500; guard += 1) {
          const offset = Math.max(0, window.startByte - step * (guard + 1));
          window.prepend(bytes.subarray(offset, window.startByte));
        }
        // A line longer than one read is shown in parts, so parts are joined before comparing.
        expect(textsOf(window).join('')).toBe(expectedLines(new TextDecoder().decode(bytes)).join(''));
      }),
    );
  });

  it('U1 keeps the numbers of lines while lines are added above', () => {
    const bytes = encode(Array.from({ length: 100 }, (_, at) => `line ${at + 1}\n`).join(''));
    const window = new LogWindow();
    window.reset(bytes.subarray(500), 500);
    const firstText = window.line(0).text;
    expect(window.numberOf(0)).toBeNull();
    window.prepend(bytes.subarray(0, window.startByte));
    const index = textsOf(window).indexOf(firstText);
    expect(`line ${window.numberOf(index)}`).toBe(firstText);
    expect(window.numberOf(0)).toBe(1);
  });

  it('U1 says at which byte each line begins, so that a link to it opens the same line', () => {
    const text = 'one\nžwei\r\nlast line';
    const window = new LogWindow();
    window.reset(encode(text), 0);
    const bytes = encode(text);
    const parts = [0, 1, 2].map((at) => {
      const { startByte, endByte } = window.line(at);
      return new TextDecoder().decode(bytes.subarray(startByte, endByte));
    });
    expect(parts).toEqual(['one\n', 'žwei\r\n', 'last line']);
    expect([0, 3, 4, 9, 11, 20].map((byte) => window.indexOfByte(byte))).toEqual([0, 0, 1, 1, 2, 2]);
  });

  it('U1 forgets the far end of a log that is larger than the page keeps', () => {
    const line = encode(`${'x'.repeat(99)}\n`);
    const chunk = new Uint8Array(line.length * 10_000);
    for (let at = 0; at < 10_000; at += 1) chunk.set(line, at * line.length);
    const window = new LogWindow();
    window.reset(chunk, 0);
    for (let turn = 0; turn < 80; turn += 1) window.append(chunk);
    expect(window.endByte).toBe(81 * chunk.length);
    expect(window.endByte - window.startByte).toBeLessThanOrEqual(65 * 1_048_576);
    expect(window.numberOf(0)).toBe(window.startByte / line.length + 1);
  });

  it('U1 keeps only the last state of a progress bar that never ends its line', () => {
    const window = new LogWindow();
    window.reset(new Uint8Array(), 0);
    for (let at = 0; at < 30_000; at += 1) window.append(encode(`\rdownloaded ${at}`));
    expect(textsOf(window)).toEqual(['downloaded 29999']);
    window.append(encode('\nnext\n'));
    expect(textsOf(window)).toEqual(['downloaded 29999', 'next']);
    expect(window.line(0).startByte).toBe(0);
    expect(window.line(1).endByte).toBe(window.endByte);
  });

  it('U1 cuts a line without end, but never inside a character', () => {
    const bytes = encode('ž'.repeat(1_500_000));
    const window = new LogWindow();
    window.reset(new Uint8Array(), 0);
    for (let at = 0; at < bytes.length; at += 65_537) window.append(bytes.subarray(at, at + 65_537));
    expect(window.lineCount).toBeGreaterThan(1);
    expect(textsOf(window).join('')).toBe('ž'.repeat(1_500_000));
  });
});

describe('U1 lines', () => {
  it('U1 begins a window at the first whole line, or the first whole character', () => {
    expect(firstLineStart(encode('tail\nline\n'))).toBe(5);
    expect(firstLineStart(encode('ž').subarray(1))).toBe(1);
  });

  it('U1 finds the byte after the n-th newline', () => {
    const bytes = encode('a\nb\nc');
    expect(countNewlines(bytes)).toBe(2);
    expect([0, 1, 2, 3].map((count) => afterNewline(bytes, count))).toEqual([0, 2, 4, -1]);
  });

  it('U1 shows what a terminal would still show after carriage returns', () => {
    expect(['10 %\r20 %', 'done\r', 'a\rb\r\r', 'plain'].map(toVisible)).toEqual(['20 %', 'done', 'b', 'plain']);
  });
});

describe('U1 colours and search', () => {
  it('U1 carries a colour over the lines that follow until it is switched off', () => {
    const window = new LogWindow();
    window.reset(
      encode('\x1b[1;31mred\nstill\n\x1b[39monly bold\nbold\n\x1b[0mplain\nplain\n\x1b[38;5;208morange\nopen'),
      0,
    );
    const before = Array.from({ length: 8 }, (_, at) => escapeBefore(window, at));
    expect(before).toEqual(['', '\x1b[1;31m', '\x1b[1;31m', '\x1b[1m', '\x1b[1m', '', '', '\x1b[38;5;208m']);
  });

  it('U1 finds text across escapes, also in lines that arrive later, and steps round the end', () => {
    const window = new LogWindow();
    window.reset(encode('one \x1b[32mOK\x1b[0m two\nnothing\n'), 0);
    const search = new LogSearch('ok TWO');
    expect(search.matches(window).ordinals).toEqual([0]);
    window.append(encode('more\nok two at the open end'));
    const matches = search.matches(window);
    expect(matches.ordinals).toEqual([0, 3]);
    expect([
      stepMatch(matches, null, 1),
      stepMatch(matches, 0, 1),
      stepMatch(matches, 3, 1),
      stepMatch(matches, 0, -1),
    ]).toEqual([0, 3, 0, 3]);
  });

  it('U1 takes the search text literally', () => {
    const window = new LogWindow();
    window.reset(encode('a.b\naxb\n(\n'), 0);
    expect(new LogSearch('a.b').matches(window).ordinals).toEqual([0]);
    expect(new LogSearch('(').matches(window).ordinals).toEqual([2]);
  });

  it('U1 reads line and byte links, and opens anything else at the end', () => {
    expect(targetOf('#L123')).toEqual({ kind: 'line', number: 123 });
    expect(targetOf('#B4096')).toEqual({ kind: 'byte', byte: 4096 });
    expect(['', '#L0', '#main', '#L1x'].map((hash) => targetOf(hash).kind)).toEqual(['end', 'end', 'end', 'end']);
  });
});
