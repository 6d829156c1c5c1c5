// Owns what the routes are given: the ports, the links and the limits. Made once by server.ts.
import type { Logger } from 'pino';
import type { Blobs } from '../adapters/blobs';
import type { Planner } from '../adapters/planner';
import type { Temporal } from '../adapters/temporal';
import type { Database } from '../adapters/store/connect';
import type { RefusalAudit } from '../adapters/refusal-audit';
import type { Identities } from '../adapters/worker-identity';
import type { Limits } from './limits';
import type { OwnAddress } from './own-address';
import type { Troubles } from './troubles';
import type { Links } from './views';

export interface ApiContext {
  db: Database;
  blobs: Blobs;
  temporal: Temporal;
  planner: Planner;
  log: Logger;
  links: Links;
  ownAddress: OwnAddress;
  limits: Limits;
  /** Who calls as a worker. */
  identities: Identities;
  refusals: RefusalAudit;
  /** What keeps this server from its work. */
  troubles: Troubles;
  /** Secret that may do everything an operator can; without one only tokens in the store count. */
  adminToken: string | undefined;
  /** Largest JSON body, bytes. */
  maxBodyBytes: number;
  /** Size from which on a log of a run is capped. */
  logCapBytes: number;
  /** In which waiting runs that get nothing rise by one priority, ms. */
  ageStepMs: number;
  /** Whether triggers are taken on an address of their own alone. */
  triggersApart: boolean;
  /** Aborted when this process stops: open streams end, and their readers come back to another copy. */
  stopping: AbortSignal;
}
