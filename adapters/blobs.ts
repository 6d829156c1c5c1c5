// Owns bytes at rest: a port that a filesystem folder implements here and an object store can implement later.
// Called by the API (logs, artifacts) and by the orchestrator (compression).
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, rename, rm, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { DiskRoom } from './disk-room';

export type BlobErrorReason = 'disk-full' | 'not-found' | 'io';

/** A blob could not be written or read. */
export class BlobError extends Error {
  constructor(
    readonly reason: BlobErrorReason,
    message: string,
    options?: { cause: unknown },
  ) {
    super(message, options);
  }
}

export interface Blobs {
  /** Stores all bytes under the key, visible only when whole. @throws BlobError */
  put(
    key: string,
    bytes: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  ): Promise<{ sizeBytes: number; digest: string }>;
  /** Bytes from `startByte` up to but not including `endByte`. The stream errors with BlobError. */
  read(key: string, range: { startByte: number; endByte: number }): Readable;
  /** Removes it; gone already is fine. */
  remove(key: string): Promise<void>;
  /** Says why nothing more is to be stored now, in words; null: it is. What makes room may be stored in any case. */
  whyFull(): Promise<string | null>;
}

/** Blobs as files below one folder. Keys are ours (ids and numbers), never a user's text. */
export class FileBlobs implements Blobs {
  private readonly room: DiskRoom;

  /** @param leastFreeBytes of the disk; with less it counts as full */
  constructor(
    private readonly root: string,
    leastFreeBytes = 0,
  ) {
    this.room = new DiskRoom(root, leastFreeBytes);
  }

  whyFull(): Promise<string | null> {
    return this.room.why();
  }

  async put(key: string, bytes: AsyncIterable<Uint8Array> | Iterable<Uint8Array>) {
    const path = this.pathOf(key);
    const temporary = `${path}.${randomUUID()}.tmp`;
    try {
      const written = await writeDurably(temporary, bytes);
      await rename(temporary, path);
      return written;
    } catch (error) {
      // The first error is the one to tell, also when there was no folder to clean up in.
      await rm(temporary, { force: true }).catch(() => undefined);
      const translated = translate(error, key);
      if (translated instanceof BlobError) this.room.doubt();
      throw translated;
    }
  }

  read(key: string, range: { startByte: number; endByte: number }): Readable {
    return Readable.from(readFile(this.pathOf(key), range, key), { objectMode: false });
  }

  async remove(key: string): Promise<void> {
    const path = this.pathOf(key);
    await rm(path, { force: true });
    await this.removeEmpty(dirname(path));
  }

  /** Folders are made for what lies in them: one that is empty goes too, and those above it, up to the root. */
  private async removeEmpty(folder: string): Promise<void> {
    for (let at = folder; at !== this.root && at.startsWith(this.root); at = dirname(at)) {
      if (
        !(await rmdir(at).then(
          () => true,
          () => false,
        ))
      )
        return;
    }
  }

  private pathOf(key: string): string {
    if (!/^[\w-][\w./-]*$/.test(key) || key.includes('..')) throw new BlobError('io', `blob key "${key}" is malformed`);
    return join(this.root, key);
  }
}

/** A generator, since an error of a stream cannot be exchanged once it has been emitted. */
async function* readFile(path: string, range: { startByte: number; endByte: number }, key: string) {
  const options = { start: range.startByte, end: range.endByte - 1, highWaterMark: 256 * 1024 };
  try {
    yield* createReadStream(path, options) as AsyncIterable<Buffer>;
  } catch (error) {
    throw translate(error, key);
  }
}

async function writeDurably(path: string, bytes: AsyncIterable<Uint8Array> | Iterable<Uint8Array>) {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  const file = await openIn(path);
  try {
    for await (const part of bytes) {
      hash.update(part);
      sizeBytes += part.length;
      await file.writeFile(part);
    }
    await file.datasync();
  } finally {
    await file.close();
  }
  return { sizeBytes, digest: `sha256:${hash.digest('hex')}` };
}

/** Tries of making a file in its folder, which whoever removes the last other file in it may have removed. */
const TRIES = 5;

async function openIn(path: string) {
  for (let left = TRIES; ; left -= 1) {
    try {
      return await open(path, 'wx');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || left === 0) throw error;
      await mkdir(dirname(path), { recursive: true });
    }
  }
}

function translate(error: unknown, key: string): Error {
  const { code, errno, message } = error as NodeJS.ErrnoException;
  // Not of the file system, but of where the bytes come from.
  if (errno === undefined) return error instanceof Error ? error : new BlobError('io', String(error));
  switch (code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new BlobError('disk-full', `the server's disk is full: no space is left to store ${key}`, {
        cause: error,
      });
    case 'ENOENT':
      return new BlobError('not-found', `${key} is not in the blob store`, { cause: error });
    default:
      return new BlobError('io', `blob ${key}: ${message}`, { cause: error });
  }
}
