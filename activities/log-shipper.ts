// Owns the way of output from a container to the log at home: in order, each byte once, little batches when quiet.
// Called by supervise.ts; the source and the destination are handed in.
import { setTimeout as sleep } from 'node:timers/promises';

/** Largest append, bytes. */
const BATCH_BYTES = 2 * 1024 * 1024;
/** Reading pauses above this, bytes: the rest waits in the engine's log. */
const HELD_BYTES = 2 * BATCH_BYTES;
/** Shortest time between two small appends, ms; large ones go at once. */
const PAUSE_MS = 200;
const LARGE_BYTES = 256 * 1024;

export interface ShipperPorts {
  source: AsyncIterable<Buffer>;
  /** Appends at an offset and says where the log ends then. */
  append(startByte: number, bytes: Buffer): Promise<number>;
}

/**
 * Ships until the source ends. @param fromByte where the log ends at the beginning: the source begins with that byte
 * @returns length of the log @throws what source or append throw
 */
export async function shipLog(ports: ShipperPorts, fromByte: number): Promise<number> {
  const held = new HeldBytes();
  const sending = sendAll(held, ports, fromByte);
  // Awaited below; without this a failed append would count as unhandled while the source is still read.
  sending.catch((error: unknown) => held.fail(error));
  try {
    for await (const bytes of ports.source) await held.add(bytes);
  } finally {
    held.end();
  }
  return sending;
}

async function sendAll(held: HeldBytes, ports: ShipperPorts, fromByte: number): Promise<number> {
  let at = fromByte;
  for (;;) {
    const batch = await held.take();
    if (!batch) return at;
    const end = at + batch.length;
    let rest = batch;
    while (rest.length > 0) {
      const now = await ports.append(at, rest);
      // More than was sent here: another supervisor of the same container, or a reply that was lost, got there first.
      if (now < at) throw new Error(`the log shrank from ${at} to ${now} bytes`);
      rest = rest.subarray(Math.min(now - at, rest.length));
      at = Math.min(now, end);
    }
  }
}

/** Bytes that were read and not yet sent. */
class HeldBytes {
  private parts: Buffer[] = [];
  private size = 0;
  private ended = false;
  private failure: { error: unknown } | undefined;
  private wake: (() => void)[] = [];
  private lastTakenAt = 0;

  async add(bytes: Buffer): Promise<void> {
    this.parts.push(bytes);
    this.size += bytes.length;
    this.changed();
    while (this.size >= HELD_BYTES && !this.failure) await this.change();
    if (this.failure) throw this.failure.error;
  }

  end(): void {
    this.ended = true;
    this.changed();
  }

  fail(error: unknown): void {
    this.failure = { error };
    this.changed();
  }

  /** The next batch, or undefined when all is sent. */
  async take(): Promise<Buffer | undefined> {
    while (this.size === 0 && !this.ended) await this.change();
    if (this.size === 0) return undefined;
    await this.pause();
    const batch = this.cutBatch();
    this.lastTakenAt = Date.now();
    this.changed();
    return batch;
  }

  /** Joins only what one batch takes: what stays held is not copied. */
  private cutBatch(): Buffer {
    const taken: Buffer[] = [];
    let room = BATCH_BYTES;
    for (let part = this.parts[0]; part !== undefined && room > 0; part = this.parts[0]) {
      const piece = part.subarray(0, room);
      taken.push(piece);
      room -= piece.length;
      this.parts.shift();
      if (piece.length < part.length) this.parts.unshift(part.subarray(piece.length));
    }
    const batch = taken.length === 1 && taken[0] ? taken[0] : Buffer.concat(taken);
    this.size -= batch.length;
    return batch;
  }

  private async pause(): Promise<void> {
    for (;;) {
      const leftMs = this.lastTakenAt + PAUSE_MS - Date.now();
      if (leftMs <= 0 || this.ended || this.size >= LARGE_BYTES) return;
      await Promise.race([sleep(leftMs), this.change()]);
    }
  }

  private change(): Promise<void> {
    return new Promise((done) => this.wake.push(done));
  }

  private changed(): void {
    const wake = this.wake;
    this.wake = [];
    for (const done of wake) done();
  }
}
