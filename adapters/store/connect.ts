// Owns the connection to the record store: one pool, one dialect, whether the embedded database or PostgreSQL answers.
// Called by the entry points; everything else is handed the Database.
import { setTimeout as sleep } from 'node:timers/promises';
import { Kysely, Migrator, PostgresDialect } from 'kysely';
import { Pool, types } from 'pg';
import { MIGRATIONS } from './migrations';
import type { Tables } from './tables';

export type Database = Kysely<Tables>;

const BIGINT = 20;
const RETRY_MS = 300;
types.setTypeParser(BIGINT, Number);

/**
 * Opens a pool; connects lazily, so it never fails by itself.
 * @param url `postgres://…`, also with `?host=/folder` for a Unix socket
 * @param connections most connections at once; 1 … n
 */
export function openStore(url: string, connections = 8): Database {
  const pool = new Pool({
    connectionString: url,
    max: connections,
    connectionTimeoutMillis: 5_000,
    idleTimeoutMillis: 0,
    // A server that vanished without a word must not keep its connections for ever.
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
  });
  // A connection that dies must not end the process, idle (the pool tells) or in use (the client does, beside the query
  // that fails); the next query opens another.
  pool.on('error', () => undefined);
  pool.on('connect', (client) => client.on('error', () => undefined));
  return new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) });
}

/** Brings the schema up to date. Safe when several processes do it at once. @throws the first failed migration's error */
export async function migrate(db: Database): Promise<void> {
  const migrator = new Migrator({ db, provider: { getMigrations: () => Promise.resolve(MIGRATIONS) } });
  const { error } = await migrator.migrateToLatest();
  if (error) throw error instanceof Error ? error : new Error(`migration failed: ${JSON.stringify(error)}`);
}

/** The same at the start of a process: a store that is not there yet is waited for. @param told called once when it is */
export async function migrateWhenThere(db: Database, told: (why: string) => void): Promise<void> {
  for (let tries = 0; ; tries += 1) {
    try {
      return await migrate(db);
    } catch (error) {
      if (!isStoreAway(error)) throw error;
      if (tries === 0) told((error as Error).message);
      await sleep(RETRY_MS);
    }
  }
}

/** Whether an error means that the store is away and the same call may work later. */
export function isStoreAway(error: unknown): boolean {
  const code = (error as { code?: string } | null)?.code ?? '';
  const message = (error as Error | null)?.message ?? '';
  return (
    /^(ECONNREFUSED|ECONNRESET|ENOENT|EPIPE|ETIMEDOUT|57P0[123]|08...)$/.test(code) ||
    /timeout exceeded when trying to connect|Connection terminated/.test(message)
  );
}
