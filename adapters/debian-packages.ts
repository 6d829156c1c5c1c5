// Owns installing packages of the operating system, where we may: Debian and its kin, as root, announced before it is done.
// Called by docker-setup.ts, temporal-cli.ts, starter-image.ts and scripts/test.mjs.
import { execFile } from 'node:child_process';
import { access, constants, readFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { SetupError } from './setup-error';

const run = promisify(execFile);
/** A big package on a slow mirror, ms. */
const INSTALL_LIMIT_MS = 15 * 60_000;

export type Announce = (line: string) => void;

/** True on Debian or a system like it, as root, with apt-get at hand. */
export async function canInstallPackages(env?: NodeJS.ProcessEnv): Promise<boolean> {
  return process.getuid?.() === 0 && (await isDebian()) && (await findOnPath('apt-get', env)) !== undefined;
}

/** True on Debian, Ubuntu and what calls itself like them. */
export async function isDebian(): Promise<boolean> {
  const release = await readFile('/etc/os-release', 'utf8').catch(() => '');
  return /^ID(_LIKE)?=.*\b(debian|ubuntu)\b/m.test(release);
}

/**
 * Installs packages with apt-get, after saying so.
 * @throws SetupError with the last lines of apt-get and the command to try by hand
 */
export async function installPackages(names: readonly string[], why: string, announce: Announce): Promise<void> {
  announce(`installing ${names.join(', ')} with apt-get (${why})`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const options = { env, timeout: INSTALL_LIMIT_MS, maxBuffer: 64 * 1024 * 1024 };
  // A mirror that cannot be reached now may not be needed: the package lists may be there already.
  const update = await run('apt-get', ['update'], options).then(
    () => undefined,
    (error: unknown) => error,
  );
  try {
    await run('apt-get', ['install', '-y', '--no-install-recommends', ...names], options);
  } catch (error) {
    const said = [update, error].map((one) => tail(outputOf(one))).filter(Boolean);
    throw new SetupError(
      'install-failed',
      `apt-get could not install ${names.join(', ')}:\n${said.join('\n')}\n` +
        `Try it by hand: apt-get update && apt-get install -y --no-install-recommends ${names.join(' ')}`,
      { cause: error },
    );
  }
}

/** Path of a program that can be run, looked for on PATH and where administrators' programs are. */
export async function findOnPath(name: string, env: NodeJS.ProcessEnv = process.env): Promise<string | undefined> {
  const folders = (env.PATH ?? '').split(delimiter).concat('/usr/sbin', '/sbin', '/usr/local/sbin');
  for (const folder of new Set(folders.filter(Boolean))) {
    const path = join(folder, name);
    if (
      await access(path, constants.X_OK).then(
        () => true,
        () => false,
      )
    )
      return path;
  }
  return undefined;
}

/** What a failed command has said, else why it could not be run. */
export function outputOf(error: unknown): string {
  const { stderr, stdout, message } = (error ?? {}) as { stderr?: string; stdout?: string; message?: string };
  return [stderr, stdout, message].find((text) => text?.trim())?.trim() ?? '';
}

function tail(text: string, lines = 6): string {
  return text.split('\n').slice(-lines).join('\n');
}
