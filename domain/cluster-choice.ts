// Owns the choice of a cluster for a run: named, by host labels, or drawn among the defaults, and who may use which.
// Pure. Called by the API at the trigger, and by the store whenever a waiting run is moved: every time with all checks.
import { askOf, matchesTag, sayAsk, tagsOf, type TaggedHost } from './host-tag';
import type { PlannedRun } from './schemas/plan';

export interface ClusterOffer {
  name: string;
  kind: 'default' | 'specialised';
  /** 0 to 100; 0 takes only runs that name it. */
  weight: number;
  /** Projects of these alone may use it; empty: all may use a default cluster, and nobody a specialised one. */
  organisations: readonly string[];
  active: boolean;
  /** Its maintenance in words; null: none. */
  drain: string | null;
  allowPrivileged: boolean;
  maxCpus: number | null;
  maxMemoryBytes: number | null;
  maxArtifactBytes: number | null;
  /** Of workers that are connected. */
  hosts: readonly TaggedHost[];
}

/** Why a run is where it is. Stored with the run. */
export interface Placement {
  reason: string;
  /** The run names its cluster, so it is never moved. */
  pinned: boolean;
  /** Clusters it waited in before; absent: none. */
  before?: string[];
  /** How often it was moved; absent: never. */
  moves?: number;
}

export type ClusterAsk = Pick<
  PlannedRun,
  'name' | 'hostTag' | 'hosts' | 'privileged' | 'capAdd' | 'resources' | 'cluster'
>;

export type ClusterChoice =
  | { kind: 'placed'; cluster: string; placement: Placement }
  | { kind: 'refused'; code: 'unknown-cluster' | 'not-authorised' | 'policy' | 'no-cluster'; detail: string };

export interface Asking {
  /** Of the project; null: of none. */
  organisation: string | null;
  /** The caller's wish, which wins over the project file. */
  cluster?: string;
}

/**
 * Finds a cluster for a new run. Nothing that may be up again later is an error: a run whose only clusters are in
 * maintenance waits in one of them.
 * @param draw 0 to 1, from a generator of the caller
 */
export function chooseCluster(
  clusters: readonly ClusterOffer[],
  run: ClusterAsk,
  { asking, draw }: { asking: Asking; draw: number },
): ClusterChoice {
  const named = asking.cluster ?? run.cluster;
  if (named !== undefined) return takeNamed(clusters, run, { ...asking, cluster: named });
  const usable = clusters.filter((cluster) => mayUse(cluster, asking) && breachOf(cluster, run) === undefined);
  const anyHost = { name: run.name, resources: {} };
  const found =
    pick(usable.filter(isOpen), run, draw) ??
    pick(
      usable.filter(({ active }) => active),
      anyHost,
      draw,
    ) ??
    pick(usable, anyHost, draw);
  if (found) return { kind: 'placed', cluster: found.cluster, placement: { reason: found.reason, pinned: false } };
  return refuseAll(clusters, run, asking);
}

/**
 * Finds another cluster for a waiting run that did not name one, because its own takes no runs now.
 * @returns undefined when no other is open to it
 */
export function chooseMove(
  clusters: readonly ClusterOffer[],
  run: ClusterAsk,
  at: { asking: Asking; from: string; draw: number },
): { cluster: string; reason: string } | undefined {
  const usable = clusters.filter(
    (cluster) =>
      cluster.name !== at.from && isOpen(cluster) && mayUse(cluster, at.asking) && breachOf(cluster, run) === undefined,
  );
  return pick(usable, run, at.draw);
}

/**
 * Finds another cluster for a waiting run whose own cluster has no host for it, and the other has.
 * @returns undefined: its own has one, or no other that is open to it has
 */
export function chooseByHost(
  clusters: readonly ClusterOffer[],
  run: ClusterAsk,
  at: { asking: Asking; from: string; draw: number },
): { cluster: string; reason: string } | undefined {
  const having = clusters.filter((cluster) => hasHost(cluster, askOf(run)));
  return having.some(({ name }) => name === at.from) ? undefined : chooseMove(having, run, at);
}

/** @param ask what it must have, see host-tag.ts; undefined: any host with containers */
export function hasHost(cluster: ClusterOffer, ask: string | undefined): boolean {
  return tagsOf(ask).every((tag) => cluster.hosts.some((host) => matchesTag(host, tag)));
}

/** Where a run is once it has been moved. @param why it had to leave */
export function movedFrom(
  from: { cluster: string; placement: Placement },
  to: { reason: string },
  why: string,
): Placement {
  const { placement, cluster } = from;
  return {
    reason: `moved from ${cluster}, ${why}; ${to.reason}`,
    pinned: false,
    before: [...new Set([...(placement.before ?? []), cluster])],
    moves: (placement.moves ?? 0) + 1,
  };
}

/** What decides whether a run may be in a cluster at all. */
export type ClusterRules = Pick<
  ClusterOffer,
  'name' | 'kind' | 'organisations' | 'allowPrivileged' | 'maxCpus' | 'maxMemoryBytes' | 'maxArtifactBytes'
>;

/**
 * Why a cluster may not take a run, in words; undefined: it may. Asked again at every grant: since the trigger the cluster
 * may serve others, have another policy, or be another one of the same name.
 */
export function whyForbidden(cluster: ClusterRules, run: ClusterAsk, asking: Asking): string | undefined {
  if (!mayUse(cluster, asking)) return sayForeign(cluster, run, asking);
  const breach = breachOf(cluster, run);
  return breach === undefined ? undefined : sayBreach(cluster, run, breach);
}

export function isOpen(cluster: ClusterOffer): boolean {
  return cluster.active && cluster.drain === null;
}

function mayUse(cluster: ClusterRules, { organisation }: Asking): boolean {
  if (cluster.kind === 'default' && cluster.organisations.length === 0) return true;
  return organisation !== null && cluster.organisations.includes(organisation);
}

/** What the cluster's policy refuses of a run, in words. */
function breachOf(cluster: ClusterRules, run: ClusterAsk): string | undefined {
  const { cpus, memoryBytes, artifactBytes } = run.resources;
  if (!cluster.allowPrivileged && run.privileged) return 'a privileged container';
  if (!cluster.allowPrivileged && run.capAdd.length > 0) return `capability ${run.capAdd.join(', ')}`;
  if (cluster.maxCpus !== null && (cpus ?? 0) > cluster.maxCpus) return `${cpus} CPU cores (most: ${cluster.maxCpus})`;
  if (cluster.maxMemoryBytes !== null && (memoryBytes ?? 0) > cluster.maxMemoryBytes) {
    return `${memoryBytes} bytes of memory (most: ${cluster.maxMemoryBytes})`;
  }
  if (cluster.maxArtifactBytes !== null && (artifactBytes ?? 0) > cluster.maxArtifactBytes) {
    return `${artifactBytes} bytes of artifacts (most: ${cluster.maxArtifactBytes})`;
  }
  return undefined;
}

function takeNamed(
  clusters: readonly ClusterOffer[],
  run: ClusterAsk,
  asking: Asking & { cluster: string },
): ClusterChoice {
  const cluster = clusters.find(({ name }) => name === asking.cluster);
  if (!cluster) {
    const detail = `run ${run.name} names cluster ${asking.cluster}, which is not registered; see: slipway cluster list`;
    return { kind: 'refused', code: 'unknown-cluster', detail };
  }
  if (!mayUse(cluster, asking))
    return { kind: 'refused', code: 'not-authorised', detail: sayForeign(cluster, run, asking) };
  const breach = breachOf(cluster, run);
  if (breach !== undefined) return { kind: 'refused', code: 'policy', detail: sayBreach(cluster, run, breach) };
  const reason = run.cluster === asking.cluster ? 'the project file names it' : 'the request names it';
  return { kind: 'placed', cluster: cluster.name, placement: { reason, pinned: true } };
}

function sayForeign(cluster: ClusterRules, run: ClusterAsk, { organisation }: Asking): string {
  const who = organisation === null ? 'a project of no organisation' : `projects of organisation ${organisation}`;
  return `run ${run.name} asks for cluster ${cluster.name}, which does not serve ${who}; name another, or have its maintainer list the organisation`;
}

function sayBreach(cluster: ClusterRules, run: ClusterAsk, breach: string): string {
  return `run ${run.name} asks for ${breach}, which cluster ${cluster.name} does not allow; remove it, or have the policy of the cluster changed`;
}

function refuseAll(clusters: readonly ClusterOffer[], run: ClusterAsk, asking: Asking): ClusterChoice {
  const mine = clusters.filter(
    (cluster) => cluster.kind === 'default' && cluster.weight > 0 && mayUse(cluster, asking),
  );
  for (const cluster of mine) {
    const breach = breachOf(cluster, run);
    if (breach !== undefined) return { kind: 'refused', code: 'policy', detail: sayBreach(cluster, run, breach) };
  }
  const detail = `no default cluster may take run ${run.name}; name one it may use with cluster:, or register one with: slipway cluster create`;
  return { kind: 'refused', code: 'no-cluster', detail };
}

/** By host labels where the run asks for any: a default before a specialised one; else by weight among the defaults. */
function pick(
  usable: readonly ClusterOffer[],
  run: Pick<ClusterAsk, 'name' | 'hostTag' | 'hosts' | 'resources'>,
  draw: number,
): { cluster: string; reason: string } | undefined {
  const defaults = usable.filter((cluster) => cluster.kind === 'default' && cluster.weight > 0);
  const ask = askOf(run);
  const fitting = defaults.filter((cluster) => hasHost(cluster, ask));
  if (run.hostTag !== undefined || run.hosts !== undefined) {
    const hosts = tagsOf(ask).length > 1 ? 'hosts that match' : 'a host that matches';
    const reason = `it has ${hosts} host-tag "${sayAsk(ask ?? '')}"`;
    const special = usable.filter((one) => one.kind === 'specialised' && hasHost(one, ask));
    const found = draws(fitting, draw) ?? draws(special, draw);
    if (found) return { cluster: found.name, reason };
  } else if (ask !== undefined) {
    const found = draws(fitting, draw);
    if (found) return { cluster: found.name, reason: `${sayDraw(fitting)}, with a host that is large enough` };
  }
  const found = draws(defaults, draw);
  return found && { cluster: found.name, reason: sayDraw(defaults) };
}

function sayDraw(defaults: readonly ClusterOffer[]): string {
  if (defaults.length === 1) return 'the only default cluster open to it';
  return `drawn among default clusters ${defaults.map(({ name, weight }) => `${name} (weight ${weight})`).join(', ')}`;
}

/** A specialised cluster may have any weight, so equal ones count as 1. */
function draws(clusters: readonly ClusterOffer[], draw: number): ClusterOffer | undefined {
  const weights = clusters.map(({ weight }) => Math.max(weight, 1));
  let left = draw * weights.reduce((sum, weight) => sum + weight, 0);
  return clusters.find((_cluster, at) => (left -= weights[at]!) < 0) ?? clusters.at(-1);
}

const GOLDEN = 0.618_033_988_749_895;

/** Draws for the runs of one build that spread evenly, whatever the start: shares of 1,000 runs are within 0.2 %. */
export function drawAt(start: number, position: number): number {
  return (start + position * GOLDEN) % 1;
}
