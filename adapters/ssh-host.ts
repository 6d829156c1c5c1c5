// Owns the one door to ssh2: commands on a host by its address, under a pinned host key, over as few connections as its
// server allows. Used by bare-engine.ts as a Shell.
import { createHash } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { Client, type ClientChannel, type ExecOptions } from 'ssh2';
import type { DockerSshReach, SshReach } from '../domain/schemas/hosts';
import type { Terminal, TerminalWish } from './engine';
import { ERRORS_KEPT, lostMachine, quote, type Opened, type OpenOptions, type Shell } from './shell';
import { carried } from './terminal';

/** An OpenSSH server takes 10 sessions a connection by default. */
const SESSIONS_A_CONNECTION = 8;
/** Said for a command that a signal ended. */
const ENDED_BY_SIGNAL = 255;
const CONNECT_LIMIT_MS = 10_000;
/** A link that is silent for three of these is dead. */
const KEEP_ALIVE_MS = 5_000;

interface Connection {
  client: Client;
  sessions: number;
}

export class SshHost implements Shell {
  readonly name: string;
  readonly shell: string;
  private readonly connections = new Set<Connection>();
  /** One at a time: a server drops connections when many begin at once. */
  private connecting: Promise<unknown> = Promise.resolve();
  private failed: { atMs: number; error: unknown } | undefined;
  private isClosed = false;

  /** @param privateKey as ssh-keygen writes it, without a passphrase */
  constructor(
    name: string,
    private readonly reach: SshReach | DockerSshReach,
    private readonly privateKey: string,
  ) {
    this.name = `host ${name}`;
    this.shell = reach.kind === 'ssh' ? reach.shell : '/bin/sh';
  }

  async open(command: readonly string[], { input, keepsInput, signal }: OpenOptions = {}): Promise<Opened> {
    const channel = await this.begin(command);
    const letGo = (): void => void channel.destroy();
    if (signal?.aborted) letGo();
    else signal?.addEventListener('abort', letGo, { once: true });
    channel.once('close', () => signal?.removeEventListener('abort', letGo));
    if (!keepsInput) channel.end(input);
    return { output: channel as AsyncIterable<Buffer>, ended: this.endOf(channel) };
  }

  async openTerminal({ command, term, cols, rows }: TerminalWish): Promise<Terminal> {
    const channel = await this.begin(command, { pty: { term, cols, rows } });
    const ended = this.endOf(channel).then(({ code }) => code);
    const resize = async (size: { cols: number; rows: number }): Promise<void> => {
      channel.setWindow(size.rows, size.cols, 0, 0);
    };
    return { ...carried(channel), ended, resize, close: () => channel.close() };
  }

  private async begin(command: readonly string[], options?: ExecOptions): Promise<ClientChannel> {
    const connection = await this.reserve();
    try {
      const channel = await begin(connection.client, command.map(quote).join(' '), options);
      this.giveBackAtEnd(connection, channel);
      return channel;
    } catch (error) {
      this.giveBack(connection);
      throw lostMachine(`${this.name} does not take a command: ${(error as Error).message}`, error);
    }
  }

  /** A connection to a Unix socket there. @throws Error with `code` when it cannot be made */
  async forward(socket: string): Promise<Duplex> {
    const connection = await this.reserve();
    try {
      const stream = await new Promise<ClientChannel>((done, fail) => {
        connection.client.openssh_forwardOutStreamLocal(socket, (error, made) => (error ? fail(error) : done(made)));
      });
      this.giveBackAtEnd(connection, stream);
      return stream;
    } catch (error) {
      this.giveBack(connection);
      throw lostMachine(`${this.name} does not let us to ${socket}: ${(error as Error).message}`, error);
    }
  }

  /** Whoever destroys a channel reads no more of it, and one that is not read to its end does not say that it is closed. */
  private giveBackAtEnd(connection: Connection, channel: ClientChannel): void {
    const destroy = channel.destroy.bind(channel) as Duplex['destroy'];
    channel.once('close', () => this.giveBack(connection));
    Object.assign(channel, {
      destroy: (error?: Error): Duplex => {
        channel.removeAllListeners('readable').resume();
        return destroy(error);
      },
    });
  }

  /** Ends its connections, those in use once they are idle. */
  close(): void {
    this.isClosed = true;
    for (const connection of this.connections) if (connection.sessions === 0) this.end(connection);
  }

  private endOf(channel: ClientChannel): Promise<{ code: number; errors: string }> {
    let errors = '';
    channel.stderr.on('data', (bytes: Buffer) => (errors = (errors + bytes.toString()).slice(-ERRORS_KEPT)));
    const ended = new Promise<{ code: number; errors: string }>((done, fail) => {
      channel.on('error', fail);
      // Not by its event `exit`, which is over before anybody can listen when it comes in one piece with the beginning.
      channel.once('close', (code?: number | null) => {
        if (code === undefined) fail(lostMachine(`${this.name} was lost in the middle of a command`));
        else done({ code: code ?? ENDED_BY_SIGNAL, errors });
      });
    });
    ended.catch(() => undefined);
    return ended;
  }

  private async reserve(): Promise<Connection> {
    const askedMs = performance.now();
    const turn = this.connecting.then(async () => {
      // Who waited while it failed for another does not try it all over again.
      if (this.failed && this.failed.atMs > askedMs) throw this.failed.error;
      for (const connection of this.connections)
        if (connection.sessions < SESSIONS_A_CONNECTION) return take(connection);
      const client = await this.connect().catch((error: unknown) => {
        this.failed = { atMs: performance.now(), error };
        throw error;
      });
      const connection = { client, sessions: 0 };
      this.connections.add(connection);
      const forget = (): void => void this.connections.delete(connection);
      connection.client.on('close', forget).on('end', forget);
      return take(connection);
    });
    this.connecting = turn.catch(() => undefined);
    return turn;
  }

  private giveBack(connection: Connection): void {
    connection.sessions -= 1;
    const hasRoom = [...this.connections].some((one) => one !== connection && one.sessions < SESSIONS_A_CONNECTION);
    if (connection.sessions === 0 && (hasRoom || this.isClosed)) this.end(connection);
  }

  private end(connection: Connection): void {
    this.connections.delete(connection);
    connection.client.end();
  }

  private connect(): Promise<Client> {
    const { address, port, user, hostKeys } = this.reach;
    const client = new Client();
    let stranger: string | undefined;
    const isKnown = (key: Buffer): boolean => {
      const print = `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`;
      if (!hostKeys.includes(print)) stranger = print;
      return stranger === undefined;
    };
    return new Promise((done, fail) => {
      const refuse = (error: Error): void => {
        client.destroy();
        fail(lostMachine(sayRefusal(error, { place: `${user}@${address}:${port}`, stranger }), error));
      };
      client.on('error', refuse);
      client.once('close', () => refuse(new Error('the connection was closed')));
      // Commands are short, and each waits for the answer of the one before.
      client.once('ready', () => done(client.setNoDelay(true)));
      client.connect({
        host: address,
        port,
        username: user,
        privateKey: this.privateKey,
        hostVerifier: isKnown,
        readyTimeout: CONNECT_LIMIT_MS,
        keepaliveInterval: KEEP_ALIVE_MS,
        keepaliveCountMax: 3,
      });
    });
  }
}

function take(connection: Connection): Connection {
  connection.sessions += 1;
  return connection;
}

function begin(client: Client, command: string, options: ExecOptions = {}): Promise<ClientChannel> {
  return new Promise((done, fail) => {
    client.exec(command, options, (error, channel) => (error ? fail(error) : done(channel)));
  });
}

function sayRefusal(error: Error, { place, stranger }: { place: string; stranger: string | undefined }): string {
  if (stranger !== undefined) return `${place} shows host key ${stranger}, which is none of those listed for it`;
  if (/authentication methods failed/i.test(error.message)) {
    return `${place} does not take the key of this worker; put its public part into authorized_keys there`;
  }
  return `${place} is not reached: ${error.message}`;
}
