// Owns what a run's log keeps when it is too long: its beginning, its end, and how much is missing between them.
// Called by supervise.ts, between the engine's output and the shipper. A function of the whole output, so that whoever
// takes over in its middle makes the same bytes.

/** The end of a capped log that is kept, bytes at most. */
const TAIL_BYTES = 1024 * 1024;

export interface LogCap {
  /** What is kept of the beginning, and of the end. */
  headBytes: number;
  tailBytes: number;
}

/** @param capBytes size of a log from which on it is capped */
export function capOf(capBytes: number): LogCap {
  const tailBytes = Math.min(TAIL_BYTES, Math.floor(capBytes / 4));
  return { headBytes: capBytes - tailBytes, tailBytes };
}

export interface Capped {
  /** What was left out, once all has been read. */
  lost(): { atByte: number; lostBytes: number } | undefined;
  bytes: AsyncGenerator<Buffer>;
}

/**
 * The log of an output: the output itself, or when it is longer than the cap its head, a notice, and its tail.
 * @param source the output from byte `min(fromByte, cap.headBytes)` on
 * @param fromByte bytes of the log that are at home; what is given begins there
 */
export function capLog(source: AsyncIterable<Buffer>, cap: LogCap, fromByte: number): Capped {
  let lost: { atByte: number; lostBytes: number } | undefined;
  async function* log(): AsyncGenerator<Buffer> {
    const tail = new Tail(cap.tailBytes);
    let headLeft = Math.max(cap.headBytes - fromByte, 0);
    const skip = skipping(Math.max(fromByte - cap.headBytes, 0));
    let isOver = false;
    for await (const bytes of source) {
      const head = bytes.subarray(0, headLeft);
      headLeft -= head.length;
      if (head.length > 0) yield head;
      if (head.length === bytes.length) continue;
      if (!isOver) yield* skip(Buffer.from(sayCap(cap)));
      isOver = true;
      tail.add(bytes.subarray(head.length));
    }
    if (!isOver) return;
    if (tail.lostBytes > 0) {
      lost = { atByte: cap.headBytes + sayCap(cap).length, lostBytes: tail.lostBytes };
      yield* skip(Buffer.from(`[slipway: ${tail.lostBytes} bytes are left out here]\n`));
    }
    for (const part of tail.parts) yield* skip(part);
  }
  return { lost: () => lost, bytes: log() };
}

const sayCap = ({ headBytes, tailBytes }: LogCap): string =>
  `\n[slipway: the log reached its cap of ${headBytes + tailBytes} bytes; at most its last ${tailBytes} follow when the run ends]\n`;

/** The last bytes of what is added. */
class Tail {
  readonly parts: Buffer[] = [];
  lostBytes = 0;
  private size = 0;

  constructor(private readonly mostBytes: number) {}

  add(bytes: Buffer): void {
    this.parts.push(bytes);
    this.size += bytes.length;
    for (let [first] = this.parts; first && this.size > this.mostBytes; [first] = this.parts) {
      const cut = Math.min(this.size - this.mostBytes, first.length);
      this.size -= cut;
      this.lostBytes += cut;
      this.parts.shift();
      if (cut < first.length) this.parts.unshift(first.subarray(cut));
    }
  }
}

function skipping(count: number): (bytes: Buffer) => Buffer[] {
  let left = count;
  return (bytes) => {
    const cut = Math.min(left, bytes.length);
    left -= cut;
    return cut === bytes.length ? [] : [bytes.subarray(cut)];
  };
}
