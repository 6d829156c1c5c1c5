// Proves that what operators are given is true to the code: docker-compose.yml, its Temporal settings, the image, and the
// examples for workers on other machines.
import { execFile, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { readSettings } from '../adapters/settings';
import { DYNAMIC_CONFIG, isTemporalReady, renderDynamicConfig } from '../adapters/temporal-dev-server';
import { startTemporal } from './setup/temporal';

const ROOT = join(__dirname, '..');
const read = (file: string): string => readFileSync(join(ROOT, file), 'utf8');

interface Service {
  image?: string;
  command?: string[];
  environment?: Record<string, string>;
  volumes?: string[];
  depends_on?: Record<string, { condition: string }>;
}
interface Compose {
  services: Record<string, Service>;
  volumes: Record<string, null>;
}
const readCompose = (file: string): Compose => parse(read(file), { merge: true }) as Compose;
const compose = readCompose('docker-compose.yml');
const elsewhere = readCompose('deploy/worker-compose.yml');
const ours = ['api', 'orchestrator', 'gateway', 'cluster-key', 'worker'] as const;
const service = (name: string): Service => compose.services[name] ?? {};

/** A value with its defaults filled in, as compose does without an .env file; what has to be given is given. */
const filled = (text: string): string =>
  text.replace(/\$\{\w+:-([^}]*)\}/g, '$1').replace(/\$\{(\w+):\?[^}]*\}/g, (_, name: string) => GIVEN[name] ?? '');
const GIVEN: Record<string, string> = {
  SLIPWAY_SERVER: 'https://gateway.example.org',
  SLIPWAY_CLUSTER: 'lab',
  SLIPWAY_HOST: 'bench-7',
};

it.each([
  ...ours.map((name) => [name, service(name)] as const),
  ['worker elsewhere', elsewhere.services['worker'] ?? {}] as const,
])('O1 service %s starts a program that exists, with settings that are read', (_name, { command, environment }) => {
  expect(command?.[0]).toBe('node');
  expect(existsSync(join(ROOT, (command?.[1] ?? '').replace(/^dist\/(.*)\.js$/, '$1.ts')))).toBe(true);
  const { SLIPWAY_CLUSTER_KEY_FILE: _key, ...values } = Object.fromEntries(
    Object.entries(environment ?? {}).map(([key, value]) => [key, filled(value)]),
  );
  const known = read('adapters/settings.ts');
  expect(Object.keys(values).filter((key) => !key.startsWith('TEMPORAL_') && !known.includes(`${key}:`))).toEqual([]);
  expect(() => readSettings(values)).not.toThrow();
});

it('O1 every service that is waited for exists, and every named volume is declared', () => {
  for (const { depends_on: needs = {}, volumes = [] } of Object.values(compose.services)) {
    for (const name of Object.keys(needs)) expect(Object.keys(compose.services)).toContain(name);
    const named = volumes.map((volume) => filled(volume).split(':')[0] ?? '').filter((source) => /^\w+$/.test(source));
    for (const name of named) expect(Object.keys(compose.volumes)).toContain(name);
  }
});

it('O1 the worker reaches the engine, and its folder has one path inside and outside', () => {
  const volumes = (service('worker').volumes ?? []).map(filled);
  expect(volumes).toContain('/var/run/docker.sock:/var/run/docker.sock');
  const dir = filled(service('worker').environment?.SLIPWAY_WORKER_DIR ?? '');
  expect(volumes).toContain(`${dir}:${dir}`);
});

/** What tells a worker where it is, and the one key that it holds. */
const FOR_WORKERS = /^SLIPWAY_(?:SERVER|CLUSTER|CLUSTER_KEY_FILE|HOST|LABELS|SLOTS|ON_STOP|WORKER_DIR)$/;

it('C3 O1 a worker is given the address of the gateway and the key of its cluster, and nothing else that opens a door', () => {
  for (const { environment = {} } of [service('worker'), elsewhere.services['worker']!]) {
    expect(Object.keys(environment).filter((name) => !FOR_WORKERS.test(name))).toEqual([]);
  }
  const { environment = {}, volumes = [] } = service('worker');
  expect(environment['SLIPWAY_SERVER']).toBe('http://gateway:7335');
  expect(service('gateway').environment?.['SLIPWAY_GATEWAY_LISTEN']).toMatch(/:7335$/);
  expect(volumes).toContain('cluster-key:/run/slipway:ro');
});

it('O1 the key is registered with the token of the API, into the file that the worker reads', () => {
  const { command = [], environment, volumes } = service('cluster-key');
  const { SLIPWAY_CLUSTER: cluster = '', SLIPWAY_CLUSTER_KEY_FILE: file = '' } = service('worker').environment ?? {};
  expect(command.slice(2)).toEqual(['cluster', 'join', cluster, '--enlist', '--out', file]);
  expect(environment?.['SLIPWAY_TOKEN']).toBe(service('api').environment?.['SLIPWAY_ADMIN_TOKEN']);
  expect(volumes).toEqual([`cluster-key:${dirname(file)}`]);
  expect(service('worker').depends_on?.['cluster-key']?.condition).toBe('service_completed_successfully');
});

it('O1 only the services that need a secret have it', () => {
  const holders = (secret: string): string[] =>
    Object.keys(compose.services).filter((name) => JSON.stringify(service(name).environment ?? {}).includes(secret));
  expect(holders('SLIPWAY_ADMIN_TOKEN')).toEqual(['api', 'cluster-key']);
  expect(holders('SLIPWAY_GATEWAY_SECRET')).toEqual(['gateway']);
  expect(holders('DATABASE_URL')).toEqual(['api', 'orchestrator', 'gateway']);
});

it('O1 the service for systemd starts the worker, keeps it alive, and stops it by TERM with time to drain', () => {
  const unit = read('deploy/slipway-worker.service');
  const [, program] = /^ExecStart=\/usr\/bin\/env node \/opt\/slipway\/dist\/(.+)\.js$/m.exec(unit) ?? [];
  expect(existsSync(join(ROOT, `${program}.ts`))).toBe(true);
  for (const line of ['Restart=always', 'KillSignal=SIGTERM', 'TimeoutStopSec=2h', 'NoNewPrivileges=yes']) {
    expect(unit.split('\n')).toContain(line);
  }
  const verified = spawnSync('systemd-analyze', ['verify', join(ROOT, 'deploy', 'slipway-worker.service')]);
  // Where there is no systemd nobody will start it either.
  if (verified.error) return;
  const said = verified.stderr.toString().split('\n');
  expect(said.filter((line) => line.includes('slipway-worker'))).toEqual([]);
  expect(verified.status).toBe(0);
});

it('the full server gets the values of the dev server, and is new enough to know them', () => {
  expect(read('deploy/temporal-dynamic-config.yaml')).toBe(renderDynamicConfig());
  const file = parse(renderDynamicConfig()) as Record<string, [{ value: unknown }]>;
  expect(Object.fromEntries(Object.entries(file).map(([key, [{ value }]]) => [key, value]))).toEqual(DYNAMIC_CONFIG);
  for (const name of ['temporal', 'temporal-schema', 'temporal-namespace']) {
    expect(service(name).image).toMatch(/:1\.32\.\d+$/);
  }
  const mounted = (service('temporal').volumes ?? [])[0]?.split(':') ?? [];
  expect(existsSync(join(ROOT, mounted[0] ?? ''))).toBe(true);
  expect(mounted[1]).toBe(`/etc/temporal/${service('temporal').environment?.DYNAMIC_CONFIG_FILE_PATH}`);
});

it('the namespace step may be run again', async () => {
  const script = (service('temporal-namespace').command?.[0] ?? '').replaceAll('$$', '$');
  const temporal = await startTemporal();
  try {
    const PATH = `${dirname(process.env.SLIPWAY_TEMPORAL_CLI ?? '')}:${process.env.PATH}`;
    const env = { PATH, TEMPORAL_ADDRESS: temporal.address };
    for (const namespace of ['default', 'other', 'other']) {
      const forIt = script.replaceAll('-n default', `-n ${namespace}`);
      await promisify(execFile)('/bin/sh', ['-euc', forIt], { env });
      expect(await isTemporalReady(temporal.address, namespace)).toBe(true);
    }
  } finally {
    await temporal.stop();
  }
});

it('the image takes along what it runs, and runs it without root', () => {
  const dockerfile = read('Dockerfile');
  expect(dockerfile).toMatch(/^USER node$/m);
  const [, command] = /^CMD \["node", "dist\/(.+)\.js"\]$/m.exec(dockerfile) ?? [];
  expect(existsSync(join(ROOT, `${command}.ts`))).toBe(true);
  const ignored = read('.dockerignore').trim().split('\n');
  for (const needed of ['web', 'scripts', 'package-lock.json', 'tsconfig.build.json'])
    expect(ignored).not.toContain(needed);
});
