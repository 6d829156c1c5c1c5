// Owns what this copy of the API knows of the server's own troubles: calls of workers that it could not carry out, and a
// Temporal that does not answer. So a page says why nothing moves. Asked by waiting.ts.
import type { RequestHandler } from 'express';

/** What could not be done is tried again within seconds; one that was not, is of the past, ms. */
const FORGOTTEN_MS = 30_000;
/** Asked so seldom, and by pages of unfinished runs alone, ms. */
const ASK_MS = 5_000;

interface Failure {
  sinceMs: number;
  lastMs: number;
  why: string;
}

export class Troubles {
  /** By the last word of the path: what fails for one kind of call may work for another. */
  private readonly failures = new Map<string, Failure>();
  private readonly temporal = { askedMs: -Infinity, isAway: false };

  /** @param askTemporal rejects when it does not answer */
  constructor(
    private readonly askTemporal: () => Promise<unknown>,
    private readonly nowMs: () => number = () => performance.now(),
  ) {}

  /** Listens to how calls of workers end. */
  watch(): RequestHandler {
    return (request, response, next) => {
      const call = request.path.split('/').at(-1) ?? '';
      response.once('finish', () => {
        // What a stranger is told says nothing of the server.
        if (response.locals['worker'] === undefined) return;
        const failure: unknown = response.locals['failure'];
        this.note(call, typeof failure === 'string' ? failure : null);
      });
      next();
    };
  }

  /** @param why null: it went well */
  note(call: string, why: string | null): void {
    const now = this.nowMs();
    if (why === null) this.failures.delete(call);
    else this.failures.set(call, { sinceMs: this.failures.get(call)?.sinceMs ?? now, lastMs: now, why });
  }

  /** In words, for every run that is not finished; null: none is known. */
  say(): string | null {
    this.look();
    const now = this.nowMs();
    for (const [call, { lastMs }] of this.failures) if (now - lastMs > FORGOTTEN_MS) this.failures.delete(call);
    const [oldest] = [...this.failures.values()].sort((a, b) => a.sinceMs - b.sinceMs);
    if (oldest) {
      const seconds = Math.round((now - oldest.sinceMs) / 1000);
      return `for ${seconds} s the server could not store what its workers sent (${oldest.why}); they send it again`;
    }
    if (!this.temporal.isAway) return null;
    return 'Temporal does not answer the server; what runs goes on, and what comes next waits for it';
  }

  /** The answer counts from the next question on: no page waits for it. */
  private look(): void {
    if (this.nowMs() - this.temporal.askedMs < ASK_MS) return;
    this.temporal.askedMs = this.nowMs();
    this.askTemporal().then(
      () => (this.temporal.isAway = false),
      () => (this.temporal.isAway = true),
    );
  }
}
