// Owns whose turn it is in a cluster: by priority, then the project that holds fewer slots, then who has waited longer.
// Pure; called by the store, inside the one transaction that grants a lease, and to say what place a run has.
import { matchesTag } from './host-tag';
import { chooseHost, type HostChoice, type HostOffer } from './placement';

/** A run that waits for a slot of a cluster. */
export interface WaitingRun {
  id: string;
  project: string;
  /** 1 (first) … 5 (last), raised already for the time that it has waited. */
  priority: number;
  waitedMs: number;
  /** What its host must have, see host-tag.ts; null takes any. */
  hostTag: string | null;
}

/** Slots of a cluster that each project holds; a project that is not named holds none. */
export type Holdings = ReadonlyMap<string, number>;

/**
 * Lets waiting runs take slots one after the other, and counts each slot to its project before the next turn.
 * Equals keep the order in which they come in.
 * @param canTake whether the run gets a slot, given how many its project would hold before; if not, it is passed over
 * @returns those that got one, first to last
 */
export function takeTurns(
  waiting: readonly WaitingRun[],
  holdings: Holdings,
  canTake: (run: WaitingRun, held: number) => boolean = () => true,
): WaitingRun[] {
  const lines = lineUp(waiting);
  const held = new Map(holdings);
  const taken: WaitingRun[] = [];
  for (let line = nextLine(lines, held); line; line = nextLine(lines, held)) {
    const run = line.runs[line.next]!;
    const holds = held.get(run.project) ?? 0;
    line.next += 1;
    if (!canTake(run, holds)) continue;
    held.set(run.project, holds + 1);
    taken.push(run);
  }
  return taken;
}

interface Line {
  project: string;
  runs: WaitingRun[];
  next: number;
}

/** One line a project, the best of it in front. */
function lineUp(waiting: readonly WaitingRun[]): Line[] {
  const lines = new Map<string, Line>();
  for (const run of waiting) {
    const line = lines.get(run.project) ?? { project: run.project, runs: [], next: 0 };
    line.runs.push(run);
    lines.set(run.project, line);
  }
  for (const line of lines.values()) line.runs.sort((a, b) => a.priority - b.priority || b.waitedMs - a.waitedMs);
  return [...lines.values()];
}

function nextLine(lines: readonly Line[], held: Holdings): Line | undefined {
  let best: Line | undefined;
  for (const line of lines) {
    if (line.next < line.runs.length && (!best || isBefore(line, best, held))) best = line;
  }
  return best;
}

function isBefore(line: Line, other: Line, held: Holdings): boolean {
  const [a, b] = [line.runs[line.next]!, other.runs[other.next]!];
  const byShare = (held.get(line.project) ?? 0) - (held.get(other.project) ?? 0);
  return (a.priority - b.priority || byShare || b.waitedMs - a.waitedMs) < 0;
}

export interface GrantQuestion {
  asker: WaitingRun;
  /** Id of the worker that holds the asker's task. */
  worker: string;
  /** Other runs that asked lately, and will ask again. */
  waiting: readonly WaitingRun[];
  hosts: readonly HostOffer[];
  holdings: Holdings;
  cluster: string;
  /** Slots that one project may hold; null: no limit. */
  maxSlotsPerProject: number | null;
}

/**
 * Which slot the run that asks gets. It gets none while every slot that it could use is needed by runs with a better
 * claim: a higher priority, or a project that holds fewer slots. To have waited longer is no better claim: those runs
 * are not here now, and the slot would lie idle until they ask again. Of the runs that wait, the first by
 * {@link takeTurns} that a free slot fits is never refused, so the slot is taken as soon as that one asks.
 */
export function decideGrant(question: GrantQuestion): HostChoice {
  const { asker, worker, waiting, hosts, holdings, maxSlotsPerProject: most } = question;
  const canUse = (host: HostOffer): boolean => matchesTag(host, asker.hostTag ?? undefined);
  const isBelowCap = (held: number): boolean => most === null || held < most;
  if (hosts.some(canUse) && !isBelowCap(holdings.get(asker.project) ?? 0)) {
    const slots = most === 1 ? 'its one slot' : `its ${most} slots`;
    return { kind: 'none', reason: `project ${asker.project} holds ${slots} of cluster ${question.cluster}` };
  }
  const choice = chooseHost(hosts, asker.hostTag ?? undefined, worker);
  if (choice.kind === 'none' || waiting.length === 0) return choice;
  let free = hosts;
  let granted: HostChoice | undefined;
  const ahead: WaitingRun[] = [];
  const present = { ...asker, waitedMs: Infinity };
  takeTurns([present, ...waiting], holdings, (run, held) => {
    if (granted || !isBelowCap(held)) return false;
    const slot = run === present ? chooseHost(free, run.hostTag ?? undefined, worker) : reserve(run, free, canUse);
    if (slot.kind === 'none') return false;
    free = takeSlot(free, slot);
    if (run === present) granted = slot;
    else ahead.push(run);
    return true;
  });
  return granted ?? { kind: 'none', reason: sayWhoIsFirst(asker, ahead) };
}

/**
 * The waiting runs that would get the slots that are free now, first to last: those to be woken.
 * @param at as in {@link GrantQuestion}
 */
export function whoIsNext(
  waiting: readonly WaitingRun[],
  at: Pick<GrantQuestion, 'hosts' | 'holdings' | 'maxSlotsPerProject'>,
): WaitingRun[] {
  const { holdings, maxSlotsPerProject: most } = at;
  let free = at.hosts;
  return takeTurns(waiting, holdings, (run, held) => {
    if (most !== null && held >= most) return false;
    const slot = chooseHost(free, run.hostTag ?? undefined, '');
    if (slot.kind === 'none') return false;
    free = takeSlot(free, slot);
    return true;
  });
}

/** For a run that is not here: rather on a host that is of no use to the one that asks. */
function reserve(run: WaitingRun, hosts: readonly HostOffer[], canAskerUse: (host: HostOffer) => boolean): HostChoice {
  const hostTag = run.hostTag ?? undefined;
  const apart = hosts.filter((host) => !canAskerUse(host));
  const choice = chooseHost(apart, hostTag, '');
  return choice.kind === 'host' ? choice : chooseHost(hosts, hostTag, '');
}

function takeSlot(hosts: readonly HostOffer[], taken: { host: HostOffer; slot: number }): HostOffer[] {
  const { host, slot } = taken;
  return hosts.map((one) => (one.id === host.id ? { ...one, busySlots: [...one.busySlots, slot] } : one));
}

function sayWhoIsFirst(asker: WaitingRun, ahead: readonly WaitingRun[]): string {
  const best = Math.min(...ahead.map((run) => run.priority));
  const who = best < asker.priority ? `a run of priority ${best}` : 'a project that holds fewer slots';
  return `it waits for its turn: ${who} comes first`;
}
