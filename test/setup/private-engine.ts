// Owns a Docker engine of a test's own: another data folder and socket than the machine's, so that it may be killed.
// Called by the crash matrix and the soak. Containers have no network there, so nothing of the machine's is touched. Needs root.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import Dockerode from 'dockerode';
import { makeStarterImage } from '../../adapters/starter-image';
import { TEST_IMAGE } from './house';
import { waitFor } from './wait-for';

export class PrivateEngine {
  private readonly dir = mkdtempSync(join(tmpdir(), 'slipway-engine-'));
  readonly socket = join(this.dir, 'docker.sock');
  readonly docker = new Dockerode({ socketPath: this.socket });
  /** The container of each start, as the engine itself told of them, over all its restarts. */
  readonly starts: { id: string; name: string }[] = [];
  /** What starts containers below the engine: a program of its own, which a test may take away. */
  private readonly runtime = join(this.dir, 'runtime');
  private server: ChildProcess | undefined;
  private containerd: ChildProcess | undefined;

  /** Starts one that keeps containers alive over its own death and has the test image. */
  static async open(): Promise<PrivateEngine> {
    const engine = new PrivateEngine();
    writeFileSync(engine.runtime, '#!/bin/sh\nexec runc "$@"\n', { mode: 0o755 });
    await engine.start();
    await makeStarterImage(engine.docker, () => undefined, TEST_IMAGE);
    return engine;
  }

  async start(): Promise<void> {
    // A pid file of the one before would refuse this one when another process has its number by now.
    rmSync(join(this.dir, 'pid'), { force: true });

    const log = openSync(join(this.dir, 'log'), 'a');
    const below = join(this.dir, 'containerd.sock');
    // A service of its own, as on most machines: the engine is restarted above it.
    const folders = ['root', 'state'].flatMap((name) => [`--${name}`, join(this.dir, `containerd-${name}`)]);
    this.containerd ??= spawn('containerd', ['--address', below, ...folders], { stdio: ['ignore', log, log] });
    await waitFor(() => existsSync(below), { what: 'containerd listens' });
    const places = ['data', 'exec'].flatMap((name) => [`--${name}-root`, join(this.dir, name)]);
    const args = ['--live-restore', '-H', `unix://${this.socket}`, ...places, '--pidfile', join(this.dir, 'pid')];
    args.push('--add-runtime', `own=${this.runtime}`, '--default-runtime', 'own');
    const options = [...args, '--containerd', below, '--bridge=none', '--iptables=false'];
    // In a network of its own: without a bridge, an engine removes the one of the machine's engine.
    this.server = spawn('unshare', ['--net', 'dockerd', ...options], { stdio: ['ignore', log, log] });
    closeSync(log);
    await waitFor(() => this.docker.ping(), { what: 'the engine answers', timeoutMs: 60_000, intervalMs: 100 }).catch(
      (error: unknown) => {
        throw new Error(`${String(error)}\n${readFileSync(join(this.dir, 'log'), 'utf8').slice(-2_000)}`);
      },
    );
    await this.watchStarts();
  }

  /** An engine forgets its events when it ends, so all that it knows of are those of its present life. */
  private async watchStarts(): Promise<void> {
    const events = await this.docker.getEvents({ since: 1, filters: { type: ['container'], event: ['start'] } });
    const lines = createInterface({ input: events });
    lines.on('error', () => undefined);
    lines.on('line', (line) => {
      const { Actor: container } = JSON.parse(line) as { Actor: { ID: string; Attributes: { name: string } } };
      this.starts.push({ id: container.ID, name: container.Attributes.name });
    });
  }

  /** Names under which a container was started more than once: each attempt has a name of its own. */
  startedTwice(): string[] {
    const names = this.starts.map(({ name }) => name);
    return names.filter((name, at) => names.indexOf(name) < at);
  }

  /** From now on it answers as before, and can start no container. */
  breakRuntime(): void {
    renameSync(this.runtime, `${this.runtime}.away`);
  }

  repairRuntime(): void {
    renameSync(`${this.runtime}.away`, this.runtime);
  }

  signalContainerd(signal: NodeJS.Signals): void {
    this.containerd?.kill(signal);
  }

  async kill9(): Promise<void> {
    await this.end('SIGKILL');
  }

  /** Containers of attempts that are there, running or not. */
  async containers(): Promise<string[]> {
    const all = await this.docker.listContainers({ all: true, filters: { label: ['dev.slipway.run-id'] } });
    return all.map((one) => one.Names[0] ?? one.Id);
  }

  async volumes(): Promise<number> {
    return (await this.docker.listVolumes()).Volumes.length;
  }

  async removeAll(): Promise<void> {
    for (const name of await this.containers()) {
      const removed = this.docker.getContainer(name.replace(/^\//, '')).remove({ force: true, v: true });
      // 404 and 409: the worker has removed it meanwhile, or is about to have.
      await removed.catch((error: { statusCode?: number }) => {
        if (error.statusCode !== 404 && error.statusCode !== 409) throw error;
      });
    }
  }

  async stop(): Promise<void> {
    await this.removeAll().catch(() => undefined);
    await this.end('SIGTERM');
    for (const pid of this.processes()) process.kill(pid, 'SIGKILL');
    await waitFor(() => this.processes().length === 0, { what: 'every process of the engine is gone' });
    for (const path of this.mounts()) execFileSync('umount', ['--lazy', path]);
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }

  /** Processes that were started with a path of this engine: what is left of it, containerd and the shims of containers. */
  private processes(): number[] {
    return readdirSync('/proc').flatMap((entry) => {
      const command = /^\d+$/.test(entry) ? readCommand(Number(entry)) : '';
      return command.includes(`${this.dir}/`) && Number(entry) !== process.pid ? [Number(entry)] : [];
    });
  }

  /** What is mounted below its folder, the innermost first. */
  private mounts(): string[] {
    const paths = readFileSync('/proc/mounts', 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[1] ?? '');
    return paths.filter((path) => path.startsWith(`${this.dir}/`)).reverse();
  }

  private async end(signal: NodeJS.Signals): Promise<void> {
    const { server } = this;
    if (!server || server.exitCode !== null || server.signalCode !== null) return;
    const gone = once(server, 'exit');
    server.kill(signal);
    await gone;
  }
}

/** Of a process that ended meanwhile: empty. */
function readCommand(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}
