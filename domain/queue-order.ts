// Owns whose turn it is in a cluster: by priority, then the project that holds fewer slots, then who has waited longer.
// Pure; called by the store, inside the one transaction that grants a lease, and to say what place a run has.
import { matchesTag, tagsOf } from './host-tag';
import { chooseHost, hostsToKeep, takeSlots, type HostChoice, type HostOffer } from './placement';

/** A run that waits for a slot of a cluster. */
export interface WaitingRun {
  id: string;
  project: string;
  /** 1 (first) … 5 (last), raised already for the time that it has waited. */
  priority: number;
  waitedMs: number;
  /** What its hosts must have, see host-tag.ts; null takes any. */
  hostTag: string | null;
  /** It needs several hosts and has waited so long that those which become free are kept for it until all are there. */
  keepsHosts?: boolean;
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
    held.set(run.project, holds + slotsOf(run));
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
  for (const line of lines.values()) line.runs.sort((a, b) => byClaim(a, b) || b.waitedMs - a.waitedMs);
  return [...lines.values()];
}

/** One that keeps hosts goes first among its like: else whoever needs but one of them would always be there before it. */
function byClaim(a: WaitingRun, b: WaitingRun): number {
  return a.priority - b.priority || Number(b.keepsHosts ?? false) - Number(a.keepsHosts ?? false);
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
  return (byClaim(a, b) || byShare || b.waitedMs - a.waitedMs) < 0;
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
 * claim: a higher priority, a project that holds fewer slots, or several hosts for which it has waited long. To have waited longer is no better claim: those runs
 * are not here now, and the slot would lie idle until they ask again. Of the runs that wait, the first by
 * {@link takeTurns} that a free slot fits is never refused, so the slot is taken as soon as that one asks.
 */
export function decideGrant(question: GrantQuestion): HostChoice {
  const { asker, worker, waiting, hosts, holdings, maxSlotsPerProject: most } = question;
  const ask = asker.hostTag ?? undefined;
  const canUse = (host: HostOffer): boolean => tagsOf(ask).some((tag) => matchesTag(host, tag));
  const isBelowCap = (held: number, run: WaitingRun): boolean => most === null || held + slotsOf(run) <= most;
  if (hosts.some(canUse) && !isBelowCap(holdings.get(asker.project) ?? 0, asker)) {
    return { kind: 'none', reason: sayCap(asker, question.cluster, most ?? 0) };
  }
  const choice = chooseHost(hosts, ask, worker);
  if (choice.kind === 'none' || waiting.length === 0) return choice;
  let free = hosts;
  let granted: HostChoice | undefined;
  const ahead: WaitingRun[] = [];
  const present = { ...asker, waitedMs: Infinity };
  takeTurns([present, ...waiting], holdings, (run, held) => {
    if (granted || !isBelowCap(held, run)) return false;
    const slot = run === present ? chooseHost(free, ask, worker) : reserve(run, free, canUse);
    if (slot.kind === 'none' && !run.keepsHosts) return false;
    free = takeSlots(free, slot.kind === 'none' ? hostsToKeep(free, run.hostTag ?? undefined) : [slot, ...slot.beside]);
    if (run === present && slot.kind === 'host') granted = slot;
    else ahead.push(run);
    return slot.kind === 'host';
  });
  return granted ?? { kind: 'none', reason: sayWhoIsFirst(asker, ahead) };
}

/** Slots that it takes. */
export const slotsOf = ({ hostTag }: WaitingRun): number => tagsOf(hostTag ?? undefined).length;

function sayCap(run: WaitingRun, cluster: string, most: number): string {
  const slots = slotsOf(run);
  if (slots > most) {
    return `it needs ${slots} hosts at once, and a project may hold ${most === 1 ? 'one slot' : `${most} slots`} of cluster ${cluster}`;
  }
  return `project ${run.project} holds ${most === 1 ? 'its one slot' : `its ${most} slots`} of cluster ${cluster}`;
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
    if (most !== null && held + slotsOf(run) > most) return false;
    const slot = chooseHost(free, run.hostTag ?? undefined, '');
    if (slot.kind === 'host') free = takeSlots(free, [slot, ...slot.beside]);
    else if (run.keepsHosts) free = takeSlots(free, hostsToKeep(free, run.hostTag ?? undefined));
    return slot.kind === 'host';
  });
}

/** For a run that is not here: rather on a host that is of no use to the one that asks. */
function reserve(run: WaitingRun, hosts: readonly HostOffer[], canAskerUse: (host: HostOffer) => boolean): HostChoice {
  const ask = run.hostTag ?? undefined;
  const apart = hosts.filter((host) => !canAskerUse(host));
  const choice = chooseHost(apart, ask, '');
  return choice.kind === 'host' ? choice : chooseHost(hosts, ask, '');
}

function sayWhoIsFirst(asker: WaitingRun, ahead: readonly WaitingRun[]): string {
  const best = Math.min(...ahead.map((run) => run.priority));
  if (best === asker.priority && ahead.some((run) => run.keepsHosts)) {
    return 'it waits for its turn: the hosts are kept for a run that needs several at once';
  }
  const who = best < asker.priority ? `a run of priority ${best}` : 'a project that holds fewer slots';
  return `it waits for its turn: ${who} comes first`;
}
