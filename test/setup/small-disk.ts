// Owns a small file system that a test can fill. Called by tests of full disks. Needs root.
import { execFileSync } from 'node:child_process';
import { mkdirSync, openSync, closeSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';

const FILLER = 'filler';
const PIECE = Buffer.alloc(64 * 1024);

export class SmallDisk {
  /** Mounts an empty file system on `dir`. @param sizeBytes all that fits on it */
  constructor(
    readonly dir: string,
    sizeBytes: number,
  ) {
    mkdirSync(dir, { recursive: true });
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${sizeBytes}`, 'slipway-test', dir]);
  }

  /** Takes all that is free. */
  fill(): void {
    const file = openSync(join(this.dir, FILLER), 'w');
    try {
      for (;;) writeSync(file, PIECE);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    } finally {
      closeSync(file);
    }
  }

  /** Gives back what `fill` took. */
  free(): void {
    rmSync(join(this.dir, FILLER), { force: true });
  }

  unmount(): void {
    execFileSync('umount', ['--lazy', this.dir]);
  }
}
