// Owns the question whether an attempt whose activity is cancelled is to be stopped. Temporal cancels an activity also because
// its workflow was reset, terminated or deleted, and does not say so; the rows know whether somebody wants the script to end.
// Called by job.ts. Hundreds of attempts may be cancelled at once, so what is asked while a call is under way shares the next.
import type { WorkerApi, WorkerApiError } from '../adapters/worker-api';
import type { AttemptKey } from '../domain/schemas/worker-api';

interface Asked {
  attempt: AttemptKey;
  answer: (isCancelled: boolean) => void;
}

export class CancelCheck {
  private waiting: Asked[] = [];
  private isAsking = false;

  /** @param leaving aborted when this process goes away: then nobody is stopped any more */
  constructor(
    private readonly api: Pick<WorkerApi, 'standings'>,
    private readonly worker: string,
    private readonly leaving: AbortSignal,
  ) {}

  /** Waits while the server is away: until it answers, no script is stopped. */
  isCancelled(attempt: AttemptKey): Promise<boolean> {
    return new Promise((answer) => {
      this.waiting.push({ attempt, answer });
      if (!this.isAsking) void this.askAll();
    });
  }

  private async askAll(): Promise<void> {
    this.isAsking = true;
    while (this.waiting.length > 0) {
      const asked = this.waiting.splice(0);
      const cancelled = await this.ask(asked.map(({ attempt }) => attempt));
      for (const { attempt, answer } of asked) answer(cancelled(attempt));
    }
    this.isAsking = false;
  }

  private async ask(attempts: AttemptKey[]): Promise<(attempt: AttemptKey) => boolean> {
    try {
      const standings = await this.api.standings({ worker: this.worker, attempts }, this.leaving);
      const cancelled = new Set(standings.filter((one) => one.isCancelled).map(keyOf));
      return (attempt) => cancelled.has(keyOf(attempt));
    } catch (error) {
      // A server of an earlier version does not know the question. Anything else: the sweep asks again about what is let go.
      const isOld = (error as WorkerApiError).reason === 'refused';
      return () => isOld;
    }
  }
}

const keyOf = ({ runId, attempt }: AttemptKey): string => `${runId} ${attempt}`;
