// Owns the embedded database: PGlite in this process, behind a Unix socket that speaks PostgreSQL.
// Started by `slipway up` when no DATABASE_URL is given; every user of the store is a plain `pg` pool.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { serveEmbedded } from '../adapters/embedded-database';
import { readSettings } from '../adapters/settings';
import { runProcess } from '../adapters/process';

runProcess('database', async () => {
  const { dataDir } = readSettings();
  mkdirSync(dataDir, { recursive: true });
  const server = await serveEmbedded({ dataDir: join(dataDir, 'database'), socketDir: join(dataDir, 'run') });
  return { stop: () => server.stop() };
});
