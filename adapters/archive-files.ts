// Owns the walk over what a run left in /archive: each plain file, and each thing that is none with the reason. No link is
// followed, whoever puts it there meanwhile: each folder is opened by its name in the folder above.
// Called by docker-engine.ts; what names mean is used by bare-engine.ts as well.
import { isUtf8 } from 'node:buffer';
import { constants, type Dirent } from 'node:fs';
import { open, opendir, type FileHandle } from 'node:fs/promises';
import type { Archived, NotStored } from './engine';
import { cutText } from '../domain/untrusted';

/** As an index of the record store takes it, bytes. */
const MOST_PATH_BYTES = 1_024;
/** Folders below /archive that are looked into. */
export const MOST_FOLDERS_DEEP = 128;
/** Of one folder: they are held and sorted. */
const MOST_NAMES = 100_000;
const PIECE_BYTES = 256 * 1024;
const SLASH = Buffer.from('/');
const FOLDER = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
/** Only says what is there (O_PATH of Linux): a device is not opened, which could set it going. */
const PLACE = 0o10000000 | constants.O_NOFOLLOW;
/** A pipe is not waited for. */
const FILE = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** What a name stands for where it is no plain file, in words. */
export const KINDS_LEFT_OUT = {
  link: 'it is a symbolic link',
  pipe: 'it is a named pipe',
  socket: 'it is a socket',
  device: 'it is a device',
  deep: `it is a folder more than ${MOST_FOLDERS_DEEP} folders deep`,
  shut: 'it is a folder that may not be read',
} as const;
export const NO_ARCHIVE = 'the folder was deleted, by the script or on the host';

/** Names something of the archive that is not stored; `bytes` of its path. */
export function leftOut(bytes: Uint8Array, why: string): NotStored {
  return { kind: 'not-stored', path: readable(bytes), why };
}

/** Why a path cannot be that of an artifact; undefined: it can. */
export function whyNoPath(bytes: Uint8Array): string | undefined {
  if (!isUtf8(bytes)) return 'its name is not UTF-8';
  if (bytes.length > MOST_PATH_BYTES) return `its path is longer than ${MOST_PATH_BYTES} bytes`;
  return undefined;
}

const MOST_SHOWN = 200;

/** A path as people can read it: other bytes and control characters become \xNN. */
function readable(bytes: Uint8Array): string {
  const text = Buffer.from(bytes).toString(isUtf8(bytes) ? 'utf8' : 'latin1');
  const odd = isUtf8(bytes) ? /\p{Cc}/gu : /[^\x20-\x7e]/g;
  const shown = text.replace(odd, (one) => `\\x${one.charCodeAt(0).toString(16).padStart(2, '0')}`);
  return shown.length > MOST_SHOWN ? `${cutText(shown, MOST_SHOWN)}…` : shown;
}

/** What lies below `root`, folder by folder, by name. */
export async function* filesBelow(root: string): AsyncGenerator<Archived> {
  yield* filesIn(Buffer.from(root), []);
}

async function* filesIn(root: Buffer, folder: readonly Buffer[]): AsyncGenerator<Archived> {
  const path = Buffer.concat(folder.flatMap((part) => [part, SLASH]));
  let entries: Dirent<Buffer>[];
  try {
    entries = await entriesOf(root, folder);
  } catch (error) {
    if (folder.length > 0) yield leftOut(path, `it cannot be read: ${reasonOf(error)}`);
    else yield leftOut(SLASH, (error as NodeJS.ErrnoException).code === 'ENOENT' ? NO_ARCHIVE : reasonOf(error));
    return;
  }
  for (const entry of entries) {
    const full = Buffer.concat([path, entry.name]);
    if (!entry.isDirectory()) yield await entryAt(root, { folder, entry, full });
    else if (folder.length >= MOST_FOLDERS_DEEP) yield leftOut(full, KINDS_LEFT_OUT.deep);
    else yield* filesIn(root, [...folder, entry.name]);
  }
}

async function entriesOf(root: Buffer, folder: readonly Buffer[]): Promise<Dirent<Buffer>[]> {
  return within(root, folder, async (here) => {
    const entries: Dirent<Buffer>[] = [];
    const options = { encoding: 'buffer' as BufferEncoding };
    // Names come as bytes; the types do not say so.
    for await (const entry of await opendir(here, options)) {
      entries.push(entry as unknown as Dirent<Buffer>);
      if (entries.length > MOST_NAMES) throw new Error(`it holds more than ${MOST_NAMES} names`);
    }
    return entries.sort((a, b) => Buffer.compare(a.name, b.name));
  });
}

interface Found {
  folder: readonly Buffer[];
  entry: Dirent<Buffer>;
  full: Buffer;
}

async function entryAt(root: Buffer, { folder, entry, full }: Found): Promise<Archived> {
  const kind = kindOf(entry);
  if (kind !== undefined) return leftOut(full, KINDS_LEFT_OUT[kind]);
  const why = whyNoPath(full);
  if (why !== undefined) return leftOut(full, why);
  try {
    const file = await within(root, folder, (here) => openIn(here, entry.name));
    const { size: sizeBytes } = await file.stat();
    await file.close();
    return { kind: 'file', path: full.toString(), sizeBytes, open: () => read(root, folder, entry.name) };
  } catch (error) {
    return leftOut(full, `it cannot be read: ${reasonOf(error)}`);
  }
}

function kindOf(entry: Dirent<Buffer>): keyof typeof KINDS_LEFT_OUT | undefined {
  if (entry.isFile()) return undefined;
  if (entry.isSymbolicLink()) return 'link';
  if (entry.isFIFO()) return 'pipe';
  return entry.isSocket() ? 'socket' : 'device';
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'it is gone',
  ELOOP: 'a link has taken its place',
  ENOTDIR: 'something else has taken the place of its folder',
};

function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return code === undefined ? message : (REASONS[code] ?? code);
}

/** @throws Error in words */
async function* read(root: Buffer, folder: readonly Buffer[], name: Buffer): AsyncGenerator<Buffer> {
  try {
    const file = await within(root, folder, (here) => openIn(here, name));
    yield* file.createReadStream({ highWaterMark: PIECE_BYTES }) as AsyncIterable<Buffer>;
  } catch (error) {
    throw new Error(`it cannot be read: ${reasonOf(error)}`, { cause: error });
  }
}

/** Opens without following a link: the name may have been swapped since the folder was read. @throws Error in words */
export async function openPlain(path: string | Buffer): Promise<FileHandle> {
  if (!HAS_DESCRIPTORS) return unlessOdd(await open(path, FILE));
  const place = await unlessOdd(await open(path, PLACE));
  try {
    return await open(pathOf(place), constants.O_RDONLY);
  } finally {
    await place.close();
  }
}

async function unlessOdd(file: FileHandle): Promise<FileHandle> {
  const found = await file.stat();
  if (found.isFile()) return file;
  await file.close();
  throw new Error(found.isSymbolicLink() ? 'a link has taken its place' : 'it is no plain file any more');
}

const openIn = (here: Buffer, name: Buffer): Promise<FileHandle> => openPlain(below(here, name));

/** Does something in a folder below root, whose path begins with `here` there. */
async function within<T>(root: Buffer, folder: readonly Buffer[], act: (here: Buffer) => Promise<T>): Promise<T> {
  if (!HAS_DESCRIPTORS) return act(folder.reduce(below, root));
  let handle = await open(root, FOLDER);
  try {
    for (const part of folder) {
      const next = await open(below(pathOf(handle), part), FOLDER);
      await handle.close();
      handle = next;
    }
    return await act(pathOf(handle));
  } finally {
    await handle.close();
  }
}

/** As paths; where there are none, links above the last name are followed. */
const HAS_DESCRIPTORS = process.platform === 'linux';
const below = (here: Buffer, name: Buffer): Buffer => Buffer.concat([here, SLASH, name]);
/** Of an open folder: it stays that folder, whatever happens to its names. */
const pathOf = (handle: FileHandle): Buffer => Buffer.from(`/proc/self/fd/${handle.fd}`);
