// Owns what a priority is and how it rises while a run waits, so that no run waits for ever behind others.
// Pure; called by the run's workflow, which offers it, and by the order in which slots are granted.

/** First and last; a run that says nothing is in the middle. */
const FIRST_PRIORITY = 1;
export const DEFAULT_PRIORITY = 3;

export interface Aged {
  /** 1 (first) … 5 (last) */
  priority: number;
  /** Until it is one priority higher, ms; Infinity: it is not raised any more. */
  nextRaiseMs: number;
}

/**
 * The priority of a run that has waited: one higher for each step.
 * @param priority 1 (first) … 5 (last); default: 3
 * @param stepMs absent: it never rises
 */
export function ageOf(
  priority: number = DEFAULT_PRIORITY,
  { waitedMs, stepMs = Infinity }: { waitedMs: number; stepMs?: number },
): Aged {
  const steps = Math.floor(Math.max(waitedMs, 0) / stepMs);
  const aged = Math.max(priority - steps, FIRST_PRIORITY);
  const nextRaiseMs = aged === FIRST_PRIORITY ? Infinity : (steps + 1) * stepMs - Math.max(waitedMs, 0);
  return { priority: aged, nextRaiseMs };
}
