// Owns the one sentence that says why a run does not run yet, and what would let it: from rows, never guessed.
// Pure. Called by the API for every run that is queued.
import { matchesTag, tagsOf } from './host-tag';
import { sayBlueprint, type BlueprintStanding } from './on-demand';
import { chooseHost, matchFree, onceItIsThere, type HostOffer } from './placement';

/** What is known of a run that is not finished. */
export interface OpenRun {
  /** It has a slot there; null: it has none. */
  host: string | null;
  isCancelled: boolean;
}

export interface WaitingRun {
  cluster: string;
  hostTag: string | undefined;
  pinned: boolean;
  /** Why its cluster may not take it any more; undefined: it may. */
  forbidden?: string;
  /** Names of the runs it needs that are not finished. */
  openNeeds: readonly string[];
  /** Set where its job runs as many cells at once as it may. */
  jobLimit: { job: string; maxParallel: number } | undefined;
  /** Why the server grants no slots at all now; absent: it does. */
  paused?: string | null;
  /** What was last written down of it, e.g. how its last attempt ended. */
  noted: string | null;
  /** Its place in the line of its cluster, from 1; undefined while it is not in it. */
  place: { position: number; of: number } | undefined;
}

export interface RefusedWorker {
  /** Name of its host; its id, where it has none. */
  host: string;
  why: string;
}

export interface ClusterNow {
  /** Why it takes no runs; null: it does. */
  closed: string | null;
  /** A worker that nobody has enlisted; undefined: there is none. */
  strangerId: string | undefined;
  /** A worker that the server does not let in now; absent: it knows of none. */
  refused?: RefusedWorker;
  /** Of workers that are connected. */
  hosts: readonly HostOffer[];
  /** Machines of workers that are not connected any more. */
  silent?: readonly HostOffer[];
  /** Which could make a host. */
  blueprints: readonly BlueprintStanding[];
}

/** Why a run that has a slot, or is being cancelled, does not get on; null: nothing is known that keeps it. */
export function whyHeldUp({ host, isCancelled }: OpenRun, { hosts, silent = [] }: ClusterNow): string | null {
  const isSilent =
    silent.some(({ name }) => name === host) || hosts.some(({ name, isAway }) => name === host && isAway);
  if (isSilent && isCancelled) {
    return `the worker of host ${host} is silent, and its script may still run there; it is cancelled once that worker has stopped it, or has been silent for too long`;
  }
  if (isSilent) return `the worker of host ${host} is silent; its script may go on there`;
  if (!isCancelled) return null;
  return host === null ? 'it is being cancelled' : `its script on host ${host} is being stopped`;
}

/** @param cluster undefined: it is not registered any more */
export function whyWaiting(run: WaitingRun, cluster: ClusterNow | undefined): string {
  const { openNeeds, jobLimit, noted } = run;
  if (openNeeds.length > 0) return `it needs ${nameSome(openNeeds)} first`;
  if (jobLimit) return `job ${jobLimit.job} runs ${jobLimit.maxParallel} at once, and as many are under way`;
  if (run.paused) return run.paused;
  const blocked = cluster ? whyBlocked(run, cluster) : `cluster ${run.cluster} is not registered any more`;
  return [noted, blocked].filter((part) => part !== null && part !== '').join('; ');
}

function whyBlocked(run: WaitingRun, cluster: ClusterNow): string {
  const { cluster: name, hostTag, pinned, place } = run;
  if (cluster.closed !== null) {
    const rest = pinned ? 'and the run names this cluster' : 'and no other cluster is open to it now';
    return `cluster ${name} ${cluster.closed}, ${rest}`;
  }
  if (run.forbidden !== undefined) return run.forbidden;
  const absent = sayAbsent(cluster, hostTag);
  if (cluster.hosts.length === 0) return [...absent, sayNobody(name, cluster)].join('; ');
  const choice = chooseHost(cluster.hosts, hostTag, '');
  const tags = tagsOf(hostTag);
  const onDemand = sayOnDemand(cluster, hostTag);
  const anyMatches = tags.every((tag) => cluster.hosts.some((host) => matchesTag(host, tag)));
  if (choice.kind === 'none') {
    // With a blueprint that fits, hosts that come near are of no interest.
    const isOfInterest = anyMatches || tags.length > 1 || onDemand.length === 0;
    const why = isOfInterest ? [...(anyMatches ? [] : absent), choice.reason, ...onDemand] : onDemand;
    return `${why.join('; ')}${anyMatches ? sayPlace(place, name) : ''}`;
  }
  return place && place.position > 1
    ? `others are before it${sayPlace(place, name)}`
    : `it is offered to the workers of cluster ${name} now`;
}

/** Hosts that would do, were they there. */
function sayAbsent({ silent = [] }: ClusterNow, ask: string | undefined): string[] {
  const fitting = silent.filter((host) => tagsOf(ask).some((tag) => tag !== undefined && matchesTag(host, tag)));
  if (fitting.length === 0) return [];
  const names = nameSome(fitting.map(({ name }) => name));
  const [first, second] = fitting;
  if (second) return [`${names} have it, and are offline: their workers are silent`];
  return [`${names} has it, and is offline: ${first?.notAccepting ?? 'its worker is silent'}`];
}

/** What blueprints do about the hosts that are missing: nothing, unless all of those can be made. */
function sayOnDemand({ hosts, blueprints }: ClusterNow, ask: string | undefined): string[] {
  const free = matchFree(hosts.map(onceItIsThere), ask);
  const missing = tagsOf(ask).filter((_, at) => free[at] === undefined);
  const said = missing.map((tag) => blueprints.map((one) => sayBlueprint(one, tag)).filter((some) => some !== null));
  return said.some((some) => some.length === 0) ? [] : [...new Set(said.flat())];
}

function sayNobody(cluster: string, { refused, strangerId }: ClusterNow): string {
  if (refused) return `the worker of host ${refused.host} is refused: ${refused.why}`;
  if (strangerId !== undefined) {
    return `a worker of cluster ${cluster} waits to be enlisted: slipway cluster enlist ${cluster} ${strangerId}`;
  }
  return `no worker of cluster ${cluster} is connected; start one with: slipway worker --cluster ${cluster}`;
}

function sayPlace(place: WaitingRun['place'], cluster: string): string {
  return place ? `; it is number ${place.position} of ${place.of} in line in cluster ${cluster}` : '';
}

const NAMED = 3;

function nameSome(names: readonly string[]): string {
  const some = names.slice(0, NAMED).join(', ');
  return names.length > NAMED ? `${some} and ${names.length - NAMED} more` : some;
}
