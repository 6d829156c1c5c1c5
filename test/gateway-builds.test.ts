// Proves that a cluster's worker builds through the gateway alone, with nothing but a key of its cluster towards Temporal.
// Real processes, Temporal and Docker; the command line makes the key.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { freePort } from './setup/free-port';
import { House, oneRun } from './setup/house';
import { waitFor } from './setup/wait-for';

const DIST = resolve(__dirname, '..', 'dist');
const SECRET = 'a secret of the gateway, for tests only';

let house: House;
let gateway: ChildProcess | undefined;
let said = '';
let startGateway: () => Promise<void>;
const keysFile = (): string => join(house.dir, 'cluster-keys', 'local.json');

beforeAll(async () => {
  const roleEnv = async ({ dir, temporal }: { dir: string; temporal: string }) => {
    const address = `127.0.0.1:${await freePort()}`;
    const env = { SLIPWAY_DATA_DIR: dir, SLIPWAY_GATEWAY_LISTEN: address, SLIPWAY_GATEWAY_SECRET: SECRET };
    startGateway = async () => {
      gateway = spawn(process.execPath, [join(DIST, 'gateway', 'main.js')], {
        env: { ...process.env, NODE_OPTIONS: '', TEMPORAL_ADDRESS: temporal, ...env },
        stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
      });
      gateway.stdout?.on('data', (text) => (said += String(text)));
      await once(gateway, 'message');
    };
    await startGateway();
    const key = join(dir, 'local.key');
    const cli = [join(DIST, 'cli', 'main.js'), 'key', 'local', '--out', key];
    execFileSync(process.execPath, cli, { env: { ...process.env, NODE_OPTIONS: '', SLIPWAY_DATA_DIR: dir } });
    return { worker: { TEMPORAL_ADDRESS: address, SLIPWAY_CLUSTER_KEY_FILE: key } };
  };
  house = await House.open({ roleEnv });
}, 120_000);
afterAll(async () => {
  await house?.stop();
  gateway?.kill('SIGTERM');
  if (gateway?.exitCode === null) await once(gateway, 'exit');
}, 60_000);

const WAITS = '#!/bin/sh\necho started >> /archive/starts; while [ ! -e /archive/go ]; do echo waits; sleep 0.2; done';

test('C3 B4 a build passes through the gateway, which is killed and started again meanwhile: same attempt, script started once', async () => {
  await house.project(
    'through',
    oneRun('#!/bin/sh\necho started >> /archive/starts\nfor i in $(seq 20); do echo $i; sleep 0.3; done'),
  );
  await house.trigger('through');
  await house.runIn('running', 'through', 1, 'work');

  const gone = once(gateway!, 'exit');
  gateway!.kill('SIGKILL');
  await gone;
  await startGateway();

  const build = await house.finished('through', 1);
  expect(build.status).toBe('passed');
  const run = await house.run('through', 1, 'work');
  expect(run.attempts.map(({ cause }) => cause)).toEqual(['ok']);
  expect(await house.logOf('through', 1, 'work')).toBe(Array.from({ length: 20 }, (_, at) => `${at + 1}\n`).join(''));
  const starts = await house.request('GET', run.artifacts[0]!.url);
  expect(await starts.text()).toBe('started\n');
}, 120_000);

test('C3 a cancel reaches a container through the gateway', async () => {
  await house.project('cancelled', oneRun(WAITS));
  await house.trigger('cancelled');
  await house.runIn('running', 'cancelled', 1, 'work');

  await house.call('POST', '/v1/projects/cancelled/builds/1/cancel');

  expect((await house.finished('cancelled', 1)).status).toBe('cancelled');
}, 120_000);

test('C3 a key that is taken out of its file cuts the worker off, on record; put back, the work goes on', async () => {
  const keys = readFileSync(keysFile(), 'utf8');
  writeFileSync(keysFile(), '{"keys":[]}');
  await waitFor(() => said.includes('unknown-key'), { what: 'the refusal is on record', timeoutMs: 30_000 });
  await house.project('later', oneRun('#!/bin/sh\necho done'));
  await house.trigger('later');

  writeFileSync(keysFile(), keys);

  expect((await house.finished('later', 1, 90_000)).status).toBe('passed');
}, 180_000);
