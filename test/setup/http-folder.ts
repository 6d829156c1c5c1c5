// Owns a server of files over HTTP on the loopback, as far as git needs it for a repository. Called by tests.
import { createReadStream, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { join, normalize } from 'node:path';

export interface HttpFolder {
  port: number;
  /** Each path that was asked for. */
  asked: string[];
  close(): Promise<void>;
}

/** @param options.authorization what a caller must send in that header @param options.movedTo base of another server */
export async function serveFolder(
  dir: string,
  options: { authorization?: string; movedTo?: string } = {},
): Promise<HttpFolder> {
  const asked: string[] = [];
  const server = createServer(({ url = '/', headers }, answer) => {
    asked.push(url);
    if (options.movedTo !== undefined) {
      answer.writeHead(301, { location: `${options.movedTo}${url}` }).end();
      return;
    }
    if (options.authorization !== undefined && headers.authorization !== options.authorization) {
      answer.writeHead(401, { 'www-authenticate': 'Basic realm="test"' }).end();
      return;
    }
    const file = join(dir, normalize(new URL(url, 'http://x').pathname));
    if (!statSync(file, { throwIfNoEntry: false })?.isFile()) answer.writeHead(404).end();
    else createReadStream(file).pipe(answer);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const close = (): Promise<void> => new Promise((done) => (server.close(() => done()), server.closeAllConnections()));
  return { port: (server.address() as { port: number }).port, asked, close };
}
