// Owns logs as one run of bytes: chunks while an attempt lives, one compressed object of blocks after.
// Called by the API (append, read) and by the orchestrator (compress). Rows say where bytes are; blobs hold them.
import { randomUUID } from 'node:crypto';
import { promisify } from 'node:util';
import { createGunzip, gzip } from 'node:zlib';
import type { Readable } from 'node:stream';
import { BlobError, type Blobs } from './blobs';
import type { Database } from './store/connect';
import type { Holder } from './store/holders';
import { appendChunk, locateLog, replaceChunks } from './store/logs';
import type { LogIndex } from './store/tables';

const compress = promisify(gzip);

/** Uncompressed size of one block of a compressed log: what a read in its middle costs at most. */
const BLOCK_BYTES = 1024 * 1024;
const NEWLINE = 10;

export interface LogRange {
  runId: string;
  attempt: number;
  fromByte: number;
  toByte: number;
}

/**
 * Appends bytes at `startByte`, which must be the end of the log.
 * @returns where the log ends now; when that is not `startByte` + size, the writer goes on from there
 * @throws FencedError, BlobError
 */
export async function appendLog(
  ports: { db: Database; blobs: Blobs },
  holder: Holder,
  chunk: { startByte: number; bytes: Buffer },
): Promise<{ appended: boolean; bytes: number }> {
  const blob = `logs/${holder.runId}/${holder.attempt}/${chunk.startByte}-${randomUUID()}`;
  await ports.blobs.put(blob, [chunk.bytes]);
  const result = await appendChunk(ports.db, holder, {
    startByte: chunk.startByte,
    sizeBytes: chunk.bytes.length,
    blob,
  }).catch(async (error: unknown) => {
    // Without an answer from the store the row may exist, so the blob stays; a refusal is certain.
    if ((error as Error).name === 'FencedError') await ports.blobs.remove(blob);
    throw error;
  });
  if (!result.appended) await ports.blobs.remove(blob);
  return result;
}

/** Streams the bytes of a range; it must lie inside the log. @throws BlobError while reading, also when bytes are missing */
export async function* readLog(ports: { db: Database; blobs: Blobs }, range: LogRange): AsyncGenerator<Buffer> {
  let at = range.fromByte;
  let missedAt = -1;
  while (at < range.toByte) {
    const { index, chunks } = await locateLog(ports.db, { ...range, fromByte: at });
    const source = index
      ? readBlocks(ports.blobs, index, { ...range, fromByte: at })
      : readChunks(ports.blobs, chunks, { ...range, fromByte: at });
    try {
      for await (const bytes of source) {
        at += bytes.length;
        yield bytes;
      }
    } catch (error) {
      // A chunk that vanished has just been compressed away: look again, once.
      if ((error as { reason?: string }).reason !== 'not-found' || at === missedAt) throw error;
    }
    if (at < range.toByte && at === missedAt) {
      throw new BlobError(
        'not-found',
        `bytes ${at} to ${range.toByte} of log ${range.runId}/${range.attempt} are missing`,
      );
    }
    missedAt = at;
  }
}

async function* readChunks(
  blobs: Blobs,
  chunks: { startByte: number; sizeBytes: number; blob: string }[],
  range: LogRange,
): AsyncGenerator<Buffer> {
  for (const chunk of chunks) {
    const startByte = Math.max(range.fromByte - chunk.startByte, 0);
    const endByte = Math.min(range.toByte - chunk.startByte, chunk.sizeBytes);
    if (endByte > startByte) yield* blobs.read(chunk.blob, { startByte, endByte }) as AsyncIterable<Buffer>;
  }
}

async function* readBlocks(blobs: Blobs, index: LogIndex, range: LogRange): AsyncGenerator<Buffer> {
  for (const block of index.blocks) {
    if (block.startByte + block.sizeBytes <= range.fromByte || block.startByte >= range.toByte) continue;
    const bytes = await unpack(
      blobs.read(index.blob, { startByte: block.blobOffset, endByte: block.blobOffset + block.blobBytes }),
    );
    yield bytes.subarray(
      Math.max(range.fromByte - block.startByte, 0),
      Math.min(range.toByte - block.startByte, block.sizeBytes),
    );
  }
}

async function unpack(source: Readable): Promise<Buffer> {
  const parts: Buffer[] = [];
  const gunzip = createGunzip();
  source.on('error', (error) => gunzip.destroy(error));
  for await (const part of source.pipe(gunzip) as AsyncIterable<Buffer>) parts.push(part);
  return Buffer.concat(parts);
}

/** Packs the chunks of an ended attempt into one object of gzip members with an index of bytes and lines. */
export async function compressLog(
  ports: { db: Database; blobs: Blobs },
  log: { runId: string; attempt: number; bytes: number },
): Promise<void> {
  const blob = `logs/${log.runId}/${log.attempt}.${randomUUID()}.gz`;
  const blocks: LogIndex['blocks'] = [];
  const source = readLog(ports, { runId: log.runId, attempt: log.attempt, fromByte: 0, toByte: log.bytes });
  await ports.blobs.put(blob, packBlocks(source, blocks));
  const unneeded = await replaceChunks(ports.db, { runId: log.runId, attempt: log.attempt, index: { blob, blocks } });
  for (const key of unneeded) await ports.blobs.remove(key);
}

async function* packBlocks(source: AsyncIterable<Buffer>, blocks: LogIndex['blocks']): AsyncGenerator<Buffer> {
  const position = { startByte: 0, firstLine: 1, blobOffset: 0 };
  for await (const block of inBlocks(source)) {
    const packed = await compress(block);
    blocks.push({ ...position, sizeBytes: block.length, blobBytes: packed.length });
    position.startByte += block.length;
    position.blobOffset += packed.length;
    position.firstLine += countNewlines(block);
    yield packed;
  }
}

async function* inBlocks(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let parts: Buffer[] = [];
  let size = 0;
  for await (const part of source) {
    parts.push(part);
    size += part.length;
    if (size < BLOCK_BYTES) continue;
    yield Buffer.concat(parts);
    parts = [];
    size = 0;
  }
  if (size > 0) yield Buffer.concat(parts);
}

function countNewlines(bytes: Buffer): number {
  let count = 0;
  for (let at = bytes.indexOf(NEWLINE); at !== -1; at = bytes.indexOf(NEWLINE, at + 1)) count += 1;
  return count;
}
