// Owns a proxy in front of a PostgreSQL server, or of the embedded one, that holds single statements and transactions:
// before the first of it arrives, or after the last of it took effect and before the answer is known.
// Called by the crash rig; put between the orchestrator and the database.
import { connect, createServer, type Socket } from 'node:net';
import { HoldingLink, type Side } from './holding-link';

/** @param sql what a client sends up to its Sync, with all parameters, as text; of a transaction the first such piece */
export type HoldStatement = (sql: string) => Promise<Side | undefined>;

const READY = 'Z'.charCodeAt(0);
const IDLE = 'I'.charCodeAt(0);
/** Types of the messages that ask for an answer: Sync and Query. */
const ENDS_OF_GROUP = ['S', 'Q'].map((type) => type.charCodeAt(0));
const BEGIN = /^Q.{4}begin\0$/s;
/** CommandComplete and ReadyForQuery: in a transaction. */
const BEGUN = Buffer.from('C\0\0\0\nBEGIN\0Z\0\0\0\u0005T', 'latin1');

export class HoldingDatabase extends HoldingLink {
  private constructor(
    private readonly path: string,
    private readonly hold: HoldStatement,
    server = createServer(),
  ) {
    super(server);
    server.on('connection', (near) => {
      const far = connect(this.path);
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const) {
        one.on('error', () => undefined).on('close', () => other.destroy());
      }
      this.serve(near, far)
        .catch(() => undefined)
        .finally(() => near.destroy());
    });
  }

  /** @param path the Unix socket of a server that asks for no password */
  static async open(path: string, hold: HoldStatement): Promise<HoldingDatabase> {
    const database = new HoldingDatabase(path, hold);
    await database.listen();
    return database;
  }

  /** Carries one connection. Its client sends the next piece when it has the answer to the last one, as `pg` does. */
  private async serve(near: Socket, far: Socket): Promise<void> {
    const answers = messagesOf(far, 1);
    let side: Side | undefined;
    let isOpen = false;
    /** Answered here, since a transaction that is held before its first statement must not block the others. */
    let begin: Buffer | undefined;
    for await (const group of groupsOf(near)) {
      const sql = group.toString('latin1');
      if (BEGIN.test(sql)) {
        begin = group;
        near.write(BEGUN);
        continue;
      }
      if (!isOpen) side = await this.hold(sql);
      if (!isOpen && side === 'before' && (await this.wait()) === 'cut') return;
      if (begin) await ask(far, answers, begin);
      begin = undefined;
      const answer = await ask(far, answers, group);
      isOpen = answer.at(-1) !== IDLE;
      if (!isOpen && side === 'after' && (await this.wait()) === 'cut') return;
      near.write(answer);
    }
  }
}

/** @returns the whole answer; its last byte says whether a transaction is open */
async function ask(far: Socket, answers: AsyncGenerator<Buffer>, group: Buffer): Promise<Buffer> {
  far.write(group);
  const parts: Buffer[] = [];
  while (parts.at(-1)?.[0] !== READY) {
    const { value, done } = await answers.next();
    if (done) throw new Error('the database closed the connection');
    parts.push(value);
  }
  return Buffer.concat(parts);
}

/** What a client sends in one piece; the first one is its start. */
async function* groupsOf(socket: Socket): AsyncGenerator<Buffer> {
  let group: Buffer[] = [];
  let isStarted = false;
  for await (const message of messagesOf(socket, 0)) {
    group.push(message);
    if (isStarted && !ENDS_OF_GROUP.includes(message[0]!)) continue;
    isStarted = true;
    yield Buffer.concat(group);
    group = [];
  }
}

/** @param typeBytes of its first message: a client's start has no type, all others have one byte */
async function* messagesOf(socket: Socket, typeBytes: 0 | 1): AsyncGenerator<Buffer> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    rest = Buffer.concat([rest, chunk]);
    while (rest.length >= typeBytes + 4) {
      const length = typeBytes + rest.readUInt32BE(typeBytes);
      if (rest.length < length) break;
      yield rest.subarray(0, length);
      rest = rest.subarray(length);
      typeBytes = 1;
    }
  }
}
