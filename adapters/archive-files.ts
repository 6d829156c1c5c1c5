// Owns the walk over what a run left in /archive: plain files only, nothing that leads out of the folder.
// Called by the engines.
import { constants } from 'node:fs';
import { open, readdir, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import type { ArchivedFile } from './engine';

/** Files below `root`, by path. A folder that is not there has none. Links, sockets and devices are left out. */
export async function* filesBelow(root: string, prefix = ''): AsyncGenerator<ArchivedFile> {
  let entries;
  try {
    entries = await readdir(join(root, prefix), { withFileTypes: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const entry of entries) {
    const path = prefix === '' ? entry.name : `${prefix}/${entry.name}`;
    if (entry.isDirectory()) yield* filesBelow(root, path);
    else if (entry.isFile()) yield await fileAt(root, path);
  }
}

async function fileAt(root: string, path: string): Promise<ArchivedFile> {
  const full = join(root, path);
  const file = await openPlain(full);
  try {
    const { size } = await file.stat();
    return { path, sizeBytes: size, open: () => read(full) };
  } finally {
    await file.close();
  }
}

/** Opens without following links: the name may have been swapped since the folder was read. */
export function openPlain(path: string): Promise<FileHandle> {
  // Nor does it wait for the other end of a pipe.
  return open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
}

async function* read(path: string): AsyncGenerator<Buffer> {
  const file = await openPlain(path);
  yield* file.createReadStream({ highWaterMark: 256 * 1024 }) as AsyncIterable<Buffer>;
}
