// Owns why a call of a worker is refused: a closed list, each with its gRPC status and a sentence for people.
// Thrown by identity.ts, task-tokens.ts and rules.ts; turned into an answer and an audit record by admission.ts.
import { status } from '@grpc/grpc-js';

interface Meaning {
  code: status;
  says: string;
}

const { INVALID_ARGUMENT, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAUTHENTICATED, UNAVAILABLE } = status;

const REFUSALS = {
  'no-token': { code: UNAUTHENTICATED, says: 'the call carries no bearer token; sign one with the key of the cluster' },
  'malformed-token': { code: UNAUTHENTICATED, says: 'the bearer token is no JWT of a worker, see its claims' },
  'wrong-algorithm': { code: UNAUTHENTICATED, says: 'the token must be signed with EdDSA (Ed25519)' },
  'unknown-key': { code: UNAUTHENTICATED, says: 'the cluster has no such key, or is not active; register the key' },
  'key-revoked': { code: UNAUTHENTICATED, says: 'the key was revoked; give the worker another one' },
  'key-expired': { code: UNAUTHENTICATED, says: 'the key has expired; give the worker another one' },
  'bad-signature': { code: UNAUTHENTICATED, says: 'the token is not signed by the key that it names' },
  'wrong-audience': { code: UNAUTHENTICATED, says: 'the token is meant for somebody else' },
  'not-yet-valid': { code: UNAUTHENTICATED, says: 'the token is not valid yet; check the clock of the worker' },
  'token-expired': { code: UNAUTHENTICATED, says: 'the token has expired; check the clock of the worker' },
  'lives-too-long': { code: UNAUTHENTICATED, says: 'the token lives longer than 10 minutes; sign short-lived ones' },
  'keys-unavailable': { code: UNAVAILABLE, says: 'the keys of the cluster cannot be read now; try again' },
  'method-not-allowed': { code: PERMISSION_DENIED, says: 'workers may not call this method' },
  'namespace-not-allowed': { code: PERMISSION_DENIED, says: 'workers may not use this namespace' },
  'queue-not-allowed': { code: PERMISSION_DENIED, says: 'this task queue is not of this worker' },
  'foreign-token': { code: PERMISSION_DENIED, says: 'the task token was not given to this worker' },
  'foreign-heartbeat': { code: PERMISSION_DENIED, says: 'a worker reports about its own queues only' },
  malformed: { code: INVALID_ARGUMENT, says: 'the request cannot be read as what it claims to be' },
  'request-unread': { code: RESOURCE_EXHAUSTED, says: 'the request was too large, not readable, or did not arrive' },
  'too-many-calls': { code: RESOURCE_EXHAUSTED, says: 'the cluster has too many calls open at once' },
} as const satisfies Record<string, Meaning>;

export type RefusalReason = keyof typeof REFUSALS;

/** @property code gRPC status that the caller sees @property detail what was asked for, e.g. the queue; for the audit */
export class Refusal extends Error {
  readonly code: status;

  constructor(
    readonly reason: RefusalReason,
    readonly detail?: string,
    options?: ErrorOptions,
  ) {
    super(`${REFUSALS[reason].says}${detail === undefined ? '' : ` (${quote(detail)})`}`, options);
    this.name = 'Refusal';
    this.code = REFUSALS[reason].code;
  }
}

/** What a stranger wrote, short and plain: half of a pair of UTF-16 makes gRPC throw when it writes the status. */
const quote = (text: string): string => text.slice(0, 200).replace(/[^\x20-\x7e]/g, '?');
