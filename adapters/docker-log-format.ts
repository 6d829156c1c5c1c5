// Owns the two byte formats a container's output comes in: API frames and the records of the `local` log driver.
// Pure; called by docker-log.ts. Each reader is fed parts of any size and gives the payload bytes.

export interface LogReader {
  read(part: Buffer): Buffer;
}

/** API stream: 8 bytes of header (stream, 0, 0, 0, size as uint32 big endian), then the payload. */
export class FrameReader implements LogReader {
  private rest: Buffer = Buffer.alloc(0);
  private inPayload = 0;

  read(part: Buffer): Buffer {
    const input = this.rest.length > 0 ? Buffer.concat([this.rest, part]) : part;
    const output = Buffer.allocUnsafe(input.length);
    let at = 0;
    let size = 0;
    for (;;) {
      const take = Math.min(this.inPayload, input.length - at);
      size += input.copy(output, size, at, at + take);
      at += take;
      this.inPayload -= take;
      if (this.inPayload > 0 || input.length - at < 8) break;
      this.inPayload = input.readUInt32BE(at + 4);
      at += 8;
    }
    this.rest = Buffer.from(input.subarray(at));
    return output.subarray(0, size);
  }
}

const NEWLINE = 10;
const FIELD_LINE = 0x1a;
const FIELD_PARTIAL = 0x20;
const FIELD_PARTIAL_META = 0x2a;
/** Above this a record cannot be the engine's (it splits lines at 16 KiB): the file is something else. */
const MAX_RECORD_BYTES = 1024 * 1024;

/**
 * Log file of the `local` driver: size (uint32 big endian), a protobuf LogEntry {1 source, 2 time, 3 line, 4 partial,
 * 5 partial metadata {1 last, …}}, the size again. The newline is not stored; a partial entry has none but the last.
 */
export class RecordReader implements LogReader {
  private rest: Buffer = Buffer.alloc(0);
  /** The file is not in the known format; what was given until then is right. */
  isBroken = false;

  read(part: Buffer): Buffer {
    const input = this.rest.length > 0 ? Buffer.concat([this.rest, part]) : part;
    const output = Buffer.allocUnsafe(input.length + 1);
    let at = 0;
    let size = 0;
    while (!this.isBroken && input.length - at >= 4) {
      const length = input.readUInt32BE(at);
      if (length === 0 || length > MAX_RECORD_BYTES) this.isBroken = true;
      if (this.isBroken || input.length - at < length + 8) break;
      if (input.readUInt32BE(at + 4 + length) !== length) this.isBroken = true;
      else size = this.copyLine(input.subarray(at + 4, at + 4 + length), output, size);
      at += length + 8;
    }
    this.rest = Buffer.from(input.subarray(Math.min(at, input.length)));
    return output.subarray(0, size);
  }

  private copyLine(entry: Buffer, output: Buffer, size: number): number {
    let at = 0;
    let end = size;
    let isOpen = false;
    while (at < entry.length) {
      const tag = entry[at] ?? 0;
      at += 1;
      const value = readVarint(entry, at);
      at = value.next;
      if (tag === FIELD_PARTIAL) isOpen = value.number !== 0 || isOpen;
      if ((tag & 7) === 0) continue;
      if ((tag & 7) !== 2) return this.giveUp(size);
      if (tag === FIELD_LINE) end += entry.copy(output, size, at, at + value.number);
      if (tag === FIELD_PARTIAL_META) isOpen = !isLast(entry.subarray(at, at + value.number));
      at += value.number;
    }
    if (!isOpen) output[end++] = NEWLINE;
    return end;
  }

  private giveUp(size: number): number {
    this.isBroken = true;
    return size;
  }
}

/** First field of the metadata, a bool that is left out when false. */
function isLast(meta: Buffer): boolean {
  return meta[0] === 0x08 && meta[1] === 1;
}

function readVarint(bytes: Buffer, from: number): { number: number; next: number } {
  let number = 0;
  let factor = 1;
  let at = from;
  for (;;) {
    const byte = bytes[at] ?? 0;
    at += 1;
    number += (byte & 0x7f) * factor;
    if (byte < 0x80 || at >= bytes.length) return { number, next: at };
    factor *= 128;
  }
}
