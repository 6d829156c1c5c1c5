// Owns the one port that workers know: each connection goes to the gRPC or to the HTTP half, by TLS's ALPN or by its first bytes.
// Opened by the gateway's process, which hands in both halves.
import { once } from 'node:events';
import { createServer as createHttpServer, type RequestListener } from 'node:http';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, type TLSSocket } from 'node:tls';
import { Guests, peerOf, type GuestLimits } from './guests';

export interface FrontOptions {
  host: string;
  /** 0: any free one. */
  port: number;
  /** PEM; left out: no TLS, for one machine or behind something that ends TLS. */
  tls?: { cert: string | Buffer; key: string | Buffer };
  /** Takes over a connection that speaks HTTP/2. */
  grpc: (connection: Socket) => void;
  http: RequestListener;
  limits?: Partial<GuestLimits>;
}

export interface Front {
  readonly port: number;
  /** The connection of this peer (`address:port`) belongs to a cluster, so it is not the first to go. */
  prove(peer: string, cluster: string): void;
  connections(): number;
  /** Takes no new connection; what is open goes on. */
  stop(): void;
  /** Closes what is still open. */
  destroy(): void;
}

const DEFAULTS: GuestLimits = {
  maxConnections: 4_096,
  maxConnectionsPerCluster: 1_024,
  silentMs: 10_000,
  unprovenMs: 30_000,
};

/** Within this time the headers of a request must be there, ms. */
const HEADERS_MS = 15_000;

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');

export async function openFront(options: FrontOptions): Promise<Front> {
  const guests = new Guests({ ...DEFAULTS, ...options.limits });
  // A slow sender of headers is cut; an artifact may take its time, and nobody reads what strangers send after them.
  const http = createHttpServer(
    { headersTimeout: HEADERS_MS, requestTimeout: 0, connectionsCheckingInterval: HEADERS_MS / 3 },
    options.http,
  );
  // It has no port of its own, and without this event it would not enforce its time limits for headers and requests.
  http.emit('listening');
  const handOver = (socket: Socket, kind: 'grpc' | 'http'): void => {
    guests.sorted(peerOf(socket), kind);
    if (kind === 'grpc') options.grpc(socket);
    else http.emit('connection', socket);
  };
  const server = makeServer(options, guests, handOver);
  // With the usual backlog of 511 a flood would push out workers before anyone has looked at them.
  server.listen({ port: options.port, host: options.host, backlog: guests.limits.maxConnections });
  await once(server, 'listening');
  // From now on it can only be that a connection could not be taken, e.g. for want of file descriptors.
  server.on('error', () => undefined);
  return {
    port: (server.address() as AddressInfo).port,
    prove: (peer, cluster) => guests.prove(peer, cluster),
    connections: () => guests.count,
    stop: () => {
      server.close();
      http.closeIdleConnections();
    },
    destroy: () => {
      http.close();
      guests.destroy();
    },
  };
}

type HandOver = (socket: Socket, kind: 'grpc' | 'http') => void;

function makeServer({ tls }: FrontOptions, guests: Guests, handOver: HandOver): Server {
  if (!tls) {
    return createServer({ noDelay: true }, (socket) => {
      if (guests.add(socket)) sortByPreface(socket, handOver);
    });
  }
  const server = createTlsServer({ ...tls, ALPNProtocols: ['h2', 'http/1.1'], noDelay: true }, (socket: TLSSocket) => {
    socket.on('error', () => socket.destroy());
    if (socket.alpnProtocol === 'h2') handOver(socket, 'grpc');
    else handOver(socket, 'http');
  });
  server.on('connection', (socket: Socket) => guests.add(socket));
  server.on('tlsClientError', (_error, socket) => socket.destroy());
  return server;
}

/** Reads until the first byte that is not of HTTP/2's preface, or all of it, and puts back what was read. */
function sortByPreface(socket: Socket, handOver: HandOver): void {
  let head: Buffer = Buffer.alloc(0);
  const look = (bytes: Buffer): void => {
    head = Buffer.concat([head, bytes]);
    const begun = head.subarray(0, PREFACE.length);
    const isHttp2 = PREFACE.subarray(0, begun.length).equals(begun);
    if (isHttp2 && begun.length < PREFACE.length) return;
    socket.off('data', look);
    socket.pause();
    socket.unshift(head);
    handOver(socket, isHttp2 ? 'grpc' : 'http');
    // An HTTP/2 session reads by itself, beginning with what was put back.
    if (!isHttp2) socket.resume();
  };
  socket.on('data', look);
}
