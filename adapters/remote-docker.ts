// Owns Docker engines of other machines: its API through TLS or an SSH connection, and the folders of runs there through a
// helper container, which needs nothing of the machine but its engine. Made by workers/engines.ts; handed out as an Engine.
import { createHash } from 'node:crypto';
import { Agent } from 'node:http';
import { inspect } from 'node:util';
import Dockerode from 'dockerode';
import type { DockerSshReach, DockerTlsReach } from '../domain/schemas/hosts';
import type { Checkout } from '../domain/schemas/plan';
import type { BareProbe } from './bare-answers';
import { BareEngine } from './bare-engine';
import { ContainerShell } from './container-shell';
import { beginProgram } from './docker-begin';
import { ensureRunning, messageOf, pullImage } from './docker-client';
import { DockerEngine } from './docker-engine';
import type {
  Archived,
  ContainerExit,
  ContainerSpec,
  Engine,
  FollowOptions,
  FoundContainer,
  SpoolFile,
  Terminal,
  TerminalWish,
  WaitOptions,
  WatchOptions,
} from './engine';
import { lostMachine, type Opened, type OpenOptions, type Shell } from './shell';
import type { SshHost } from './ssh-host';

/** Of one another may have been running for long; a restart of it while nobody watched is to be noticed. */
const BEFORE_ANY = new Date(0);

export class RemoteDockerEngine implements Engine {
  /** @param folders of the runs on the machine @param docker the engine there */
  constructor(
    private readonly docker: DockerEngine,
    private readonly folders: BareEngine,
  ) {}

  /** @param dir folder of the runs on the machine @param options as of BareEngine */
  static at(
    docker: Dockerode,
    shell: Shell,
    { dir, ...options }: { dir: string; localRepositories?: readonly string[] },
  ): RemoteDockerEngine {
    return new RemoteDockerEngine(
      new DockerEngine(docker, dir, { lastAliveAt: BEFORE_ANY, isElsewhere: true }),
      new BareEngine(shell, dir, options),
    );
  }

  under(token: number): Engine {
    return new RemoteDockerEngine(this.docker, this.folders.under(token));
  }

  /** Reaches the engine and its disk. @throws EngineError */
  async probe(): Promise<BareProbe> {
    return this.folders.probe();
  }

  async prove(): Promise<void> {
    await this.docker.prove();
  }

  pull(reference: string): Promise<void> {
    return this.docker.pull(reference);
  }

  digestOf(imageId: string): Promise<string> {
    return this.docker.digestOf(imageId);
  }

  makeRunDir(name: string, script: string, program?: string): Promise<string> {
    return this.folders.prepare(name, { script, program, begin: beginProgram(name, script) });
  }

  checkOut(name: string, checkout: Checkout, signal: AbortSignal): Promise<string> {
    return this.folders.checkOut(name, checkout, signal);
  }

  find(name: string): Promise<FoundContainer | undefined> {
    return this.docker.find(name);
  }

  async create(spec: ContainerSpec): Promise<string> {
    await this.folders.fence(spec.name);
    return this.docker.create(spec);
  }

  async start(name: string): Promise<void> {
    await this.folders.fence(name);
    await this.docker.start(name);
  }

  follow(container: FoundContainer, options: FollowOptions): AsyncGenerator<Buffer> {
    return this.docker.follow(container, options);
  }

  wait(container: FoundContainer, options: WaitOptions): Promise<ContainerExit> {
    return this.docker.wait(container, options);
  }

  async stop(name: string, graceMs: number): Promise<void> {
    await this.folders.fence(name);
    await this.docker.stop(name, graceMs);
  }

  archivedFiles(name: string): AsyncGenerator<Archived> {
    return this.folders.archivedFiles(name);
  }

  spooled(name: string): Promise<SpoolFile[]> {
    return this.folders.spooled(name);
  }

  watchSpool(name: string, options: WatchOptions): AsyncGenerator<SpoolFile[]> {
    return this.folders.watchSpool(name, options);
  }

  take(name: string, file: string, fromByte: number): AsyncIterable<Buffer> {
    return this.folders.take(name, file, fromByte);
  }

  put(name: string, file: string, bytes: Uint8Array): Promise<number> {
    return this.folders.put(name, file, bytes);
  }

  discard(name: string, prefix: string): Promise<void> {
    return this.folders.discard(name, prefix);
  }

  openTerminal(name: string, wish: TerminalWish): Promise<Terminal> {
    return this.docker.openTerminal(name, wish);
  }

  async remove(name: string): Promise<void> {
    await this.folders.fence(name);
    await this.docker.remove(name);
    await this.folders.remove(name);
  }

  async listRemains(): Promise<string[]> {
    const [containers, folders] = await Promise.all([this.docker.listRemains(), this.folders.listRemains()]);
    return [...new Set([...containers, ...folders])];
  }
}

/** Through SSH: nothing is needed there but the engine's socket. */
export function dockerOverSsh(host: SshHost, socket: string): Dockerode {
  const agent = new ForwardingAgent(host, socket);
  return new Dockerode({ protocol: 'http', host: 'engine', port: 80, agent } as Dockerode.DockerOptions);
}

class ForwardingAgent extends Agent {
  constructor(host: SshHost, socket: string) {
    super();
    type Told = (error: Error | null, stream?: unknown) => void;
    const forward = (_: unknown, told: Told): void => {
      host.forward(socket).then(
        (stream) => told(null, stream),
        (error: Error) => told(error),
      );
    };
    Object.assign(this, { createConnection: forward });
  }

  /** Its client writes each call, with the whole depth of this, into a debug line that nobody reads: seconds each. */
  [inspect.custom](): string {
    return 'ForwardingAgent';
  }
}

/** What a worker shows to engines with TLS, and whom it trusts; PEM. */
export interface TlsKeys {
  ca?: string;
  cert?: string;
  key?: string;
}

export function dockerByTls({ address: host, port }: DockerTlsReach, keys: TlsKeys): Dockerode {
  return new Dockerode({ protocol: 'https', host, port, ...keys });
}

/** It is told that it is still used by this file in it, and ends by itself when it was not for five minutes. */
const USED = '/tmp/used';
const HELPER = `: >${USED}; while [ -n "$(find ${USED} -mmin -5)" ]; do sleep 20; done`;
const USE_MS = 60_000;

/** One helper a folder, whoever serves the host. */
export const helperName = ({ dir, helper }: Pick<DockerSshReach, 'dir' | 'helper'>): string =>
  `slipway-helper-${createHash('sha256').update(`${dir} ${helper}`).digest('hex').slice(0, 12)}`;

/** Commands in a container that sees the folder of the runs; made when it is not there. */
export class HelperShell implements Shell {
  readonly name: string;
  readonly shell = '/bin/sh';
  private readonly inside: ContainerShell;
  private readonly container: string;
  private usedAtMs = -Infinity;
  private making: Promise<void> | undefined;

  /** @param host as people call it */
  constructor(
    private readonly docker: Dockerode,
    private readonly reach: Pick<DockerSshReach, 'dir' | 'helper'>,
    host: string,
  ) {
    this.name = `host ${host}`;
    this.container = helperName(reach);
    this.inside = new ContainerShell(docker, { container: this.container, shell: this.shell }, host);
  }

  async open(command: readonly string[], options?: OpenOptions): Promise<Opened> {
    if (performance.now() - this.usedAtMs > USE_MS) {
      await (this.making ??= this.use().finally(() => (this.making = undefined)));
    }
    return this.inside.open(command, options).catch((error: unknown) => {
      // Somebody has removed it, or it has just ended: the next try makes it anew.
      this.usedAtMs = -Infinity;
      throw lostMachine((error as Error).message, error);
    });
  }

  openTerminal(): Promise<Terminal> {
    return Promise.reject(new Error('terminals of runs are in containers of their own'));
  }

  private async use(): Promise<void> {
    try {
      await this.make();
      const { ended } = await this.inside.open([this.shell, '-c', `: >${USED}`]);
      await ended;
      this.usedAtMs = performance.now();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== undefined) throw error;
      throw lostMachine(`${this.name} has no helper container: ${messageOf(error)}`, error);
    }
  }

  private async make(): Promise<void> {
    const { dir, helper: image } = this.reach;
    const options = {
      name: this.container,
      Image: image,
      Entrypoint: ['/bin/sh', '-c', HELPER],
      Cmd: [],
      HostConfig: {
        Init: true,
        AutoRemove: true,
        NetworkMode: 'host',
        Binds: [`${dir}:${dir}`],
      },
    };
    if (await ensureRunning(this.docker, options)) return;
    await pullImage(this.docker, image);
    if (!(await ensureRunning(this.docker, options)))
      throw new Error(`image ${image} is not there after it was pulled`);
  }
}
