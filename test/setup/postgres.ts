// Owns PostgreSQL servers of tests: a fresh cluster in a temporary folder, on a free port, ended with the test.
// Called by tests that run on both stores. The server refuses to run as root, so as root it runs as user `postgres`.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, closeSync, existsSync, mkdtempSync, openSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import { boundCommand } from '../../adapters/bound-command';
import { freePort } from './free-port';
import { waitFor } from './wait-for';

export interface TestPostgres {
  /** URL of the database `postgres`. */
  url: string;
  /** Makes an empty database. @returns its URL */
  createDatabase(): Promise<string>;
  stop(): Promise<void>;
}

/** A server that answers. Nothing of it survives a loss of power, which makes it quick. */
export async function startPostgres(): Promise<TestPostgres> {
  const bin = findServerPrograms();
  const user = serverUser();
  const dir = mkdtempSync(join(tmpdir(), 'slipway-postgres-'));
  if (user) chownSync(dir, user.uid, user.gid);
  const options = { cwd: dir, ...user };
  const data = join(dir, 'data');
  const initialise = ['-D', data, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale', 'C', '--no-sync'];
  execFileSync(join(bin, 'initdb'), initialise, { ...options, stdio: 'pipe' });
  const port = await freePort();
  const settings = ['fsync=off', 'full_page_writes=off', 'max_connections=200', 'shared_buffers=32MB'];
  const args = [
    '-D',
    data,
    '-h',
    '127.0.0.1',
    '-p',
    String(port),
    '-k',
    dir,
    ...settings.flatMap((one) => ['-c', one]),
  ];
  const bound = boundCommand(join(bin, 'postgres'), args);
  const log = openSync(join(dir, 'server.log'), 'a');
  const server = spawn(bound.command, bound.args, { ...options, stdio: ['ignore', log, log] });
  closeSync(log);
  const gone = once(server, 'exit');
  const urlOf = (name: string): string => `postgres://postgres@127.0.0.1:${port}/${name}`;
  await waitFor(() => query(urlOf('postgres'), 'select 1'), { what: 'PostgreSQL', timeoutMs: 20_000, intervalMs: 50 });
  let count = 0;
  return {
    url: urlOf('postgres'),
    createDatabase: async () => {
      const name = `test_${++count}`;
      await query(urlOf('postgres'), `create database ${name}`);
      return urlOf(name);
    },
    stop: async () => {
      // Immediate shutdown: ends its children too, which SIGKILL would not.
      server.kill('SIGQUIT');
      await gone;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

async function query(connectionString: string, text: string): Promise<true> {
  const client = new Client({ connectionString });
  try {
    await client.connect();
    await client.query(text);
    return true;
  } finally {
    await client.end();
  }
}

/** Folder of `initdb` and `postgres`: SLIPWAY_POSTGRES_BIN, else Debian's newest, else what is on PATH. */
function findServerPrograms(): string {
  const debian = '/usr/lib/postgresql';
  const versions = existsSync(debian) ? readdirSync(debian).sort((a, b) => Number(b) - Number(a)) : [];
  const folders = [
    ...(process.env.SLIPWAY_POSTGRES_BIN ? [process.env.SLIPWAY_POSTGRES_BIN] : []),
    ...versions.map((version) => join(debian, version, 'bin')),
    ...(process.env.PATH ?? '').split(':'),
  ];
  const found = folders.find(
    (folder) => folder && existsSync(join(folder, 'postgres')) && existsSync(join(folder, 'initdb')),
  );
  if (!found)
    throw new Error('no PostgreSQL server: `npm test` installs it, or set SLIPWAY_POSTGRES_BIN to its folder');
  return found;
}

function serverUser(): { uid: number; gid: number } | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const ask = (flag: string): number => Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8' }));
  return { uid: ask('-u'), gid: ask('-g') };
}
