// Owns the embedded database: PGlite on one folder, locked, behind a Unix socket that any `pg` pool can use.
// Called by workers/database.ts and by tests. One server on one machine; not safe against loss of power.
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { PGlite } from '@electric-sql/pglite';
import { serveOnSocket } from './embedded-socket';
import { takePidLock } from './pid-lock';

/** PostgreSQL's name for a socket file; `pg` adds it to a host that is a folder. */
export const SOCKET_NAME = '.s.PGSQL.5432';
/** The engine inside this version of PGlite; its files cannot be read by another major version. */
const PG_MAJOR = '18';

export interface EmbeddedDatabase {
  url: string;
  stop(): Promise<void>;
}

/** The connection URL of an embedded database whose socket lies in `socketDir`. */
export function embeddedUrl(socketDir: string): string {
  return `postgres://postgres@localhost/postgres?host=${encodeURIComponent(socketDir)}`;
}

/**
 * Opens (and at first makes) the database folder and serves it.
 * @throws LockedError when another living process has it open; Error when its files are of another major version
 */
export async function serveEmbedded(place: { dataDir: string; socketDir: string }): Promise<EmbeddedDatabase> {
  mkdirSync(place.socketDir, { recursive: true, mode: 0o700 });
  mkdirSync(join(place.dataDir, '..'), { recursive: true });
  const unlock = takePidLock(`${place.dataDir}.lock`);
  try {
    await initialise(place.dataDir);
    checkVersion(place.dataDir);
    const db = await open(place.dataDir);
    const path = join(place.socketDir, SOCKET_NAME);
    rmSync(path, { force: true });
    const close = await serveOnSocket(db, path);
    const stop = async (): Promise<void> => {
      await close();
      await db.close();
      rmSync(path, { force: true });
      unlock();
    };
    return { url: embeddedUrl(place.socketDir), stop };
  } catch (error) {
    unlock();
    throw error;
  }
}

function open(dataDir: string): Promise<PGlite> {
  return PGlite.create({ dataDir, startParams: [...PGlite.defaultStartParams, '-c', 'shared_buffers=16MB'] });
}

/** Making the folder takes 840 MB of memory at its peak, so it is done in a thread that ends. */
async function initialise(dataDir: string): Promise<void> {
  if (existsSync(join(dataDir, 'PG_VERSION'))) return;
  // Made beside its place and moved there whole, so that a first start may be killed at any point.
  const making = `${dataDir}.making`;
  rmSync(making, { recursive: true, force: true });
  mkdirSync(making, { recursive: true, mode: 0o700 });
  const code = `
    const { PGlite } = require(${JSON.stringify(require.resolve('@electric-sql/pglite'))});
    PGlite.create({ dataDir: ${JSON.stringify(making)} }).then((db) => db.close());`;
  await new Promise<void>((done, fail) => {
    new Worker(code, { eval: true }).on('error', fail).on('exit', (status) => {
      if (status === 0) done();
      else fail(new Error(`the embedded database could not be made in ${dataDir} (exit ${status})`));
    });
  });
  renameSync(making, dataDir);
}

function checkVersion(dataDir: string): void {
  const found = readFileSync(join(dataDir, 'PG_VERSION'), 'utf8').trim();
  if (found === PG_MAJOR) return;
  throw new Error(
    `${dataDir} was written by PostgreSQL ${found}, this version reads ${PG_MAJOR}: ` +
      'start it with the Slipway version that wrote it, or move the folder away to begin anew',
  );
}
