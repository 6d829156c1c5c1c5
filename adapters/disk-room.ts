// Owns the question whether anything can be stored on a disk now: by its free space, and by trying after a write failed.
// Called by blobs.ts. The API asks it before it takes bytes or grants slots, the orchestrator before it wakes runs.
import { randomUUID } from 'node:crypto';
import { mkdir, rm, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** An answer is believed for so long, ms. */
const KNOWN_MS = 1_000;
const MEBIBYTE = 1024 ** 2;
const inMib = (bytes: number): string => `${Math.floor(bytes / MEBIBYTE)} MiB`;

export class DiskRoom {
  private known: { atMs: number; why: Promise<string | null> } | undefined;
  private isDoubted = false;

  /** @param root folder on the disk @param leastFreeBytes with less free space it counts as full */
  constructor(
    private readonly root: string,
    private readonly leastFreeBytes: number,
  ) {}

  /** Says why nothing can be stored now, in words; null: it can. */
  why(): Promise<string | null> {
    const now = performance.now();
    if (!this.known || now - this.known.atMs > KNOWN_MS) this.known = { atMs: now, why: this.look() };
    return this.known.why;
  }

  /** Has the next answer rest on a try, since a write failed. */
  doubt(): void {
    if (!this.isDoubted) this.known = undefined;
    this.isDoubted = true;
  }

  private async look(): Promise<string | null> {
    try {
      // An inode or a quota may be what is missing, or the disk takes no writes at all.
      if (this.isDoubted) await this.tryWrite();
      this.isDoubted = false;
      await mkdir(this.root, { recursive: true });
      const { bavail, bsize } = await statfs(this.root);
      if (bavail * bsize >= this.leastFreeBytes) return null;
      return `the server's disk is full: ${inMib(bavail * bsize)} of it are free, ${inMib(this.leastFreeBytes)} are needed`;
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      if (code === 'ENOSPC' || code === 'EDQUOT') return `the server's disk is full`;
      return `the server cannot store anything: ${message.slice(0, 300)}`;
    }
  }

  private async tryWrite(): Promise<void> {
    const file = join(this.root, `room-${randomUUID()}.tmp`);
    try {
      await writeFile(file, Buffer.alloc(4_096));
    } finally {
      await rm(file, { force: true }).catch(() => undefined);
    }
  }
}
