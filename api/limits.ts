// Owns how much one caller, and all together, may have under way or ask for: bytes of bodies, open readers, triggers.
// Called by server.ts and the routes. Works by counting alone; what is over is refused (429), and nothing is kept for it.
import type { RequestHandler, Request, Response } from 'express';
import { peerOf } from './caller';
import { Refusal } from './problem';

export interface Limits {
  /** Bytes of bodies that are being received, of people and of each cluster's workers. */
  bodies: Room;
  workerBodies: Room;
  /** Open streams of live logs. */
  readers: Room;
  triggers: Rates;
}

const MEBIBYTE = 1024 ** 2;

export const makeLimits = (): Limits => ({
  bodies: new Room({ ofOne: 64 * MEBIBYTE, ofAll: 192 * MEBIBYTE }),
  workerBodies: new Room({ ofOne: 64 * MEBIBYTE, ofAll: 192 * MEBIBYTE }),
  readers: new Room({ ofOne: 256, ofAll: 2048 }),
  triggers: new Rates({ atOnce: 500, perSecond: 20 }),
});

/** A number that callers share, e.g. of bytes; each has a part of it at most. */
export class Room {
  private readonly taken = new Map<string, number>();
  private all = 0;

  constructor(private readonly most: { ofOne: number; ofAll: number }) {}

  /** @returns how it is given back, once; undefined: there is no room */
  enter(caller: string, amount = 1): (() => void) | undefined {
    const own = this.taken.get(caller) ?? 0;
    if (own + amount > this.most.ofOne || this.all + amount > this.most.ofAll) return undefined;
    this.add(caller, amount);
    let isLeft = false;
    return () => {
      if (!isLeft) this.add(caller, -amount);
      isLeft = true;
    };
  }

  private add(caller: string, amount: number): void {
    const own = (this.taken.get(caller) ?? 0) + amount;
    this.all += amount;
    if (own === 0) this.taken.delete(caller);
    else this.taken.set(caller, own);
  }
}

/** How often a caller may do something: so often at once, and so often per second from then on. */
export class Rates {
  private readonly callers = new Map<string, { left: number; at: number }>();

  /** @param now ms, rising */
  constructor(
    private readonly rate: { atOnce: number; perSecond: number },
    private readonly now: () => number = () => performance.now(),
  ) {}

  /** @returns 0, or the seconds after which there is room again */
  take(caller: string): number {
    const { atOnce, perSecond } = this.rate;
    const at = this.now();
    const before = this.callers.get(caller) ?? { left: atOnce, at };
    const left = Math.min(before.left + ((at - before.at) / 1000) * perSecond, atOnce);
    if (left < 1) return Math.ceil((1 - left) / perSecond);
    this.callers.delete(caller);
    this.callers.set(caller, { left: left - 1, at });
    this.forgetRested(at);
    return 0;
  }

  /** Whoever has asked for nothing for so long that all is left again, oldest first. */
  private forgetRested(at: number): void {
    const restedAfterMs = (this.rate.atOnce / this.rate.perSecond) * 1000;
    for (const [caller, { at: askedAt }] of this.callers) {
      if (at - askedAt < restedAfterMs) return;
      this.callers.delete(caller);
    }
  }
}

/** In which a body has to be here, ms: a worker sends 4 MiB at most at once, and people 2 MiB. */
const BODY_MS = 60_000;

/**
 * Lets a body in that is kept in memory as a whole, where there is room for it.
 * @param limit of one body, bytes; taken as its size where the request does not say
 * @param callerOf whose room it takes
 */
export function requireRoom(
  room: Room,
  limit: number,
  callerOf: (request: Request, response: Response) => string = peerOf,
): RequestHandler {
  return (request, response, next) => {
    const said = request.headers['content-length'];
    if (said === undefined && request.headers['transfer-encoding'] === undefined) return next();
    const sizeBytes = Math.min(said === undefined ? limit : Number(said), limit);
    const leave = room.enter(callerOf(request, response), sizeBytes);
    if (!leave) {
      next(new Refusal(429, 'too-many-bodies', 'too much is being sent at once; send less, or try again in a moment'));
      return;
    }
    const timer = setTimeout(() => {
      response.set('connection', 'close');
      next(new Refusal(408, 'too-slow', `the body was not here after ${BODY_MS / 1000} s; send it again`));
    }, BODY_MS);
    const end = (): void => {
      clearTimeout(timer);
      leave();
    };
    request.once('end', end);
    response.once('close', end);
    next();
  };
}
