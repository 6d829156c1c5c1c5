// Owns the build workflow: a small interpreter of a frozen plan. domain/schedule.ts decides, run.ts carries a run,
// this file keeps the progress, batches records and ends with the verdict.
// Started by the API (at once) and by the orchestrator's sweep (if the API died), always under the same id.
import { ApplicationFailure, defineSearchAttributeKey, SearchAttributeType } from '@temporalio/common';
import {
  CancellationScope,
  condition,
  setCurrentDetails,
  setHandler,
  sleep,
  upsertSearchAttributes,
} from '@temporalio/workflow';
import { decide, type RunProgress, type Schedule, type ScheduleCommand } from '../domain/schedule';
import { outcomeOf } from '../domain/verdict';
import type { Cause, Outcome } from '../domain/schemas/words';
import { DEFAULT_LIMITS, isBuildInput, type BuildInput } from '../domain/build-input';
import {
  buildView,
  dropped,
  readMove,
  readRuns,
  runCancelRequested,
  runMoved,
  runReady,
  runsCancelRequested,
} from './messages';
import { records } from './records';
import { executeRun, moveRun, type RunPlace } from './run';

export interface BuildResult {
  outcome: Outcome;
  cause: Cause;
}

interface Building {
  input: BuildInput;
  schedule: Schedule;
  progress: RunProgress[];
  /** Where each run is to be taken. */
  places: RunPlace[];
  /** Scope of each started run. */
  scopes: Map<number, CancellationScope>;
  /** Ended, and not yet so in the store. */
  unrecorded: { runId: string; cause: Cause; message: string }[];
  /** Stopped because another cell of their job failed. */
  failedFast: Set<number>;
  /** The build ran out of time, and its runs are being stopped. */
  isExpired: boolean;
  changes: number;
}

/** Runs a plan to its end. Ends only when every run is finished and the verdict is stored, also when it is cancelled. */
export async function build(input: BuildInput): Promise<BuildResult> {
  if (!isBuildInput(input)) throw ApplicationFailure.nonRetryable('its input is not that of a build', 'BadInput');
  const building = begin(input);
  setHandler(buildView, () => input.runs.map((run, at) => ({ run: run.name, progress: building.progress[at]! })));
  listen(building);
  CancellationScope.current().cancelRequested.catch(() => cancelAll(building));
  return CancellationScope.nonCancellable(async () => {
    const clock = new CancellationScope();
    void clock.run(() => expireInTime(building)).catch(() => undefined);
    const result = await toTheEnd(building);
    clock.cancel();
    return result;
  });
}

/** Handles what is told from outside. What names a run that is not there is not for this build. */
function listen(building: Building): void {
  const { places } = building;
  const onSignal = (signal: typeof runReady, act: (at: number, told: unknown) => void): void =>
    setHandler(signal, (told) => {
      const names = readRuns(told) ?? dropped(signal.name) ?? [];
      for (const name of names) {
        const at = building.input.runs.findIndex((run) => run.name === name);
        if (at >= 0) act(at, told);
      }
    });
  onSignal(runMoved, (at, told) => moveRun(places[at]!, readMove(told) ?? dropped(runMoved.name) ?? {}));
  onSignal(runReady, (at) => void (places[at]!.calls += 1));
  onSignal(runCancelRequested, (at) => cancelRun(building, at));
  onSignal(runsCancelRequested, (at) => cancelRun(building, at));
}

/** The limit of the whole build; its runs are told to stop once the store knows why. */
async function expireInTime(building: Building): Promise<void> {
  const { buildId, timeoutMs = DEFAULT_LIMITS.buildMs } = building.input;
  await sleep(timeoutMs);
  // The verdict is on its way, and must stay the only thing that is.
  if (isEnded(building)) return;
  building.isExpired = true;
  await records.expireBuild({ buildId });
  cancelAll(building);
}

function isEnded({ progress }: Building): boolean {
  return progress.every((one) => one.kind === 'finished');
}

function begin(input: BuildInput): Building {
  return {
    input,
    schedule: {
      runs: input.runs.map((run) => ({
        job: run.job,
        needs: run.needs ?? [],
        needsCondition: run.needsCondition ?? 'success',
      })),
      jobs: input.jobs,
      window: input.window,
    },
    progress: input.runs.map(({ endedAs }) =>
      endedAs === undefined ? { kind: 'waiting' } : { kind: 'finished', outcome: endedAs, earlier: true },
    ),
    places: input.runs.map(({ cluster, moves = 0 }) => ({ cluster, move: moves, calls: 0 })),
    scopes: new Map(),
    unrecorded: [],
    failedFast: new Set(),
    isExpired: false,
    changes: 0,
  };
}

async function toTheEnd(building: Building): Promise<BuildResult> {
  for (;;) {
    const seen = building.changes;
    for (const command of decide(building.schedule, building.progress)) carryOut(building, command);
    setCurrentDetails(describe(building.progress));
    const toRecord = building.unrecorded.splice(0);
    if (toRecord.length > 0) {
      await records.closeRuns(toRecord);
      continue;
    }
    if (isEnded(building)) break;
    await condition(() => building.changes !== seen);
  }
  const verdict = await records.finishBuild({ buildId: building.input.buildId });
  upsertSearchAttributes([
    { key: defineSearchAttributeKey('SlipwayOutcome', SearchAttributeType.KEYWORD), value: verdict.outcome },
    { key: defineSearchAttributeKey('SlipwayCause', SearchAttributeType.KEYWORD), value: verdict.cause },
  ]);
  return verdict;
}

function carryOut(building: Building, command: ScheduleCommand): void {
  switch (command.kind) {
    case 'start':
      return startRun(building, command.run);
    case 'stop':
      building.failedFast.add(command.run);
      return building.scopes.get(command.run)?.cancel();
    case 'skip':
      return endRun(building, command.run, {
        cause: command.cause,
        message: WHY_SKIPPED[command.cause],
        recorded: false,
      });
  }
}

const WHY_SKIPPED = {
  'needs-not-met': 'a run that it needs did not end as required',
  'fail-fast': 'another cell of its job failed and the job is fail-fast',
};

function startRun(building: Building, at: number): void {
  const { input } = building;
  const run = input.runs[at]!;
  building.progress[at] = { kind: 'started' };
  const scope = new CancellationScope({ cancellable: true });
  building.scopes.set(at, scope);
  const context = { run, place: building.places[at]!, project: input.project, timing: input.timing };
  void scope
    .run(() => executeRun(context))
    .then((end) => endRun(building, at, end))
    .finally(() => building.scopes.delete(at));
}

function endRun(building: Building, at: number, end: { cause: Cause; message: string; recorded: boolean }): void {
  building.progress[at] = { kind: 'finished', outcome: outcomeOf(end.cause) };
  building.changes += 1;
  if (end.recorded) return;
  const runId = building.input.runs[at]!.id;
  building.unrecorded.push({ runId, ...whyItEnded(building, at, end) });
}

/** A run that was stopped does not know for whom. */
function whyItEnded(building: Building, at: number, { cause, message }: { cause: Cause; message: string }) {
  if (cause !== 'cancel-requested') return { cause, message };
  if (building.isExpired) return { cause: 'build-timeout' as const, message: 'the build ran out of time' };
  if (building.failedFast.has(at)) return { cause: 'fail-fast' as const, message: WHY_SKIPPED['fail-fast'] };
  return { cause, message };
}

function cancelRun(building: Building, at: number): void {
  const now = building.progress[at];
  if (now?.kind === 'started') building.scopes.get(at)?.cancel();
  if (now?.kind === 'waiting') {
    endRun(building, at, { cause: 'cancel-requested', message: 'cancelled before it began', recorded: false });
  }
}

function cancelAll(building: Building): void {
  building.input.runs.forEach((_run, at) => cancelRun(building, at));
}

/** Shown at the top of the build in the Temporal Web UI. */
function describe(progress: readonly RunProgress[]): string {
  const counts = new Map<string, number>();
  for (const one of progress) {
    const word = one.kind === 'finished' ? one.outcome : one.kind;
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return [...counts].map(([word, count]) => `${count} ${word}`).join(', ');
}
