// Owns the way from an accepted request to Temporal: builds to start, cancels to tell. The store is the truth; this repeats
// until Temporal has it, so whatever dies after the answer, the build begins.
// Called by the API right after its answer and by the orchestrator's sweep.
import { forAll } from '../domain/for-all';
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

/** Delivers everything that waits; one that fails does not hold up the others. @throws the first failure, at the end */
export async function sweepOutbox(ports: OutboxPorts): Promise<void> {
  const steps = [dispatchBuilds, deliverCancels, deliverMoves, startMaintenances, beginHosts, endHosts];
  await forAll(steps, (step) => step(ports));
}

async function dispatchBuilds(ports: OutboxPorts): Promise<void> {
  await forAll(await buildsToDispatch(ports.db, FAST_PATH_MS), (build) => dispatchStored(ports, build));
}

/** Tells Temporal of every cancel it has not been told of. */
export async function deliverCancels({ db, temporal }: OutboxPorts): Promise<void> {
  await tellAll(await cancelsToDeliver(db), async (cancel) => {
    await temporal.cancel(cancel);
    await markCancelDelivered(db, cancel);
  });
}

/** One after the other, a cancel of 100 runs took 37 s on a busy machine. @throws the first failure, at the end */
const tellAll = <T>(all: readonly T[], tell: (one: T) => Promise<void>): Promise<void> =>
  forAll(all, tell, { atOnce: 16 });

/** Moves what waits where it cannot get a slot and may have one elsewhere, and tells Temporal of every move it has not been told of. */
async function deliverMoves({ db, temporal }: OutboxPorts): Promise<void> {
  const steps = [
    async () => forAll(await clustersToLeave(db), (cluster) => moveWaiting(db, cluster)),
    () => moveToHosts(db),
    async () =>
      tellAll(await movesToDeliver(db), async ({ runId, ...move }) => {
        await temporal.moveRun(move);
        await markMoveDelivered(db, { runId, move: move.move });
      }),
  ];
  await forAll(steps, (step) => step());
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
