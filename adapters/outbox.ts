// Owns the way from an accepted request to Temporal: builds to start, cancels to tell. The store is the truth; this repeats
// until Temporal has it, so whatever dies after the answer, the build begins.
// Called by the API right after its answer and by the orchestrator's sweep.
import { markMaintenanceStarted, maintenancesToStart } from './store/maintenance';
import { clustersToLeave, markMoveDelivered, movesToDeliver, moveToHosts, moveWaiting } from './store/moves';
import { SILENT_AFTER_MS } from './store/hosts';
import { hostsToTell, markTold } from './store/on-demand';
import { runsToWake } from './store/queue';
import type { BuildToStart, Temporal } from './temporal';
import type { Database } from './store/connect';
import {
  buildsToDispatch,
  cancelsToDeliver,
  markCancelDelivered,
  markDispatched,
  readBuildToStart,
} from './store/deliveries';

export interface OutboxPorts {
  db: Database;
  temporal: Temporal;
}

/** The sweep leaves younger builds to the API that accepted them, ms. */
const FAST_PATH_MS = 1_000;

/** Starts the workflow of one accepted build and records that. Repeating it is harmless. */
export async function dispatchBuild(ports: OutboxPorts, build: BuildToStart): Promise<void> {
  await ports.temporal.startBuild(build);
  await markDispatched(ports.db, build);
}

/** The same for a build whose rows have to be read first: one of the sweep, or a rerun. */
export async function dispatchStored(ports: OutboxPorts, build: { project: string; number: number }): Promise<void> {
  await dispatchBuild(ports, await readBuildToStart(ports.db, build));
}

/** Delivers everything that waits; one that fails does not hold up the others. @returns how many were made @throws the first failure */
export async function sweepOutbox(ports: OutboxPorts): Promise<number> {
  const failures: unknown[] = [];
  const noteFailure = (error: unknown): number => {
    failures.push(error);
    return 0;
  };
  const builds = await buildsToDispatch(ports.db, FAST_PATH_MS);
  for (const build of builds) await dispatchStored(ports, build).catch(noteFailure);
  const cancels = await deliverCancels(ports).catch(noteFailure);
  const moves = await deliverMoves(ports).catch(noteFailure);
  await startMaintenances(ports).catch(noteFailure);
  await beginHosts(ports).catch(noteFailure);
  await endHosts(ports).catch(noteFailure);
  if (failures.length > 0) throw failures[0];
  return builds.length + cancels + moves;
}

/** Tells Temporal of every cancel it has not been told of. */
export async function deliverCancels(ports: OutboxPorts): Promise<number> {
  const cancels = await cancelsToDeliver(ports.db);
  await tellAll(cancels, async (cancel) => {
    await ports.temporal.cancel(cancel);
    await markCancelDelivered(ports.db, cancel);
  });
  return cancels.length;
}

/** Told at once: one after the other, a cancel of 100 runs took 37 s on a busy machine. */
const AT_ONCE = 16;

/** One that cannot be told does not hold up those behind it. @throws the first failure, at the end */
async function tellAll<T>(all: readonly T[], tell: (one: T) => Promise<void>): Promise<void> {
  const failures: unknown[] = [];
  const queue = all.values();
  const work = async (): Promise<void> => {
    for (const one of queue) await tell(one).catch((error: unknown) => failures.push(error));
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  if (failures.length > 0) throw failures[0];
}

/** Moves what waits where it cannot get a slot and may have one elsewhere, and tells Temporal of every move it has not been told of. */
export async function deliverMoves({ db, temporal }: OutboxPorts): Promise<number> {
  for (const cluster of await clustersToLeave(db)) await moveWaiting(db, cluster);
  await moveToHosts(db);
  const moves = await movesToDeliver(db);
  await tellAll(moves, async ({ runId, ...move }) => {
    await temporal.moveRun(move);
    await markMoveDelivered(db, { runId, move: move.move });
  });
  return moves.length;
}

/** Tells waiting runs that there is a slot for them now. @param ageStepMs in which they rise by one priority */
export async function wakeWaiting({ db, temporal }: OutboxPorts, ageStepMs: number): Promise<void> {
  await tellAll(await runsToWake(db, { silentAfterMs: SILENT_AFTER_MS, ageStepMs }), (run) => temporal.wakeRun(run));
}

/** Starts the workflow of every maintenance that has none yet. */
export async function startMaintenances({ db, temporal }: OutboxPorts): Promise<void> {
  await tellAll(await maintenancesToStart(db), async ({ cluster, id, why }) => {
    await temporal.startMaintenance({ cluster, id }, `cluster ${cluster} ${why}`);
    await markMaintenanceStarted(db, { cluster, id });
  });
}

/** Starts the workflow of every on-demand host that has none yet. */
async function beginHosts({ db, temporal }: OutboxPorts): Promise<void> {
  await tellAll(await hostsToTell(db, 'begin'), async ({ by, host }) => {
    await temporal.startHost({ host }, by);
    await markTold(db, host, 'begin');
  });
}

async function endHosts({ db, temporal }: OutboxPorts): Promise<void> {
  await tellAll(await hostsToTell(db, 'end'), async ({ by, why, host }) => {
    await temporal.endHost({ host }, { by, why });
    await markTold(db, host, 'end');
  });
}
