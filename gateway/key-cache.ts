// Owns what the gateway knows of the clusters' public keys: read at most once a second each, so that a revocation cuts soon.
// Called by identity.ts. The source is a port: rows in production, a list in tests.
import type { JWK } from 'jose';
import { Refusal } from './refusal';

/** A public key of a cluster; it may have several at once, so that keys can be changed without a gap. */
export interface ClusterKey {
  kid: string;
  /** Ed25519: `{kty: 'OKP', crv: 'Ed25519', x}`. */
  jwk: JWK;
  expiresAt: Date | null;
  /** Any date here refuses the key, whatever the clocks say. */
  revokedAt: Date | null;
}

export interface KeySource {
  /** All keys of an active cluster; none for a cluster that is unknown or not active. */
  keysOf(cluster: string): Promise<ClusterKey[]>;
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
  keys: ClusterKey[];
  readAt: number;
}

export class KeyCache {
  private readonly known = new Map<string, Entry>();
  private readonly unknown = new Map<string, Entry>();
  private readonly reads = new Map<string, Promise<Entry>>();
  private strangers = 0;

  constructor(private readonly source: KeySource) {}

  /** @param maxAgeMs 0: ask now @throws Refusal `keys-unavailable` */
  async keysOf(cluster: string, maxAgeMs = FRESH_MS): Promise<ClusterKey[]> {
    const known = this.known.get(cluster) ?? this.unknown.get(cluster);
    if (known && Date.now() - known.readAt < maxAgeMs) return known.keys;
    try {
      return (await this.read(cluster)).keys;
    } catch (cause) {
      if (known && Date.now() - known.readAt < STALE_MS) return known.keys;
      throw cause instanceof Refusal ? cause : new Refusal('keys-unavailable', undefined, { cause });
    }
  }

  /** One read of a cluster at a time, however many calls wait for it. */
  private read(cluster: string): Promise<Entry> {
    const running = this.reads.get(cluster);
    if (running) return running;
    const isStranger = !this.known.has(cluster);
    if (isStranger && this.strangers >= MAX_STRANGERS) throw new Refusal('keys-unavailable');
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
    const entry = { keys: await this.source.keysOf(cluster), readAt };
    const [home, other] = entry.keys.length > 0 ? [this.known, this.unknown] : [this.unknown, this.known];
    home.set(cluster, entry);
    other.delete(cluster);
    if (this.unknown.size > MAX_UNKNOWN) this.unknown.delete(this.unknown.keys().next().value!);
    return entry;
  }
}
