// Owns what binds a task to the worker that got it: Temporal's tokens are not signed, so they leave the gateway sealed.
// Called by rules.ts. Stateless: any copy of the gateway that has the secret opens what another has sealed.
import { createHmac, timingSafeEqual } from 'node:crypto';
import type { WorkerIdentity } from '../adapters/worker-identity';
import { WorkerRefusal } from '../adapters/worker-refusal';

const SEAL_BYTES = 16;
const MIN_SECRET_BYTES = 32;

/** A token of one kind does not open as one of another. */
export type TokenKind = 'activity' | 'nexus';

type Holder = Pick<WorkerIdentity, 'cluster' | 'worker'>;

export class TaskTokens {
  /**
   * @param secret shared by all copies of the gateway, 32 bytes or more
   * @param before what was sealed with that one still opens; without it, running work is unfinishable after a change
   */
  constructor(
    private readonly secret: Uint8Array,
    private readonly before?: Uint8Array,
  ) {
    for (const { length } of before ? [secret, before] : [secret]) {
      if (length < MIN_SECRET_BYTES) throw new Error(`the gateway's secret needs ${MIN_SECRET_BYTES} bytes or more`);
    }
  }

  seal(kind: TokenKind, holder: Holder, token: Uint8Array): Buffer {
    return Buffer.concat([token, this.digest(kind, holder, token)]);
  }

  /** The token as Temporal knows it. @throws WorkerRefusal unless it was sealed for this worker of this cluster */
  open(kind: TokenKind, holder: Holder, sealed: Uint8Array): Uint8Array {
    const cut = sealed.length - SEAL_BYTES;
    if (cut <= 0) throw new WorkerRefusal('foreign-token');
    const token = sealed.subarray(0, cut);
    const isSealedBy = (secret: Uint8Array): boolean =>
      timingSafeEqual(this.digest(kind, holder, token, secret), sealed.subarray(cut));
    if (isSealedBy(this.secret) || (this.before && isSealedBy(this.before))) return token;
    throw new WorkerRefusal('foreign-token');
  }

  /**
   * The name under which Temporal knows a key that a worker's SDK made up: another one for each worker, so that whoever
   * uses the key of another worker reaches nothing of it.
   */
  alias(holder: Holder, key: string): string {
    const hex = this.digest('key', holder, Buffer.from(key)).toString('hex');
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
  }

  /** Names of clusters and ids of workers hold no NUL, so no two holders give the same bytes. */
  private digest(
    kind: TokenKind | 'key',
    { cluster, worker }: Holder,
    ...[bytes, secret = this.secret]: [bytes: Uint8Array, secret?: Uint8Array]
  ): Buffer {
    const hmac = createHmac('sha256', secret).update(`${kind}\0${cluster}\0${worker}\0`).update(bytes);
    return hmac.digest().subarray(0, SEAL_BYTES);
  }
}
