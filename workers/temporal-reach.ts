// Owns whether a worker gets through to Temporal: its hello takes another way, and says so where this one is shut.
// Asked by cluster-worker.ts in a round; read by greeting.ts.

/** Asked so seldom while it answers, ms: each worker of a fleet asks. */
const ASK_MS = 15_000;
/** A gateway that starts again, or a server that does, is nothing to speak of, ms. */
const PATIENCE_MS = 10_000;
const MAX_CHARACTERS = 200;

export class TemporalReach {
  private heardAtMs = -Infinity;
  private lost: { sinceMs: number; why: string } | undefined;

  constructor(
    /** Rejects when there is no answer, or none that lets this worker in. */
    private readonly ask: () => Promise<unknown>,
    private readonly nowMs: () => number = () => performance.now(),
  ) {}

  /** Asks when it is time. Never rejects. */
  async look(): Promise<void> {
    if (!this.lost && this.nowMs() - this.heardAtMs < ASK_MS) return;
    const sinceMs = this.lost?.sinceMs ?? this.nowMs();
    try {
      await this.ask();
      this.heardAtMs = this.nowMs();
      this.lost = undefined;
    } catch (error) {
      this.lost = { sinceMs, why: inWords(error as Error) };
    }
  }

  /** Why it takes no runs; null: it gets through, or it is too early to say. */
  get whyCutOff(): string | null {
    if (!this.lost || this.nowMs() - this.lost.sinceMs < PATIENCE_MS) return null;
    return `it does not get through to Temporal: ${this.lost.why}`;
  }
}

/** Of gRPC's errors the sentence of whoever refused; the server takes no control characters. */
function inWords(error: Error & { details?: string }): string {
  return (error.details || error.message).replace(/\p{Cc}/gu, ' ').slice(0, MAX_CHARACTERS) || 'it does not answer';
}
