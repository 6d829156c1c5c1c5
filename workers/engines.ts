// Owns the engines that a worker drives: that of its own machine, and one for each listed host that it serves now.
// Made by cluster-worker.ts; the activities ask it for the engine of a lease, the rounds for all of them.
import { join } from 'node:path';
import Dockerode from 'dockerode';
import { BareEngine } from '../adapters/bare-engine';
import { DockerEngine } from '../adapters/docker-engine';
import type { Engine } from '../adapters/engine';
import { LocalShell } from '../adapters/local-shell';
import { patient } from '../adapters/patient-engine';
import type { Settings } from '../adapters/settings';
import { SshHost } from '../adapters/ssh-host';
import type { ServedHost } from '../domain/schemas/worker-api';

export interface ListedHost {
  name: string;
  /** What it was made from: another text, another engine. */
  reach: string;
  host: SshHost;
  bare: BareEngine;
  engine: Engine;
}

export class Engines {
  readonly own: Engine;
  private readonly listed = new Map<string, ListedHost>();

  /** @param lastAliveAt until when an earlier life of this worker was there */
  constructor(
    private readonly settings: Settings,
    lastAliveAt: Date,
  ) {
    const runs = join(settings.workerDir, 'runs');
    // Without an agent of ours: docker-modem prints its whole depth into a debug line at every call (seconds each, seen).
    this.own = patient(
      settings.SLIPWAY_ENGINE === 'docker'
        ? new DockerEngine(new Dockerode(), runs, lastAliveAt)
        : new BareEngine(new LocalShell(), runs),
    );
  }

  /** @param at.host a listed one where `reach` is given */
  at({ host, reach }: Partial<ServedHost> & { host?: string }): Engine {
    return host === undefined || !reach ? this.own : this.open({ name: host, reach }).engine;
  }

  get served(): ListedHost[] {
    return [...this.listed.values()];
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

  private open({ name, reach }: ServedHost): ListedHost {
    const text = JSON.stringify(reach);
    const before = this.listed.get(name);
    if (before?.reach === text) return before;
    if (before) this.drop(before);
    const host = new SshHost(name, reach, this.settings.SLIPWAY_SSH_KEY ?? '');
    const bare = new BareEngine(host, reach.dir);
    const one = { name, reach: text, host, bare, engine: patient(bare) };
    this.listed.set(name, one);
    return one;
  }

  private drop(one: ListedHost): void {
    this.listed.delete(one.name);
    one.host.close();
  }
}
