// Proves that what operators are given is true to the code: docker-compose.yml, its Temporal settings, and the image.
import { execFile } from 'node:child_process';
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
const compose = parse(read('docker-compose.yml'), { merge: true }) as {
  services: Record<string, Service>;
  volumes: Record<string, null>;
};
const ours = ['api', 'orchestrator', 'worker'] as const;
const service = (name: string): Service => compose.services[name] ?? {};

/** A value with its defaults filled in, as compose does without an .env file. */
const filled = (text: string): string => text.replace(/\$\{\w+:-([^}]*)\}/g, '$1');

it('O1 each of our services starts a program that exists, with settings that are read', () => {
  const known = read('adapters/settings.ts');
  for (const name of ours) {
    const { command = [], environment = {} } = service(name);
    expect(command[0]).toBe('node');
    expect(existsSync(join(ROOT, (command[1] ?? '').replace(/^dist\/(.*)\.js$/, '$1.ts')))).toBe(true);
    const unknown = Object.keys(environment).filter(
      (key) => !key.startsWith('TEMPORAL_') && !known.includes(`${key}:`),
    );
    expect({ name, unknown }).toEqual({ name, unknown: [] });
    const values = Object.fromEntries(Object.entries(environment).map(([key, value]) => [key, filled(value)]));
    expect(() => readSettings(values)).not.toThrow();
  }
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

it('a worker of the topology is given no database', () => {
  expect(Object.keys(service('worker').environment ?? {})).not.toContain('DATABASE_URL');
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
