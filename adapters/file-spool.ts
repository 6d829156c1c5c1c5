// Owns the spool of a run on the worker's own disk: files that pass between a run in a container and its supervisor.
// In `out` the container writes, and what it plants there is not trusted; `in` it can only read. Called by docker-engine.ts.
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, link, lstat, mkdir, readdir, rm, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openPlain } from './archive-files';
import type { SpoolFile, WatchOptions } from './engine';

/** On one side: whoever has more has not written them for us. */
const MOST_FILES = 100_000;
/** How often it is looked for changes: after one, and once there were none for some seconds, ms. */
const LOOK_MS = { first: 100, most: 400 };
const SIDES = ['in', 'out'] as const;

/** Makes the folders of a spool, and the program by which the run uses it. */
export async function makeSpool(dir: string, program: string): Promise<void> {
  for (const part of [...SIDES, 'bin']) await mkdir(join(dir, part), { recursive: true });
  // The user inside the container is not ours.
  await chmod(join(dir, 'out'), 0o777);
  await writeFile(join(dir, 'bin', 'slipway'), program, { mode: 0o755 });
}

export class FileSpool {
  /** @param dir folder of the run */
  constructor(private readonly dir: string) {}

  async list(): Promise<SpoolFile[]> {
    const files: SpoolFile[] = [];
    for (const side of SIDES) {
      for (const name of (await this.names(side)).filter((one) => !one.endsWith('.new')).sort()) {
        const found = await lstat(join(this.dir, side, name)).catch(() => undefined);
        if (found?.isFile()) files.push({ side, name, sizeBytes: found.size });
      }
    }
    return files;
  }

  async *watch({ until, signal }: WatchOptions): AsyncGenerator<SpoolFile[]> {
    let seen = '';
    let pauseMs = LOOK_MS.first;
    while (existsSync(join(this.dir, 'in'))) {
      const isOver = until !== undefined && existsSync(join(this.dir, 'out', until));
      const files = await this.list();
      const now = JSON.stringify(files);
      if (now !== seen) {
        yield files;
        [seen, pauseMs] = [now, LOOK_MS.first];
      }
      if (isOver) return;
      await sleep(pauseMs, undefined, { signal });
      pauseMs = Math.min(pauseMs * 1.1, LOOK_MS.most);
    }
  }

  async take(name: string, fromByte: number): Promise<AsyncIterable<Buffer>> {
    const file = await openPlain(join(this.dir, 'out', name));
    return file.createReadStream({ start: fromByte }) as AsyncIterable<Buffer>;
  }

  async put(name: string, bytes: Uint8Array): Promise<number> {
    const draft = join(this.dir, `put.${randomUUID()}`);
    const file = join(this.dir, 'in', name);
    try {
      await writeFile(draft, bytes);
      await link(draft, file);
      return bytes.length;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      return (await lstat(file)).size;
    } finally {
      await rm(draft, { force: true });
    }
  }

  /** What was asked goes before the answer: who looks meanwhile must not take it for one that has none. */
  async discard(prefix: string): Promise<void> {
    for (const side of SIDES.toReversed()) {
      const names = (await this.names(side)).filter((name) => name.startsWith(prefix));
      await Promise.all(names.map((name) => this.removeFile(side, name)));
    }
  }

  /** Never what is below it: a folder may become a link while it is walked, and the walk would go on behind the link. */
  private async removeFile(side: SpoolFile['side'], name: string): Promise<void> {
    try {
      await unlink(join(this.dir, side, name));
    } catch (error) {
      if (!['ENOENT', 'EISDIR', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
    }
  }

  private async names(side: SpoolFile['side']): Promise<string[]> {
    const names = await readdir(join(this.dir, side)).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return [];
      throw error;
    });
    if (names.length > MOST_FILES) throw new Error(`there are more than ${MOST_FILES} files`);
    return names;
  }
}
