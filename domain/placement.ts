// Owns the choice of a host inside a cluster, and the sentence that says why none was chosen.
// Pure; called by the store inside the one transaction that grants a lease.

export interface HostOffer {
  id: string;
  name: string;
  labels: readonly string[];
  slots: number;
  busySlots: readonly number[];
  workerId: string;
  /** Why it takes no new runs, e.g. its disk is nearly full; null: it does. */
  notAccepting: string | null;
}

export type HostChoice = { kind: 'host'; host: HostOffer; slot: number } | { kind: 'none'; reason: string };

/**
 * Picks a free slot: first on the host of the worker that asks (no hop to another queue), then on the least used, by name.
 * @param hostTag lower-case glob over host name and labels; undefined takes any
 * @param askingWorker id of the worker that holds the task
 */
export function chooseHost(hosts: readonly HostOffer[], hostTag: string | undefined, askingWorker: string): HostChoice {
  const matching = hosts.filter((host) => hostTag === undefined || matchesTag(host, hostTag));
  const accepting = matching.filter((host) => host.notAccepting === null);
  const free = accepting.filter((host) => host.busySlots.length < host.slots);
  const [best] = [...free].sort(
    (a, b) =>
      Number(b.workerId === askingWorker) - Number(a.workerId === askingWorker) ||
      a.busySlots.length / a.slots - b.busySlots.length / b.slots ||
      a.name.localeCompare(b.name),
  );
  if (!best) return { kind: 'none', reason: sayWhy(hosts, matching, hostTag) };
  return { kind: 'host', host: best, slot: firstFree(best) };
}

function firstFree(host: HostOffer): number {
  const busy = new Set(host.busySlots);
  let slot = 1;
  while (busy.has(slot)) slot += 1;
  return slot;
}

function sayWhy(hosts: readonly HostOffer[], matching: readonly HostOffer[], hostTag: string | undefined): string {
  if (hosts.length === 0) return 'no host of the cluster is connected; start a worker there';
  if (matching.length === 0) {
    const names = hosts.slice(0, 3).map((host) => `${host.name} (${[...host.labels].join(', ') || 'no labels'})`);
    return `no host matches host-tag "${hostTag}"; connected: ${names.join('; ')}${hosts.length > 3 ? '; …' : ''}`;
  }
  const accepting = matching.filter((host) => host.notAccepting === null);
  if (accepting.length === 0) {
    return `no host takes new runs now: ${matching
      .slice(0, 3)
      .map((host) => `${host.name} (${host.notAccepting})`)
      .join('; ')}${matching.length > 3 ? '; …' : ''}`;
  }
  const slots = accepting.reduce((sum, host) => sum + host.slots, 0);
  return `all ${slots} slots of ${accepting.length === 1 ? `host ${accepting[0]?.name}` : `${accepting.length} matching hosts`} are leased`;
}

/** Whether a host has the name or a label that a glob asks for, case ignored. */
export function matchesTag(host: { name: string; labels: readonly string[] }, pattern: string): boolean {
  const glob = readGlob(pattern.toLowerCase());
  return [host.name, ...host.labels].some((text) => matchesGlob(glob, Array.from(text.toLowerCase())));
}

/** One step of a glob: any run of characters, or one character that is in (or not in) a set. */
type GlobStep = '*' | { takes(char: string): boolean };

/** fnmatch's `*`, `?` and `[…]`, nothing else; the same meaning as JobServ's host-tag. */
function readGlob(glob: string): GlobStep[] {
  const chars = Array.from(glob);
  const steps: GlobStep[] = [];
  for (let at = 0; at < chars.length; at += 1) {
    const char = chars[at]!;
    // A bracket right after the opening one (or its `!`) is a member of the set, not its end.
    const close = char === '[' ? chars.indexOf(']', at + (chars[at + 1] === '!' ? 3 : 2)) : -1;
    if (char === '*') steps.push('*');
    else if (char === '?') steps.push({ takes: () => true });
    else if (close > 0) {
      steps.push(readSet(chars.slice(at + 1, close)));
      at = close;
    } else steps.push({ takes: (other) => other === char });
  }
  return steps;
}

/** A range that runs backwards holds nothing. */
function readSet(body: readonly string[]): GlobStep {
  const isNegated = body[0] === '!';
  const chars = isNegated ? body.slice(1) : body;
  const ranges: [from: string, to: string][] = [];
  for (let at = 0; at < chars.length; at += 1) {
    const isRange = chars[at + 1] === '-' && at + 2 < chars.length;
    ranges.push([chars[at]!, chars[isRange ? at + 2 : at]!]);
    if (isRange) at += 2;
  }
  return { takes: (char) => ranges.some(([from, to]) => from <= char && char <= to) !== isNegated };
}

/** Goes back to the last star only, so the time is pattern × text: as a regular expression some patterns take years. */
function matchesGlob(glob: readonly GlobStep[], text: readonly string[]): boolean {
  let step = 0;
  let at = 0;
  let star = { step: -1, at: 0 };
  while (at < text.length) {
    const now = glob[step];
    if (now === '*') {
      star = { step, at };
      step += 1;
    } else if (now?.takes(text[at]!)) {
      step += 1;
      at += 1;
    } else if (star.step >= 0) {
      star.at += 1;
      step = star.step + 1;
      at = star.at;
    } else return false;
  }
  return glob.slice(step).every((rest) => rest === '*');
}
