// Owns a TCP link that a test can cut and mend: what was connected breaks, and nothing new gets through.
// Called by tests that take the network between a worker and Temporal away.
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

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
      one.pipe(other);
    }
  });
  /** That came through from the far end, bytes. */
  received = 0;
  readonly port = { to: 0, at: 0 };

  /** @param to port on this machine that it leads to */
  static async open(to: number): Promise<CuttableLink> {
    const link = new CuttableLink();
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
