// Owns how much is written down of what comes again and again: some at once, then one in a while, the rest is counted.
// Called by refusal-audit.ts, so that nobody who is refused can fill the disk.

export interface SparingLimits {
  /** Kept at once of each kind. */
  burst: number;
  /** After those, one in this time, ms. */
  everyMs: number;
}

interface Kind {
  /** What may be kept now, as a fraction. */
  left: number;
  atMs: number;
  leftOut: number;
}

export class Sparing {
  private readonly kinds = new Map<string, Kind>();

  constructor(private readonly limits: SparingLimits) {}

  /**
   * @param kind from a closed list, or of names that are registered: each is remembered
   * @returns how many of this kind were left out since the last one that was kept; undefined: this one is left out too
   */
  take(kind: string): number | undefined {
    const { burst, everyMs } = this.limits;
    const now = performance.now();
    const known = this.kinds.get(kind) ?? { left: burst, atMs: now, leftOut: 0 };
    this.kinds.set(kind, known);
    known.left = Math.min(burst, known.left + (now - known.atMs) / everyMs);
    known.atMs = now;
    if (known.left < 1) {
      known.leftOut += 1;
      return undefined;
    }
    known.left -= 1;
    const { leftOut } = known;
    known.leftOut = 0;
    return leftOut;
  }
}
