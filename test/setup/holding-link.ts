// Owns what the links have in common that hold calls: those that are held now, and connections that can be cut.
// Extended by holding-proxy.ts for HTTP and by holding-database.ts for PostgreSQL.
import type { AddressInfo, Server, Socket } from 'node:net';

/** Before a call reached the other side, or after it took effect and before its answer is known. */
export type Side = 'before' | 'after';

/** What happens to a held call: it goes on, or its connection breaks. */
export type Release = 'go-on' | 'cut';

export class HoldingLink {
  private readonly sockets = new Set<Socket>();
  private readonly waiting: ((how: Release) => void)[] = [];
  private isCut = false;

  protected constructor(private readonly server: Server) {}

  protected async listen(): Promise<void> {
    this.server.on('connection', (socket: Socket) => {
      if (this.isCut) socket.destroy();
      this.sockets.add(socket);
      socket.on('close', () => this.sockets.delete(socket));
    });
    await new Promise<void>((done) => this.server.listen(0, '127.0.0.1', done));
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

  protected wait(): Promise<Release> {
    return new Promise((done) => this.waiting.push(done));
  }
}
