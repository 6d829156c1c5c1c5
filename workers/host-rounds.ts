// Owns what a worker does for the listed hosts of its cluster: asks which are its, probes them, and says how they are.
// Called by cluster-worker.ts as one of its rounds.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { WorkerApi } from '../adapters/worker-api';
import type { HostProbe } from '../domain/schemas/worker-api';
import type { Engines, ListedHost } from './engines';
import { whyDiskRefuses } from './greeting';

/** One that takes longer is told of in a later round, ms: no host waits for another. */
const PROBE_ROUND_MS = 1_000;
const MOST_CHARACTERS = 500;

export interface HostRoundPorts {
  engines: Engines;
  api: WorkerApi;
  worker: { id: string };
  minFreeBytes: number;
  log: Logger;
}

export class HostRounds {
  private readonly underWay = new Set<string>();
  private readonly results = new Map<string, HostProbe>();
  private readonly faults = new Map<string, string>();

  constructor(private readonly ports: HostRoundPorts) {}

  /** Tells and asks; hosts that are new are probed and told of at once. */
  async round(signal: AbortSignal): Promise<void> {
    const { engines, api, worker } = this.ports;
    const before = new Set(engines.served.map(({ name }) => name));
    await this.probe(signal);
    const probes = [...this.results.values()];
    this.results.clear();
    engines.serve(await api.hosts({ worker: worker.id, probes }, signal));
    if (engines.served.some(({ name }) => !before.has(name))) await this.round(signal);
  }

  private async probe(signal: AbortSignal): Promise<void> {
    const { served } = this.ports.engines;
    if (served.length === 0) return;
    const probes = served.filter(({ name }) => !this.underWay.has(name)).map((one) => this.probeOne(one));
    await Promise.race([Promise.all(probes), sleep(PROBE_ROUND_MS, undefined, { signal })]);
  }

  private async probeOne({ name, bare }: ListedHost): Promise<void> {
    this.underWay.add(name);
    try {
      const { machine, freeDiskBytes } = await bare.probe();
      const notAccepting = whyDiskRefuses(freeDiskBytes, this.ports.minFreeBytes);
      this.results.set(name, { host: name, machine, notAccepting });
      this.faults.delete(name);
    } catch (error) {
      const fault = (error as Error).message.replace(/\p{Cc}/gu, ' ').slice(0, MOST_CHARACTERS) || 'its probe failed';
      this.results.set(name, { host: name, fault });
      if (this.faults.get(name) !== fault) this.ports.log.warn({ host: name, fault }, 'a host does not work');
      this.faults.set(name, fault);
    } finally {
      this.underWay.delete(name);
    }
  }
}
