// Owns the sweep that finishes what nobody drives any more: builds whose workflow was ended by hand, is stuck or is unknown
// to Temporal, and leases past their deadline on silent hosts. Never by age alone.
// Called by the orchestrator every few seconds; repeating it is harmless.
import { forAll } from '../domain/for-all';
import type { Cause } from '../domain/schemas/words';
import { expireBeside } from './store/beside';
import { finishBuild } from './store/builds';
import type { Database } from './store/connect';
import {
  buildsToCheck,
  dispatchAgain,
  listOpenRuns,
  markDispatched,
  overdueAttempts,
  readBuildToStart,
  tellCancelsAgain,
  type BuildKey,
} from './store/deliveries';
import { closeAttempt, closeRuns } from './store/runs';
import { forgetShells } from './store/shells';
import type { Temporal, WorkflowFate } from './temporal';

export interface ReaperPorts {
  db: Database;
  temporal: Pick<Temporal, 'lookAt' | 'startAgain'>;
  log: { warn(facts: object, message: string): void };
}

/** A worker that was not heard for so long is not waited for any longer once its lease is overdue, ms. */
const SILENT_AFTER_MS = 30_000;

/** One that cannot be settled holds up no other. @throws the first failure, at the end; the next round goes on */
export async function sweepAbandoned(ports: ReaperPorts): Promise<void> {
  const { db, temporal } = ports;
  const message = 'its lease ran out while its worker was silent';
  const steps = [
    async () =>
      forAll(await overdueAttempts(db, SILENT_AFTER_MS), (attempt) =>
        closeAttempt(db, { ...attempt, cause: 'host-lost', message }),
      ),
    () => expireBeside(db, SILENT_AFTER_MS),
    () => forgetShells(db),
    async () => forAll(await buildsToCheck(db), async (build) => settle(ports, build, await temporal.lookAt(build))),
  ];
  await forAll(steps, (step) => step());
}

async function settle(
  ports: ReaperPorts,
  build: BuildKey & { id: string },
  { fate, starts }: { fate: WorkflowFate; starts: number },
): Promise<void> {
  const { db } = ports;
  const { id: buildId } = build;
  switch (fate) {
    case 'open':
      return;
    case 'stuck':
      // Its history does not fit the code, by an upgrade or a fault: what the rows say does not depend on it.
      return beginAgain(ports, build, { starts: starts + 1, why: 'its tasks failed again and again' });
    case 'unknown':
      // A Temporal that lost its data, or another one: what is finished stays so, the rest goes on.
      return dispatchAgain(db, buildId);
    case 'terminated':
      return close(db, buildId, { cause: 'workflow-terminated', message: 'its workflow was terminated in Temporal' });
    case 'ended': {
      // The rows are older than Temporal, or it failed. Rows that say no verdict are right: the build is not done.
      const message = `its workflow ended ${starts} times without a verdict`;
      if (starts >= MOST_STARTS) return close(db, buildId, { cause: 'internal', message });
      return beginAgain(ports, build, { starts: starts + 1, why: 'it ended, and no verdict is in the rows' });
    }
  }
}

/** A workflow that ends without a verdict so many times ends so always. */
const MOST_STARTS = 20;

/** Killed in between, it is looked at again: nothing is told to the new workflow before it is there. */
async function beginAgain(
  { db, temporal, log }: ReaperPorts,
  build: BuildKey & { id: string },
  at: { starts: number; why: string },
): Promise<void> {
  const { id, project, number } = build;
  log.warn({ project, build: number, ...at }, 'the workflow of a build begins again from its rows');
  await dispatchAgain(db, id);
  await temporal.startAgain(await readBuildToStart(db, build), at);
  await markDispatched(db, build);
  // The former one may have been told in between.
  await tellCancelsAgain(db, id);
}

/** Closing a run fences its worker; the container goes with the worker's own sweep. */
async function close(db: Database, buildId: string, end: { cause: Cause; message: string }): Promise<void> {
  await closeRuns(
    db,
    (await listOpenRuns(db, buildId)).map((runId) => ({ runId, ...end })),
  );
  await finishBuild(db, buildId);
}
