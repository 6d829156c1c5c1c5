// Owns waiting for a condition with a deadline, in place of fixed sleeps.
// Called by tests that watch real processes.
import { setTimeout as sleep } from 'node:timers/promises';

export interface WaitOptions {
  /** What is waited for; it is named when the wait is over. */
  what: string;
  timeoutMs?: number;
  intervalMs?: number;
}

/**
 * Asks until the answer is neither false, null nor undefined, and returns it. A throw counts as "not yet".
 * @throws Error naming what was waited for and why the last question failed
 */
export async function waitFor<T>(
  condition: () => T | Promise<T>,
  { what, timeoutMs = 30_000, intervalMs = 20 }: WaitOptions,
): Promise<Exclude<T, false | null | undefined>> {
  const until = Date.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const answer = await condition();
      if (answer !== false && answer !== null && answer !== undefined) {
        return answer as Exclude<T, false | null | undefined>;
      }
      last = answer;
    } catch (error) {
      last = error;
    }
    if (Date.now() >= until) throw new Error(`${what}: not seen in ${timeoutMs} ms (last: ${String(last)})`);
    await sleep(intervalMs);
  }
}
