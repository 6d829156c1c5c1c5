// Owns the environment: every setting, its default and its unit, read once and checked in one go.
// Called by the entry points (api, workers, cli) only; nothing else reads process.env.
import { readFileSync } from 'node:fs';
import { cpus, hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { DEFAULT_TIMING } from '../domain/build-input';

const port = z.coerce.number().int().min(1).max(65_535);
const ms = z.coerce.number().int().min(1);
const listen = z.string().regex(/^.+:\d+$/, 'write it as address:port, e.g. 127.0.0.1:7333');
const word = z.string().regex(/^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$/, 'use a-z 0-9 . _ -');

const Settings = z.object({
  SLIPWAY_DATA_DIR: z.string().default('.slipway').describe('folder of all state of this machine'),
  SLIPWAY_LISTEN: listen.default('127.0.0.1:7333').describe('address of API and page'),
  SLIPWAY_TRIGGER_LISTEN: listen.optional().describe('address that alone takes triggers; default: SLIPWAY_LISTEN'),
  SLIPWAY_URL: z.url().optional().describe('base URL that people reach the API under'),
  SLIPWAY_ALLOWED_HOSTS: z
    .string()
    .default('')
    .describe(
      'API: further host names that it is reached by, separated by commas; SLIPWAY_URL, localhost and IP addresses are always taken',
    ),
  SLIPWAY_TEMPORAL_UI_URL: z.url().default('http://127.0.0.1:8233').describe('base URL of the Temporal Web UI'),
  SLIPWAY_TEMPORAL_PORT: port.default(7233).describe('port of the Temporal server that `slipway up` starts'),
  SLIPWAY_TEMPORAL_UI_PORT: port.default(8233),
  SLIPWAY_ADMIN_TOKEN: z.string().min(16).optional().describe('API: secret that may do everything an operator can'),
  SLIPWAY_TOKEN: z.string().optional().describe('command line: token of the operator'),
  SLIPWAY_GATEWAY_LISTEN: listen.default('127.0.0.1:7335').describe('gateway: address that workers know'),
  SLIPWAY_GATEWAY_SECRET: z
    .string()
    .min(32)
    .optional()
    .describe('gateway: what it seals tasks with, shared by all its copies'),
  SLIPWAY_GATEWAY_SECRET_BEFORE: z
    .string()
    .min(32)
    .optional()
    .describe('gateway: the secret before that one; what is sealed with it still opens, so that running work goes on'),
  SLIPWAY_GATEWAY_TLS_CERT: z
    .string()
    .optional()
    .describe('gateway: certificate (PEM, with those between it and the authority); with it workers dial https'),
  SLIPWAY_GATEWAY_TLS_KEY: z.string().optional().describe('gateway: private key of the certificate (PEM)'),
  SLIPWAY_CLUSTER_KEY: z
    .string()
    .optional()
    .describe('worker: private key of its cluster, its only credential; made by `slipway cluster create`'),
  SLIPWAY_LOG_CAP_BYTES: z.coerce
    .number()
    .int()
    .min(4096)
    .default(512 * 1024 * 1024)
    .describe('size from which on only the beginning and the end of a log are kept'),
  DATABASE_URL: z.string().optional().describe('PostgreSQL 15 or newer; default: the embedded database'),
  SLIPWAY_SERVER: z
    .url()
    .optional()
    .describe('worker: URL of the gateway, or of the API where TEMPORAL_ADDRESS is set; others: URL of the API'),
  SLIPWAY_CLUSTER: word.default('local').describe('worker: cluster it serves'),
  SLIPWAY_HOST: z.string().default(hostname()).describe('worker: name of its host'),
  SLIPWAY_LABELS: z.string().default('').describe('worker: labels of its host, separated by commas'),
  SLIPWAY_SLOTS: z.coerce
    .number()
    .int()
    .min(1)
    .max(1000)
    .default(Math.min(Math.max(cpus().length * 2, 2), 16)),
  SLIPWAY_ENGINE: z
    .enum(['docker', 'shell', 'none'])
    .default('docker')
    .describe('worker: how runs run on its own machine: in containers, as processes without one, or not at all'),
  SLIPWAY_SSH_KEY: z
    .string()
    .optional()
    .describe(
      'worker: private key (OpenSSH or PEM) for hosts that its cluster lists or makes; without it, it serves none',
    ),
  SLIPWAY_DOCKER_CA: z
    .string()
    .optional()
    .describe('worker: authority (PEM) of the Docker engines that its cluster lists and that are reached by TLS'),
  SLIPWAY_DOCKER_CERT: z.string().optional().describe('worker: its certificate for those engines (PEM)'),
  SLIPWAY_DOCKER_KEY: z.string().optional().describe('worker: the private key of that certificate (PEM)'),
  SLIPWAY_WORKER_DIR: z
    .string()
    .optional()
    .describe('worker: folder of its id and of the runs; default: worker/ in the data folder'),
  SLIPWAY_LOCAL_REPOSITORIES: z
    .string()
    .regex(
      /^(?:(?:\/[^,\n]*|[\w.:-]+)(?:,(?!$)|$))*$/,
      'write absolute paths and host names or addresses, separated by commas',
    )
    .default('')
    .describe(
      'worker: folders below which `file:` repositories may lie, and names or addresses of the loopback or the own link that repositories may come from, as `host` or `host:port`; separated by commas; empty: none',
    ),
  SLIPWAY_RELEASE_KEYS: z
    .string()
    .regex(/^(?:[\w-]{43}(?:,[\w-]{43})*)?$/, 'write public keys of 43 characters each, separated by commas')
    .default('')
    .describe('worker: public keys of whose releases it takes when its cluster is pinned to one; empty: it takes none'),
  SLIPWAY_MIN_FREE_BYTES: z.coerce
    .number()
    .int()
    .min(0)
    .default(1024 ** 3)
    .describe('worker: with less free disk it takes no new runs'),
  SLIPWAY_SERVER_MIN_FREE_BYTES: z.coerce
    .number()
    .int()
    .min(0)
    .default(256 * 1024 ** 2)
    .describe('API, orchestrator: with less free disk for logs and artifacts these wait, and so do new runs'),
  SLIPWAY_ON_STOP: z
    .enum(['detach', 'drain'])
    .default('detach')
    .describe(
      'worker told to stop: lets go of its containers, which live on, or takes no new runs and finishes its own',
    ),
  SLIPWAY_STOP_GRACE_MS: ms.default(10_000).describe('ms between TERM and KILL when a run is cancelled or times out'),
  SLIPWAY_HEARTBEAT_TIMEOUT_MS: ms.default(12_000).describe('ms of silence after which a worker counts as gone'),
  SLIPWAY_REATTACH_GRACE_MS: ms.default(15_000).describe('ms a worker has to come back before its host counts as lost'),
  SLIPWAY_AGE_STEP_MS: ms
    .default(DEFAULT_TIMING.ageStepMs)
    .describe('ms after which waiting runs that get nothing rise by one priority'),
  SLIPWAY_MAX_BODY_BYTES: z.coerce
    .number()
    .int()
    .default(2 * 1024 * 1024),
  SLIPWAY_LOG_LEVEL: z.enum(['debug', 'info', 'warn', 'error', 'silent']).default('info'),
});

export type Settings = z.infer<typeof Settings> & {
  dataDir: string;
  baseUrl: string;
  gatewayUrl: string;
  workerDir: string;
  releaseKeys: string[];
  localRepositories: string[];
};

/** A setting is missing or malformed. The message names every one, one a line. */
export class SettingsError extends Error {}

/**
 * Reads the settings. Any NAME may also be given as NAME_FILE, the path of a file that holds the value.
 * @throws SettingsError naming each bad setting
 */
export function readSettings(env: NodeJS.ProcessEnv = process.env): Settings {
  const values: Record<string, string | undefined> = {};
  for (const name of Object.keys(Settings.shape)) {
    const file = env[`${name}_FILE`];
    values[name] = env[name] || (file ? readSecretFile(name, file) : undefined);
  }
  const read = Settings.safeParse(values);
  if (!read.success) {
    throw new SettingsError(read.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('\n'));
  }
  const settings = read.data;
  const dataDir = resolve(settings.SLIPWAY_DATA_DIR);
  return {
    ...settings,
    dataDir,
    workerDir: settings.SLIPWAY_WORKER_DIR ?? join(dataDir, 'worker'),
    releaseKeys: wordsIn(settings.SLIPWAY_RELEASE_KEYS),
    localRepositories: wordsIn(settings.SLIPWAY_LOCAL_REPOSITORIES),
    baseUrl: (settings.SLIPWAY_URL ?? urlHere(settings.SLIPWAY_LISTEN)).replace(/\/+$/, ''),
    gatewayUrl: urlHere(settings.SLIPWAY_GATEWAY_LISTEN, settings.SLIPWAY_GATEWAY_TLS_CERT ? 'https' : 'http'),
  };
}

const wordsIn = (list: string): string[] => list.split(',').filter((word) => word !== '');

/** How a program on this machine reaches what listens there. */
export function urlHere(address: string, scheme: 'http' | 'https' = 'http'): string {
  const { host, port } = readListen(address);
  const isEvery = host === '0.0.0.0' || host === '::';
  return `${scheme}://${isEvery ? '127.0.0.1' : host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** Takes `address:port` apart; an IPv6 address may stand in brackets. */
export function readListen(address: string): { host: string; port: number } {
  const [, host = '', port = ''] = /^(.*):(\d+)$/.exec(address) ?? [];
  return { host: host.replace(/^\[(.*)\]$/, '$1'), port: Number(port) };
}

function readSecretFile(name: string, path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    throw new SettingsError(`${name}_FILE: cannot read ${path}: ${(error as Error).message}`);
  }
}
