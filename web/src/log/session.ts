// Owns one open log: what is loaded, loading more at either end, jumping to a line or byte, and following the live end.
// Called by the view (use-log.ts); it holds the only LogWindow and tells the view when something changed.
import { afterNewline, countNewlines } from './lines';
import { LiveLog } from './live';
import { LogReadError, readLog, type LogAddress, type LogSlice } from './source';
import type { LogTarget } from './target';
import { LogWindow } from './window';

export type LivePhase = 'off' | 'live' | 'reconnecting';

export interface LogState {
  phase: 'opening' | 'ready' | 'failed';
  complaint: string;
  isComplete: boolean;
  totalBytes: number;
  live: LivePhase;
  /** Set while lines are counted to find one by number. */
  countedBytes: number | null;
  /** Index to bring into view; a new object for every jump. */
  jump: { index: number; isEnd: boolean } | null;
}

const READ_BYTES = 1_048_576;
const COUNT_BYTES = 4 * 1_048_576;
/** Bytes loaded before the target of a jump, so that there is something to see above it. */
const LEAD_BYTES = 262_144;
/** So many bytes before the window are counted unasked, to show true line numbers at once. */
const COUNT_FREELY_BYTES = 4 * 1_048_576;
const NOTIFY_MS = 33;

const CLOSED: LogState = {
  phase: 'opening',
  complaint: '',
  isComplete: false,
  totalBytes: 0,
  live: 'off',
  countedBytes: null,
  jump: null,
};

export class LogSession {
  readonly window = new LogWindow();
  state: LogState = CLOSED;
  private live: LiveLog | null = null;
  private work = new AbortController();
  private isLoading = false;
  private isCounting = false;
  /** Told by the view. A reader who is not at the end keeps what they read; the live end then waits outside. */
  isFollowing = true;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly address: LogAddress,
    private readonly onChange: () => void,
  ) {}

  get isAtEnd(): boolean {
    return this.window.endByte >= this.state.totalBytes;
  }

  close(): void {
    this.work.abort();
    clearTimeout(this.timer);
    this.stopLive();
  }

  /** Begins anew at `target`; what was under way is abandoned. */
  open(target: LogTarget): void {
    this.work.abort();
    this.work = new AbortController();
    this.isLoading = false;
    this.isCounting = false;
    this.set({ complaint: '', countedBytes: null });
    void this.guard(() => this.openTarget(target), 'failed');
  }

  loadEarlier(): void {
    if (this.window.startByte === 0 || this.isLoading) return;
    void this.guard(async () => {
      const offset = Math.max(0, this.window.startByte - READ_BYTES);
      const slice = await this.read({ offset, limit: this.window.startByte - offset });
      this.window.prepend(slice.bytes.subarray(0, this.window.startByte - offset));
      if (!this.isAtEnd) this.stopLive();
    });
  }

  loadLater(): void {
    if (this.isAtEnd || this.isLoading) return;
    void this.guard(async () => {
      await this.readOn();
      if (this.isAtEnd) this.startLive();
    });
  }

  /** Counts the lines before the window, so that their true numbers can be shown. */
  async countLines(): Promise<void> {
    if (this.window.zeroNumber !== null || this.isCounting) return;
    const { signal } = this.work;
    this.isCounting = true;
    await this.countBefore().catch((error: unknown) => this.complain(error, signal));
    if (!signal.aborted) this.isCounting = false;
  }

  private complain(error: unknown, signal: AbortSignal): void {
    if (signal.aborted) return;
    if (!(error instanceof LogReadError)) throw error;
    this.set({ complaint: error.message, countedBytes: null });
  }

  /** One piece of work at a time; a failure becomes a complaint, and what is loaded stays. */
  private async guard(job: () => Promise<void>, phaseOnFailure?: 'failed'): Promise<void> {
    const { signal } = this.work;
    this.isLoading = true;
    try {
      await job();
    } catch (error) {
      this.complain(error, signal);
      if (!signal.aborted && phaseOnFailure !== undefined) this.set({ phase: phaseOnFailure });
    } finally {
      if (!signal.aborted) {
        this.isLoading = false;
        this.set({});
      }
    }
  }

  private async read(range: { offset: number; limit?: number }): Promise<LogSlice> {
    const { signal } = this.work;
    const slice = await readLog(this.address, range, signal);
    // A later open() has taken over while this answer was on its way.
    if (signal.aborted) throw new LogReadError('abandoned');
    this.set({
      totalBytes: Math.max(slice.totalBytes, this.state.totalBytes),
      isComplete: slice.isComplete,
      complaint: '',
    });
    return slice;
  }

  private async openTarget(target: LogTarget): Promise<void> {
    switch (target.kind) {
      case 'end':
        return this.openEnd();
      case 'start':
        return this.openByte(0);
      case 'byte':
        return this.openByte(target.byte);
      case 'line':
        return this.openLine(target.number);
    }
  }

  private async openEnd(): Promise<void> {
    const slice = await this.read({ offset: -READ_BYTES });
    this.stopLive();
    this.window.reset(slice.bytes, slice.startByte);
    this.arrive({ index: Math.max(0, this.window.lineCount - 1), isEnd: true });
    if (this.window.startByte <= COUNT_FREELY_BYTES) void this.countLines();
  }

  private async openByte(byte: number): Promise<void> {
    if (!this.isLoaded(byte)) {
      const offset = Math.max(0, byte - LEAD_BYTES);
      const slice = await this.read({ offset, limit: READ_BYTES });
      this.stopLive();
      this.window.reset(slice.bytes, offset);
    }
    this.arrive({ index: this.window.indexOfByte(byte), isEnd: false });
  }

  private async openLine(number: number): Promise<void> {
    const { zeroNumber, firstOrdinal, lineCount } = this.window;
    const index = zeroNumber === null ? -1 : number - zeroNumber - firstOrdinal;
    if (index >= 0 && index < lineCount) return this.arrive({ index, isEnd: false });
    const byte = await this.findLine(number);
    if (byte === null) {
      await this.openEnd();
      return this.set({ complaint: `The log has no line ${number}; this is its end.` });
    }
    await this.openByte(byte);
    this.window.zeroNumber = number - this.window.firstOrdinal - this.window.indexOfByte(byte);
  }

  private isLoaded(byte: number): boolean {
    const { startByte, endByte } = this.window;
    return this.state.phase === 'ready' && endByte > startByte && byte >= startByte && byte < endByte;
  }

  private arrive(jump: NonNullable<LogState['jump']>): void {
    this.set({ phase: 'ready', jump, countedBytes: null });
    if (this.isAtEnd) this.startLive();
  }

  /** Byte at which line `number` begins. The API has no index of lines, so newlines are counted from the start. */
  private async findLine(number: number): Promise<number | null> {
    let before = 0;
    for (let offset = 0; ;) {
      const { bytes, totalBytes } = await this.read({ offset, limit: COUNT_BYTES });
      const count = countNewlines(bytes);
      if (before + count >= number - 1) {
        const start = offset + afterNewline(bytes, number - 1 - before);
        return start < totalBytes ? start : null;
      }
      if (bytes.length === 0 || offset + bytes.length >= totalBytes) return null;
      before += count;
      offset += bytes.length;
      this.set({ countedBytes: offset });
    }
  }

  private async countBefore(): Promise<void> {
    const goal = this.window.startByte;
    const goalOrdinal = this.window.firstOrdinal;
    let lines = 0;
    for (let offset = 0; offset < goal;) {
      const { bytes } = await this.read({ offset, limit: Math.min(COUNT_BYTES, goal - offset) });
      if (bytes.length === 0) return;
      lines += countNewlines(bytes.subarray(0, goal - offset));
      offset += bytes.length;
      this.set({ countedBytes: offset });
    }
    this.window.zeroNumber = lines + 1 - goalOrdinal;
    this.set({ countedBytes: null });
  }

  private async readOn(): Promise<void> {
    const slice = await this.read({ offset: this.window.endByte, limit: READ_BYTES });
    this.window.append(slice.bytes);
  }

  private startLive(): void {
    if (this.live !== null || this.state.isComplete) return;
    this.set({ live: 'reconnecting' });
    this.live = new LiveLog(this.address, {
      nextByte: () => this.window.endByte,
      onBytes: (startByte, bytes) => this.takeLive(startByte, bytes),
      onConnection: (isConnected) => this.set({ live: isConnected ? 'live' : 'reconnecting' }),
      onEnd: (totalBytes) => {
        this.stopLive();
        this.set({ totalBytes, isComplete: true });
        // Whatever the stream did not deliver is read the other way.
        if (!this.isAtEnd) this.loadLater();
      },
    });
  }

  private stopLive(): void {
    this.live?.close();
    this.live = null;
    this.set({ live: 'off' });
  }

  /** Bytes already loaded are dropped; after a hole the stream is left and the hole is read like any other range. */
  private takeLive(startByte: number, bytes: Uint8Array): void {
    const { endByte } = this.window;
    if (startByte + bytes.length <= endByte) return;
    const isHole = startByte > endByte;
    if (isHole || (this.window.isFull && !this.isFollowing)) {
      this.stopLive();
      this.set({ totalBytes: Math.max(this.state.totalBytes, startByte + bytes.length) });
      if (isHole) this.loadLater();
      return;
    }
    this.window.append(bytes.subarray(endByte - startByte));
    this.set({ totalBytes: Math.max(this.state.totalBytes, this.window.endByte) });
  }

  /** Changes are told in batches: a log may bring hundreds of chunks a second. */
  private set(change: Partial<LogState>): void {
    this.state = { ...this.state, ...change };
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      this.onChange();
    }, NOTIFY_MS);
  }
}
