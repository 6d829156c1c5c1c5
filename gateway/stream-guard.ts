// Owns the border between a connection and grpc-js: what grpc-js throws over a stream ends that connection, not the process.
// Called by grpc-proxy.ts once it has opened its server.
import type { Http2Server, IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2';
import { logVerbosity, setLogVerbosity, type Server } from '@grpc/grpc-js';

/** Streams that one connection may reset before anybody has looked at them. A caller may change its mind, now and then. */
const MAX_RESET = 100;

/** An answer has gone out by then, ms. */
const LAST_WORD_MS = 1_000;

type OnStream = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void;

/**
 * Puts itself before the one listener of grpc-js that reads what a stranger says. grpc-js answers also on a stream that is
 * gone, which Node refuses with an error that nobody catches.
 * @param broken called once for a connection that is closed for what it sent
 */
export function guardStreams(server: Server, broken: (peer: string, why: string) => void): void {
  // It would write a line for each header that it cannot read.
  setLogVerbosity(logVerbosity.NONE);
  // Its HTTP/2 servers are reached in no other way; the version is pinned, and a test notices when they are gone.
  for (const http2 of (server['http2Servers'] as Map<Http2Server, unknown>).keys()) guard(http2, broken);
}

function guard(http2: Http2Server, broken: (peer: string, why: string) => void): void {
  const handlers = http2.listeners('stream') as OnStream[];
  http2.on('session', (session) => {
    const { remoteAddress, remotePort } = session.socket;
    let resets = 0;
    const close = (why: string): void => {
      session.destroy();
      broken(`${remoteAddress}:${remotePort}`, why);
    };
    session.removeAllListeners('stream');
    session.on('stream', (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
      stream.on('error', () => stream.destroy());
      if (session.destroyed) return;
      if (stream.destroyed || stream.closed) {
        resets += 1;
        if (resets > MAX_RESET) close(`${resets} calls were reset at once`);
        return;
      }
      closeAfterAnswer(stream);
      try {
        for (const handle of handlers) handle(stream, headers);
      } catch (error) {
        close((error as Error).message);
      }
    });
  });
}

/** Who was answered before it had sent its request may never send the rest, and would keep the stream. */
function closeAfterAnswer(stream: ServerHttp2Stream): void {
  stream.once('finish', () => {
    if (stream.readableEnded || stream.destroyed) return;
    setTimeout(() => stream.destroyed || stream.close(), LAST_WORD_MS).unref();
  });
}
