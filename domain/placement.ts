// Owns the choice of a host inside a cluster, and the sentence that says why none was chosen.
// Pure; called by the store inside the one transaction that grants a lease.

export interface HostOffer {
  id: string;
  name: string;
  labels: readonly string[];
  slots: number;
  busySlots: readonly number[];
  workerId: string;
}

export type HostChoice = { kind: 'host'; host: HostOffer; slot: number } | { kind: 'none'; reason: string };

/**
 * Picks a free slot: first on the host of the worker that asks (no hop to another queue), then on the least used, by name.
 * @param hostTag lower-case glob over host name and labels; undefined takes any
 * @param askingWorker id of the worker that holds the task
 */
export function chooseHost(hosts: readonly HostOffer[], hostTag: string | undefined, askingWorker: string): HostChoice {
  const matching = hosts.filter((host) => hostTag === undefined || matchesTag(host, hostTag));
  const free = matching.filter((host) => host.busySlots.length < host.slots);
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
  const slots = matching.reduce((sum, host) => sum + host.slots, 0);
  return `all ${slots} slots of ${matching.length === 1 ? `host ${matching[0]?.name}` : `${matching.length} matching hosts`} are leased`;
}

function matchesTag(host: HostOffer, pattern: string): boolean {
  const glob = toRegExp(pattern.toLowerCase());
  return [host.name, ...host.labels].some((text) => glob.test(text.toLowerCase()));
}

/** fnmatch's `*`, `?` and `[…]`, nothing else; the same meaning as JobServ's host-tag. */
function toRegExp(glob: string): RegExp {
  let source = '';
  for (let at = 0; at < glob.length; at += 1) {
    const char = glob.charAt(at);
    const close = char === '[' ? glob.indexOf(']', at + 2) : -1;
    if (char === '*') source += '.*';
    else if (char === '?') source += '.';
    else if (close > 0) {
      source += `[${glob
        .slice(at + 1, close)
        .replace(/^!/, '^')
        .replace(/\\/g, '\\\\')}]`;
      at = close;
    } else source += char.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
  }
  return new RegExp(`^${source}$`, 's');
}
