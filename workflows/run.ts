// Owns one run of a build: attempt after attempt until its cause is final, each carried by one long activity.
// Called by build.ts, one call a run, each in a cancellation scope of its own.
//
//   cluster queue ─ runJob ─┬─ finished ──────────────────────────────> cause
//        ^  ^               ├─ waiting ── pause ─┐       (nobody takes it in time ──────────> waiting-timeout)
//        │  └───────────────┼────────────────────┘
//        ├─ offered again ──┼─ not taken for a while: its priority may be higher now
//        └─ other cluster ──┼─ moved
//                           ├─ elsewhere ─ runJob on that worker's queue
//                           ├─ detached ─┐                       (too many of these detours ───────────> internal)
//                           └─ silent ───┴─ reattach on the worker's own queue ─┬─ finished
//                                                                               └─ nobody there ─> host-lost, next attempt
import {
  ActivityCancellationType,
  ActivityFailure,
  CancellationScope,
  TimeoutFailure,
  isCancellation,
  proxyActivities,
  condition,
  workflowInfo,
} from '@temporalio/workflow';
import { takeDetour, type Detours } from '../domain/detours';
import { readJobResult, type JobResult } from '../domain/job-result';
import { clusterQueue } from '../domain/names';
import { absenceGraceMs } from '../domain/absence';
import { DEFAULT_PRIORITY, offerMs } from '../domain/priority';
import { plainText } from '../domain/untrusted';
import { isRetried } from '../domain/verdict';
import type { Cause } from '../domain/schemas/words';
import type { JobActivities, JobInput } from '../activities/job-types';
import { DEFAULT_LIMITS, type BuildRun, type BuildTiming } from '../domain/build-input';
import { records } from './records';

/** Where a run waits. Changed from outside, and only while nobody holds its lease. */
export interface RunPlace {
  cluster: string;
  /** How often it was moved. */
  move: number;
  /** How often it was told that there is a slot for it. */
  calls: number;
  /** Takes its task back from the queue of the cluster that it leaves; absent: it is not in one. */
  leave?: () => void;
}

export interface RunContext {
  run: BuildRun;
  place: RunPlace;
  project: string;
  timing: BuildTiming;
}
export interface RunEnd {
  cause: Cause;
  message: string;
  /** Whether the row of the run is finished already. */
  recorded: boolean;
}

/** Sends a waiting run to another cluster, unless it is there already. */
export function moveRun(place: RunPlace, to: { cluster?: string; move?: number }): void {
  if (to.cluster === undefined || to.move === undefined || to.move <= place.move) return;
  place.cluster = to.cluster;
  place.move = to.move;
  place.leave?.();
}

/** @returns how the run ended; never throws for what a worker, a host or a user did */
export async function executeRun(context: RunContext): Promise<RunEnd> {
  const { firstAttempt = 1, retry } = context.run;
  const ended: Cause[] = [];
  for (let number = firstAttempt; ; number += 1) {
    const end = await executeAttempt(context, number);
    ended.push(end.cause);
    if (!isRetried(ended, retry)) return end;
    if (CancellationScope.current().consideredCancelled) return cancelledBefore();
  }
}

type Step =
  JobResult | { kind: 'silent' } | { kind: 'nobody' } | { kind: 'not-taken' } | { kind: 'broke'; message: string };

interface Target {
  queue: string;
  activity: 'runJob' | 'reattach';
  /** How long it is waited for that somebody takes it; a worker's own queue has the grace time of that worker. */
  limitMs: number;
  /** Any worker of the cluster may take it. */
  isAnywhere?: true;
  /** 1 (first) … 5 (last); for a worker's own queue it does not matter. */
  priority?: number;
  /** Not taken, it is not given up. */
  isOfferedAgain?: boolean;
  /** How long the same worker was waited for before, ms. */
  waitedMs?: number;
}

async function executeAttempt(context: RunContext, number: number): Promise<RunEnd> {
  const { run, place, timing } = context;
  const since = Date.now();
  const until = since + (run.waitingTimeoutMs ?? DEFAULT_LIMITS.waitingMs);
  const wait = { since, until, priority: run.priority ?? DEFAULT_PRIORITY };
  const detours: Detours = { all: 0, quick: 0 };
  let target = anywhere(context, wait);
  let pauseMs = timing.askAgainMs.first;
  for (;;) {
    const askedAt = Date.now();
    const step = await callWorker(context, number, target);
    if (!(await mayGoOn(step, { place, detours, tookMs: Date.now() - askedAt }))) {
      return closeAttempt(context, number, { cause: 'internal', message: TOO_MANY_DETOURS });
    }
    switch (step.kind) {
      case 'finished':
        return step;
      case 'elsewhere':
        target = { queue: step.queue, activity: 'runJob', limitMs: timing.reattachGraceMs };
        break;
      case 'detached':
        target = { queue: step.queue, activity: 'reattach', limitMs: timing.detachGraceMs };
        break;
      case 'waiting':
        if (!(await pause(Math.min(pauseMs, Math.max(wait.until - Date.now(), 1)), place))) return cancelledBefore();
        if (Date.now() >= wait.until) return notTaken(run, step.reason);
        pauseMs = Math.min(pauseMs * (timing.askAgainMs.factor ?? 2), timing.askAgainMs.most);
        target = anywhere(context, wait);
        break;
      case 'moved':
        moveRun(place, await nowhereElse(() => records.placeRun({ runId: run.id })));
        target = anywhere(context, wait);
        break;
      case 'not-taken':
        if (!target.isOfferedAgain) return notTaken(run, `no worker of cluster ${place.cluster} took it`);
        if (CancellationScope.current().consideredCancelled) return cancelledBefore();
        target = await offerAgain(context, wait);
        break;
      case 'broke':
        return closeAttempt(context, number, { cause: 'internal', message: step.message });
      case 'silent':
      case 'fenced':
      case 'nobody': {
        const next = await findAgain(context, number, { target, step: step.kind, wait });
        if ('cause' in next) return next;
        target = next;
      }
    }
  }
}

const TOO_MANY_DETOURS = 'its workers sent it on again and again, and none carried it to an end';

/** What is left of the 51,200 events of a history then is for the ends of all runs. */
const MOST_EVENTS = 40_000;

/** Holds up an attempt that is sent on again and again. @returns false when it must end */
async function mayGoOn(step: Step, at: { place: RunPlace; detours: Detours; tookMs: number }): Promise<boolean> {
  if (step.kind === 'finished' || step.kind === 'broke') return true;
  if (workflowInfo().historyLength > MOST_EVENTS) return false;
  // Has a pause of its own.
  if (step.kind === 'waiting') return true;
  const pauseMs = takeDetour(at.detours, at.tookMs);
  if (pauseMs) await pause(pauseMs, at.place);
  return pauseMs !== undefined;
}

/** Of one attempt. */
interface Wait {
  since: number;
  /** When it ends for good. */
  until: number;
  /** 1 (first) … 5 (last), as it was offered last. */
  priority: number;
}

function anywhere({ place, timing }: RunContext, wait: Wait): Target {
  const now = Date.now();
  const leftMs = Math.max(wait.until - now, 1);
  const limitMs = Math.min(leftMs, offerMs(now - wait.since, timing.ageStepMs));
  const queue = clusterQueue(place.cluster);
  const { priority } = wait;
  return { queue, activity: 'runJob', limitMs, isAnywhere: true, priority, isOfferedAgain: limitMs < leftMs };
}

/** The queue knows a task's priority from its beginning: to raise it, the task has to run out and be made anew. */
async function offerAgain(context: RunContext, wait: Wait): Promise<Target> {
  const { run, timing } = context;
  const stepMs = timing.ageStepMs ?? Infinity;
  const { priority } = await nowhereElse(() => records.readPriority({ runId: run.id, stepMs }));
  return anywhere(context, Object.assign(wait, { priority }));
}

function notTaken(run: BuildRun, why: string): RunEnd {
  const minutes = Math.round((run.waitingTimeoutMs ?? DEFAULT_LIMITS.waitingMs) / 600) / 100;
  return { cause: 'waiting-timeout', message: `no host within ${minutes} min: ${why}`, recorded: false };
}

/** Asks the store how an attempt stands that nobody answers for. @returns whom to ask next, or how it ended */
async function findAgain(
  context: RunContext,
  number: number,
  { target, step, wait }: { target: Target; step: 'silent' | 'fenced' | 'nobody'; wait: Wait },
): Promise<Target | RunEnd> {
  const { run, timing } = context;
  const absentQueue = step === 'nobody' ? target.queue : undefined;
  const waitedMs = step === 'nobody' ? target.limitMs : undefined;
  const found = await nowhereElse(() => records.locateAttempt({ runId: run.id, number, absentQueue, waitedMs }));
  if (found.endedAs) return { cause: found.endedAs, message: '', recorded: false };
  if (!found.queue && CancellationScope.current().consideredCancelled) return cancelledBefore();
  if (!found.queue) return anywhere(context, wait);
  // The host may have got another worker meanwhile; only when it is the same one that did not come, the host is lost.
  const again = { queue: found.queue, activity: 'reattach' as const, limitMs: timing.reattachGraceMs };
  if (step !== 'nobody' || found.queue !== target.queue) return again;
  const allMs = (target.waitedMs ?? 0) + target.limitMs;
  const isCancelled = CancellationScope.current().consideredCancelled;
  const graceMs = absenceGraceMs(isCancelled ? { isHeard: found.isHeard } : found, timing.detachGraceMs);
  if (allMs < graceMs) return { ...again, waitedMs: allMs };
  const message = `its worker did not come back within ${allMs / 1000} s`;
  if (!CancellationScope.current().consideredCancelled) {
    return closeAttempt(context, number, { cause: 'host-lost', message });
  }
  // No other attempt waits for this, and its script may still run: cancelled is said once it is gone, or once nobody can say.
  const leftMs = (timing.cancelGraceMs ?? 0) - allMs;
  if (leftMs > 0) return { ...again, limitMs: Math.min(Math.max(allMs, again.limitMs), leftMs), waitedMs: allMs };
  const unsure = `${message}, so nobody could confirm that its script is gone`;
  return closeAttempt(context, number, { cause: 'host-lost', message: unsure });
}

/** Once a run is cancelled, whatever it still has to do must not be cancelled too. */
function nowhereElse<T>(body: () => Promise<T>): Promise<T> {
  return CancellationScope.nonCancellable(body);
}

async function callWorker(context: RunContext, number: number, target: Target): Promise<Step> {
  const { run } = context;
  const { cluster } = context.place;
  // A lease is granted to the newest move alone, so that no news of a move ever meets a script that runs.
  const input: JobInput = { runId: run.id, attempt: number, run: run.name, move: context.place.move };
  const worker = workerOn(context, number, target);
  const ask = (): Promise<unknown> => {
    if (CancellationScope.current().consideredCancelled) {
      return nowhereElse(() => worker[target.activity]({ ...input, cancel: true }));
    }
    const call = () => worker[target.activity](input);
    return target.isAnywhere ? untilMoved(context.place, call) : call();
  };
  try {
    return readJobResult(await ask(), cluster) ?? { kind: 'broke', message: NO_ANSWER };
  } catch (error) {
    return readFailure(error, target);
  }
}

const NO_ANSWER = 'its worker answered what nobody can read; see which version it runs';

/** A task that nobody has taken is taken back when the run moves; one that was just taken is told `moved` by the store. */
async function untilMoved(place: RunPlace, call: () => Promise<JobResult>): Promise<JobResult> {
  const scope = new CancellationScope();
  place.leave = () => scope.cancel();
  try {
    return await scope.run(call);
  } finally {
    place.leave = undefined;
  }
}

function workerOn(context: RunContext, number: number, target: Target): JobActivities {
  const { run, timing, project } = context;
  return proxyActivities<JobActivities>({
    taskQueue: target.queue,
    summary: number === 1 ? run.name : `${run.name}, attempt ${number}`,
    startToCloseTimeout: run.timeoutMs + (run.startTimeoutMs ?? DEFAULT_LIMITS.startMs) + timing.runMarginMs,
    heartbeatTimeout: timing.heartbeatTimeoutMs,
    scheduleToStartTimeout: target.limitMs,
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    // What is tried again, and where, is decided here by cause; the server must not.
    retry: { maximumAttempts: 1 },
    priority: { priorityKey: target.priority, fairnessKey: project },
  });
}

function readFailure(error: unknown, target: Target): Step {
  if (isCancellation(error)) return { kind: 'silent' };
  if (!(error instanceof ActivityFailure)) throw error;
  const { cause } = error;
  if (!(cause instanceof TimeoutFailure)) return { kind: 'broke', message: plainText(cause?.message ?? error.message) };
  if (cause.timeoutType !== 'SCHEDULE_TO_START') return { kind: 'silent' };
  return { kind: target.isAnywhere ? 'not-taken' : 'nobody' };
}

async function closeAttempt(
  context: RunContext,
  number: number,
  end: { cause: Cause; message: string },
): Promise<RunEnd> {
  const isCancelled = CancellationScope.current().consideredCancelled;
  const attempt = { runId: context.run.id, number, ...end };
  const { cause } = await nowhereElse(() => records.closeAttempt(attempt));
  if (isCancelled) return { ...cancelledBefore(), message: `cancelled; ${end.message}` };
  return { ...end, cause, recorded: false };
}

function cancelledBefore(): RunEnd {
  return { cause: 'cancel-requested', message: 'cancelled before it began', recorded: false };
}

/** Ends early when the run is called or moved. @returns false when it was cancelled meanwhile */
async function pause(ms: number, place: RunPlace): Promise<boolean> {
  const { calls, move } = place;
  try {
    await condition(() => place.calls !== calls || place.move !== move, ms);
    return true;
  } catch (error) {
    if (isCancellation(error)) return false;
    throw error;
  }
}
