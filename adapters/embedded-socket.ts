// Owns the socket in front of the embedded database: many `pg` clients, one PostgreSQL session, nobody in between.
// Called by embedded-database.ts. A client's messages up to its Sync run as one piece, and a transaction is not left
// until it ends. (pglite-socket 0.2.17 queues single messages: under load one client's Execute ran another's Bind, seen.)
import { createServer, type Server, type Socket } from 'node:net';
import type { PGlite } from '@electric-sql/pglite';

const SSL_REQUEST = 80_877_103;
const CANCEL_REQUEST = 80_877_102;
const PROTOCOL_3 = 196_608;
const IDLE = 'I'.charCodeAt(0);
const ROLLBACK = simpleQuery('rollback');

interface Client {
  socket: Socket;
  started: boolean;
  /** Bytes that are not a whole message yet. */
  rest: Buffer;
  /** Whole messages that wait for their Sync. */
  group: Buffer[];
}

/** Listens on a Unix socket. @returns a function that closes it and every connection */
export async function serveOnSocket(db: PGlite, path: string): Promise<() => Promise<void>> {
  const session = new Session(db);
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    const client: Client = { socket, started: false, rest: Buffer.alloc(0), group: [] };
    socket.on('data', (data) => readMessages(session, client, data));
    socket.on('error', () => undefined);
    socket.on('close', () => {
      sockets.delete(socket);
      session.leave(client);
    });
  });
  await new Promise<void>((done, fail) => server.once('error', fail).listen(path, done));
  return () => closeAll(server, sockets);
}

async function closeAll(server: Server, sockets: Set<Socket>): Promise<void> {
  const closed = new Promise((done) => server.close(done));
  for (const socket of sockets) socket.destroy();
  await closed;
}

function readMessages(session: Session, client: Client, data: Buffer): void {
  client.rest = client.rest.length > 0 ? Buffer.concat([client.rest, data]) : data;
  for (;;) {
    const length = messageLength(client);
    if (length === undefined || client.rest.length < length) return;
    const message = client.rest.subarray(0, length);
    client.rest = client.rest.subarray(length);
    take(session, client, message);
  }
}

/** Messages begin with a type byte, but for those before the session has started. */
function messageLength({ started, rest }: Client): number | undefined {
  if (started) return rest.length < 5 ? undefined : 1 + rest.readUInt32BE(1);
  return rest.length < 8 ? undefined : rest.readUInt32BE(0);
}

function take(session: Session, client: Client, message: Buffer): void {
  if (!client.started) {
    const code = message.readUInt32BE(4);
    if (code === SSL_REQUEST) client.socket.write('N');
    else if (code === CANCEL_REQUEST || code !== PROTOCOL_3) client.socket.destroy();
    else {
      client.started = true;
      session.enqueue(client, message);
    }
    return;
  }
  const type = String.fromCharCode(message[0] ?? 0);
  if (type === 'X') {
    client.socket.end();
    return;
  }
  client.group.push(message);
  if (type !== 'S' && type !== 'Q') return;
  session.enqueue(client, Buffer.concat(client.group));
  client.group = [];
}

/** The one session: takes groups in order of arrival, but stays with a client that is in a transaction. */
class Session {
  private queue: { client: Client; group: Buffer }[] = [];
  private inTransaction: Client | undefined;
  private busy = false;

  constructor(private readonly db: PGlite) {}

  enqueue(client: Client, group: Buffer): void {
    this.queue.push({ client, group });
    void this.work();
  }

  /** A client that goes away in a transaction never committed it. */
  leave(client: Client): void {
    this.queue = this.queue.filter((item) => item.client !== client);
    if (this.inTransaction !== client) return;
    this.queue.unshift({ client, group: ROLLBACK });
    void this.work();
  }

  private async work(): Promise<void> {
    if (this.busy) return;
    this.busy = true;
    for (let next = this.next(); next; next = this.next()) await this.run(next.client, next.group);
    this.busy = false;
  }

  private next(): { client: Client; group: Buffer } | undefined {
    const holder = this.inTransaction;
    const at = holder ? this.queue.findIndex((item) => item.client === holder) : 0;
    return at < 0 ? undefined : this.queue.splice(at, 1)[0];
  }

  private async run(client: Client, group: Buffer): Promise<void> {
    let status = IDLE;
    const onRawData = (data: Uint8Array): void => {
      // Copied: the engine writes its next answer into the same memory.
      if (client.socket.writable) client.socket.write(Buffer.from(data));
      status = data[data.length - 1] ?? IDLE;
    };
    try {
      await this.db.runExclusive(() => this.db.execProtocolRawStream(group, { onRawData }));
    } catch {
      // Not an SQL error (those are answers) but a failure of the engine itself: the client must not wait for an answer.
      client.socket.destroy();
    }
    // Every group ends with ReadyForQuery, whose last byte says whether a transaction is open.
    this.inTransaction = status === IDLE ? undefined : client;
    if (this.inTransaction && client.socket.destroyed && group !== ROLLBACK) this.leave(client);
  }
}

function simpleQuery(text: string): Buffer {
  const message = Buffer.alloc(6 + text.length);
  message.write('Q', 0);
  message.writeUInt32BE(5 + text.length, 1);
  message.write(text, 5);
  return message;
}
