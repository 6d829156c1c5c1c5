// Owns what a process knows of who may speak for a cluster: read at most once a second each, so that a revocation cuts soon.
// Called by worker-identity.ts. The source is a port: rows in production, a list in tests.
import type { JWK } from 'jose';
import { WorkerRefusal } from './worker-refusal';

/** A public key of a cluster; it may have several at once, so that keys can be changed without a gap. */
export interface ClusterKey {
  kid: string;
  /** Ed25519: `{kty: 'OKP', crv: 'Ed25519', x}`. */
  jwk: JWK;
  expiresAt: Date | null;
  /** Any date here refuses the key, whatever the clocks say. */
  revokedAt: Date | null;
}

export interface ClusterAccess {
  /** None for a cluster that is unknown. */
  keys: ClusterKey[];
  /** Ids of the workers that may work for it. */
  enlisted: { has(worker: string): boolean };
}

export interface AccessSource {
  accessOf(cluster: string): Promise<ClusterAccess>;
}

/** How old an answer may be, ms: a revocation holds within this time. */
const FRESH_MS = 1_000;
/**
 * For so long the last answer still counts while the source fails, ms. Nothing can be revoked in a source that is away,
 * and running work must not suffer from it.
 */
const STALE_MS = 5 * 60_000;
/** Names without keys that are remembered; they do not push out what is known of clusters. */
const MAX_UNKNOWN = 1_000;
/** Reads of clusters never heard of that may run at once: made-up names must not flood the source. */
const MAX_STRANGERS = 32;

interface Entry {
  access: ClusterAccess;
  readAt: number;
}

export class AccessCache {
  private readonly known = new Map<string, Entry>();
  private readonly unknown = new Map<string, Entry>();
  private readonly reads = new Map<string, Promise<Entry>>();
  private strangers = 0;

  constructor(private readonly source: AccessSource) {}

  /** @param maxAgeMs 0: ask now @throws WorkerRefusal `keys-unavailable` */
  async accessOf(cluster: string, maxAgeMs = FRESH_MS): Promise<ClusterAccess> {
    const known = this.known.get(cluster) ?? this.unknown.get(cluster);
    if (known && Date.now() - known.readAt < maxAgeMs) return known.access;
    try {
      return (await this.read(cluster)).access;
    } catch (cause) {
      if (known && Date.now() - known.readAt < STALE_MS) return known.access;
      throw cause instanceof WorkerRefusal ? cause : new WorkerRefusal('keys-unavailable', undefined, { cause });
    }
  }

  /** One read of a cluster at a time, however many calls wait for it. */
  private read(cluster: string): Promise<Entry> {
    const running = this.reads.get(cluster);
    if (running) return running;
    const isStranger = !this.known.has(cluster);
    if (isStranger && this.strangers >= MAX_STRANGERS) throw new WorkerRefusal('keys-unavailable');
    if (isStranger) this.strangers += 1;
    const read = this.readNow(cluster).finally(() => {
      this.reads.delete(cluster);
      if (isStranger) this.strangers -= 1;
    });
    this.reads.set(cluster, read);
    return read;
  }

  private async readNow(cluster: string): Promise<Entry> {
    const readAt = Date.now();
    const entry = { access: await this.source.accessOf(cluster), readAt };
    const [home, other] = entry.access.keys.length > 0 ? [this.known, this.unknown] : [this.unknown, this.known];
    home.set(cluster, entry);
    other.delete(cluster);
    if (this.unknown.size > MAX_UNKNOWN) this.unknown.delete(this.unknown.keys().next().value!);
    return entry;
  }
}
