// Owns the choice of a host inside a cluster, of several for a run that needs them at once, and the sentence that says why
// none was chosen. Pure; called by the store inside the one transaction that grants a lease.

import { matchesTag, missedTerms, tagsOf, type TaggedHost } from './host-tag';

export interface HostOffer extends TaggedHost {
  id: string;
  slots: number;
  busySlots: readonly number[];
  workerId: string;
  /** It has what the run works on from an earlier one. */
  isWarm?: boolean;
  /** Why it takes no new runs, e.g. its disk is nearly full; null: it does. */
  notAccepting: string | null;
  /** Nothing was heard of it lately. */
  isAway?: boolean;
  /** A blueprint is making it. */
  isComing?: boolean;
  /** Who gets to it from another host of a run: any worker that serves hosts, or its own alone; absent: it is a worker's machine. */
  reachedBy?: 'any' | 'own';
  /** Its worker serves other hosts as well. */
  servesOthers?: boolean;
}

export interface Slot {
  host: HostOffer;
  slot: number;
}

/** `beside`: those that a run has beside its own host, in the order in which it asks for them. */
export type HostChoice = ({ kind: 'host'; beside: Slot[] } & Slot) | { kind: 'none'; reason: string };

/**
 * Picks a free slot: first on a warm host, then on that of the worker that asks (no hop to another queue), then on the least
 * used, by name. A run that asks for several hosts gets a slot of each, all of them different, or nothing.
 * @param ask what it must have, see host-tag.ts; undefined takes any
 * @param askingWorker id of the worker that holds the task
 */
export function chooseHost(hosts: readonly HostOffer[], ask: string | undefined, askingWorker: string): HostChoice {
  const [tag, ...others] = tagsOf(ask);
  const free = freeHosts(hosts, tag, askingWorker);
  if (others.length === 0) {
    const [host] = free;
    return host ? { kind: 'host', ...slotOf(host), beside: [] } : { kind: 'none', reason: sayWhy(hosts, tag) };
  }
  const wanted = others.map((other) => freeHosts(hosts, other, askingWorker));
  for (const host of wanted.every((some) => some.length > 0) ? free : []) {
    const beside = matchUp(wanted.map((some) => some.filter((other) => isReached(other, host))));
    if (isWhole(beside)) return { kind: 'host', ...slotOf(host), beside: beside.map(slotOf) };
  }
  return { kind: 'none', reason: sayWhyNotAll(hosts, [tag, ...others]) };
}

/** The free hosts that match, the best first. */
function freeHosts(hosts: readonly HostOffer[], tag: string | undefined, askingWorker: string): HostOffer[] {
  return hosts
    .filter((host) => host.notAccepting === null && host.busySlots.length < host.slots && matchesTag(host, tag))
    .sort(
      (a, b) =>
        Number(b.isWarm ?? false) - Number(a.isWarm ?? false) ||
        Number(b.workerId === askingWorker) - Number(a.workerId === askingWorker) ||
        a.busySlots.length / a.slots - b.busySlots.length / b.slots ||
        a.name.localeCompare(b.name),
    );
}

/** Whether a run on one host can have the other beside it: the worker that supervises it has to get there. */
function isReached(other: HostOffer, own: HostOffer): boolean {
  if (other.id === own.id || !own.servesOthers) return false;
  return other.reachedBy === 'any' || (other.reachedBy === 'own' && other.workerId === own.workerId);
}

/** A different host for as many of several wishes as possible. @param wanted what each would take, the best first */
function matchUp(wanted: readonly (readonly HostOffer[])[]): (HostOffer | undefined)[] {
  const takers = new Map<string, number>();
  const place = (at: number, tried: Set<string>): boolean =>
    wanted[at]!.some(({ id }) => {
      if (tried.has(id)) return false;
      tried.add(id);
      const before = takers.get(id);
      if (before !== undefined && !place(before, tried)) return false;
      takers.set(id, at);
      return true;
    });
  wanted.forEach((_, at) => place(at, new Set()));
  return wanted.map((some, at) => some.find(({ id }) => takers.get(id) === at));
}

const isWhole = (hosts: readonly (HostOffer | undefined)[]): hosts is HostOffer[] => !hosts.includes(undefined);

/** A host that is being made, as it will be. */
export const onceItIsThere = (host: HostOffer): HostOffer => (host.isComing ? { ...host, notAccepting: null } : host);

/** What an ask could have now, for each of its host-tags; undefined: nothing that is free is left for it. */
export function matchFree(hosts: readonly HostOffer[], ask: string | undefined): (Slot | undefined)[] {
  return matchUp(tagsOf(ask).map((tag) => freeHosts(hosts, tag, ''))).map((host) => host && slotOf(host));
}

/**
 * Of the hosts that a run needs at once, those that are free: to be kept for it while it waits for the others. None when it
 * could not have all of them if nobody else had any.
 */
export function hostsToKeep(hosts: readonly HostOffer[], ask: string | undefined): Slot[] {
  const idle = hosts.map((host) => ({ ...host, busySlots: [] }));
  if (chooseHost(idle, ask, '').kind === 'none') return [];
  return matchFree(hosts, ask).filter((slot) => slot !== undefined);
}

function slotOf(host: HostOffer): Slot {
  const busy = new Set(host.busySlots);
  let slot = 1;
  while (busy.has(slot)) slot += 1;
  return { host, slot };
}

/** The same hosts once some of their slots are taken. */
export function takeSlots(hosts: readonly HostOffer[], taken: readonly Slot[]): HostOffer[] {
  const slots = new Map(taken.map(({ host, slot }) => [host.id, slot]));
  return hosts.map((one) => {
    const slot = slots.get(one.id);
    return slot === undefined ? one : { ...one, busySlots: [...one.busySlots, slot] };
  });
}

function sayWhy(hosts: readonly HostOffer[], hostTag: string | undefined): string {
  if (hosts.length === 0) return 'no host of the cluster is connected; start a worker there';
  const matching = hosts.filter((host) => matchesTag(host, hostTag));
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

/** Of several hosts that are asked for, what keeps the run waiting. */
function sayWhyNotAll(hosts: readonly HostOffer[], tags: readonly (string | undefined)[]): string {
  const need = `it needs ${tags.length} hosts at once`;
  const free = tags.map((tag) => ({ tag, hosts: freeHosts(hosts, tag, '') }));
  const missing = free.find((one) => one.hosts.length === 0);
  if (missing) return `${need}; for ${missing.tag ?? 'any of them'}: ${sayWhy(hosts, missing.tag)}`;
  const [own, ...others] = free;
  const strange = others.find((one) => one.hosts.every(({ reachedBy }) => reachedBy === undefined));
  if (strange) {
    const [host] = strange.hosts;
    return `${need}; ${host?.name} is the machine of a worker, and hosts beside that of a run must be listed or made by a blueprint`;
  }
  if (own?.hosts.every(({ servesOthers }) => !servesOthers)) {
    return `${need}; the worker of ${own.hosts[0]?.name} serves no other hosts, start it with SLIPWAY_SSH_KEY`;
  }
  return `${need}, each another one, and those that are free are too few`;
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
