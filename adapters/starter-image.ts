// Owns the image of the first example: there already, pulled, or made from this machine's own busybox when nothing can be pulled.
// Called by `slipway up --example`, `slipway doctor` (which only looks) and tests that need an image.
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { promisify } from 'node:util';
import type Dockerode from 'dockerode';
import { pack } from 'tar-stream';
import { canInstallPackages, findOnPath, installPackages, type Announce } from './debian-packages';
import { createContainer } from './docker-client';
import { SetupError } from './setup-error';

const run = promisify(execFile);

export const STARTER_IMAGE = 'busybox:stable';
/** A registry that has not begun to send by then is out of reach. */
const PULL_SILENCE_MS = 10_000;
/** For a container that does nothing. */
const TRY_LIMIT_MS = 30_000;
const SEARCH_PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * Makes sure that the engine has the image of the examples.
 * @returns its name
 * @throws SetupError when it is not there, cannot be pulled and cannot be made
 */
export async function ensureStarterImage(
  docker: Dockerode,
  options: { announce: Announce; pullSilenceMs?: number },
): Promise<string> {
  if (await hasStarterImage(docker)) return STARTER_IMAGE;
  options.announce(`pulling image ${STARTER_IMAGE}`);
  const refused = await pull(docker, options.pullSilenceMs ?? PULL_SILENCE_MS);
  if (!refused) return STARTER_IMAGE;
  options.announce(`image ${STARTER_IMAGE} cannot be pulled (${refused}); making it from this machine's own busybox`);
  await makeStarterImage(docker, options.announce);
  return STARTER_IMAGE;
}

/** True when the engine has the image already. */
export async function hasStarterImage(docker: Dockerode, name = STARTER_IMAGE): Promise<boolean> {
  return docker
    .getImage(name)
    .inspect()
    .then(
      () => true,
      () => false,
    );
}

/**
 * Runs the image's shell once, without network, and leaves nothing behind.
 * @param limitMs an engine that hangs in the middle answers other questions as before
 * @returns what went wrong, or undefined
 */
export async function tryStarterImage(docker: Dockerode, limitMs = TRY_LIMIT_MS): Promise<string | undefined> {
  const abortSignal = AbortSignal.timeout(limitMs);
  // Also when we are ended in the middle.
  const host = { AutoRemove: true, NetworkMode: 'none' };
  const options = { Image: STARTER_IMAGE, Cmd: ['true'], HostConfig: host, abortSignal };
  let container: Dockerode.Container | undefined;
  try {
    container = await createContainer(docker, options);
    // One that has not begun is not running either.
    const over = container.wait({ condition: 'next-exit', abortSignal }) as Promise<{ StatusCode: number }>;
    over.catch(() => undefined);
    await container.start({ abortSignal });
    const { StatusCode: exitCode } = await over;
    return exitCode === 0 ? undefined : `a container of ${STARTER_IMAGE} ended with ${exitCode}`;
  } catch (error) {
    if (abortSignal.aborted) return `a container of ${STARTER_IMAGE} had not run to its end after ${limitMs / 1000} s`;
    return (error as Error).message.replace(HTTP_PREFIX, '').trim();
  } finally {
    await container?.remove({ force: true, abortSignal: AbortSignal.timeout(limitMs) }).catch(() => undefined);
  }
}

/** What dockerode puts before the engine's own words. */
const HTTP_PREFIX = /^\(HTTP code \d+\)[^-]*- /;

/** @returns why it failed, or undefined when the image is there */
async function pull(docker: Dockerode, silenceMs: number): Promise<string | undefined> {
  const stopping = new AbortController();
  const giveUp = (): void => stopping.abort(new Error(`the registry was silent for ${silenceMs / 1000} s`));
  const timer = setTimeout(giveUp, silenceMs);
  try {
    const progress = await docker.pull(STARTER_IMAGE, { abortSignal: stopping.signal });
    await new Promise<void>((done, fail) => {
      const end = (error: Error | null): void => (error ? fail(error) : done());
      stopping.signal.addEventListener('abort', () => fail(stopping.signal.reason as Error));
      docker.modem.followProgress(progress, end, () => timer.refresh());
    });
    return (await hasStarterImage(docker)) ? undefined : 'the engine reported success without an image';
  } catch (error) {
    const { message } = stopping.signal.aborted ? (stopping.signal.reason as Error) : (error as Error);
    return message.replace(HTTP_PREFIX, '').trim();
  } finally {
    clearTimeout(timer);
  }
}

/** Makes the image out of one static program, without any network. @throws SetupError */
export async function makeStarterImage(docker: Dockerode, announce: Announce, name = STARTER_IMAGE): Promise<void> {
  const path = await findStaticBusybox(announce);
  const { stdout } = await run(path, ['--list']);
  const tar = packRoot(await readFile(path), stdout.split('\n').filter(Boolean));
  const [repo, tag] = name.split(':');
  const changes = ['LABEL dev.slipway.made=local', `ENV ${SEARCH_PATH}`, 'CMD ["sh"]'];
  const progress = await docker.importImage(tar, { repo, tag, changes });
  await new Promise<void>((done, fail) => {
    docker.modem.followProgress(progress, (error) => (error ? fail(error) : done()));
  });
}

/** A busybox that runs with nothing beside it, or undefined. */
export async function lookForStaticBusybox(): Promise<string | undefined> {
  const path = await findOnPath('busybox');
  return path && isStatic(await readFile(path)) ? path : undefined;
}

async function findStaticBusybox(announce: Announce): Promise<string> {
  const found = await lookForStaticBusybox();
  if (found) return found;
  if (await canInstallPackages()) {
    await installPackages(['busybox-static'], `image ${STARTER_IMAGE} is made from it`, announce);
    const installed = await lookForStaticBusybox();
    if (installed) return installed;
  }
  throw new SetupError(
    'no-starter-image',
    `image ${STARTER_IMAGE} is not there, cannot be pulled, and this machine has no static busybox to make it from. ` +
      `Try: docker pull ${STARTER_IMAGE}, or: sudo apt-get install -y busybox-static`,
  );
}

const PT_INTERP = 3;

/** True for a 64-bit little-endian ELF program that asks for no dynamic loader. Pure. */
export function isStatic(program: Buffer): boolean {
  const isElf64 = program.length > 64 && program.readUInt32BE(0) === 0x7f454c46 && program[4] === 2 && program[5] === 1;
  if (!isElf64) return false;
  const first = Number(program.readBigUInt64LE(32));
  const size = program.readUInt16LE(54);
  const count = program.readUInt16LE(56);
  if (first + size * count > program.length) return false;
  return !Array.from({ length: count }, (_, index) => program.readUInt32LE(first + index * size)).includes(PT_INTERP);
}

function packRoot(busybox: Buffer, applets: string[]): Readable {
  const tar = pack();
  const folder = (name: string, mode = 0o755): void => void tar.entry({ name, type: 'directory', mode });
  for (const name of [
    'bin',
    'dev',
    'etc',
    'home',
    'proc',
    'sys',
    'usr',
    'usr/bin',
    'usr/local',
    'usr/local/bin',
    'var',
  ]) {
    folder(name);
  }
  folder('root', 0o700);
  folder('tmp', 0o1777);
  folder('var/tmp', 0o1777);
  tar.entry({ name: 'bin/busybox', mode: 0o755 }, busybox);
  for (const applet of applets) {
    if (applet !== 'busybox') tar.entry({ name: `bin/${applet}`, type: 'symlink', linkname: 'busybox' });
  }
  tar.entry({ name: 'usr/bin/env', type: 'symlink', linkname: '/bin/busybox' });
  tar.entry({ name: 'etc/passwd' }, 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n');
  tar.entry({ name: 'etc/group' }, 'root:x:0:\nnogroup:x:65534:\n');
  tar.finalize();
  return Readable.from(tar);
}
