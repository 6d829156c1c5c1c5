// Owns the sweep of a worker: what is left of attempts on its own machine and on the hosts that it serves, and that nobody
// needs any more. Called by cluster-worker.ts, before it takes any work and again and again.
import type { JobPorts } from '../activities/job';
import type { Engine } from '../adapters/engine';
import { forAll } from '../domain/for-all';
import { readContainerName } from '../domain/names';
import type { AttemptKey } from '../domain/schemas/worker-api';
import type { Engines } from './engines';
import type { Makers } from './makers';

export type WorkerPorts = JobPorts & {
  engines: Engines;
  makers: Makers;
  /** When this process first found what it has made and no row knows, ms of `performance.now`, by name. */
  unknownSince: Map<string, number>;
};

/**
 * What this worker itself has made and no row knows stays for so long: the database was put back to an earlier day, and may
 * yet be replaced by a newer copy.
 */
const UNKNOWN_MS = 60 * 60_000;

/** Removes containers and folders of attempts that no live lease stands behind; the server frees the slots of what is gone. */
export async function sweep(ports: WorkerPorts, signal: AbortSignal): Promise<void> {
  // Once more when something was removed: its slots are free then, and somebody may wait for them.
  if (await sweepOnce(ports, signal)) await sweepOnce(ports, signal);
  await sweepUnknown(ports, { signal, nowMs: performance.now() });
}

/**
 * Removes what this worker made on its own machine and no row has known for an hour. What another worker made there, of this
 * installation or of another one, is not its affair.
 */
export async function sweepUnknown(ports: WorkerPorts, at: { signal: AbortSignal; nowMs: number }): Promise<void> {
  const { worker, unknownSince } = ports;
  const engine = ports.engines.own;
  const made = await engine.listRemains({ worker: worker.id });
  const isHeld = (name: string): boolean => [...ports.held.keys()].some((held) => keyOfName(held) === keyOfName(name));
  const idle = made.filter((name) => keyOfName(name) !== undefined && !isHeld(name));
  const attempts = [...new Map(idle.flatMap((name) => entryOf(name))).values()];
  const standings = attempts.length === 0 ? [] : await ports.api.standings({ worker: worker.id, attempts }, at.signal);
  const unknown = new Set(standings.filter((one) => !one.isKnown).map(keyOf));
  const strange = new Set(idle.filter((name) => unknown.has(keyOfName(name) ?? '')));
  for (const name of unknownSince.keys()) if (!strange.has(name)) unknownSince.delete(name);
  for (const name of strange) if (!unknownSince.has(name)) unknownSince.set(name, at.nowMs);
  const due = [...strange].filter((name) => at.nowMs - (unknownSince.get(name) ?? at.nowMs) >= UNKNOWN_MS);
  for (const name of due) ports.log.warn({ name }, 'removing what this worker made and no row knows');
  await forAll(due, (name) => engine.remove(name), { atOnce: 16 });
}

const keyOfName = (name: string): string | undefined => entryOf(name)[0]?.[0];

/** @returns whether it removed anything */
async function sweepOnce(ports: WorkerPorts, signal: AbortSignal): Promise<boolean> {
  const worker = ports.worker.id;
  const own = { name: undefined, engine: ports.engines.own };
  const listed = ports.engines.served.map(({ name, direct: engine }) => ({ name, engine }));
  const looked = await Promise.all([own, ...listed].map(look));
  const held = [...ports.held.keys()];
  const known = new Map([...looked.flatMap(({ found }) => found), ...held].flatMap((name) => entryOf(name)));
  const hosts = looked.flatMap(({ name }) => name ?? []);
  const list = { worker, found: [...known.values()], ...(hosts.length > 0 ? { hosts } : {}) };
  const orphans = new Set((await ports.api.orphans(list, signal)).map(keyOf));
  const isHeld = (key: string): boolean => [...ports.held.keys()].some((name) => keyOfName(name) === key);
  const isLeft = (name: string): boolean => entryOf(name).some(([key]) => orphans.has(key) && !isHeld(key));
  const left = looked.flatMap(({ engine, found }) => found.filter(isLeft).map((name) => ({ engine, name })));
  await forAll(left, ({ engine, name }) => engine.remove(name), { atOnce: 16 });
  return left.length > 0;
}

interface Looked {
  /** Of a listed host that could be looked at. */
  name: string | undefined;
  engine: Engine;
  found: string[];
}

/** A listed host that is away is swept another time; of its own machine a worker must know. */
async function look({ name, engine }: Pick<Looked, 'name' | 'engine'>): Promise<Looked> {
  try {
    return { name, engine, found: await engine.listRemains() };
  } catch (error) {
    if (name === undefined) throw error;
    return { name: undefined, engine, found: [] };
  }
}

const keyOf = ({ runId, attempt }: AttemptKey): string => `${runId} ${attempt}`;

/** An attempt may have several containers, on several hosts. */
function entryOf(name: string): [string, AttemptKey][] {
  const attempt = readContainerName(name);
  return attempt ? [[keyOf(attempt), attempt]] : [];
}
