// Owns how much one cluster may have open: calls, and bytes of requests held in memory. No cluster can use up another's.
// Called by admission.ts, once for each call. Works by counting alone; nothing outlives the calls.
import { WorkerRefusal } from '../adapters/worker-refusal';

/** Requests of the greatest size that a cluster may have in memory at once; more wait, unread, in its connections. */
const LARGE_REQUESTS = 16;

interface Account {
  calls: number;
  bytes: number;
  waiting: Set<() => void>;
}

/** What one call holds. */
export interface Share {
  /** Resolves when there is room for a request of the greatest size. */
  readonly granted: Promise<void>;
  /** The request is here: only its own size is held from now on. */
  shrink(bytes: number): void;
  /** May be called in any state, more than once. */
  release(): void;
}

export class Allowance {
  private readonly accounts = new Map<string, Account>();

  constructor(
    private readonly maxCalls: number,
    private readonly maxMessageBytes: number,
  ) {}

  /** @throws WorkerRefusal `too-many-calls` */
  enter(cluster: string): Share {
    const account = this.accounts.get(cluster) ?? { calls: 0, bytes: 0, waiting: new Set() };
    if (account.calls >= this.maxCalls) throw new WorkerRefusal('too-many-calls', `${this.maxCalls}`);
    this.accounts.set(cluster, account);
    account.calls += 1;
    let held = 0;
    let isReleased = false;
    let grant: () => void = () => undefined;
    const granted = new Promise<void>((done) => {
      grant = () => {
        held = this.maxMessageBytes;
        account.bytes += held;
        done();
      };
    });
    account.waiting.add(grant);
    this.serve(account);
    const hold = (bytes: number): void => {
      account.bytes += bytes - held;
      held = bytes;
      this.serve(account);
    };
    return {
      granted,
      shrink: hold,
      release: () => {
        if (isReleased) return;
        isReleased = true;
        account.waiting.delete(grant);
        account.calls -= 1;
        hold(0);
        if (account.calls === 0) this.accounts.delete(cluster);
      },
    };
  }

  private serve(account: Account): void {
    for (const grant of account.waiting) {
      if (account.bytes + this.maxMessageBytes > LARGE_REQUESTS * this.maxMessageBytes) return;
      account.waiting.delete(grant);
      grant();
    }
  }
}
