// Owns starting and ending a Docker engine that is installed but not running.
// Called by docker-setup.ts.
import { execFile, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { access, readFile, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import Dockerode from 'dockerode';
import { findOnPath, outputOf } from './debian-packages';
import { SetupError } from './setup-error';

const run = promisify(execFile);
const SERVICE_LIMIT_MS = 90_000;
const POLL_MS = 100;

export interface DockerdPlace {
  program: string;
  args: string[];
  socket: string;
  /** Files in which dockerd and its containerd keep their process ids. */
  pidFiles: { path: string; program: string }[];
  logFile: string;
  startLimitMs: number;
  stopLimitMs: number;
}

/** Where dockerd has everything by default. */
export async function dockerdPlace(logFile: string): Promise<DockerdPlace> {
  return {
    program: (await findOnPath('dockerd')) ?? 'dockerd',
    args: (await isLiveRestoreConfigured()) ? [] : ['--live-restore'],
    socket: '/var/run/docker.sock',
    pidFiles: [
      { path: '/var/run/docker.pid', program: 'dockerd' },
      { path: '/var/run/docker/containerd/containerd.pid', program: 'containerd' },
    ],
    logFile,
    startLimitMs: 60_000,
    stopLimitMs: 30_000,
  };
}

/** dockerd refuses a setting that its file and its flags both name. */
async function isLiveRestoreConfigured(): Promise<boolean> {
  return /"live-restore"/.test(await readFile('/etc/docker/daemon.json', 'utf8').catch(() => ''));
}

/** True when systemd runs this machine, not merely when it is installed. */
export async function isSystemdRunning(): Promise<boolean> {
  return access('/run/systemd/system').then(
    () => true,
    () => false,
  );
}

/** @returns what stops it again @throws SetupError */
export async function startDockerService(): Promise<() => Promise<void>> {
  try {
    await run('systemctl', ['start', 'docker'], { timeout: SERVICE_LIMIT_MS });
  } catch (error) {
    const message = `systemctl start docker failed: ${outputOf(error)}. Look at: journalctl -u docker -n 50`;
    throw new SetupError('no-docker-engine', message, { cause: error });
  }
  return async () => {
    // The socket unit would start it again at the next question.
    await run('systemctl', ['stop', 'docker.socket', 'docker'], { timeout: SERVICE_LIMIT_MS });
  };
}

/**
 * Starts dockerd in a session of its own, so that it and its containers outlive us, and waits until it answers.
 * @returns what stops it again
 * @throws SetupError with the last lines of its log
 */
export async function startDockerd(place: DockerdPlace): Promise<() => Promise<void>> {
  for (const pidFile of place.pidFiles) await removeStalePidFile(pidFile);
  mkdirSync(dirname(place.logFile), { recursive: true });
  const log = openSync(place.logFile, 'a', 0o600);
  const child = spawn(place.program, place.args, { detached: true, stdio: ['ignore', log, log] });
  closeSync(log);
  let ended: string | undefined;
  child.once('error', (error) => (ended = error.message));
  child.once('exit', (code, signal) => (ended = `it ended with ${signal ?? `exit code ${code}`}`));
  const until = Date.now() + place.startLimitMs;
  while (!(await answers(place.socket))) {
    if (ended === undefined && Date.now() > until) ended = `no answer in ${place.startLimitMs / 1000} s`;
    if (ended !== undefined) {
      child.kill();
      throw await startFailed(place, ended);
    }
    await sleep(POLL_MS);
  }
  child.unref();
  return async () => {
    child.ref();
    const gone = new Promise((done) => child.once('exit', done));
    if (ended !== undefined || !child.kill('SIGTERM')) return;
    await Promise.race([gone, sleep(place.stopLimitMs, undefined, { ref: false })]);
  };
}

async function answers(socketPath: string): Promise<boolean> {
  return new Dockerode({ socketPath, timeout: 2_000 }).ping().then(
    () => true,
    () => false,
  );
}

async function startFailed(place: DockerdPlace, why: string): Promise<SetupError> {
  const log = await readFile(place.logFile, 'utf8').catch(() => '');
  const lines = log.trimEnd().split('\n').slice(-5).join('\n');
  const text = `dockerd could not be started (${why}). The end of ${place.logFile}:\n${lines}`;
  return new SetupError('no-docker-engine', `${text}\nStart an engine by hand, or set DOCKER_HOST to one.`);
}

/** A machine that lost its power leaves the file behind, and another process may have the number by now. */
async function removeStalePidFile({ path, program }: { path: string; program: string }): Promise<void> {
  const pid = Number(await readFile(path, 'utf8').catch(() => ''));
  if (!pid) return;
  const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
  if (name.trim() !== program) await rm(path, { force: true });
}
