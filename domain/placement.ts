// Owns the choice of a host inside a cluster, and the sentence that says why none was chosen.
// Pure; called by the store inside the one transaction that grants a lease.

import { matchesTag, missedTerms, type TaggedHost } from './host-tag';

export interface HostOffer extends TaggedHost {
  id: string;
  slots: number;
  busySlots: readonly number[];
  workerId: string;
  /** It has what the run works on from an earlier one. */
  isWarm?: boolean;
  /** Why it takes no new runs, e.g. its disk is nearly full; null: it does. */
  notAccepting: string | null;
}

export type HostChoice = { kind: 'host'; host: HostOffer; slot: number } | { kind: 'none'; reason: string };

/**
 * Picks a free slot: first on a warm host, then on that of the worker that asks (no hop to another queue), then on the least
 * used, by name.
 * @param hostTag what it must have, see host-tag.ts; undefined takes any
 * @param askingWorker id of the worker that holds the task
 */
export function chooseHost(hosts: readonly HostOffer[], hostTag: string | undefined, askingWorker: string): HostChoice {
  const matching = hosts.filter((host) => matchesTag(host, hostTag));
  const accepting = matching.filter((host) => host.notAccepting === null);
  const free = accepting.filter((host) => host.busySlots.length < host.slots);
  const [best] = [...free].sort(
    (a, b) =>
      Number(b.isWarm ?? false) - Number(a.isWarm ?? false) ||
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
  if (matching.length === 0) return sayNearest(hosts, hostTag);
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

/** The hosts that come closest, first those that lack least. */
function sayNearest(hosts: readonly HostOffer[], hostTag: string | undefined): string {
  const misses = hosts
    .map((host) => ({ host, lacks: missedTerms(host, hostTag) }))
    .sort((a, b) => a.lacks.length - b.lacks.length || a.host.name.localeCompare(b.host.name));
  const named = misses
    .slice(0, 3)
    .map(({ host, lacks }) => `${host.name} (${sayWhatIs(host)}) lacks ${lacks.join(' and ')}`);
  const asked = hostTag === undefined ? 'has containers' : `matches host-tag "${hostTag}"`;
  return `no host ${asked}; nearest: ${named.join('; ')}${hosts.length > 3 ? '; …' : ''}`;
}

function sayWhatIs({ labels, machine }: HostOffer): string {
  const { os, arch, cpus, memoryBytes } = machine ?? {};
  const facts = [
    ...labels,
    os,
    arch,
    cpus ? `${cpus} cores` : undefined,
    memoryBytes ? `${Math.floor(memoryBytes / 1024 ** 2)}m of memory` : undefined,
  ].filter((fact) => typeof fact === 'string');
  return facts.join(', ') || 'no labels';
}
