// Owns the part of a log that is loaded: a contiguous range of bytes as lines, growing at both ends, bounded in size.
// Called by session.ts (grows it), search.ts and the view (read it). No I/O.
import {
  cutBefore,
  decodeOpenText,
  decodeText,
  firstLineStart,
  invisibleBytes,
  MAX_LINE_BYTES,
  splitLines,
  toVisible,
} from './lines';

/** Beyond either, the end that the reader is not at is forgotten. Lines also keep the list below Chromium's tallest element. */
const MAX_LINES = 250_000;
const MAX_BYTES = 64 * 1_048_576;
/** Lines are kept in pieces of about this size, the unit of forgetting. */
const SEGMENT_BYTES = 1_048_576;
/** From here on an unfinished line drops what its carriage returns have overwritten. */
const OPEN_TRIM_BYTES = 65_536;

export interface Segment {
  texts: string[];
  /** Byte of the log at which each line begins. */
  starts: number[];
}

export interface LogLine {
  text: string;
  startByte: number;
  endByte: number;
}

/** The last line while no newline has ended it yet. */
interface OpenLine {
  startByte: number;
  /** Bytes after `startByte` that are dropped because a carriage return made them invisible. */
  droppedBytes: number;
  bytes: Uint8Array;
  text: string;
}

export interface Place {
  segment: Segment;
  /** Index of the segment among `segments`. */
  at: number;
  /** Index of the line inside it. */
  line: number;
}

const openAt = (startByte: number): OpenLine => ({ startByte, droppedBytes: 0, bytes: new Uint8Array(), text: '' });

function join(a: Uint8Array, b: Uint8Array): Uint8Array {
  if (a.length === 0) return b;
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

/**
 * Lines are addressed by ordinal: the first line of the window as opened is 0, lines loaded above it are negative.
 * An ordinal never changes while the window grows or forgets; an index into what is loaded does.
 */
export class LogWindow {
  segments: Segment[] = [];
  startByte = 0;
  /** First byte that is not loaded. */
  endByte = 0;
  firstOrdinal = 0;
  /** Line number of ordinal 0, from 1; null while the lines before the window have not been counted. */
  zeroNumber: number | null = null;
  private closedLines = 0;
  private open: OpenLine = openAt(0);

  /** Begins anew with bytes from the middle or the start of the log; a first line without its beginning is left out. */
  reset(bytes: Uint8Array, startByte: number): void {
    const skip = startByte === 0 ? 0 : firstLineStart(bytes);
    this.segments = [];
    this.closedLines = 0;
    this.firstOrdinal = 0;
    this.startByte = startByte + skip;
    this.endByte = this.startByte;
    this.zeroNumber = startByte === 0 ? 1 : null;
    this.open = openAt(this.startByte);
    this.append(bytes.subarray(skip));
  }

  get lineCount(): number {
    return this.closedLines + (this.open.bytes.length > 0 ? 1 : 0);
  }

  get isFull(): boolean {
    return this.closedLines > MAX_LINES || this.endByte - this.startByte > MAX_BYTES;
  }

  /** `bytes` begin at `endByte`. */
  append(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.endByte += bytes.length;
    const { startByte, droppedBytes } = this.open;
    const joined = join(this.open.bytes, bytes);
    const { texts, starts, restAt } = splitLines(joined);
    const base = startByte + droppedBytes;
    if (texts.length > 0) {
      const absolute = starts.map((start, index) => (index === 0 ? startByte : base + start));
      this.pushLines({ texts, starts: absolute });
      this.open = openAt(base + restAt);
    }
    this.setOpen(joined.subarray(restAt));
    this.forget('start');
  }

  /** `bytes` end at `startByte`; those before the first line start in them are left out, to be read again later. */
  prepend(bytes: Uint8Array): void {
    const fromByte = this.startByte - bytes.length;
    const skip = fromByte === 0 ? 0 : firstLineStart(bytes);
    const { texts, starts, restAt } = splitLines(bytes.subarray(skip));
    const base = fromByte + skip;
    const absolute = starts.map((start) => base + start);
    if (skip + restAt < bytes.length) {
      // A line longer than one read: its parts are shown as lines of their own.
      texts.push(toVisible(decodeText(bytes.subarray(skip + restAt))));
      absolute.push(base + restAt);
    }
    this.segments.unshift({ texts, starts: absolute });
    this.closedLines += texts.length;
    this.firstOrdinal -= texts.length;
    this.startByte = base;
    if (base === 0) this.zeroNumber = 1 - this.firstOrdinal;
    this.forget('end');
  }

  /** Where the line with this index (0 = first loaded) is; null for the open line and beyond. */
  place(index: number): Place | null {
    let left = index;
    for (const [at, segment] of this.segments.entries()) {
      if (left < segment.texts.length) return { segment, at, line: left };
      left -= segment.texts.length;
    }
    return null;
  }

  line(index: number): LogLine {
    const place = this.place(index);
    if (place === null) return { text: this.open.text, startByte: this.open.startByte, endByte: this.endByte };
    const { segment, at, line } = place;
    const next = segment.starts[line + 1] ?? this.segments[at + 1]?.starts[0] ?? this.open.startByte;
    return { text: segment.texts[line] ?? '', startByte: segment.starts[line] ?? 0, endByte: next };
  }

  /** Index of the line that holds this byte, clipped to what is loaded. */
  indexOfByte(byte: number): number {
    let low = 0;
    let high = Math.max(0, this.lineCount - 1);
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.line(middle).startByte <= byte) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Line number from 1, or null while unknown. */
  numberOf(index: number): number | null {
    return this.zeroNumber === null ? null : this.zeroNumber + this.firstOrdinal + index;
  }

  /** The unfinished line, which search and view treat as any other. */
  get openText(): string | null {
    return this.open.bytes.length > 0 ? this.open.text : null;
  }

  private pushLines(lines: Segment): void {
    this.closedLines += lines.texts.length;
    const last = this.segments.at(-1);
    const first = last?.starts[0];
    if (last === undefined || first === undefined || (lines.starts[0] ?? 0) - first > SEGMENT_BYTES) {
      this.segments.push(lines);
      return;
    }
    // Not push(...lines): a chunk may hold more lines than a call may have arguments.
    for (const text of lines.texts) last.texts.push(text);
    for (const start of lines.starts) last.starts.push(start);
  }

  private setOpen(bytes: Uint8Array): void {
    let rest = bytes;
    if (rest.length > OPEN_TRIM_BYTES) {
      const invisible = invisibleBytes(rest);
      this.open.droppedBytes += invisible;
      rest = rest.slice(invisible);
    }
    while (rest.length > MAX_LINE_BYTES) {
      const cut = cutBefore(rest, MAX_LINE_BYTES);
      this.pushLines({ texts: [toVisible(decodeText(rest.subarray(0, cut)))], starts: [this.open.startByte] });
      this.open = openAt(this.open.startByte + this.open.droppedBytes + cut);
      rest = rest.slice(cut);
    }
    this.open.bytes = rest;
    this.open.text = toVisible(decodeOpenText(rest));
  }

  private forget(side: 'start' | 'end'): void {
    while (this.segments.length > 1 && this.isFull) {
      if (side === 'start') this.forgetFirst();
      else this.forgetLast();
    }
  }

  private forgetFirst(): void {
    const count = this.segments.shift()?.texts.length ?? 0;
    this.closedLines -= count;
    this.firstOrdinal += count;
    this.startByte = this.segments[0]?.starts[0] ?? this.startByte;
  }

  private forgetLast(): void {
    const gone = this.segments.pop();
    this.closedLines -= gone?.texts.length ?? 0;
    this.endByte = gone?.starts[0] ?? this.endByte;
    this.open = openAt(this.endByte);
  }
}
