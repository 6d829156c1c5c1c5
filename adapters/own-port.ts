// Owns the question whether a port of ours can be listened on, and the words for why not.
// Asked by `slipway up` before it starts, by `slipway doctor`, and by the supervisor when a child has ended.
import { createServer } from 'node:net';

export interface OwnPort {
  host: string;
  port: number;
  /** Which gives it another. */
  setting: string;
}

/** @returns the system's word for why not, or undefined when it can be done */
export function tryToListen(host: string, port: number): Promise<string | undefined> {
  return new Promise((done) => {
    const server = createServer();
    server.once('error', (error: NodeJS.ErrnoException) => done(error.code ?? error.message));
    server.listen({ host, port, exclusive: true }, () => server.close(() => done(undefined)));
  });
}

/** @returns why it cannot be listened on and what to do, or undefined when it can */
export async function whyTaken({ host, port, setting }: OwnPort): Promise<string | undefined> {
  const refused = await tryToListen(host, port);
  if (refused === undefined) return undefined;
  if (refused !== 'EADDRINUSE') return `${host}:${port} cannot be listened on (${refused}); set ${setting}`;
  return `port ${port} is taken by another program; stop it, or set ${setting}`;
}
