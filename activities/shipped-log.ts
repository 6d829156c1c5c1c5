// Owns the log of one attempt on its way home: what is kept of it, where it stands, and what it lacks.
// Called by supervise.ts.
import type { ContainerExit, OutputFact } from '../adapters/engine';
import type { AttemptApi } from '../adapters/worker-api';
import type { LogGap } from '../domain/schemas/api';
import type { Cause } from '../domain/schemas/words';
import type { Lease } from '../domain/schemas/worker-api';
import { capLog, capOf } from './log-cap';
import { shipLog } from './log-shipper';

const LAST_BYTES = 2_000;

export class ShippedLog {
  private readonly notes: Promise<void>[] = [];
  private last = Buffer.alloc(0);
  private left: { atByte: number; lostBytes: number } | undefined;
  /** Where it ends at home. */
  private endByte: number;
  private isUnbegun = false;
  private isWhole = true;

  constructor(
    private readonly ports: { api: Pick<AttemptApi, 'appendLog' | 'progress'> },
    private readonly lease: Pick<Lease, 'logBytes' | 'logCapBytes'>,
    private readonly at: { detach: AbortSignal },
  ) {
    this.endByte = lease.logBytes;
  }

  /** The end of the output as text, for the verdict. */
  get lastLines(): string {
    return this.last.toString('utf8');
  }

  /** Ships all there is. @param source the output from the first byte on that is not at home; of a capped one, from its head's end */
  async ship(source: AsyncIterable<Buffer>): Promise<void> {
    const { logBytes, logCapBytes } = this.lease;
    const capped = capLog(this.remembering(source), capOf(logCapBytes), logBytes);
    const append = async (startByte: number, bytes: Buffer): Promise<number> => {
      this.endByte = await this.ports.api.appendLog(startByte, bytes, this.at.detach);
      return this.endByte;
    };
    await shipLog({ source: capped.bytes, append }, logBytes);
    this.left = capped.lost();
    await Promise.all(this.notes);
  }

  /** The engine was restarted while the container ran. Told at once: nobody else would know. */
  noteRestart(): void {
    this.noteGap('engine-restarted');
  }

  noteFact(fact: OutputFact): void {
    if (fact === 'unbegun') this.isUnbegun = true;
    if (fact === 'damaged') this.noteGap('log-damaged');
  }

  /** All of it was read, and the script was not begun in it. */
  get showsNoBeginning(): boolean {
    return this.isUnbegun && this.isWhole;
  }

  private noteGap(reason: LogGap['reason']): void {
    this.isWhole = false;
    const logGap = { atByte: this.endByte, lostBytes: null, reason };
    const told = this.ports.api.progress({ state: 'running', logGap }, this.at.detach);
    // Awaited when all is shipped.
    told.catch(() => undefined);
    this.notes.push(told);
  }

  /** What is known to be missing once all is shipped. A container that was lost has its gap recorded with its verdict. */
  gapsAtEnd(exit: ContainerExit, { cause }: { cause: Cause }): LogGap[] {
    const isEndLost = exit.isEndLost && cause !== 'container-lost';
    return [
      ...(this.left ? [{ ...this.left, reason: 'cap' as const }] : []),
      ...(isEndLost ? [{ atByte: this.endByte, lostBytes: null, reason: 'engine-away' as const }] : []),
    ];
  }

  private async *remembering(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const bytes of source) {
      this.last = Buffer.concat([this.last, bytes.subarray(-LAST_BYTES)]).subarray(-LAST_BYTES);
      yield bytes;
    }
  }
}
