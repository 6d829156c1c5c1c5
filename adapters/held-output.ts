// Owns the far ends of a container's output while its engine is away: the engine reads two pipes (FIFOs) of the container,
// and what is in them when the container ends goes with the last process that has them open. So the worker has them open
// as well, and reads them only when the engine did not.
// Called by docker-wait.ts. Works where the worker is on the engine's machine and may look into its folder, as root may.
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Room of a pipe: when it is full there may have been more behind it, bytes. */
const PIPE_BYTES = 64 * 1024;
const LIMIT_MS = 5_000;
const POLL_MS = 20;

export interface Unread {
  bytes: Buffer;
  /** False: there may have been more. */
  isWhole: boolean;
}

export class HeldOutput {
  private constructor(private readonly pipes: readonly number[]) {}

  /** @param dir folder of the pipes of a running container @returns undefined where they are out of reach */
  static open(dir: string): HeldOutput | undefined {
    const pipes: number[] = [];
    try {
      for (const name of ['init-stdout', 'init-stderr']) {
        // Without blocking: else it waits for a writer, when the container has just ended.
        pipes.push(openSync(join(dir, name), constants.O_RDONLY | constants.O_NONBLOCK));
      }
      return new HeldOutput(pipes);
    } catch {
      for (const pipe of pipes) closeSync(pipe);
      return undefined;
    }
  }

  /** Takes what is in the pipes: first the output, then the errors. Only for a container that has ended. */
  async take(): Promise<Unread> {
    const parts: Buffer[] = [];
    let isWhole = true;
    for (const pipe of this.pipes) {
      const read = await readToEnd(pipe);
      parts.push(read.bytes);
      isWhole &&= read.isWhole;
    }
    return { bytes: Buffer.concat(parts), isWhole };
  }

  close(): void {
    for (const pipe of this.pipes) closeSync(pipe);
  }
}

async function readToEnd(pipe: number): Promise<Unread> {
  const giveUpAtMs = performance.now() + LIMIT_MS;
  const parts: Buffer[] = [];
  let size = 0;
  while (performance.now() < giveUpAtMs) {
    const buffer = Buffer.allocUnsafe(PIPE_BYTES);
    const read = tryRead(pipe, buffer);
    if (read === 0) return { bytes: Buffer.concat(parts), isWhole: size < PIPE_BYTES };
    if (read === undefined) await sleep(POLL_MS);
    else parts.push(buffer.subarray(0, read));
    size += read ?? 0;
  }
  return { bytes: Buffer.concat(parts), isWhole: false };
}

/** @returns 0 at the end, undefined when a process still has it open for writing and there is nothing now */
function tryRead(pipe: number, buffer: Buffer): number | undefined {
  try {
    return readSync(pipe, buffer);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return undefined;
    throw error;
  }
}
