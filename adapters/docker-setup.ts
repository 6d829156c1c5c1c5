// Owns finding a Docker engine on this machine: where it listens, or why there is none and what to do about it.
// Called by `slipway up` and scripts/test.mjs (ensureDockerEngine), and by `slipway doctor`, which only looks.
import { access } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import Dockerode from 'dockerode';
import { canInstallPackages, findOnPath, installPackages, isDebian, type Announce } from './debian-packages';
import { dockerdPlace, isSystemdRunning, startDockerd, startDockerService } from './dockerd';
import { SetupError } from './setup-error';

interface RunningEngine {
  kind: 'running';
  /** Path of the socket, or the value of DOCKER_HOST where that is no path. */
  socket: string;
  version: string;
  apiVersion: string;
}

export type DockerSearch =
  RunningEngine | { kind: 'missing' | 'stopped' | 'hung' | 'no-permission'; detail: string; fix: string };

export interface EnsuredEngine extends RunningEngine {
  /** Ends the engine that this call started; absent when one was running already. */
  stop?: () => Promise<void>;
}

const ANSWER_LIMIT_MS = 5_000;

/** A client for the `socket` of a RunningEngine. Certificates and ssh keys are taken as the docker command takes them. */
export function connectDocker(socket: string, timeoutMs?: number): Dockerode {
  if (socket.startsWith('/')) return new Dockerode({ socketPath: socket, timeout: timeoutMs });
  if (!/^(tcp|https?):/.test(socket)) return new Dockerode({ timeout: timeoutMs });
  const { hostname, port } = new URL(socket);
  return new Dockerode({ host: hostname, port, timeout: timeoutMs });
}

/**
 * Looks for an engine that answers, without changing anything.
 * @param sockets where to look, best first; default: DOCKER_HOST, else every place an engine is known to listen
 */
export async function findDockerEngine(
  env: NodeJS.ProcessEnv = process.env,
  sockets: readonly string[] = socketsToTry(env),
): Promise<DockerSearch> {
  let denied: string | undefined;
  let silent: string | undefined;
  let hung: string | undefined;
  for (const socket of sockets) {
    const answer = await ask(socket);
    if (answer.kind === 'running') return answer;
    if (answer.code === 'EACCES') denied ??= socket;
    else if (answer.isLate) hung ??= socket;
    else if (answer.code !== 'ENOENT') silent ??= `${socket}: ${answer.message}`;
  }
  if (denied) return { kind: 'no-permission', detail: `this user may not open ${denied}`, fix: PERMISSION_FIX };
  if (hung) {
    const detail = `the engine at ${hung} takes questions and does not answer within ${ANSWER_LIMIT_MS / 1000} s`;
    return { kind: 'hung', detail, fix: await restartFix(env) };
  }
  if (env.DOCKER_HOST) {
    const detail = `nothing answers at DOCKER_HOST=${env.DOCKER_HOST}`;
    return { kind: 'stopped', detail, fix: 'start that engine, or: unset DOCKER_HOST' };
  }
  return absentEngine(silent, env);
}

const PERMISSION_FIX = 'sudo usermod -aG docker "$USER" && newgrp docker';

/** Before what only root may do. */
const sudo = process.getuid?.() === 0 ? '' : 'sudo ';
const START_BY_HAND = `${sudo}sh -c 'dockerd --live-restore >/var/log/dockerd.log 2>&1 &'`;

/** Containers live on where live-restore is configured. */
async function restartFix(env: NodeJS.ProcessEnv): Promise<string> {
  if (env.DOCKER_HOST || process.platform !== 'linux') return 'restart that engine';
  if (await isSystemdRunning()) return `${sudo}systemctl restart docker containerd`;
  return `${sudo}pkill -KILL -x dockerd; ${sudo}pkill -KILL -x containerd; ${START_BY_HAND}`;
}

async function absentEngine(silent: string | undefined, env: NodeJS.ProcessEnv): Promise<DockerSearch> {
  if (process.platform === 'darwin') {
    const isInstalled = await exists('/Applications/Docker.app');
    if (isInstalled) return { kind: 'stopped', detail: 'Docker Desktop is not running', fix: 'open -a Docker' };
    return {
      kind: 'missing',
      detail: 'no Docker engine was found',
      fix: 'brew install --cask docker && open -a Docker',
    };
  }
  if (await findOnPath('dockerd', env)) {
    const detail = `it is installed but not running${silent ? ` (${silent})` : ''}`;
    const fix = (await isSystemdRunning()) ? `${sudo}systemctl start docker` : START_BY_HAND;
    return { kind: 'stopped', detail, fix };
  }
  const packages = `${sudo}apt-get install -y --no-install-recommends docker.io iptables`;
  const fix = (await isDebian()) ? packages : 'install it: https://docs.docker.com/engine/install/';
  return { kind: 'missing', detail: 'no Docker engine was found', fix };
}

function socketsToTry(env: NodeJS.ProcessEnv): string[] {
  const chosen = env.DOCKER_HOST;
  if (chosen) return [chosen.startsWith('unix://') ? chosen.slice('unix://'.length) || SYSTEM_SOCKET : chosen];
  const home = env.HOME ?? homedir();
  const rootless = env.XDG_RUNTIME_DIR ? [join(env.XDG_RUNTIME_DIR, 'docker.sock')] : [];
  const desktops = [
    '.docker/run',
    '.docker/desktop',
    '.colima/default',
    '.config/colima/default',
    '.orbstack/run',
    '.rd',
  ];
  return [SYSTEM_SOCKET, ...rootless, ...desktops.map((folder) => join(home, folder, 'docker.sock'))];
}

const SYSTEM_SOCKET = '/var/run/docker.sock';

type Answer = RunningEngine | { kind: 'silent'; code?: string; message: string; isLate: boolean };

async function ask(socket: string): Promise<Answer> {
  const lateAtMs = performance.now() + ANSWER_LIMIT_MS;
  try {
    const answer = await connectDocker(socket, ANSWER_LIMIT_MS).version();
    return { kind: 'running', socket, version: answer.Version, apiVersion: answer.ApiVersion };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    // A limit of dockerode looks like a broken connection.
    const isLate = code === 'ECONNRESET' && performance.now() >= lateAtMs;
    return { kind: 'silent', code, message, isLate };
  }
}

/**
 * An engine that answers: the running one, else the installed one started, else (Debian, as root) installed and started.
 * An engine started here is no child of ours and keeps running, because containers must outlive us.
 * @throws SetupError saying what is missing and the command that helps
 */
export async function ensureDockerEngine(options: {
  announce: Announce;
  /** Where an engine started here writes its log. */
  logFile: string;
  env?: NodeJS.ProcessEnv;
}): Promise<EnsuredEngine> {
  const { announce, logFile, env = process.env } = options;
  const found = await findDockerEngine(env);
  if (found.kind === 'running') return found;
  const mayStart = process.platform === 'linux' && process.getuid?.() === 0 && !env.DOCKER_HOST;
  if (!mayStart || found.kind === 'no-permission' || found.kind === 'hung') throw noEngine(found);
  if (found.kind === 'missing') {
    if (!(await canInstallPackages(env))) throw noEngine(found);
    await installPackages(['docker.io', 'iptables'], 'there is no Docker engine', announce);
    // The package may have started it.
    const installed = await findDockerEngine(env);
    if (installed.kind === 'running') return installed;
  } else if (!(await findOnPath('iptables', env)) && (await canInstallPackages(env))) {
    await installPackages(['iptables'], 'the Docker engine needs it', announce);
  }
  const stop = await start({ announce, logFile });
  const started = await findDockerEngine(env);
  if (started.kind !== 'running') throw noEngine(started);
  return { ...started, stop };
}

async function start({ announce, logFile }: { announce: Announce; logFile: string }): Promise<() => Promise<void>> {
  if (await isSystemdRunning()) {
    announce('starting the Docker engine (systemctl start docker); it keeps running when Slipway stops');
    return startDockerService();
  }
  announce(`starting the Docker engine (dockerd, log in ${logFile}); it keeps running when Slipway stops`);
  return startDockerd(await dockerdPlace(logFile));
}

function noEngine(found: Exclude<DockerSearch, RunningEngine>): SetupError {
  return new SetupError('no-docker-engine', `Docker engine ${found.kind}: ${found.detail}. Try: ${found.fix}`);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
