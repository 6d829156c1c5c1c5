// Owns `slipway up`: makes this machine ready, starts every process of a small Slipway, and keeps them alive.
// Called by main.ts; `npm start` is this with the example. All state lies in the data folder.
import { mkdirSync } from 'node:fs';
import { basename, join, relative, resolve } from 'node:path';
import { connectDocker, ensureDockerEngine } from '../adapters/docker-setup';
import { readListen, readSettings, urlHere, type Settings } from '../adapters/settings';
import { whyTaken, type OwnPort } from '../adapters/own-port';
import { ensureStarterImage } from '../adapters/starter-image';
import { findTemporalCli } from '../adapters/temporal-cli';
import { devServerArgs, isTemporalReady } from '../adapters/temporal-dev-server';
import { stopOnSignal, Supervisor, type ChildSpec } from '../workers/supervisor';
import { Client } from './client';
import { run } from './commands';
import { CommandError, type Output } from './context';
import { writeAddresses } from './folder-token';
import { adminTokenFile, ensureSecret, ensureSshKey, gatewaySecretFile, joinLocalCluster } from './local-cluster';
import { paint } from './print';
import { workerEnv } from './worker-env';

const ROOT = resolve(__dirname, '..', '..');

export interface UpOptions {
  /** Runs the example once everything is up. */
  example?: boolean;
  output: Output;
}

/** Runs until it is told to stop. @returns the exit code @throws SetupError, SettingsError, LockedError */
export async function up({ example = false, output }: UpOptions): Promise<number> {
  const settings = readSettings();
  const announce = (line: string): void => output.err(`${paint('gray', 'slipway')}  ${line}`);
  mkdirSync(join(settings.dataDir, 'logs'), { recursive: true, mode: 0o700 });
  const supervisor = await Supervisor.open({ runDir: join(settings.dataDir, 'run'), announce });
  const stopped = stopOnSignal(supervisor, announce);
  try {
    const ready = startAll(supervisor, settings, announce).then(() => greet(settings, { example, output }));
    // Told to stop while still starting: the start fails because of it, and that is no news.
    const first = await Promise.race([ready.then(() => 'ready' as const), stopped]);
    ready.catch(() => undefined);
    return first === 'ready' ? await stopped : first;
  } catch (error) {
    await supervisor.stop();
    throw error;
  }
}

async function startAll(supervisor: Supervisor, settings: Settings, announce: (line: string) => void): Promise<void> {
  const env = childEnv(settings);
  const logs = join(settings.dataDir, 'logs');
  const ours = (name: string, entry: string): ChildSpec => ({
    name,
    command: process.execPath,
    args: [join(ROOT, 'dist', entry)],
    env,
    isOurs: true,
    logFile: join(logs, `${name}.log`),
  });
  const start = async (spec: ChildSpec): Promise<void> => {
    const began = Date.now();
    await supervisor.start(spec);
    announce(`${spec.name} is up (${((Date.now() - began) / 1000).toFixed(1)} s)`);
  };
  const gatewayPort = portOf(settings, 'SLIPWAY_GATEWAY_LISTEN');
  await requireFree(gatewayPort);
  const engine = prepareEngine(settings, announce);
  engine.catch(() => undefined);
  const stores = settings.DATABASE_URL === undefined ? [start(ours('database', 'workers/database.js'))] : [];
  const temporal = process.env['TEMPORAL_ADDRESS'] ? [] : [startTemporal(settings, announce, start)];
  await Promise.all([...stores, ...temporal]);
  await Promise.all([
    start({ ...ours('api', 'api/main.js'), ports: [portOf(settings, 'SLIPWAY_LISTEN')] }),
    start(ours('orchestrator', 'workers/orchestrator.js')),
    start({ ...ours('gateway', 'gateway/main.js'), env: gatewayEnv(env, settings), ports: [gatewayPort] }),
  ]);
  writeAddresses(settings);
  const dockerHost = await engine;
  const keyFile = await joinLocalCluster(new Client(settings.baseUrl, adminToken(settings)), settings.dataDir);
  const { gatewayUrl, workerDir } = settings;
  const sshKeyFile = ensureSshKey(settings.dataDir);
  const worker = ours('worker', 'workers/cluster.js');
  await start({ ...worker, env: workerEnv(process.env, { gatewayUrl, keyFile, sshKeyFile, workerDir, dockerHost }) });
}

/** It needs no admin's token. */
function gatewayEnv(env: NodeJS.ProcessEnv, settings: Settings): NodeJS.ProcessEnv {
  const secret = settings.SLIPWAY_GATEWAY_SECRET ?? ensureSecret(gatewaySecretFile(settings.dataDir));
  return {
    ...env,
    SLIPWAY_ADMIN_TOKEN: undefined,
    SLIPWAY_GATEWAY_SECRET: secret,
    SLIPWAY_SERVER: urlHere(settings.SLIPWAY_LISTEN),
  };
}

function portOf(settings: Settings, setting: 'SLIPWAY_LISTEN' | 'SLIPWAY_GATEWAY_LISTEN'): OwnPort {
  return { ...readListen(settings[setting]), setting };
}

/** @returns the engine's address, for DOCKER_HOST */
async function prepareEngine(settings: Settings, announce: (line: string) => void): Promise<string> {
  const engine = await ensureDockerEngine({ announce, logFile: join(settings.dataDir, 'logs', 'dockerd.log') });
  announce(`Docker engine ${engine.version} at ${engine.socket}`);
  await ensureStarterImage(connectDocker(engine.socket), { announce });
  return engine.socket.startsWith('/') ? `unix://${engine.socket}` : engine.socket;
}

async function startTemporal(
  settings: Settings,
  announce: (line: string) => void,
  start: (spec: ChildSpec) => Promise<void>,
): Promise<void> {
  const program = await findTemporalCli({ toolsDir: join(settings.dataDir, 'tools'), announce });
  const { SLIPWAY_TEMPORAL_PORT: port, SLIPWAY_TEMPORAL_UI_PORT: uiPort } = settings;
  const host = '127.0.0.1';
  const ports = [
    { host, port, setting: 'SLIPWAY_TEMPORAL_PORT' },
    { host, port: uiPort, setting: 'SLIPWAY_TEMPORAL_UI_PORT' },
  ] as const;
  await requireFree(ports[0], `; to use the Temporal server there, set TEMPORAL_ADDRESS=127.0.0.1:${port}`);
  await requireFree(ports[1]);
  await start({
    name: 'temporal',
    command: program,
    args: devServerArgs({ dbFile: join(settings.dataDir, 'temporal.db'), port, uiPort }),
    ports,
    readyWhen: () => isTemporalReady(`127.0.0.1:${port}`),
    logFile: join(settings.dataDir, 'logs', 'temporal.log'),
  });
}

/** A stranger on our port would answer in our server's name. @throws CommandError */
async function requireFree(port: OwnPort, more = ''): Promise<void> {
  const why = await whyTaken(port);
  if (why !== undefined) throw new CommandError(`${why}${more}`);
}

function childEnv(settings: Settings): NodeJS.ProcessEnv {
  return {
    ...process.env,
    SLIPWAY_DATA_DIR: settings.dataDir,
    SLIPWAY_ADMIN_TOKEN: adminToken(settings),
    SLIPWAY_TEMPORAL_UI_URL:
      process.env['SLIPWAY_TEMPORAL_UI_URL'] ?? `http://127.0.0.1:${settings.SLIPWAY_TEMPORAL_UI_PORT}`,
    TEMPORAL_ADDRESS: process.env['TEMPORAL_ADDRESS'] || `127.0.0.1:${settings.SLIPWAY_TEMPORAL_PORT}`,
  };
}

function adminToken(settings: Settings): string {
  return settings.SLIPWAY_ADMIN_TOKEN ?? ensureSecret(adminTokenFile(settings.dataDir));
}

async function greet(settings: Settings, { example, output }: Required<UpOptions>): Promise<void> {
  const say = (what: string, where: string): void => output.err(`  ${what.padEnd(16)}${where}`);
  if (example) {
    output.err(`\nRunning the example (${join('examples', 'hello', 'slipway.yml')}):\n`);
    const path = join(ROOT, 'examples', 'hello');
    await run(new Client(settings.baseUrl), path, { options: { param: [], reason: 'npm start' }, output });
  }
  output.err(`\n${paint('bold', 'Slipway is up.')}`);
  say('page', settings.baseUrl);
  say('API', `${settings.baseUrl}/v1/projects`);
  say('Temporal', childEnv(settings).SLIPWAY_TEMPORAL_UI_URL ?? '');
  say('workers', settings.gatewayUrl);
  say('state', relative(process.cwd(), settings.dataDir) || basename(settings.dataDir));
  output.err(`\nNext: npx slipway run examples/hello   (in another terminal). Ctrl-C stops.`);
}
