// Owns how much one cluster may have open in both halves of the gateway: calls, and bytes of requests that somebody holds in
// memory. No cluster can use up another's. Called by admission.ts and http-proxy.ts, once for each call. Works by counting
// alone; nothing outlives the calls.
import { WorkerRefusal } from '../adapters/worker-refusal';

/** Requests of the greatest size that a cluster may have in memory at once. */
const LARGE_REQUESTS = 16;
/** So many of them are left to gRPC: without polls and heartbeats nothing runs, and output can wait. */
const LEFT_TO_GRPC = 4;

export interface AllowanceLimits {
  /** Calls that a cluster may have open, over both halves. */
  calls: number;
  /** Of those by gRPC, long polls included; a full Temporal server allows 1,200 polls a namespace. */
  grpcCalls: number;
  /** Largest message that is held whole. */
  messageBytes: number;
}

interface Account {
  calls: number;
  grpcCalls: number;
  bytes: number;
  waiting: Set<() => void>;
}

/** What one call of gRPC holds. */
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

  constructor(private readonly limits: AllowanceLimits) {}

  /** For a call of gRPC, whose request is left unread until there is room. @throws WorkerRefusal `too-many-calls` */
  enter(cluster: string): Share {
    const { messageBytes, grpcCalls } = this.limits;
    const account = this.open(cluster);
    if (account.grpcCalls >= grpcCalls) throw new WorkerRefusal('too-many-calls', `${grpcCalls}`);
    account.calls += 1;
    account.grpcCalls += 1;
    let held = 0;
    let isOver = false;
    let grant: () => void = () => undefined;
    const granted = new Promise<void>((done) => {
      grant = () => {
        held = messageBytes;
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
    const release = once(() => {
      isOver = true;
      account.waiting.delete(grant);
      account.grpcCalls -= 1;
      hold(0);
      this.leave(cluster, account);
    });
    // A message may still arrive after its call was refused.
    return { granted, shrink: (bytes) => isOver || hold(bytes), release };
  }

  /**
   * For a call of HTTP, which gets its room at once or not at all. @returns gives it back; may be called more than once
   * @param bytes that somebody holds of it @throws WorkerRefusal `too-many-calls`, `too-many-bytes`
   */
  claim(cluster: string, bytes: number): () => void {
    const account = this.open(cluster);
    const held = Math.min(bytes, this.limits.messageBytes);
    const most = (LARGE_REQUESTS - LEFT_TO_GRPC) * this.limits.messageBytes;
    if (account.bytes + held > most) throw new WorkerRefusal('too-many-bytes', `${most}`);
    account.calls += 1;
    account.bytes += held;
    return once(() => {
      account.bytes -= held;
      this.leave(cluster, account);
      this.serve(account);
    });
  }

  private open(cluster: string): Account {
    const account = this.accounts.get(cluster) ?? { calls: 0, grpcCalls: 0, bytes: 0, waiting: new Set() };
    if (account.calls >= this.limits.calls) throw new WorkerRefusal('too-many-calls', `${this.limits.calls}`);
    // Without a call it stays for nothing, until the cluster's next one.
    this.accounts.set(cluster, account);
    return account;
  }

  private leave(cluster: string, account: Account): void {
    account.calls -= 1;
    if (account.calls === 0) this.accounts.delete(cluster);
  }

  private serve(account: Account): void {
    const { messageBytes } = this.limits;
    for (const grant of account.waiting) {
      if (account.bytes + messageBytes > LARGE_REQUESTS * messageBytes) return;
      account.waiting.delete(grant);
      grant();
    }
  }
}

function once(deed: () => void): () => void {
  let isDone = false;
  return () => {
    if (isDone) return;
    isDone = true;
    deed();
  };
}
