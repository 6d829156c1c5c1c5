// Owns why a call of a worker is refused: a closed list, each with its kind and a sentence for people.
// Thrown by worker-identity.ts and by the rules of gateway and API; they turn it into an answer and an audit record.
import type { WorkerIdentity } from './worker-identity';

/** In the words of gRPC's status codes. */
export type RefusalKind =
  'INVALID_ARGUMENT' | 'PERMISSION_DENIED' | 'RESOURCE_EXHAUSTED' | 'UNAUTHENTICATED' | 'UNAVAILABLE';

/** The same for HTTP. */
export const HTTP_STATUS: Record<RefusalKind, number> = {
  INVALID_ARGUMENT: 400,
  UNAUTHENTICATED: 401,
  PERMISSION_DENIED: 403,
  RESOURCE_EXHAUSTED: 429,
  UNAVAILABLE: 503,
};

interface Meaning {
  kind: RefusalKind;
  says: string;
}

const REFUSALS = {
  'no-token': {
    kind: 'UNAUTHENTICATED',
    says: 'the call carries no bearer token; sign one with the key of the cluster',
  },
  'malformed-token': { kind: 'UNAUTHENTICATED', says: 'the bearer token is no JWT of a worker, see its claims' },
  'wrong-algorithm': { kind: 'UNAUTHENTICATED', says: 'the token must be signed with EdDSA (Ed25519)' },
  'unknown-key': { kind: 'UNAUTHENTICATED', says: 'the cluster has no such key, or is not active; register the key' },
  'key-revoked': { kind: 'UNAUTHENTICATED', says: 'the key was revoked; give the worker another one' },
  'key-expired': { kind: 'UNAUTHENTICATED', says: 'the key has expired; give the worker another one' },
  'bad-signature': { kind: 'UNAUTHENTICATED', says: 'the token is not signed by the key that it names' },
  'wrong-audience': { kind: 'UNAUTHENTICATED', says: 'the token is meant for somebody else' },
  'not-yet-valid': {
    kind: 'UNAUTHENTICATED',
    says: 'the token is not valid yet; check the clocks of worker and server',
  },
  'token-expired': { kind: 'UNAUTHENTICATED', says: 'the token has expired; check the clocks of worker and server' },
  'lives-too-long': { kind: 'UNAUTHENTICATED', says: 'the token lives longer than 10 minutes; sign short-lived ones' },
  'keys-unavailable': { kind: 'UNAVAILABLE', says: 'the keys of the cluster cannot be read now; try again' },
  'method-not-allowed': { kind: 'PERMISSION_DENIED', says: 'workers may not call this method' },
  'not-enlisted': {
    kind: 'PERMISSION_DENIED',
    says: 'the worker is not enlisted; an admin of its cluster does that with: slipway cluster enlist',
  },
  'foreign-worker': { kind: 'PERMISSION_DENIED', says: 'a worker speaks for itself and its own cluster only' },
  'foreign-attempt': { kind: 'PERMISSION_DENIED', says: 'this attempt is not of the cluster of this worker' },
  'namespace-not-allowed': { kind: 'PERMISSION_DENIED', says: 'workers may not use this namespace' },
  'queue-not-allowed': { kind: 'PERMISSION_DENIED', says: 'this task queue is not of this worker' },
  'foreign-token': { kind: 'PERMISSION_DENIED', says: 'the task token was not given to this worker' },
  'foreign-heartbeat': { kind: 'PERMISSION_DENIED', says: 'a worker reports about its own queues only' },
  malformed: { kind: 'INVALID_ARGUMENT', says: 'the request cannot be read as what it claims to be' },
  'request-unread': { kind: 'RESOURCE_EXHAUSTED', says: 'the request was too large, not readable, or did not arrive' },
  'broken-connection': { kind: 'INVALID_ARGUMENT', says: 'a connection sent what no worker sends; it was closed' },
  'too-many-bytes': {
    kind: 'RESOURCE_EXHAUSTED',
    says: 'the cluster has too many bytes of requests under way; send again a moment later',
  },
  'too-many-calls': { kind: 'RESOURCE_EXHAUSTED', says: 'the cluster has too many calls open at once' },
} as const satisfies Record<string, Meaning>;

export type RefusalReason = keyof typeof REFUSALS;

/** A clock is wrong: the caller may be let in a moment later, without anybody's doing. */
export const isOfClocks = (reason: RefusalReason): boolean => reason === 'not-yet-valid' || reason === 'token-expired';

/** @property detail what was asked for, e.g. the queue; for the audit */
export class WorkerRefusal extends Error {
  readonly kind: RefusalKind;
  /** Who is refused for its clock alone: its signature is good. */
  readonly signer?: WorkerIdentity;

  constructor(
    readonly reason: RefusalReason,
    readonly detail?: string,
    options?: ErrorOptions & { signer?: WorkerIdentity },
  ) {
    super(`${REFUSALS[reason].says}${detail === undefined ? '' : ` (${quote(detail)})`}`, options);
    this.name = 'WorkerRefusal';
    this.kind = REFUSALS[reason].kind;
    this.signer = options?.signer;
  }
}

/** What a stranger wrote, short and plain: half of a pair of UTF-16 makes gRPC throw when it writes the status. */
const quote = (text: string): string => text.slice(0, 200).replace(/[^\x20-\x7e]/g, '?');
