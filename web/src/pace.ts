// Owns how often an answer of the API is asked for again. Pure.
// Called by poll.ts.

/** `live`: something moves; `slow`: only a list that may grow; `stop`: it never changes again. */
export type Pace = 'live' | 'slow' | 'stop';

const LIVE_MS = 1_000;
const SLOW_MS = 5_000;

/** Pure. Milliseconds until the next question, null for never. */
export function nextPollMs(now: { pace: Pace; isHidden: boolean; hasTrouble: boolean }): number | null {
  if (now.hasTrouble) return SLOW_MS;
  if (now.pace === 'stop') return null;
  return now.pace === 'slow' || now.isHidden ? SLOW_MS : LIVE_MS;
}
