// Owns the port of what makes hosts on demand: a Docker engine, or a cloud.
// Implemented by docker-maker.ts and ec2-maker.ts; used by the worker's activities and its rounds.
import type { HostToMake } from '../domain/schemas/blueprints';
import type { Reach } from '../domain/schemas/hosts';

/** What there is of a host; `coming`: it has no address yet, `off`: it is there, and does not run. */
export type Made = { state: 'absent' | 'coming' | 'off' } | { state: 'there'; resource: string; reach: Reach };

/**
 * What is made carries the id of its blueprint and the name of its host, so that it is found again whatever was lost: the
 * answer of a call, or whoever made it. Every call is safe to repeat. All throw MakerError.
 */
export interface HostMaker {
  /** Makes the host, unless it is there. */
  create(host: HostToMake): Promise<void>;
  probe(host: HostToMake): Promise<Made>;
  /** Everything of a blueprint that is there, by the names of the hosts. */
  list(blueprint: Pick<HostToMake, 'blueprint' | 'make'>): Promise<{ host: string; isAlive: boolean }[]>;
  /** Ends all that is there of a host. @returns whether nothing is left; false: look again */
  destroy(host: Omit<HostToMake, 'cluster'>): Promise<boolean>;
}

/** It could not be done. `message` is one sentence for people. */
export class MakerError extends Error {
  override readonly name = 'MakerError';
}
