// Owns what a worker does for the hosts of its cluster beside its own machine: asks which are its, probes them, says how they
// are, and looks for what is left of those that blueprints made. Called by cluster-worker.ts as one of its rounds.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { WorkerApi } from '../adapters/worker-api';
import type { FoundHosts, HostProbe, HostsReply } from '../domain/schemas/worker-api';
import { inWords, type Engines, type KeptEngine } from './engines';
import { whyDiskRefuses } from './greeting';
import type { Makers } from './makers';
import { Proofs } from './proofs';
import type { TemporalReach } from './temporal-reach';

/** One that takes longer is told of in a later round, ms: no host waits for another. */
const PROBE_ROUND_MS = 1_000;
/** How often a blueprint is looked at for hosts that nobody needs, ms. */
const SWEEP_MS = 30_000;

export interface HostRoundPorts {
  engines: Engines;
  makers: Makers;
  api: WorkerApi;
  worker: { id: string };
  minFreeBytes: number;
  reach: Pick<TemporalReach, 'whyCutOff'>;
  log: Logger;
}

export class HostRounds {
  private readonly underWay = new Set<string>();
  private readonly results = new Map<string, HostProbe>();
  private readonly faults = new Map<string, string>();
  private readonly proofs = new Proofs();
  private blueprints: HostsReply['blueprints'] = [];
  private sweptAtMs = -Infinity;

  constructor(private readonly ports: HostRoundPorts) {}

  /** Tells and asks; hosts that are new are probed and told of at once. */
  async round(signal: AbortSignal): Promise<void> {
    const { engines, makers, api, worker } = this.ports;
    const before = new Set(engines.served.map(({ name }) => name));
    await this.probe(signal);
    const found = await this.lookForMade();
    const probes = [...this.results.values()].map((one) => ({ ...one, proof: this.proofs.take(one.host) }));
    this.results.clear();
    const engine = await makers.findEngine();
    const { hosts, blueprints, orphans } = await api.hosts({ worker: worker.id, probes, engine, found }, signal);
    this.blueprints = blueprints;
    engines.serve(hosts);
    for (const { name, proveEveryMs } of hosts) {
      const { direct } = engines.served.find((one) => one.name === name)!;
      this.proofs.consider(name, proveEveryMs, () => direct.prove());
    }
    for (const orphan of orphans) await this.destroy(orphan);
    if (engines.served.some(({ name }) => !before.has(name))) await this.round(signal);
  }

  /** Of one that cannot be looked at now nothing is said. */
  private async lookForMade(): Promise<FoundHosts[]> {
    if (performance.now() - this.sweptAtMs < SWEEP_MS) return [];
    this.sweptAtMs = performance.now();
    const { makers, log } = this.ports;
    const found = new Map<string, FoundHosts['hosts']>();
    const unseen = new Set<string>();
    for (const { id, make } of this.blueprints) {
      try {
        const hosts = await (await makers.at(make)).list({ blueprint: id, make });
        found.set(id, [...(found.get(id) ?? []), ...hosts]);
      } catch (error) {
        unseen.add(id);
        log.warn({ blueprint: id, error: (error as Error).message }, 'hosts of a blueprint cannot be looked for');
      }
    }
    return [...found].filter(([id]) => !unseen.has(id)).map(([blueprint, hosts]) => ({ blueprint, hosts }));
  }

  /** Looked for again in the next sweep, whatever comes of it. */
  private async destroy({ blueprint, host }: { blueprint: string; host: string }): Promise<void> {
    const { makers, log } = this.ports;
    log.warn({ blueprint, host }, 'ending a host that nobody needs');
    // Where it was made is not known, when the blueprint was changed meanwhile.
    for (const { make } of this.blueprints.filter(({ id }) => id === blueprint)) {
      try {
        await (await makers.at(make)).destroy({ blueprint, host, make });
      } catch (error) {
        log.warn({ host, error: (error as Error).message }, 'a host could not be ended');
      }
    }
  }

  private async probe(signal: AbortSignal): Promise<void> {
    const { served } = this.ports.engines;
    if (served.length === 0) return;
    const probes = served.filter(({ name }) => !this.underWay.has(name)).map((one) => this.probeOne(one));
    await Promise.race([Promise.all(probes), sleep(PROBE_ROUND_MS, undefined, { signal })]);
  }

  private async probeOne({ name, direct }: KeptEngine): Promise<void> {
    this.underWay.add(name);
    try {
      const { machine, freeDiskBytes } = await direct.probe();
      const { reach, minFreeBytes } = this.ports;
      const notAccepting = reach.whyCutOff ?? whyDiskRefuses(freeDiskBytes, minFreeBytes);
      this.results.set(name, { host: name, machine, notAccepting });
      this.faults.delete(name);
    } catch (error) {
      const fault = inWords(error as Error);
      this.results.set(name, { host: name, fault });
      if (this.faults.get(name) !== fault) this.ports.log.warn({ host: name, fault }, 'a host does not work');
      this.faults.set(name, fault);
    } finally {
      this.underWay.delete(name);
    }
  }
}
