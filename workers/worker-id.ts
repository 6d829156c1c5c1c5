// Owns the folder of a worker and the id that it keeps there. Called by cluster-worker.ts when it starts.
import { randomUUID } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { SettingsError } from '../adapters/settings';

interface Identity {
  id: string;
  /** Its age says until when this worker was last there. */
  idFile: string;
  lastAliveAt: Date;
}

/** Kept on disk, so that a restarted worker serves the same queue and finds its containers. @throws SettingsError */
export function readWorkerId(dir: string, cluster: string): Identity {
  makePrivate(dir);
  const idFile = join(dir, `${cluster}.id`);
  if (!existsSync(idFile) || statSync(idFile).size === 0) writeId(idFile);
  return { id: readFileSync(idFile, 'utf8').trim(), idFile, lastAliveAt: statSync(idFile).mtime };
}

/** Whole or not at all: on a full disk there would be an empty one, and a worker without an id from then on. */
function writeId(idFile: string): void {
  const draft = `${idFile}.${process.pid}`;
  writeFileSync(draft, randomUUID(), { flush: true });
  renameSync(draft, idFile);
}

/** Builds leave files below it, set-user-id programs among them: nobody else who has an account here may reach those. */
function makePrivate(dir: string): void {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    chmodSync(dir, 0o700);
  } catch (error) {
    throw new SettingsError(
      `SLIPWAY_WORKER_DIR: ${dir} cannot be kept from other users of this machine (${(error as Error).message}); name a folder of the worker's own`,
    );
  }
}
