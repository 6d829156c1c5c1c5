// Owns the door of the gRPC half: who calls, how much a cluster has open at once, and the cut of who is not welcome any more.
// Called by grpc-proxy.ts as an interceptor, so a stranger is refused by its headers, before a byte of its request is read.
//   asked ──identified──> admitted ──room for its request──> receiving ──> arrived ──> over
//     └──────────────────────┴──────────── refused ───────────────┴───────────┴──────> over (in the audit)
import {
  ServerInterceptingCall,
  status,
  type Metadata,
  type ServerInterceptingCallInterface,
  type ServerInterceptor,
} from '@grpc/grpc-js';
import type { Allowance, Share } from './allowance';
import type { Identities, WorkerIdentity } from '../adapters/worker-identity';
import { isOfClocks, WorkerRefusal, type RefusalReason } from '../adapters/worker-refusal';

/** What the audit gets to know; the same may come thousands of times a second, so the receiver bounds what it keeps. */
export interface RefusalRecord {
  /** Left out: nobody vouches for the caller. */
  identity?: WorkerIdentity;
  /** Path of the call, e.g. `/temporal.api.workflowservice.v1.WorkflowService/PollActivityTaskQueue`. */
  method: string;
  reason: RefusalReason;
  /** The sentence that the caller was answered. */
  message: string;
  /** Address and port. */
  peer: string;
}

export interface AdmissionOptions {
  identities: Identities;
  audit: (refusal: RefusalRecord) => void;
  /** Shared with the HTTP half. */
  allowance: Allowance;
  /** Within this time a request must have arrived; room for it is waited for as long before, ms. */
  arrivalMs?: number;
  /** A connection has shown who it belongs to. */
  onAdmitted?: (peer: string, who: WorkerIdentity) => void;
}

/** How often open calls are looked over, ms: with it a revocation cuts a long poll. */
const ROUND_MS = 1_000;
/** Default of `arrivalMs`. */
const ARRIVAL_MS = 10_000;

interface OpenCall {
  method: string;
  peer: string;
  who?: WorkerIdentity;
  share?: Share;
  /** Since when it waits for room. */
  enteredAt?: number;
  receivingSince?: number;
  hasArrived: boolean;
  isOver: boolean;
  answer(refusal: WorkerRefusal): void;
}

export class Admission {
  private readonly open = new Set<OpenCall>();
  private readonly callers = new WeakMap<Metadata, WorkerIdentity>();
  private readonly timer: NodeJS.Timeout;
  private isLookingOver = false;

  constructor(private readonly options: AdmissionOptions) {
    this.timer = setInterval(() => void this.lookOver(), ROUND_MS).unref();
  }

  readonly interceptor: ServerInterceptor = ({ path }, call) => {
    const mine = openCall(path, call);
    return new ServerInterceptingCall(call, {
      start: (next) =>
        next({
          onReceiveMetadata: (metadata, go) => void this.admit(mine, metadata, go),
          onReceiveMessage: (message: Buffer, go) => {
            mine.hasArrived = true;
            mine.share?.shrink(message.length);
            go(message);
          },
          onCancel: () => this.end(mine),
        }),
    });
  };

  /** Who sent a call that was let in; no other comes as far as to a handler. */
  callerOf(metadata: Metadata): WorkerIdentity {
    return this.callers.get(metadata)!;
  }

  /** Open calls of a kind. */
  callsOf(isMeant: (method: string) => boolean = () => true): number {
    return [...this.open].filter(({ method }) => isMeant(method)).length;
  }

  /** Puts a refusal on record. What the receiver does wrong must not reach the caller. */
  record(refusal: WorkerRefusal, { method, peer, who }: Pick<OpenCall, 'method' | 'peer' | 'who'>): void {
    const { reason, message } = refusal;
    try {
      const identity = who ?? refusal.signer;
      this.options.audit({ ...(identity ? { identity } : {}), method, reason, message, peer });
    } catch {
      // An audit that is away is its own alarm.
    }
  }

  close(): void {
    clearInterval(this.timer);
  }

  private async admit(mine: OpenCall, metadata: Metadata, go: (metadata: Metadata) => void): Promise<void> {
    try {
      const who = await this.options.identities.identify(metadata.get('authorization')[0]?.toString());
      mine.who = who;
      this.options.onAdmitted?.(mine.peer, who);
      if (mine.isOver) return;
      mine.share = this.options.allowance.enter(who.cluster);
      mine.enteredAt = Date.now();
      this.open.add(mine);
      await mine.share.granted;
      if (mine.isOver) return;
      mine.receivingSince = Date.now();
      this.callers.set(metadata, who);
      go(metadata);
    } catch (error) {
      this.refuse(
        mine,
        error instanceof WorkerRefusal ? error : new WorkerRefusal('keys-unavailable', undefined, { cause: error }),
      );
    }
  }

  private refuse(call: OpenCall, refusal: WorkerRefusal): void {
    if (call.isOver) return;
    call.isOver = true;
    this.record(refusal, call);
    call.answer(refusal);
    this.release(call);
  }

  /** Also when all went well. A call that ends before its request is here was too large, broken, or given up. */
  private end(call: OpenCall): void {
    if (call.receivingSince !== undefined && !call.hasArrived && !call.isOver) {
      this.record(new WorkerRefusal('request-unread'), call);
    }
    call.isOver = true;
    this.release(call);
  }

  private release(call: OpenCall): void {
    this.open.delete(call);
    call.share?.release();
  }

  private async lookOver(): Promise<void> {
    if (this.isLookingOver) return;
    this.isLookingOver = true;
    const lateSince = Date.now() - (this.options.arrivalMs ?? ARRIVAL_MS);
    const byKey = new Map<string, OpenCall[]>();
    for (const call of this.open) {
      const { hasArrived, receivingSince, enteredAt = Infinity } = call;
      if (!hasArrived && (receivingSince ?? enteredAt) < lateSince) {
        this.refuse(call, new WorkerRefusal(receivingSince === undefined ? 'too-many-bytes' : 'request-unread'));
      }
      const key = `${call.who?.cluster} ${call.who?.keyId}`;
      byKey.set(key, [...(byKey.get(key) ?? []), call]);
    }
    await Promise.all([...byKey.values()].map((calls) => this.recheck(calls)));
    this.isLookingOver = false;
  }

  /** Ends calls whose key is not good any more; a source of keys that is away ends nothing. */
  private async recheck(calls: OpenCall[]): Promise<void> {
    const who = calls[0]?.who;
    if (!who) return;
    try {
      await this.options.identities.recheck(who, { now: true });
    } catch (error) {
      if (!(error instanceof WorkerRefusal) || error.reason === 'keys-unavailable') return;
      for (const call of calls) this.refuse(call, error);
    }
  }
}

/**
 * An SDK gives its pollers up for good when it was told for a minute that it is not known, and its process lives on. Over a
 * clock it must not: the same worker is good again as soon as the clock is.
 */
export const statusOf = ({ kind, reason }: WorkerRefusal): status => status[isOfClocks(reason) ? 'UNAVAILABLE' : kind];

function openCall(method: string, call: ServerInterceptingCallInterface): OpenCall {
  return {
    method,
    peer: call.getPeer(),
    hasArrived: false,
    isOver: false,
    answer: (refusal) => call.sendStatus({ code: statusOf(refusal), details: refusal.message }),
  };
}
