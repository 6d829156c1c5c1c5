// Owns the connections of the gateway's port: how many, whose, and for how long somebody may stay who has not said who it is.
// Called by front.ts.
//   silent ──first bytes──> sorted ──a call was let in──> proven (of a cluster)
//     └──silentMs──> closed   └──gRPC, unprovenMs──> closed
import type { Socket } from 'node:net';

export interface GuestLimits {
  /** Connections at once. Over it the oldest that has not shown who it is makes room. */
  maxConnections: number;
  /** Of one cluster; over it the oldest of them goes. */
  maxConnectionsPerCluster: number;
  /** Time for the first bytes, with TLS for the handshake as well, ms. */
  silentMs: number;
  /** Time for the first call that is let in, on a gRPC connection, ms. */
  unprovenMs: number;
}

interface Guest {
  socket: Socket;
  timer?: NodeJS.Timeout;
  cluster?: string;
}

export class Guests {
  /** By peer, oldest first. */
  private readonly guests = new Map<string, Guest>();
  private readonly clusters = new Map<string, Set<string>>();

  constructor(readonly limits: GuestLimits) {}

  get count(): number {
    return this.guests.size;
  }

  /** @returns false: there is no room, and it was closed */
  add(socket: Socket): boolean {
    const peer = peerOf(socket);
    socket.on('error', () => socket.destroy());
    if (this.guests.size >= this.limits.maxConnections && !this.makeRoom()) {
      socket.destroy();
      return false;
    }
    const guest: Guest = { socket };
    this.guests.set(peer, guest);
    this.limit(guest, this.limits.silentMs);
    socket.once('close', () => this.forget(peer, guest));
    return true;
  }

  /** It has said what it speaks. HTTP has time limits of its own; a gRPC connection must soon make a call that is let in. */
  sorted(peer: string, kind: 'grpc' | 'http'): void {
    const guest = this.guests.get(peer);
    if (guest) this.limit(guest, kind === 'grpc' ? this.limits.unprovenMs : undefined);
  }

  prove(peer: string, cluster: string): void {
    const guest = this.guests.get(peer);
    if (!guest || guest.cluster === cluster) return;
    this.leaveCluster(peer, guest);
    this.limit(guest, undefined);
    guest.cluster = cluster;
    const peers = this.clusters.get(cluster) ?? new Set();
    this.clusters.set(cluster, peers.add(peer));
    if (peers.size > this.limits.maxConnectionsPerCluster) this.drop(first(peers));
  }

  destroy(): void {
    for (const { socket } of this.guests.values()) socket.destroy();
  }

  private makeRoom(): boolean {
    for (const [peer, { cluster }] of this.guests) {
      if (cluster === undefined) return this.drop(peer);
    }
    return false;
  }

  private drop(peer: string | undefined): boolean {
    const guest = this.guests.get(peer ?? '');
    if (peer === undefined || !guest) return false;
    this.forget(peer, guest);
    guest.socket.destroy();
    return true;
  }

  private forget(peer: string, guest: Guest): void {
    clearTimeout(guest.timer);
    if (this.guests.get(peer) !== guest) return;
    this.guests.delete(peer);
    this.leaveCluster(peer, guest);
  }

  private leaveCluster(peer: string, { cluster = '' }: Guest): void {
    const peers = this.clusters.get(cluster);
    peers?.delete(peer);
    if (peers?.size === 0) this.clusters.delete(cluster);
  }

  private limit(guest: Guest, ms: number | undefined): void {
    clearTimeout(guest.timer);
    guest.timer = ms === undefined ? undefined : setTimeout(() => guest.socket.destroy(), ms).unref();
  }
}

export const peerOf = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress}:${remotePort}`;

function first<T>(set: ReadonlySet<T>): T | undefined {
  for (const one of set) return one;
  return undefined;
}
