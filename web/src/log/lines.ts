// Owns turning the bytes of a log into lines: where each begins, its text, what of it a terminal would still show. Pure.
// Called by window.ts; failures.tsx uses it for last lines.
const NEWLINE = 0x0a;
const RETURN = 0x0d;

/** A line longer than this is cut into several for display; the bytes themselves are never changed. */
export const MAX_LINE_BYTES = 1_048_576;

/** A BOM is a byte of the log like any other. Bytes that are no UTF-8 are shown as U+FFFD. */
export const decodeText = (bytes: Uint8Array): string => new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);

/** The end of the text so far; a character of which only the first bytes have come is left out until the rest has. */
export const decodeOpenText = (bytes: Uint8Array): string =>
  new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes, { stream: true });

/** Progress bars rewrite their line after a carriage return: only the last state counts, as on a terminal. */
export function toVisible(line: string): string {
  if (!line.includes('\r')) return line;
  const text = line.replace(/\r+$/, '');
  return text.slice(text.lastIndexOf('\r') + 1);
}

export interface SplitLines {
  texts: string[];
  /** Byte at which each line begins, counted from the first byte given. */
  starts: number[];
  /** First byte that belongs to no complete line. */
  restAt: number;
}

/** Takes every complete line. A newline byte is never part of another UTF-8 character, so one decode serves all lines. */
export function splitLines(bytes: Uint8Array): SplitLines {
  const last = bytes.lastIndexOf(NEWLINE);
  if (last === -1) return { texts: [], starts: [], restAt: 0 };
  const text = decodeText(bytes.subarray(0, last));
  const lines = text.split('\n');
  const starts = [0];
  for (let at = bytes.indexOf(NEWLINE); at < last; at = bytes.indexOf(NEWLINE, at + 1)) starts.push(at + 1);
  return { texts: text.includes('\r') ? lines.map(toVisible) : lines, starts, restAt: last + 1 };
}

/** First byte that begins a line, for bytes read from the middle of a log; without any newline, the first whole character. */
export function firstLineStart(bytes: Uint8Array): number {
  const newline = bytes.indexOf(NEWLINE);
  if (newline !== -1 && newline < bytes.length - 1) return newline + 1;
  const isContinuation = (at: number): boolean => ((bytes[at] ?? 0) & 0xc0) === 0x80;
  let at = 0;
  while (at < 3 && isContinuation(at)) at += 1;
  return at;
}

/** Where to cut a line that never ends: at the limit, but not inside a character. */
export function cutBefore(bytes: Uint8Array, limit: number): number {
  let at = Math.min(limit, bytes.length);
  while (at > limit - 4 && at > 0 && ((bytes[at] ?? 0) & 0xc0) === 0x80) at -= 1;
  return at;
}

/** Bytes of an unfinished line that a later carriage return has made invisible. */
export function invisibleBytes(bytes: Uint8Array): number {
  const last = bytes.lastIndexOf(RETURN);
  if (last === -1) return 0;
  // A return with nothing after it has not overwritten anything yet.
  const hasText = last < bytes.length - 1;
  const from = hasText ? last : bytes.lastIndexOf(RETURN, last - 1);
  return from + 1;
}

export function countNewlines(bytes: Uint8Array): number {
  let count = 0;
  for (let at = bytes.indexOf(NEWLINE); at !== -1; at = bytes.indexOf(NEWLINE, at + 1)) count += 1;
  return count;
}

/** Byte just after the `count`-th newline, or -1 when there are fewer. */
export function afterNewline(bytes: Uint8Array, count: number): number {
  let at = -1;
  for (let left = count; left > 0; left -= 1) {
    at = bytes.indexOf(NEWLINE, at + 1);
    if (at === -1) return -1;
  }
  return at + 1;
}
