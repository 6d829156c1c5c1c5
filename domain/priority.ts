// Owns what a priority is and how it rises, so that no run waits for ever behind runs of higher priority.
// Pure; called by the workflow of a run, and by the store, which knows how long a line got nothing.
//
// A line is the runs of one project with one priority and one host-tag. What rises is a line that gets nothing, and only
// the run in front of it. A flood waits long too, but it is served all the while: were all of it raised, every other
// project would have to wait until it is over, and that is what the fair share between projects is against.

const FIRST_PRIORITY = 1;
/** Of a run that says nothing; 1 is first, 5 is last. */
export const DEFAULT_PRIORITY = 3;

/**
 * One priority higher for each step in which its line got nothing.
 * @param priority 1 (first) … 5 (last) @param unservedMs since the run in front waits, or the line got a slot if that is later
 */
export function agedPriority(priority: number, unservedMs: number, stepMs: number): number {
  return Math.max(priority - Math.floor(Math.max(unservedMs, 0) / stepMs), FIRST_PRIORITY);
}

/**
 * How long a task is offered before its priority is looked at again: ever longer, since each look costs the history of the
 * build some events, and a run may wait for weeks. @param stepMs absent: it is never looked at again
 */
export function offerMs(waitedMs: number, stepMs = Infinity): number {
  return Math.max(stepMs, waitedMs);
}
