// Proves what `slipway up` gives the worker of its machine: one address and one key. It and others find both by themselves.
// Real `slipway up` on a real PostgreSQL, so that there is a credential of a database to keep from it.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { workerEnv } from '../cli/worker-env';
import type { Cluster } from '../domain/schemas/clusters';
import { livingProcessIn } from '../workers/leftovers';
import { freePort } from './setup/free-port';
import { startPostgres, type TestPostgres } from './setup/postgres';
import { waitFor } from './setup/wait-for';

const MAIN = resolve(__dirname, '..', 'dist', 'cli', 'main.js');
const ADMIN_TOKEN = 'an-admin-token-for-this-test';
const dir = mkdtempSync(join(tmpdir(), 'slipway-up-'));
const env: NodeJS.ProcessEnv = { ...process.env, NODE_OPTIONS: '', NO_COLOR: '1' };
let postgres: TestPostgres;
let databaseUrl: string;
let url: string;
let gateway: string;
let up: Started;

interface Started {
  child: ChildProcess;
  said: () => string;
}

function start(args: string[], more: NodeJS.ProcessEnv = {}): Started {
  const child = spawn(process.execPath, [MAIN, ...args], { cwd: dir, env: { ...env, ...more }, stdio: 'pipe' });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data: Buffer) => (said += data.toString()));
  return { child, said: () => said };
}

async function end({ child }: Started, signal: NodeJS.Signals): Promise<number | null> {
  if (child.exitCode !== null) return child.exitCode;
  const gone = once(child, 'exit') as Promise<[number | null]>;
  child.kill(signal);
  return (await gone)[0];
}

beforeAll(async () => {
  postgres = await startPostgres();
  databaseUrl = await postgres.createDatabase();
  const [port, gatewayPort, temporal, ui] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
  url = `http://127.0.0.1:${port}`;
  gateway = `http://127.0.0.1:${gatewayPort}`;
  Object.assign(env, {
    SLIPWAY_LISTEN: `127.0.0.1:${port}`,
    SLIPWAY_GATEWAY_LISTEN: `127.0.0.1:${gatewayPort}`,
    SLIPWAY_TEMPORAL_PORT: String(temporal),
    SLIPWAY_TEMPORAL_UI_PORT: String(ui),
    SLIPWAY_DATA_DIR: dir,
    SLIPWAY_ADMIN_TOKEN: ADMIN_TOKEN,
    SLIPWAY_LABELS: 'from-outside',
    DATABASE_URL: databaseUrl,
    PATH: `${resolve(process.env.SLIPWAY_TEMPORAL_CLI ?? '', '..')}:${process.env.PATH}`,
  });
  up = start(['up']);
  await waitFor(() => up.said().includes('Ctrl-C stops.'), { what: 'Slipway is up', timeoutMs: 180_000 }).catch(
    (error: unknown) => {
      throw new Error(`${String(error)}\n${up.said()}`);
    },
  );
}, 240_000);
afterAll(async () => {
  if (up) await end(up, 'SIGINT');
  await postgres?.stop();
  rmSync(dir, { recursive: true, force: true });
}, 90_000);

function environmentOf(part: string): Record<string, string> {
  const pid = livingProcessIn(join(dir, 'run', `${part}.pid`));
  const pairs = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').filter(Boolean);
  return Object.fromEntries(
    pairs.map((pair): [string, string] => {
      const at = pair.indexOf('=');
      return [pair.slice(0, at), pair.slice(at + 1)];
    }),
  );
}

const connectedHosts = async (): Promise<(string | null)[]> => {
  const { fleet } = (await (await fetch(`${url}/v1/clusters/local`)).json()) as Cluster;
  return fleet.filter((worker) => worker.connected).map((worker) => worker.host);
};

test('C3 the worker holds the key of its cluster, one for hosts and the address of the gateway; no admin token, no secret of the gateway, no database, no Temporal', () => {
  const secret = readFileSync(join(dir, 'gateway-secret'), 'utf8').trim();
  expect(secret).toMatch(/^[0-9a-f]{64}$/);
  expect(statSync(join(dir, 'gateway-secret')).mode & 0o777).toBe(0o600);
  expect(environmentOf('gateway')).toMatchObject({ SLIPWAY_GATEWAY_SECRET: secret, DATABASE_URL: databaseUrl });
  expect(Object.values(environmentOf('api'))).toContain(ADMIN_TOKEN);
  expect(Object.values(environmentOf('gateway'))).not.toContain(ADMIN_TOKEN);

  const given = environmentOf('worker');

  for (const hidden of [secret, ADMIN_TOKEN, databaseUrl]) expect(JSON.stringify(given)).not.toContain(hidden);
  const doors = Object.keys(given).filter((name) => /TOKEN|SECRET|KEY|DATABASE|TEMPORAL|SERVER/.test(name));
  expect(doors.sort()).toEqual(['SLIPWAY_CLUSTER_KEY_FILE', 'SLIPWAY_SERVER', 'SLIPWAY_SSH_KEY_FILE']);
  expect(given).toMatchObject({ SLIPWAY_SERVER: gateway, SLIPWAY_LABELS: 'from-outside' });
  expect(up.said()).toContain(`  workers         ${gateway}\n`);
});

test('C2 a second worker in the same folder finds the gateway and the key by itself, and ends with 0', async () => {
  const second = start(['worker', '--name', 'second', '--slots', '1', '--drain']);
  await waitFor(async () => (await connectedHosts()).includes('second'), {
    what: 'the second worker is there',
    timeoutMs: 60_000,
  }).catch((error: unknown) => {
    throw new Error(`${String(error)}\n${second.said()}`);
  });

  expect(await connectedHosts()).toHaveLength(2);
  expect(await end(second, 'SIGTERM')).toBe(0);
}, 120_000);

test('S4 a port that is taken is named with the setting that changes it, before anything is started', async () => {
  const other = mkdtempSync(join(tmpdir(), 'slipway-up-'));
  const { child, said } = start(['up'], { SLIPWAY_DATA_DIR: other });
  const [code] = (await once(child, 'close')) as [number | null];

  const port = new URL(gateway).port;
  expect(said()).toContain(`port ${port} is taken by another program; stop it, or set SLIPWAY_GATEWAY_LISTEN\n`);
  expect(code).toBe(2);
  expect(existsSync(join(other, 'run')) ? readdirSync(join(other, 'run')) : []).toEqual([]);
  rmSync(other, { recursive: true, force: true });
}, 60_000);

test('C3 what passes to the worker is a list: a setting that nobody thought of stays behind', () => {
  const passed = workerEnv(
    {
      PATH: '/bin',
      LC_ALL: 'C',
      NODE_AUTH_TOKEN: 'x',
      AWS_SECRET_ACCESS_KEY: 'x',
      DATABASE_URL: 'x',
      TEMPORAL_API_KEY: 'x',
      TEMPORAL_ADDRESS: 'x',
      TEMPORAL_NAMESPACE: 'ours',
      SLIPWAY_ADMIN_TOKEN: 'x',
      SLIPWAY_TOKEN: 'x',
      SLIPWAY_GATEWAY_SECRET: 'x',
      SLIPWAY_CLUSTER_KEY: 'x',
      SLIPWAY_SLOTS: '3',
      SLIPWAY_HOST_FILE: '/etc/host-name',
    },
    { gatewayUrl: 'http://127.0.0.1:7335', keyFile: '/k', sshKeyFile: '/s', workerDir: '/w', dockerHost: 'unix:///d' },
  );

  expect(passed).toEqual({
    PATH: '/bin',
    LC_ALL: 'C',
    TEMPORAL_NAMESPACE: 'ours',
    SLIPWAY_SLOTS: '3',
    SLIPWAY_HOST_FILE: '/etc/host-name',
    SLIPWAY_SERVER: 'http://127.0.0.1:7335',
    SLIPWAY_CLUSTER: 'local',
    SLIPWAY_CLUSTER_KEY_FILE: '/k',
    SLIPWAY_SSH_KEY_FILE: '/s',
    SLIPWAY_WORKER_DIR: '/w',
    DOCKER_HOST: 'unix:///d',
  });
});
