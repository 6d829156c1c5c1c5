// Owns what may end a run from outside while its script runs: a cancel, its time limit, and a silence that is too long.
// Called by supervise.ts; stops the container and says why.
import type { Engine } from '../adapters/engine';
import type { Lease } from '../domain/schemas/worker-api';

/** Why a script was stopped; undefined: it was not. */
export type Stopped = 'run-timeout' | 'idle-timeout' | 'log-limit' | 'cancel-requested' | 'beside-lost' | undefined;

interface Watched {
  name: string;
  /** For how long it has been running, ms. */
  ageMs: number;
  /** From which byte on its output is listened to. */
  fromByte: number;
  /** Its script had ended before it was watched: no limit of it is to be taken for broken now. */
  hasEnded?: boolean;
  cancel: AbortSignal;
  detach: AbortSignal;
}

export interface Watch {
  /** Passes the output on, and counts from each piece anew how long there is none. */
  listening(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer>;
  /** Stops the container for another reason, unless it is being stopped. */
  stop(why: NonNullable<Stopped>): void;
  /** Ends the watch. @returns why the container was stopped, if it was, and the time that is left for its artifacts, ms */
  end(): { stopped: Stopped; leftMs: number };
}

/**
 * For the artifacts of a script that was stopped, which has no time of its own left, and of one whose worker came back
 * after its end, ms.
 */
const EXTRA_MS = 5 * 60_000;

/** Watches from now until `end`; a container that was adopted keeps the clocks that ran before. */
export function watchLimits(
  { engine, worker }: { engine: Pick<Engine, 'stop'>; worker: { stopGraceMs: number } },
  { spec, silentForMs, logCapBytes }: Lease,
  at: Watched,
): Watch {
  let stopped: Stopped;
  const stop = (why: NonNullable<Stopped>): void => {
    if (stopped || at.detach.aborted) return;
    stopped = why;
    // A stop that the engine refuses is tried again by the next supervisor or the sweep; the wait goes on meanwhile.
    void keepStopping(engine, at, worker.stopGraceMs);
  };
  const onCancel = (): void => stop('cancel-requested');
  at.cancel.addEventListener('abort', onCancel);
  if (at.cancel.aborted) onCancel();
  const begunAtMs = performance.now() - at.ageMs;
  const left = (): number => Math.max(spec.timeoutMs - (performance.now() - begunAtMs), 0);
  const runLimit = longTimer(() => stop('run-timeout'), at.hasEnded ? Infinity : left());
  const idle = new IdleLimit(spec.idleTimeoutMs, silentForMs, () => stop('idle-timeout'));
  return {
    listening: (source) =>
      idle.listening(within(source, logLimitOf(logCapBytes) - at.fromByte, () => stop('log-limit'))),
    stop,
    end: () => {
      runLimit.clear();
      idle.clear();
      at.cancel.removeEventListener('abort', onCancel);
      return { stopped, leftMs: stopped === undefined && !at.hasEnded ? left() : EXTRA_MS };
    },
  };
}

/** Output above which a run is stopped, bytes: far above what is kept of a log, the engine's disk would be filled. */
export const logLimitOf = (capBytes: number): number => 4 * capBytes;

async function* within(source: AsyncIterable<Buffer>, mostBytes: number, fire: () => void): AsyncGenerator<Buffer> {
  let left = mostBytes;
  for await (const bytes of source) {
    left -= bytes.length;
    if (left < 0) fire();
    yield bytes;
  }
}

/** A timer that stands still for as long as anybody holds it. */
export class HoldableTimer {
  private timer: { clear(): void } | undefined;
  private armedAtMs = 0;
  private holders = 0;

  constructor(
    private leftMs: number,
    private readonly fire: () => void,
  ) {
    this.arm();
  }

  /** @returns lets it go on; to be called once */
  hold(): () => void {
    if (this.holders === 0) {
      this.clear();
      this.leftMs -= performance.now() - this.armedAtMs;
    }
    this.holders += 1;
    return () => {
      this.holders -= 1;
      if (this.holders === 0) this.arm();
    };
  }

  clear(): void {
    this.timer?.clear();
  }

  private arm(): void {
    this.armedAtMs = performance.now();
    this.timer = longTimer(this.fire, Math.max(this.leftMs, 0));
  }
}

class IdleLimit {
  private timer: { clear(): void } | undefined;
  private lastMs: number;

  constructor(
    private readonly limitMs: number | undefined,
    silentForMs: number,
    private readonly fire: () => void,
  ) {
    this.lastMs = performance.now() - silentForMs;
    this.arm();
  }

  async *listening(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const bytes of source) {
      // While home is away nothing more is read, which is not the silence of the script.
      this.lastMs = Infinity;
      yield bytes;
      this.lastMs = performance.now();
    }
    this.clear();
  }

  clear(): void {
    this.timer?.clear();
    this.timer = undefined;
  }

  private arm(): void {
    if (this.limitMs === undefined) return;
    const leftMs = Math.min(this.lastMs + this.limitMs - performance.now(), this.limitMs);
    this.timer = longTimer(() => (this.isOver() ? this.fire() : this.arm()), Math.max(leftMs, 0));
  }

  private isOver(): boolean {
    return performance.now() - this.lastMs >= (this.limitMs ?? Infinity);
  }
}

const STOP_RETRY_MS = 1_000;

async function keepStopping(engine: Pick<Engine, 'stop'>, at: Watched, graceMs: number): Promise<void> {
  while (!at.detach.aborted) {
    try {
      return await engine.stop(at.name, graceMs);
    } catch {
      await new Promise((done) => setTimeout(done, STOP_RETRY_MS));
    }
  }
}

/**
 * For how long a script has been running, ms. One that was just started has the clock of this process from here on. Of an
 * adopted one its engine says when; a clock there that was set meanwhile is kept within what the server has measured.
 * @param startedAt by the clock of this process; null: not known
 */
export function ageOf(
  { isNew, startedAt }: { isNew: boolean; startedAt: Date | null },
  { silentForMs, leasedForMs }: Pick<Lease, 'silentForMs' | 'leasedForMs'>,
): number {
  if (isNew) return 0;
  const toldMs = startedAt === null ? 0 : Date.now() - startedAt.getTime();
  return Math.min(Math.max(toldMs, silentForMs), leasedForMs);
}

/** setTimeout fires at once above 24.8 days. */
export function longTimer(fire: () => void, ms: number): { clear(): void } {
  const MOST_MS = 2 ** 31 - 1;
  let timer: NodeJS.Timeout;
  const arm = (leftMs: number): void => {
    timer = setTimeout(() => (leftMs > MOST_MS ? arm(leftMs - MOST_MS) : fire()), Math.min(leftMs, MOST_MS));
  };
  arm(ms);
  return { clear: () => clearTimeout(timer) };
}
