// Owns how many detours an attempt may take: answers after which its worker is asked again, or another one is.
// An answer costs a history a dozen events of 51,200, so a worker that answers for ever must not go on for ever.
// Pure; called by workflows/run.ts.

/** Detours of one attempt. */
export interface Detours {
  all: number;
  /** In a row, each answered at once. */
  quick: number;
}

/** More than restarts and outages bring about in a week. */
const MOST = 300;
/** An answer that comes sooner comes from no work, ms. */
const QUICK_MS = 1_000;
const MOST_QUICK = 20;
/** So many follow each other in the ordinary course: elsewhere, gone, back again. */
const FREE = 3;
const PAUSE_MS = { first: 500, most: 30_000 };

/**
 * Counts one more. @param tookMs since the worker was asked
 * @returns how long to pause before the next question, ms; undefined: there must be none
 */
export function takeDetour(detours: Detours, tookMs: number): number | undefined {
  detours.all += 1;
  detours.quick = tookMs < QUICK_MS ? detours.quick + 1 : 0;
  if (detours.all > MOST || detours.quick > MOST_QUICK) return undefined;
  if (detours.quick <= FREE) return 0;
  return Math.min(PAUSE_MS.first * 2 ** (detours.quick - FREE - 1), PAUSE_MS.most);
}
