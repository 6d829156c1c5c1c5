// Owns the engines that a worker drives: that of its own machine, and one for each other host that it serves now.
// Made by cluster-worker.ts; the activities ask it for the engine of a lease, the rounds for all of them.
import { join } from 'node:path';
import Dockerode from 'dockerode';
import { BareEngine } from '../adapters/bare-engine';
import { ContainerShell } from '../adapters/container-shell';
import { requireAnswer } from '../adapters/docker-client';
import { DockerEngine } from '../adapters/docker-engine';
import type { Engine } from '../adapters/engine';
import { LocalShell } from '../adapters/local-shell';
import { patient } from '../adapters/patient-engine';
import type { Settings } from '../adapters/settings';
import { dockerByTls, dockerOverSsh, HelperShell, RemoteDockerEngine } from '../adapters/remote-docker';
import { SshHost } from '../adapters/ssh-host';
import type { DockerSshReach, DockerTlsReach, Reach } from '../domain/schemas/hosts';
import type { ServedHost } from '../domain/schemas/worker-api';

const MOST_CHARACTERS = 250;

/** As a host shows it. */
export const inWords = (error: Error): string =>
  error.message.replace(/\p{Cc}/gu, ' ').slice(0, MOST_CHARACTERS) || 'its probe failed';

/** A host beside the worker's own machine: listed by hand, or made by a blueprint. */
export interface KeptEngine {
  name: string;
  /** What it was made from: another text, another engine. */
  reach: string;
  /** As it is, without patience. */
  direct: BareEngine | RemoteDockerEngine;
  engine: Engine;
  close(): void;
}

export class Engines {
  readonly own: Engine;
  // Without an agent of ours: docker-modem prints its whole depth into a debug line at every call (seconds each, seen).
  readonly docker = new Dockerode();
  private readonly kept = new Map<string, KeptEngine>();
  /** Of the worker's own machine. @throws EngineError */
  private readonly probeOwn: () => Promise<unknown>;
  /** Has something of ours run on the worker's own machine. @throws EngineError */
  readonly proveOwn: () => Promise<unknown>;

  /** @param lastAliveAt until when an earlier life of this worker was there */
  constructor(
    private readonly settings: Settings,
    lastAliveAt: Date,
  ) {
    const runs = join(settings.workerDir, 'runs');
    const { localRepositories } = settings;
    if (settings.SLIPWAY_ENGINE === 'docker') {
      const engine = new DockerEngine(this.docker, runs, { lastAliveAt, localRepositories });
      this.own = patient(engine);
      this.probeOwn = () => requireAnswer(this.docker);
      this.proveOwn = () => engine.prove();
    } else {
      const bare = new BareEngine(new LocalShell(), runs, { localRepositories });
      this.own = patient(bare);
      this.probeOwn = () => bare.probe();
      this.proveOwn = this.probeOwn;
    }
  }

  /** Why nothing can be run on the worker's own machine now, in words; null: it can. */
  async ownFault(): Promise<string | null> {
    return this.probeOwn().then(
      () => null,
      (error: Error) => inWords(error),
    );
  }

  /** @param at.host not the worker's own machine where `reach` is given */
  at({ host, reach }: Partial<ServedHost> & { host?: string }): Engine {
    return host === undefined || !reach ? this.own : this.open({ name: host, reach }).engine;
  }

  /** That of a host which a run has beside its own, whoever serves it; to be closed by whoever asked. */
  borrow({ name, reach }: ServedHost): Omit<KeptEngine, 'name' | 'reach'> {
    const { direct, close } = this.connect(name, reach);
    return { direct, engine: patient(direct), close };
  }

  get served(): KeptEngine[] {
    return [...this.kept.values()];
  }

  /** From now on serves these hosts and no others; what is under way on one that is dropped goes on to its end. */
  serve(hosts: readonly ServedHost[]): void {
    const names = new Set(hosts.map(({ name }) => name));
    for (const one of this.served) if (!names.has(one.name)) this.drop(one);
    for (const host of hosts) this.open(host);
  }

  close(): void {
    for (const one of this.served) this.drop(one);
  }

  private open({ name, reach }: ServedHost): KeptEngine {
    const text = JSON.stringify(reach);
    const before = this.kept.get(name);
    if (before?.reach === text) return before;
    if (before) this.drop(before);
    const { direct, close } = this.connect(name, reach);
    const one = { name, reach: text, direct, engine: patient(direct), close };
    this.kept.set(name, one);
    return one;
  }

  private connect(name: string, reach: Reach): Pick<KeptEngine, 'direct' | 'close'> {
    const { SLIPWAY_SSH_KEY: key = '', localRepositories } = this.settings;
    const stay = (): void => undefined;
    switch (reach.kind) {
      case 'ssh': {
        const host = new SshHost(name, reach, key);
        return { direct: new BareEngine(host, reach.dir, { localRepositories }), close: () => host.close() };
      }
      case 'container': {
        const shell = new ContainerShell(this.docker, reach, name);
        return { direct: new BareEngine(shell, reach.dir, { localRepositories }), close: stay };
      }
      case 'docker-ssh': {
        const host = new SshHost(name, reach, key);
        return { direct: this.remoteDocker(dockerOverSsh(host, reach.socket), reach, name), close: () => host.close() };
      }
      case 'docker-tls': {
        const { SLIPWAY_DOCKER_CA: ca, SLIPWAY_DOCKER_CERT: cert, SLIPWAY_DOCKER_KEY: own } = this.settings;
        return { direct: this.remoteDocker(dockerByTls(reach, { ca, cert, key: own }), reach, name), close: stay };
      }
    }
  }

  private remoteDocker(docker: Dockerode, reach: DockerSshReach | DockerTlsReach, name: string): RemoteDockerEngine {
    const { localRepositories } = this.settings;
    return RemoteDockerEngine.at(docker, new HelperShell(docker, reach, name), { dir: reach.dir, localRepositories });
  }

  private drop(one: KeptEngine): void {
    this.kept.delete(one.name);
    one.close();
  }
}
