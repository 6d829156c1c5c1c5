// Owns whose turn it is to take the release that a cluster is pinned to: canaries first, then the rest in waves.
// Called by adapters/store/releases.ts when a worker says hello, and by the views that tell how far it is. Pure.

/** An enlisted worker that takes releases at all. */
export interface RolloutWorker {
  id: string;
  /** Seen lately enough to count as there. */
  connected: boolean;
  /** It was told to take this release. */
  offered: boolean;
  /** For how long it has said hello with this release, ms; null: it runs another. */
  ranForMs: number | null;
  /** Why it could not take it; null: nothing went wrong. */
  failure: string | null;
}

export interface RolloutRules {
  /** How many take it first. */
  canaries: number;
  /** How long every canary must have run it before the others take it, ms. */
  holdMs: number;
}

export interface Rollout {
  /** Ids of those that are to take it now. */
  turn: string[];
  /** Where it stands, as a sentence without its full stop. */
  state: string;
}

/** Beyond the canaries so many take it at once: a part of the fleet that may be away at a time. */
const WAVE = 1 / 4;

/** @param fleet workers that take releases; the order does not matter */
export function planRollout({ canaries, holdMs }: RolloutRules, fleet: readonly RolloutWorker[]): Rollout {
  const have = fleet.filter(({ ranForMs }) => ranForMs !== null);
  const far = `${have.length} of ${count(fleet.length, 'worker')} ${have.length === 1 ? 'has' : 'have'} it`;
  const failed = fleet.find(({ failure }) => failure !== null);
  if (failed) return { turn: [], state: `paused: worker ${failed.id} could not take it (${failed.failure}); ${far}` };
  if (fleet.length === 0) return { turn: [], state: 'no worker of this cluster takes releases' };
  if (have.length === fleet.length) return { turn: [], state: `done: ${far}` };
  const first = chooseCanaries(fleet, canaries);
  const lost = first.find(({ offered, connected }) => offered && !connected);
  if (lost) return { turn: [], state: `paused: canary ${lost.id} is silent since it took it; ${far}` };
  const untested = first.filter(({ ranForMs }) => (ranForMs ?? -1) < holdMs);
  if (first.length < Math.min(canaries, fleet.length) || untested.length > 0) {
    const turn = first.filter(({ ranForMs }) => ranForMs === null).map(({ id }) => id);
    return { turn, state: `${sayCanaries(first, holdMs)}; ${far}` };
  }
  return { turn: nextWave(fleet), state: `rolling out; ${far}` };
}

/** Who was told already stays one, so that a canary that dies of it has no successor. */
function chooseCanaries(fleet: readonly RolloutWorker[], canaries: number): RolloutWorker[] {
  const rank = ({ offered }: RolloutWorker): number => (offered ? 0 : 1);
  return fleet
    .filter(({ offered, connected }) => offered || connected)
    .sort((a, b) => rank(a) - rank(b) || (a.id < b.id ? -1 : 1))
    .slice(0, canaries);
}

function nextWave(fleet: readonly RolloutWorker[]): string[] {
  const size = Math.max(1, Math.floor(fleet.length * WAVE));
  const under = fleet.filter(({ offered, ranForMs }) => offered && ranForMs === null);
  const next = fleet
    .filter(({ offered, connected, ranForMs }) => !offered && connected && ranForMs === null)
    .sort((a, b) => (a.id < b.id ? -1 : 1))
    .slice(0, Math.max(0, size - under.length));
  return [...under, ...next].map(({ id }) => id);
}

function sayCanaries(first: readonly RolloutWorker[], holdMs: number): string {
  const waited = first.find(({ ranForMs }) => ranForMs === null);
  if (waited) return `canary ${waited.id} is to take it`;
  if (first.length === 0) return 'it waits for a worker to be connected';
  const leastMs = Math.min(...first.map(({ ranForMs }) => ranForMs ?? 0));
  return `${count(first.length, 'canary', 'canaries')} watched for another ${Math.ceil((holdMs - leastMs) / 1000)} s`;
}

const count = (number: number, one: string, more = `${one}s`): string => `${number} ${number === 1 ? one : more}`;
