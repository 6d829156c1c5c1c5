// Owns an HTTP proxy that holds single calls: before they reach the other side, or after they took effect and before the
// answer is known. So a test can kill a process at exactly that moment, without a hook in the product.
// Called by the crash matrix; put in front of the API and of the Docker engine.
import { createServer, request, type IncomingMessage, type RequestOptions, type ServerResponse } from 'node:http';
import { finished } from 'node:stream/promises';
import { HoldingLink, type Side } from './holding-link';

export interface Call {
  method: string;
  /** With its query. */
  path: string;
  body: Buffer;
}

/** Says on which side a call is to be held; undefined: it passes. */
export type Hold = (call: Call) => Promise<Side | undefined>;

export class HoldingProxy extends HoldingLink {
  /** Calls that reached the other side, and those of them that it refused as fenced. */
  readonly passed: string[] = [];
  readonly refused: string[] = [];

  private constructor(
    private readonly target: RequestOptions,
    private readonly hold: Hold,
    server = createServer(),
  ) {
    super(server);
    server.on('request', (incoming, outgoing) => {
      this.pass(incoming, outgoing).catch(() => outgoing.destroy());
    });
  }

  /** @param target host and port, or socketPath */
  static async open(target: RequestOptions, hold: Hold): Promise<HoldingProxy> {
    const proxy = new HoldingProxy(target, hold);
    await proxy.listen();
    return proxy;
  }

  private async pass(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const { method = 'GET', url: path = '/', headers } = incoming;
    const body = await readAll(incoming);
    const side = await this.hold({ method, path, body });
    if (side === 'before' && (await this.wait()) === 'cut') return void outgoing.destroy();
    this.passed.push(`${method} ${path}`);
    const answer = await new Promise<IncomingMessage>((done, fail) => {
      const { 'transfer-encoding': _, ...kept } = headers;
      const forward = request({ ...this.target, method, path, headers: { ...kept, 'content-length': body.length } });
      // What was held is under way, whatever became of its sender.
      if (!side) outgoing.on('close', () => !outgoing.writableFinished && forward.destroy());
      forward.once('response', done).once('error', fail).end(body);
    });
    if (answer.statusCode === 409) this.refused.push(`${method} ${path}`);
    const bytes = side === 'after' ? await readAll(answer) : undefined;
    if (side === 'after' && (await this.wait()) === 'cut') return void outgoing.destroy();
    outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
    if (bytes) outgoing.end(bytes);
    else {
      // The engine answers `wait` at once with its headers and much later with the exit code.
      outgoing.flushHeaders();
      answer.once('error', () => outgoing.destroy()).once('aborted', () => outgoing.destroy());
      answer.pipe(outgoing);
      await finished(outgoing).catch(() => undefined);
    }
  }
}

async function readAll(stream: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of stream as AsyncIterable<Buffer>) parts.push(part);
  return Buffer.concat(parts);
}
