// Owns what a worker says of itself to the server, again and again: its slots, its load, and why it takes no new runs.
// Called by cluster.ts, first until somebody has enlisted the worker, then as one of its rounds.
import { statfs } from 'node:fs/promises';
import { arch, cpus, loadavg, platform, totalmem } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { archOf } from '../adapters/bare-answers';
import type { Settings } from '../adapters/settings';
import { WorkerApiError, type WorkerApi } from '../adapters/worker-api';
import type { HelloReply } from '../domain/schemas/worker-api';
import type { Engines } from './engines';
import type { TemporalReach } from './temporal-reach';
import { Proofs } from './proofs';
import type { Upgrader } from './upgrader';
import { version } from '../package.json';

export const HELLO_MS = 5_000;
/** A server that does not answer at the start is asked again so soon, ms. */
const RETRY_MS = 500;
/** A server that does not answer the last hello delays no end, ms. */
const FAREWELL_MS = 2_000;
const GIBIBYTE = 1024 ** 3;
const MACHINE = {
  os: platform() === 'win32' ? 'windows' : platform(),
  arch: archOf(arch()),
  cpus: cpus().length || null,
  memoryBytes: totalmem(),
};

export interface GreeterPorts {
  api: WorkerApi;
  worker: { id: string; cluster: string };
  engines: Pick<Engines, 'ownFault' | 'proveOwn'>;
  settings: Settings;
  upgrader: Upgrader;
  log: Logger;
}

export class Greeter {
  private stopReason: string | undefined;
  private reach: Pick<TemporalReach, 'whyCutOff'> | undefined;
  private toldVersion = version;
  /** An older server would refuse a hello that speaks of releases. */
  private knowsReleases = false;
  /** One that is older still would refuse a hello that says what machine this is. */
  private knowsMachines = false;
  private readonly proofs = new Proofs();

  constructor(private readonly ports: GreeterPorts) {}

  /** From now on it says why, when Temporal does not hear this worker. */
  watch(reach: Pick<TemporalReach, 'whyCutOff'>): void {
    this.reach = reach;
  }

  /** From the next hello on the server gives this worker no new runs. */
  refuseNewRuns(why: string): void {
    this.stopReason = why;
  }

  /** Has the server send nothing more here, not even until it notices the silence; one that does not answer notices. */
  async farewell(): Promise<void> {
    this.refuseNewRuns('its worker was stopped');
    await this.hello(AbortSignal.timeout(FAREWELL_MS)).catch(() => undefined);
  }

  /** Waits for the server, and for somebody to enlist this worker there. */
  async untilEnlisted(signal: AbortSignal): Promise<void> {
    const { worker, log } = this.ports;
    let told = '';
    for (;;) {
      const answer = await this.hello(signal).catch((error: unknown) => {
        if (error instanceof WorkerApiError || signal.aborted) throw error;
        return undefined;
      });
      if (answer?.enlisted) return;
      const why = answer
        ? `it waits to be enlisted: slipway cluster enlist ${worker.cluster} ${worker.id}`
        : 'the server does not answer yet; waiting for it';
      if (why !== told) log.warn({ worker: worker.id, cluster: worker.cluster }, why);
      told = why;
      await sleep(answer ? HELLO_MS : RETRY_MS, undefined, { signal });
    }
  }

  async hello(signal: AbortSignal): Promise<HelloReply> {
    const { api, worker, engines, settings, upgrader } = this.ports;
    const engine = settings.SLIPWAY_ENGINE === 'docker' ? ('docker' as const) : ('shell' as const);
    const release = this.knowsReleases ? upgrader.report() : undefined;
    const machine = this.knowsMachines ? { ...MACHINE, engine } : undefined;
    this.knowsReleases = false;
    this.knowsMachines = false;
    const labels = settings.SLIPWAY_LABELS.split(',').map((label) => label.trim());
    const freeDiskBytes = await freeBytes(settings);
    const reply = await api.hello(
      {
        worker: worker.id,
        cluster: worker.cluster,
        host: settings.SLIPWAY_HOST,
        labels: labels.filter((label) => label !== ''),
        slots: settings.SLIPWAY_SLOTS,
        version,
        load: loadavg()[0],
        freeDiskBytes,
        release,
        machine,
        // Only a server that asked knows the field.
        proof: this.proofs.take(settings.SLIPWAY_HOST),
        notAccepting:
          this.stopReason ??
          this.reach?.whyCutOff ??
          whyOthersRun(settings, machine !== undefined) ??
          whyDiskRefuses(freeDiskBytes, settings.SLIPWAY_MIN_FREE_BYTES) ??
          (await engines.ownFault()),
      },
      signal,
    );
    this.tellVersion(reply.serverVersion);
    this.proofs.consider(settings.SLIPWAY_HOST, reply.proveEveryMs, engines.proveOwn);
    this.knowsReleases = reply.upgrade !== undefined;
    this.knowsMachines = reply.knowsMachines === true;
    if (reply.upgrade && this.stopReason === undefined) upgrader.consider(reply.upgrade, signal);
    return reply;
  }

  /** Once for each version of the server: side by side with the one before or after is as it should be, for a while. */
  private tellVersion(serverVersion: string): void {
    if (serverVersion !== this.toldVersion && serverVersion !== version) {
      this.ports.log.warn({ version, serverVersion }, 'the server is of another version than this worker');
    }
    this.toldVersion = serverVersion;
  }
}

/** A server that does not know that there are no containers here would send runs that need one. */
function whyOthersRun({ SLIPWAY_ENGINE: engine }: Settings, isSaid: boolean): string | null {
  if (engine === 'none') return 'its worker is for listed hosts alone';
  return engine === 'shell' && !isSaid ? 'it has no containers' : null;
}

async function freeBytes(settings: Settings): Promise<number | null> {
  const disk = await statfs(settings.workerDir).catch(() => undefined);
  return disk ? disk.bavail * disk.bsize : null;
}

const inGib = (bytes: number): string => `${(bytes / GIBIBYTE).toFixed(1)} GiB`;

/** Why a machine with so much free disk takes no new runs; null: it does. */
export function whyDiskRefuses(freeDiskBytes: number | null, leastBytes: number): string | null {
  if (freeDiskBytes === null || freeDiskBytes >= leastBytes) return null;
  return `only ${inGib(freeDiskBytes)} of its disk are free, ${inGib(leastBytes)} are needed`;
}
