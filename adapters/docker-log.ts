// Owns reading a container's output from the engine's own log, by byte offset, exactly once.
// Called by docker-engine.ts. Two sources give the same bytes: the log file on the engine's disk, when this process
// can read it (1,000,000 lines: 2.7 s, the engine idle), and the engine's API elsewhere (6.6 s, the engine busy).
import { open, readFile, type FileHandle } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type Dockerode from 'dockerode';
import { BeginMarks } from './docker-begin';
import type { FollowOptions, FoundContainer } from './engine';
import { FrameReader, RecordReader } from './docker-log-format';

/** Pause between looks at a quiet file: short after output, longer while nothing comes. */
const QUIET_MS = { first: 30, most: 250 };
const RETRY_MS = 500;
const READ_BYTES = 1024 * 1024;

interface Follow extends FollowOptions {
  /** What the engine did not read of the end of the output, if it was away then; there is none until the container ended. */
  unreadFile: string;
}

/** An engine keeps more of a log than this; what begins no script says little. */
const SURELY_WHOLE_BYTES = 1024 * 1024;

/** The engine's log and what it lacks, from `fromByte` on. */
export async function* followContainer(
  docker: Dockerode,
  container: FoundContainer,
  follow: Follow,
): AsyncGenerator<Buffer> {
  const skip = skipping(follow.fromByte);
  const marks = container.beginning && new BeginMarks(container.name);
  let size = 0;
  const home = (bytes: Buffer): Buffer => {
    const written = marks ? marks.read(bytes) : bytes;
    size += written.length;
    return skip(written);
  };
  for await (const bytes of followEngine(docker, container, follow)) {
    const rest = home(bytes);
    if (rest.length > 0) yield rest;
  }
  const unread = home(await readFile(follow.unreadFile).catch(() => Buffer.alloc(0)));
  const last = Buffer.concat([unread, skip(marks?.rest() ?? Buffer.alloc(0))]);
  if (last.length > 0) yield last;
  // Shortened while nobody read it.
  if (size + (marks?.rest().length ?? 0) < follow.fromByte) follow.onFact?.('damaged');
  if (!marks) return;
  // A log that was cut by the engine while nobody read it has lost the mark with its beginning.
  if (marks.hasBegun) follow.onFact?.('begun');
  else follow.onFact?.(size < SURELY_WHOLE_BYTES ? 'unbegun' : 'damaged');
}

/** The engine's log from its first byte on. */
async function* followEngine(
  docker: Dockerode,
  container: FoundContainer,
  follow: FollowOptions,
): AsyncGenerator<Buffer> {
  const file = await openLogFile(container.logFile);
  let at = 0;
  if (file) {
    try {
      for await (const bytes of followFile(file, follow)) {
        at += bytes.length;
        yield bytes;
      }
      return;
    } catch (error) {
      // The file's format is the engine's own affair: where it is not as known, the API gives the same bytes.
      if (!(error instanceof UnknownFormatError)) throw error;
    } finally {
      await file.close();
    }
  }
  yield* followApi(docker, container.id, { ...follow, fromByte: at });
}

class UnknownFormatError extends Error {}

async function openLogFile(path: string | null): Promise<FileHandle | undefined> {
  try {
    return path === null ? undefined : await open(path, 'r');
  } catch {
    // Another machine's disk, or not ours to read.
    return undefined;
  }
}

async function* followFile(file: FileHandle, follow: FollowOptions): AsyncGenerator<Buffer> {
  let reader = new RecordReader();
  const head = new Head(file);
  const buffer = Buffer.allocUnsafe(READ_BYTES);
  const exit = watchExit(follow.exited);
  let position = 0;
  let quietMs = QUIET_MS.first;
  for (;;) {
    follow.signal.throwIfAborted();
    // Asked before reading: what was written until the end is then in the file.
    const ended = exit.ended();
    const { bytesRead } = await file.read(buffer, 0, buffer.length, position);
    position += bytesRead;
    if (bytesRead > 0) {
      const isFirst = position === bytesRead;
      const bytes = reader.read(buffer.subarray(0, bytesRead));
      if (reader.isBroken && isFirst) throw new UnknownFormatError();
      if (isFirst) head.remember(buffer.subarray(0, bytesRead));
      yield bytes;
      quietMs = QUIET_MS.first;
    }
    const isCut = bytesRead === 0 && (await file.stat()).size < position;
    if (isCut || reader.isBroken) {
      follow.onFact?.('damaged');
      // What is in it now was written since, unless it begins as before: then the engine's API may know how it goes on.
      if (!isCut && !(await head.isChanged())) throw new UnknownFormatError();
      [position, reader] = [0, new RecordReader()];
    } else if (bytesRead === 0 && ended) {
      return;
    }
    if (bytesRead < buffer.length && !ended) await exit.orAfter(quietMs, follow.signal);
    quietMs = Math.min(quietMs * 1.5, QUIET_MS.most);
  }
}

/** The beginning of a log: its first record tells its time, so no other begins like that, bytes. */
const HEAD_BYTES = 32;

class Head {
  private known: Buffer = Buffer.alloc(0);

  constructor(private readonly file: FileHandle) {}

  remember(bytes: Buffer): void {
    this.known = Buffer.from(bytes.subarray(0, HEAD_BYTES));
  }

  async isChanged(): Promise<boolean> {
    const now = Buffer.alloc(this.known.length);
    await this.file.read(now, 0, now.length, 0);
    return !now.equals(this.known);
  }
}

function watchExit(exited: Promise<unknown>) {
  let ended = false;
  const known = exited.then(
    () => (ended = true),
    () => (ended = true),
  );
  return {
    ended: () => ended,
    orAfter: (ms: number, signal: AbortSignal) => Promise.race([known, sleep(ms, undefined, { signal })]),
  };
}

async function* followApi(docker: Dockerode, id: string, follow: FollowOptions): AsyncGenerator<Buffer> {
  const exit = watchExit(follow.exited);
  let at = follow.fromByte;
  for (;;) {
    follow.signal.throwIfAborted();
    const ended = exit.ended();
    // The whole log as it is in the end may be shorter than what was read of it.
    const onShort = (): void => void (ended && follow.onFact?.('damaged'));
    try {
      for await (const bytes of readApi(docker, id, { ...follow, fromByte: at, onShort })) {
        at += bytes.length;
        yield bytes;
      }
      // A stream that was opened after the end held everything; any other may have been cut.
      if (ended) return;
    } catch {
      follow.signal.throwIfAborted();
    }
    await exit.orAfter(RETRY_MS, follow.signal);
  }
}

async function* readApi(
  docker: Dockerode,
  id: string,
  follow: FollowOptions & { onShort(): void },
): AsyncGenerator<Buffer> {
  const options = { follow: true as const, stdout: true, stderr: true, abortSignal: follow.signal };
  const stream = (await docker.getContainer(id).logs(options)) as Readable;
  const reader = new FrameReader();
  const skip = skipping(follow.fromByte);
  let size = 0;
  for await (const part of stream as AsyncIterable<Buffer>) {
    const bytes = reader.read(part);
    size += bytes.length;
    yield skip(bytes);
  }
  if (size < follow.fromByte) follow.onShort();
}

function skipping(skipBytes: number): (bytes: Buffer) => Buffer {
  let left = skipBytes;
  return (bytes) => {
    const skipped = Math.min(left, bytes.length);
    left -= skipped;
    return bytes.subarray(skipped);
  };
}
