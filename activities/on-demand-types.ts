// Owns what the workflow of an on-demand host says to the worker that makes it, and to the store.
// Stored in histories, so fields are only ever added. Types alone.
import type { HostToMake } from '../domain/schemas/blueprints';
import type { Reach } from '../domain/schemas/hosts';

/** Done by a worker of the cluster, which alone has what it takes. */
export interface MakerActivities {
  /** Makes a host, unless it is there, and waits until it has an address. */
  makeHost(host: HostToMake): Promise<{ resource: string; reach: Reach }>;
  /** Ends all that is there of a host, and waits until it is gone. */
  destroyHost(host: HostToMake): Promise<void>;
}

type HostKey = Pick<HostToMake, 'cluster' | 'host'>;

/** Done by the orchestrator. Each is idempotent. */
export interface LedgerActivities {
  /** @returns queue of a worker that can make or end it now; absent: there is none */
  chooseMaker(host: HostToMake): Promise<{ queue?: string }>;
  /** @param host.resource and `reach`: as the worker said them, which may be anything @throws when they cannot be of this host */
  hostMade(host: HostKey & { resource: unknown; reach: unknown }): Promise<void>;
  /** It could not be made or ended, for now. */
  hostFault(host: HostKey & { message: string }): Promise<void>;
  /** It takes no more runs, whatever the rows said. */
  hostEnds(host: HostKey & { why: string }): Promise<void>;
  hostGone(host: HostKey): Promise<void>;
}
