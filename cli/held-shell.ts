// Owns the terminal's side of a shell into a run that is held: keys go out as they are typed, what comes is shown as it is.
// Called by shell.ts. A server that is away for a moment is waited for; nothing is lost or doubled, by offsets.
import { setTimeout as sleep } from 'node:timers/promises';
import { isFinal, type Client } from './client';
import { EXIT, type Output } from './context';
import { oneLine } from './print';

const RETRY_MS = 500;
/** Keys that are typed so close to each other go together, ms. */
const GATHER_MS = 10;
/** Of one call, bytes. */
const MOST_KEYS = 128 * 1024;
/** What a terminal takes for the end of what is typed. */
const END_OF_INPUT = Buffer.from([4]);

/** @returns its exit code */
export async function heldShell(
  client: Client,
  place: { project: string; number: number; run: string },
  { command, output }: { command: readonly string[]; output: Output },
): Promise<number> {
  const { stdin, stdout } = process;
  const isTerminal = stdin.isTTY && stdout.isTTY;
  const size = () => ({ cols: stdout.columns || 80, rows: stdout.rows || 24 });
  const term = /^[A-Za-z0-9._+-]{1,64}$/.exec(process.env['TERM'] ?? '')?.[0] ?? 'xterm';
  const id = await client.openShell(place, { command: [...command], term, ...size() });
  const over = new AbortController();
  const keys = new Keys((bytes, at) => client.typeIntoShell(id, { at, bytes, ...size() }), over.signal);
  const onKeys = (bytes: Buffer): void => keys.push(bytes);
  const onEnd = (): void => keys.push(END_OF_INPUT);
  const onResize = (): void => keys.push(Buffer.alloc(0));
  if (isTerminal) stdin.setRawMode(true);
  stdin.on('data', onKeys).once('end', onEnd);
  stdout.on('resize', onResize);
  try {
    const { exitCode, message } = await show(client, id);
    if (message !== '') output.err(`slipway: ${oneLine(message)}`);
    return exitCode ?? EXIT.couldNotRun;
  } finally {
    over.abort();
    if (isTerminal) stdin.setRawMode(false);
    stdin.off('data', onKeys).off('end', onEnd).pause();
    stdout.off('resize', onResize);
    await client.closeShell(id).catch(() => undefined);
  }
}

async function show(client: Client, id: string): Promise<{ exitCode: number | null; message: string }> {
  for (let from = 0; ;) {
    const { bytes, ended } = await patiently(() => client.readShell(id, from));
    if (bytes.length > 0) process.stdout.write(bytes);
    from += bytes.length;
    if (ended) return ended;
  }
}

/** Sends what is typed, piece after piece. */
class Keys {
  private waiting: Buffer[] = [];
  private sent = 0;
  private sending: Promise<void> | undefined;

  constructor(
    private readonly send: (bytes: Buffer, at: number) => Promise<unknown>,
    private readonly over: AbortSignal,
  ) {}

  /** Nothing but a new size of the terminal: no bytes. */
  push(bytes: Buffer): void {
    this.waiting.push(bytes);
    // What cannot be sent is typed for nobody: the shell has ended.
    this.sending ??= this.flush()
      .catch(() => undefined)
      .finally(() => (this.sending = undefined));
  }

  private async flush(): Promise<void> {
    while (this.waiting.length > 0 && !this.over.aborted) {
      await sleep(GATHER_MS);
      const bytes = Buffer.concat(this.waiting);
      this.waiting = [];
      for (let from = 0; from === 0 || from < bytes.length; from += MOST_KEYS) {
        const piece = bytes.subarray(from, from + MOST_KEYS);
        await patiently(() => this.send(piece, this.sent), this.over);
        this.sent += piece.length;
      }
    }
  }
}

/** A server that is being replaced is back soon; what it refuses it refuses for good. */
async function patiently<T>(call: () => Promise<T>, over?: AbortSignal): Promise<T> {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (isFinal(error) || over?.aborted) throw error;
    }
    await sleep(RETRY_MS);
  }
}
