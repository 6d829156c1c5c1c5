// Owns the engines that a worker drives: that of its own machine, and one for each other host that it serves now.
// Made by cluster-worker.ts; the activities ask it for the engine of a lease, the rounds for all of them.
import { join } from 'node:path';
import Dockerode from 'dockerode';
import { BareEngine } from '../adapters/bare-engine';
import { ContainerShell } from '../adapters/container-shell';
import { DockerEngine } from '../adapters/docker-engine';
import type { Engine } from '../adapters/engine';
import { LocalShell } from '../adapters/local-shell';
import { patient } from '../adapters/patient-engine';
import type { Settings } from '../adapters/settings';
import type { Shell } from '../adapters/shell';
import { SshHost } from '../adapters/ssh-host';
import type { Reach } from '../domain/schemas/hosts';
import type { ServedHost } from '../domain/schemas/worker-api';

/** A host beside the worker's own machine: listed by hand, or made by a blueprint. */
export interface KeptEngine {
  name: string;
  /** What it was made from: another text, another engine. */
  reach: string;
  shell: Shell;
  bare: BareEngine;
  engine: Engine;
}

export class Engines {
  readonly own: Engine;
  // Without an agent of ours: docker-modem prints its whole depth into a debug line at every call (seconds each, seen).
  readonly docker = new Dockerode();
  private readonly kept = new Map<string, KeptEngine>();

  /** @param lastAliveAt until when an earlier life of this worker was there */
  constructor(
    private readonly settings: Settings,
    lastAliveAt: Date,
  ) {
    const runs = join(settings.workerDir, 'runs');
    this.own = patient(
      settings.SLIPWAY_ENGINE === 'docker'
        ? new DockerEngine(this.docker, runs, lastAliveAt)
        : new BareEngine(new LocalShell(), runs),
    );
  }

  /** @param at.host not the worker's own machine where `reach` is given */
  at({ host, reach }: Partial<ServedHost> & { host?: string }): Engine {
    return host === undefined || !reach ? this.own : this.open({ name: host, reach }).engine;
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
    const shell = this.shellOf(name, reach);
    const bare = new BareEngine(shell, reach.dir);
    const one = { name, reach: text, shell, bare, engine: patient(bare) };
    this.kept.set(name, one);
    return one;
  }

  private shellOf(name: string, reach: Reach): Shell {
    if (reach.kind === 'ssh') return new SshHost(name, reach, this.settings.SLIPWAY_SSH_KEY ?? '');
    return new ContainerShell(this.docker, reach, name);
  }

  private drop(one: KeptEngine): void {
    this.kept.delete(one.name);
    one.shell.close?.();
  }
}
