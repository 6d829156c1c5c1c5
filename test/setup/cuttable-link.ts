// Owns a TCP link that a test can cut and mend: what was connected breaks, and nothing new gets through. It can also hold back
// what comes from the far end, so that much of it arrives at once.
// Called by tests that take the network between a worker and Temporal away.
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { Transform } from 'node:stream';

export class CuttableLink {
  private readonly sockets = new Set<Socket>();
  private isCut = false;
  private readonly server = createServer((near) => {
    if (this.isCut) return void near.destroy();
    const far = connect(this.port.to, '127.0.0.1');
    far.on('data', (bytes) => (this.received += bytes.length));
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      this.sockets.add(one);
      one.on('error', () => undefined).on('close', () => (other.destroy(), this.sockets.delete(one)));
    }
    near.pipe(far);
    if (this.gatherMs === 0) far.pipe(near);
    else far.pipe(gather(this.gatherMs)).pipe(near);
  });
  /** That came through from the far end, bytes. */
  received = 0;
  readonly port = { to: 0, at: 0 };

  private constructor(private readonly gatherMs: number) {}

  /** @param to port on this machine that it leads to @param gatherMs how long what comes from there is held back */
  static async open(to: number, gatherMs = 0): Promise<CuttableLink> {
    const link = new CuttableLink(gatherMs);
    link.port.to = to;
    await new Promise<void>((done) => link.server.listen(0, '127.0.0.1', done));
    link.port.at = (link.server.address() as AddressInfo).port;
    return link;
  }

  cut(): void {
    this.isCut = true;
    for (const socket of this.sockets) socket.destroy();
  }

  mend(): void {
    this.isCut = false;
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise((done) => this.server.close(done));
  }
}

/** Lets everything go at once that came within a time. */
function gather(ms: number): Transform {
  let held: Buffer[] = [];
  const letGo = (through: Transform): void => {
    through.push(Buffer.concat(held));
    held = [];
  };
  return new Transform({
    transform(bytes: Buffer, _, done) {
      if (held.length === 0) setTimeout(() => letGo(this), ms);
      held.push(bytes);
      done();
    },
  });
}
