// Owns an HTTP proxy that holds single calls: before they reach the other side, or after they took effect and before the
// answer is known. So a test can kill a process at exactly that moment, without a hook in the product.
// Called by the crash matrix; put in front of the API and of the Docker engine.
import { createServer, request, type IncomingMessage, type RequestOptions, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { finished } from 'node:stream/promises';

export type Side = 'before' | 'after';

export interface Call {
  method: string;
  /** With its query. */
  path: string;
  body: Buffer;
}

/** Says on which side a call is to be held; undefined: it passes. */
export type Hold = (call: Call) => Promise<Side | undefined>;

/** What happens to a held call: it goes on, or its connection breaks. */
type Release = 'go-on' | 'cut';

export class HoldingProxy {
  private readonly server = createServer((incoming, outgoing) => {
    this.pass(incoming, outgoing).catch(() => outgoing.destroy());
  });
  private readonly sockets = new Set<Socket>();
  private waiting: ((how: Release) => void)[] = [];
  private isCut = false;
  /** Calls that reached the other side, and those of them that it refused as fenced. */
  readonly passed: string[] = [];
  readonly refused: string[] = [];

  private constructor(
    private readonly target: RequestOptions,
    private readonly hold: Hold,
  ) {}

  /** @param target host and port, or socketPath */
  static async open(target: RequestOptions, hold: Hold): Promise<HoldingProxy> {
    const proxy = new HoldingProxy(target, hold);
    proxy.server.on('connection', (socket) => {
      if (proxy.isCut) socket.destroy();
      proxy.sockets.add(socket);
      socket.on('close', () => proxy.sockets.delete(socket));
    });
    await new Promise<void>((done) => proxy.server.listen(0, '127.0.0.1', done));
    return proxy;
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  get held(): number {
    return this.waiting.length;
  }

  /** Lets all held calls go. */
  release(how: Release): void {
    for (const go of this.waiting.splice(0)) go(how);
  }

  /** Breaks all connections and takes no new one. */
  cut(): void {
    this.isCut = true;
    this.release('cut');
    for (const socket of this.sockets) socket.destroy();
  }

  mend(): void {
    this.isCut = false;
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise((done) => this.server.close(done));
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

  private wait(): Promise<Release> {
    return new Promise((done) => this.waiting.push(done));
  }
}

async function readAll(stream: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of stream as AsyncIterable<Buffer>) parts.push(part);
  return Buffer.concat(parts);
}
