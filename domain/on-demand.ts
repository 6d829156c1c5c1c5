// Owns when a cluster makes hosts and when they end: by the runs that wait, and the limits of its blueprints.
// Pure; called by the store, once a second under the lock of the cluster.
import { matchesTag, tagsOf, type TaggedHost } from './host-tag';
import { chooseHost, matchFree, takeSlots, type HostOffer } from './placement';
import { slotsOf, takeTurns, type Holdings, type WaitingRun } from './queue-order';
import type { MadePhase } from './schemas/hosts';
import type { PutBlueprint } from './schemas/blueprints';

export interface BlueprintNow {
  id: string;
  name: string;
  spec: PutBlueprint;
  /** Its hosts that are not gone. */
  hosts: readonly MadeNow[];
  /** It failed lately, and makes none for a while. */
  isResting: boolean;
  isRemoved: boolean;
}

export interface MadeNow {
  /** Id of the host. */
  id: string;
  phase: MadePhase;
  /** Since it was asked for, and since its newest lease ended or it got ready, s. */
  ageSeconds: number;
  idleSeconds: number;
  liveLeases: number;
  /** Leases in its life. */
  uses: number;
  /** Somebody took it out of use: why. */
  drained: string | null;
  /** Runs and probes in a row that it failed, and the newest in words. */
  faults: number;
  fault: string | null;
}

/** What a host of a blueprint will be, before there is one. Without containers, a run must name its blueprint, or a label. */
export function hostOf({ name, spec }: Pick<BlueprintNow, 'name' | 'spec'>): TaggedHost {
  const { os = null, arch = null, cpus = null, memoryBytes = null } = spec.machine;
  const isBare = !(spec.make.kind === 'ec2' && spec.make.containers);
  return { name, labels: [...spec.labels, name], machine: { os, arch, cpus, memoryBytes }, isBare };
}

export interface Demand {
  waiting: readonly WaitingRun[];
  /** Of the whole cluster; those that are being made count as ready. */
  hosts: readonly HostOffer[];
  holdings: Holdings;
  /** Slots that one project may hold; null: no limit. */
  maxSlotsPerProject: number | null;
}

/**
 * Which hosts to make now: one for every waiting run that no slot is there or coming for, by their turn, from the cheapest
 * blueprint that fits; and those that are to be kept ready. @returns blueprints, one for each host
 */
export function planHosts(demand: Demand, blueprints: readonly BlueprintNow[]): BlueprintNow[] {
  const { waiting, holdings, maxSlotsPerProject: most } = demand;
  const toMake: BlueprintNow[] = [];
  const byCost = [...blueprints].sort(
    (a, b) => a.spec.costPerHour - b.spec.costPerHour || a.name.localeCompare(b.name),
  );
  const mayMake = (one: BlueprintNow): boolean =>
    !one.isRemoved && !one.isResting && one.hosts.length + count(toMake, one) < one.spec.most;
  let free = [...demand.hosts];
  const add = (one: BlueprintNow): void => {
    free.push({ ...hostOf(one), id: `${one.id}/${toMake.length}`, slots: one.spec.slots, busySlots: [], ...NEW });
    toMake.push(one);
  };
  /** Of several hosts that a run needs, either all that are missing or none. */
  const addFor = (ask: string | undefined): void => {
    const [made, before] = [toMake.length, free];
    const missing = matchFree(free, ask).map((slot) => slot === undefined);
    free = [...free];
    for (const tag of tagsOf(ask).filter((_, at) => missing[at])) {
      const blueprint = byCost.find((one) => mayMake(one) && matchesTag(hostOf(one), tag));
      if (!blueprint) {
        toMake.length = made;
        free = before;
        return;
      }
      add(blueprint);
    }
  };
  takeTurns(waiting, holdings, (run, held) => {
    if (most !== null && held + slotsOf(run) > most) return false;
    const ask = run.hostTag ?? undefined;
    if (chooseHost(free, ask, '').kind === 'none') addFor(ask);
    const slot = chooseHost(free, ask, '');
    if (slot.kind === 'none') return false;
    free = takeSlots(free, [slot, ...slot.beside]);
    return true;
  });
  for (const one of byCost) {
    const own = new Set(one.hosts.filter(({ phase }) => phase !== 'ending').map(({ id }) => id));
    const isOwn = (host: HostOffer): boolean => own.has(host.id) || host.id.startsWith(`${one.id}/`);
    const idle = free.filter((host) => isOwn(host) && host.notAccepting === null && host.busySlots.length === 0).length;
    for (let left = one.spec.minReady - idle; left > 0 && mayMake(one); left -= 1) add(one);
  }
  return toMake;
}

const NEW = { workerId: '', notAccepting: null, reachedBy: 'any' as const, servesOthers: true };

const count = (all: readonly BlueprintNow[], one: BlueprintNow): number => all.filter((other) => other === one).length;

export interface BlueprintStanding extends Pick<BlueprintNow, 'name' | 'spec'> {
  /** How many hosts it has. */
  hosts: number;
  /** A worker of its cluster can make them. */
  isServed: boolean;
  /** ISO 8601; null: it does not rest. */
  restingUntil: string | null;
  fault: string | null;
}

/** What a blueprint could do for a run, in words; null: nothing, its hosts do not match. */
export function sayBlueprint(blueprint: BlueprintStanding, hostTag: string | undefined): string | null {
  const { name, spec, hosts, isServed, restingUntil, fault } = blueprint;
  if (!matchesTag(hostOf(blueprint), hostTag)) return null;
  if (!isServed) return `no worker of the cluster can make hosts of blueprint ${name}; start one with SLIPWAY_SSH_KEY`;
  if (spec.most === 0) return `blueprint ${name} makes no hosts now`;
  if (hosts >= spec.most) return `blueprint ${name} has its ${spec.most === 1 ? 'one host' : `${spec.most} hosts`}`;
  if (restingUntil !== null) return `blueprint ${name} makes none until ${restingUntil}, because ${fault}`;
  return `blueprint ${name} is about to make one`;
}

export interface HostEnd {
  /** Id of the host. */
  id: string;
  why: string;
  /** It is the fault of the blueprint. */
  isFault: boolean;
}

/** Why a host of a blueprint takes no more runs, though nothing is wrong with it; null: it does. */
export function whyRetired(
  { maxUses, maxAgeSeconds }: Pick<PutBlueprint, 'maxUses' | 'maxAgeSeconds'>,
  { uses, ageSeconds }: Pick<MadeNow, 'uses' | 'ageSeconds'>,
): string | null {
  if (maxUses !== null && uses >= maxUses) return `it has taken its ${maxUses === 1 ? 'one run' : `${maxUses} runs`}`;
  if (maxAgeSeconds !== null && ageSeconds >= maxAgeSeconds) return `it is older than ${maxAgeSeconds} s`;
  return null;
}

/** Which hosts of a blueprint end now. None does while a lease of it lives, and as many idle ones stay as are to be kept ready. */
export function planEnds(blueprint: BlueprintNow): HostEnd[] {
  const { spec, hosts, isRemoved } = blueprint;
  const alive = hosts.filter(({ phase }) => phase !== 'ending');
  const ends: HostEnd[] = [];
  for (const host of alive) {
    const why = whyEnds(host, blueprint);
    if (why !== undefined) ends.push({ id: host.id, ...why });
  }
  const idle = alive
    .filter((host) => host.phase === 'ready' && host.liveLeases === 0 && !ends.some(({ id }) => id === host.id))
    .sort((a, b) => b.idleSeconds - a.idleSeconds);
  const spare = isRemoved ? idle.length : idle.length - spec.minReady;
  for (const host of idle.slice(0, Math.max(spare, 0))) {
    if (host.idleSeconds < spec.idleSeconds) continue;
    ends.push({ id: host.id, why: `it had no run for ${spec.idleSeconds} s`, isFault: false });
  }
  return ends;
}

/** Once may be chance: it is left alone for a while, and tried again. */
const BROKEN_AFTER = 2;

function whyEnds(host: MadeNow, { name, spec, isRemoved }: BlueprintNow): Omit<HostEnd, 'id'> | undefined {
  const well = (why: string): Omit<HostEnd, 'id'> => ({ why, isFault: false });
  if (host.liveLeases > 0) return undefined;
  if (isRemoved) return well(`blueprint ${name} was removed`);
  if (host.drained !== null) return well(host.drained);
  if (host.phase !== 'ready') {
    if (host.ageSeconds < spec.startSeconds) return undefined;
    const last = host.fault === null ? '' : `; last: ${host.fault}`;
    return { why: `it did not take runs within ${spec.startSeconds} s${last}`, isFault: true };
  }
  if (host.faults >= BROKEN_AFTER) return { why: `it is broken: ${host.fault}`, isFault: true };
  const retired = whyRetired(spec, host);
  return retired === null ? undefined : well(retired);
}
