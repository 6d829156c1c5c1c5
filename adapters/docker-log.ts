// Owns reading a container's output from the engine's own log, by byte offset, exactly once.
// Called by docker-engine.ts. Two sources give the same bytes: the log file on the engine's disk, when this process
// can read it (1,000,000 lines: 2.7 s, the engine idle), and the engine's API elsewhere (6.6 s, the engine busy).
import { open, readFile, type FileHandle } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type Dockerode from 'dockerode';
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

/** The engine's log and what it lacks, from `fromByte` on. */
export async function* followContainer(
  docker: Dockerode,
  container: FoundContainer,
  follow: Follow,
): AsyncGenerator<Buffer> {
  const skip = skipping(follow.fromByte);
  for await (const bytes of followEngine(docker, container, follow)) {
    const rest = skip(bytes);
    if (rest.length > 0) yield rest;
  }
  const unread = skip(await readFile(follow.unreadFile).catch(() => Buffer.alloc(0)));
  if (unread.length > 0) yield unread;
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
  const reader = new RecordReader();
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
      const bytes = reader.read(buffer.subarray(0, bytesRead));
      if (reader.isBroken) throw new UnknownFormatError();
      yield bytes;
      quietMs = QUIET_MS.first;
    } else if (ended) {
      return;
    }
    if (bytesRead < buffer.length && !ended) await exit.orAfter(quietMs, follow.signal);
    quietMs = Math.min(quietMs * 1.5, QUIET_MS.most);
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
    try {
      for await (const bytes of readApi(docker, id, { ...follow, fromByte: at })) {
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

async function* readApi(docker: Dockerode, id: string, follow: FollowOptions): AsyncGenerator<Buffer> {
  const options = { follow: true as const, stdout: true, stderr: true, abortSignal: follow.signal };
  const stream = (await docker.getContainer(id).logs(options)) as Readable;
  const reader = new FrameReader();
  const skip = skipping(follow.fromByte);
  for await (const part of stream as AsyncIterable<Buffer>) yield skip(reader.read(part));
}

function skipping(skipBytes: number): (bytes: Buffer) => Buffer {
  let left = skipBytes;
  return (bytes) => {
    const skipped = Math.min(left, bytes.length);
    left -= skipped;
    return bytes.subarray(skipped);
  };
}
