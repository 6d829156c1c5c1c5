// Owns the tries of hosts that have failed: as often as the server asks, one at a time for each, beside whatever else is told.
// Used by greeting.ts for the worker's own machine, and by host-rounds.ts for the hosts that it serves.
import type { Proof } from '../domain/schemas/worker-api';
import { inWords } from './engines';

interface Known {
  isUnderWay: boolean;
  beganAtMs: number;
  /** Not told yet. */
  outcome?: { fault: string | null };
}

export class Proofs {
  private readonly hosts = new Map<string, Known>();

  /** Tries a host now, if that is due. @param everyMs how often the server asks for it; undefined: not at all */
  consider(host: string, everyMs: number | undefined, prove: () => Promise<unknown>): void {
    const before = this.hosts.get(host);
    const now = performance.now();
    if (everyMs === undefined || before?.isUnderWay || now - (before?.beganAtMs ?? -Infinity) < everyMs) return;
    const known: Known = { isUnderWay: true, beganAtMs: now };
    this.hosts.set(host, known);
    void prove()
      .then(
        () => (known.outcome = { fault: null }),
        (error: Error) => (known.outcome = { fault: inWords(error) }),
      )
      .finally(() => (known.isUnderWay = false));
  }

  /** What came of the last try, once; undefined: there is nothing new. */
  take(host: string): Proof | undefined {
    const known = this.hosts.get(host);
    if (!known?.outcome) return undefined;
    const { fault } = known.outcome;
    known.outcome = undefined;
    return { fault, beganMsAgo: Math.ceil(performance.now() - known.beganAtMs) };
  }
}
