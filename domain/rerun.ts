// Owns the choice which runs of a finished build are run again.
// Pure; called by the store inside the transaction that begins a rerun.
import type { Outcome } from './schemas/words';

export interface EndedRun {
  name: string;
  /** Names of runs of the same build. */
  needs: readonly string[];
  outcome: Outcome;
}

/** `all`; `failed`: whatever did not pass; or the names of runs. */
export type RerunWish = 'all' | 'failed' | readonly string[];

/**
 * Names of the runs to run again: those that are wished for, and all that need one of them, directly or not, since what
 * they were given may change. @param runs a whole build, finished @returns empty when nothing fits the wish
 */
export function chooseReruns(runs: readonly EndedRun[], wish: RerunWish): Set<string> {
  const chosen = new Set(runs.filter((run) => isWished(run, wish)).map((run) => run.name));
  for (let before = -1; before !== chosen.size;) {
    before = chosen.size;
    for (const run of runs) if (run.needs.some((need) => chosen.has(need))) chosen.add(run.name);
  }
  return chosen;
}

function isWished(run: EndedRun, wish: RerunWish): boolean {
  if (wish === 'all') return true;
  return wish === 'failed' ? run.outcome !== 'passed' : wish.includes(run.name);
}
