// Owns how long a worker is waited for that did not come for its attempt. Pure. Called by workflows/run.ts.

/** A gateway that is away, or dies again and again, is waited for as often as a worker that was stopped. */
const DOOR_GRACES = 5;

/**
 * @param found what the store knows of its worker. Heard: it is there, but slow to start, or Temporal does not reach it.
 *   Door shut: nobody of any cluster was heard, so nothing says that this host is lost, and nobody could take over.
 * @param stoppedMs how long a worker is waited for that said that it stops, ms
 * @returns the time after which its host counts as lost, ms; 0: now
 */
export function absenceGraceMs(found: { isHeard?: boolean; isDoorShut?: boolean }, stoppedMs: number): number {
  if (found.isDoorShut) return stoppedMs * DOOR_GRACES;
  return found.isHeard ? stoppedMs : 0;
}
