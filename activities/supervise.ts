// Owns one attempt on a host, from its lease to its release: start once, follow, judge, collect, clean.
//
//   leased ─ find ─┬─ none, may have started ──────────────> container-lost
//                  ├─ none ─ create (pull) ── (intent) ──┐
//                  ├─ created ─────────────── (intent) ──┴─ start ┐
//                  └─ running or exited (adopted) ──────────────┴─ follow ─ exit ─ collect ─ result ─ remove ─ release
//
// Called by job.ts inside a Temporal activity; may be killed at any point and run again.
import { DEFAULT_LIMITS } from '../domain/build-input';
import { containerName } from '../domain/names';
import type { LogGap } from '../domain/schemas/api';
import type { Cause } from '../domain/schemas/words';
import type { HolderKey, Lease } from '../domain/schemas/worker-api';
import type { ContainerExit, Engine, EngineError, EngineErrorReason, FoundContainer } from '../adapters/engine';
import type { AttemptApi, WorkerApiError } from '../adapters/worker-api';
import { capOf } from './log-cap';
import { longTimer, watchLimits, type Stopped } from './limits';
import { ShippedLog } from './shipped-log';

export interface SupervisePorts {
  engine: Engine;
  api: AttemptApi;
  worker: { id: string; cluster: string; stopGraceMs: number };
}

/** Told from outside while an attempt runs. */
export interface Orders {
  /** Aborted when this supervisor must let go at once and leave the container alone. */
  detach: AbortSignal;
  /** Aborted when the run is cancelled: the container must die. */
  cancel: AbortSignal;
}

export interface Verdict {
  cause: Cause;
  message: string;
  exitCode: number | null;
  logGaps?: LogGap[];
}

/** This supervisor let go; the container lives on. */
export class DetachedError extends Error {
  override readonly name = 'DetachedError';
}

/**
 * Carries one attempt to its end, from wherever it is.
 * @returns the verdict, recorded and cleaned up, or undefined when the lease was fenced: another took over, or nobody needs
 *   the attempt any more; then the container was not touched from that moment
 * @throws DetachedError
 */
export async function supervise(
  ports: SupervisePorts,
  lease: Lease,
  at: HolderKey & Orders,
): Promise<Verdict | undefined> {
  const name = containerName(at.runId, at.attempt);
  try {
    const verdict = await attempt(ports, lease, { ...at, name }).catch((error: unknown) => judgeError(error, at));
    await ports.api.result(verdict);
    await ports.engine.remove(name);
    await ports.api.release();
    return verdict;
  } catch (error) {
    if (!isFenced(error)) throw error;
    return undefined;
  }
}

type Named = HolderKey & Orders & { name: string };

async function attempt(ports: SupervisePorts, lease: Lease, at: Named): Promise<Verdict> {
  const started = await startOnce(ports, lease, at);
  if (started.kind === 'not-started') return started.verdict;
  const { container } = started;
  const startedAt = container.startedAt ?? new Date();
  const watch = watchLimits(ports, lease, { ...at, startedAt });
  try {
    const log = new ShippedLog(ports, lease, at);
    const exited = ports.engine.wait(container, { signal: at.detach, onRestart: () => log.noteRestart() });
    // Shown to people, not waited for: the script is running already.
    const shown = showRunning(ports, at, { startedAt, imageId: container.imageId });
    const fromByte = Math.min(lease.logBytes, capOf(lease.logCapBytes).headBytes);
    const source = ports.engine.follow(container, { fromByte, signal: at.detach, exited });
    const [exit] = await Promise.all([exited, shown, log.ship(watch.listening(source))]);
    const stopped = watch.end();
    const isCollected = await collect(ports, at, stopped);
    const { lastLines } = log;
    const verdict = judge({ exit, stopped: isCollected ? stopped : 'cancel-requested', lease, lastLines });
    return { ...verdict, logGaps: log.gapsAtEnd(exit, verdict) };
  } finally {
    watch.end();
  }
}

async function showRunning(
  ports: SupervisePorts,
  at: Named,
  facts: { startedAt: Date; imageId: string | null },
): Promise<void> {
  const imageDigest = facts.imageId === null ? undefined : await ports.engine.digestOf(facts.imageId);
  await ports.api.progress({ state: 'running', startedAt: facts.startedAt.toISOString(), imageDigest }, at.detach);
}

type Started = { kind: 'started'; container: FoundContainer } | { kind: 'not-started'; verdict: Verdict };

const notStarted = (verdict: Verdict): Started => ({ kind: 'not-started', verdict });

async function startOnce(ports: SupervisePorts, lease: Lease, at: Named): Promise<Started> {
  const { engine } = ports;
  // Asked first only when there may be something to adopt; else the engine itself refuses a second one of this name.
  const found = lease.mayHaveStarted ? await engine.find(at.name) : undefined;
  if (!found && lease.mayHaveStarted) return notStarted(lost());
  if (found && found.state !== 'created') return { kind: 'started', container: found };
  const made = await withinStartLimit(
    lease,
    at,
    async (given) => found?.id ?? (await create(ports, lease, { ...at, given })),
  );
  if (made.kind !== 'done') return notStarted(made.verdict);
  const isMine = await confirmStart(ports, at, made.result);
  if (!isMine) return notStarted(cancelled());
  await engine.start(at.name);
  const container = await engine.find(at.name);
  return container ? { kind: 'started', container } : notStarted(lost());
}

/**
 * A start that was confirmed longer ago than this is confirmed again, ms: the process may have been paused meanwhile. Far
 * below the heartbeat time-out and the grace time together, before which nobody else gets the attempt.
 */
const FRESH_MS = 5_000;

/**
 * Says that the script is about to start: whoever comes after a crash here may adopt a container, but never make another.
 * Refused when the lease is another's by now. @returns false when the run was cancelled
 */
async function confirmStart(ports: SupervisePorts, at: Named, containerId: string): Promise<boolean> {
  for (;;) {
    const askedMs = performance.now();
    await ports.api.progress({ state: 'preparing', starting: true, containerId }, at.detach);
    letGoIf(at.detach);
    if (at.cancel.aborted) return false;
    if (performance.now() - askedMs < FRESH_MS) return true;
  }
}

/** @param at.given aborted when the attempt is given up meanwhile */
async function create(ports: SupervisePorts, lease: Lease, at: Named & { given: AbortSignal }): Promise<string> {
  const { engine } = ports;
  const runDir = await engine.makeRunDir(at.name, lease.spec.script);
  const { checkout } = lease.spec;
  const commit = checkout && (await engine.checkOut(at.name, checkout, at.given));
  at.given.throwIfAborted();
  const spec = containerSpec(ports, lease, { ...at, runDir, commit });
  try {
    return await engine.create(spec);
  } catch (error) {
    if ((error as EngineError).reason !== 'image-missing') throw error;
  }
  // An image that was made on another host has no name in a registry; there the reference of the plan is all there is.
  const image = lease.image.startsWith('sha256:') ? lease.spec.container : lease.image;
  await engine.pull(image);
  at.given.throwIfAborted();
  return engine.create({ ...spec, image });
}

type Within<T> = { kind: 'done'; result: T } | { kind: 'ended'; verdict: Verdict };

/** A pull may take minutes and cannot be stopped; nobody waits for it when the run is cancelled, let go or out of time. */
async function withinStartLimit<T>(
  lease: Lease,
  at: Named,
  body: (given: AbortSignal) => Promise<T>,
): Promise<Within<T>> {
  const givenUp = new AbortController();
  const limitMs = lease.spec.startTimeoutMs ?? DEFAULT_LIMITS.startMs;
  const told = (signal: AbortSignal) =>
    new Promise<'told'>((done) => {
      if (signal.aborted) done('told');
      signal.addEventListener('abort', () => done('told'), { once: true });
    });
  let timer: { clear(): void } | undefined;
  const late = new Promise<'late'>((done) => {
    timer = longTimer(() => done('late'), Math.max(limitMs - lease.leasedForMs, 0));
  });
  try {
    if (at.cancel.aborted) return { kind: 'ended', verdict: cancelled() };
    const work = body(givenUp.signal);
    work.catch(() => undefined);
    const first = await Promise.race([work.then((result) => ({ result })), told(at.cancel), told(at.detach), late]);
    letGoIf(at.detach);
    if (at.cancel.aborted) return { kind: 'ended', verdict: cancelled() };
    if (typeof first === 'object') return { kind: 'done', result: first.result };
    const message = `did not start within ${words(limitMs)} of getting its host; a pull may be slow, or the engine`;
    return { kind: 'ended', verdict: { cause: 'start-timeout', message, exitCode: null } };
  } finally {
    givenUp.abort();
    timer?.clear();
  }
}

function containerSpec(ports: SupervisePorts, lease: Lease, at: Named & { runDir: string; commit?: string }) {
  const { spec } = lease;
  return {
    name: at.name,
    image: lease.image,
    runDir: at.runDir,
    user: spec.containerUser,
    entrypoint: spec.containerEntrypoint,
    privileged: spec.privileged,
    capAdd: spec.capAdd,
    capDrop: spec.capDrop,
    resources: spec.resources,
    env: {
      ...spec.env,
      CI: 'true',
      H_PROJECT: lease.project,
      H_BUILD: String(lease.build),
      H_RUN: lease.run,
      H_RUN_URL: lease.runUrl,
      H_ATTEMPT: String(at.attempt),
      H_WORKER: lease.host,
      ...(at.commit === undefined ? {} : { GIT_SHA: at.commit }),
    },
    labels: {
      'dev.slipway.worker': ports.worker.id,
      'dev.slipway.project': lease.project,
      'dev.slipway.build': String(lease.build),
      'dev.slipway.run': lease.run,
      'dev.slipway.run-id': at.runId,
      'dev.slipway.attempt': String(at.attempt),
      'dev.slipway.token': String(at.token),
    },
  };
}

/**
 * Brings the artifacts home, also those of a run that was stopped. @param stopped why its script was, if it was
 * @returns false when the run was cancelled meanwhile, and what was left stayed behind
 */
async function collect(ports: SupervisePorts, at: Named, stopped: Stopped): Promise<boolean> {
  // A cancel that stopped the script already says nothing about its artifacts; a later one does.
  const isGivenUp = (): boolean => stopped !== 'cancel-requested' && at.cancel.aborted;
  const signal = stopped === 'cancel-requested' ? at.detach : AbortSignal.any([at.detach, at.cancel]);
  let told = false;
  for await (const file of ports.engine.archivedFiles(at.name)) {
    if (isGivenUp()) return false;
    if (!told) await ports.api.progress({ state: 'collecting' }, at.detach);
    told = true;
    try {
      await ports.api.putArtifact(file, signal);
    } catch (error) {
      letGoIf(at.detach);
      if (isGivenUp()) return false;
      throw asArtifactError(error, file.path, at);
    }
  }
  return true;
}

/** The run did its work, but a file it left could not be read or was refused. */
class ArtifactError extends Error {
  override readonly name = 'ArtifactError';
}

function asArtifactError(error: unknown, path: string, at: Orders): unknown {
  const isOthers = at.detach.aborted || isFenced(error) || (error as WorkerApiError).reason === 'disk-full';
  return isOthers ? error : new ArtifactError(`artifact ${path} could not be stored: ${(error as Error).message}`);
}

interface Ended {
  exit: ContainerExit;
  stopped: Stopped;
  lease: Lease;
  lastLines: string;
}

/** 126 and 127 are also what shells say; the init process names our script when it was the one that could not begin. */
const NOT_RUNNABLE = /(?:exec (?:\/slipway\/script|\S+) failed|env: .*\/script['’]?): (.+)/;

/** What the engine says of a container that ended while it was away and whose exit code it could not learn. */
const UNKNOWN_EXIT = 255;

function judge({ exit, stopped, lease, lastLines }: Ended): Verdict {
  const { exitCode } = exit;
  const { spec } = lease;
  if (stopped === 'cancel-requested') return { ...cancelled(), exitCode };
  if (stopped !== undefined) return { cause: stopped, message: sayLimit(stopped, spec), exitCode };
  if (exit.isUnwatched && exitCode === UNKNOWN_EXIT) {
    const message = 'nobody saw how it ended: the engine was away, or its host was restarted';
    return { cause: 'container-lost', message, exitCode: null };
  }
  if (exitCode === 0) return { cause: 'ok', message: '', exitCode };
  const notRunnable = exitCode === 126 || exitCode === 127 ? NOT_RUNNABLE.exec(lastLines) : null;
  if (notRunnable) {
    const message = `the script cannot be executed in image ${spec.container} (${notRunnable[1]?.trim()}); begin it with a line like #!/bin/sh that names a program of the image`;
    return { cause: 'script-not-runnable', message, exitCode };
  }
  if (exit.outOfMemory) {
    const limit = spec.resources.memoryBytes;
    const of = limit === undefined ? 'the memory of the host' : `its ${Math.round(limit / 1024 / 1024)} MiB of memory`;
    return { cause: 'out-of-memory', message: `killed by the kernel: it used more than ${of}`, exitCode };
  }
  return { cause: 'exit-code', message: `exited with code ${exitCode}`, exitCode };
}

function sayLimit(limit: 'run-timeout' | 'idle-timeout', spec: Lease['spec']): string {
  if (limit === 'run-timeout') return `stopped after its time limit of ${words(spec.timeoutMs)}`;
  return `stopped after ${words(spec.idleTimeoutMs ?? 0)} without output`;
}

function lost(): Verdict {
  return { cause: 'container-lost', message: 'its container is gone from the engine', exitCode: null };
}

function cancelled(): Verdict {
  return { cause: 'cancel-requested', message: 'cancelled on request', exitCode: null };
}

function words(ms: number): string {
  const seconds = ms / 1000;
  return seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 6) / 10} min`;
}

const ENGINE_CAUSE: Record<EngineErrorReason, Cause> = {
  'image-missing': 'image-missing',
  'checkout-failed': 'checkout-failed',
  'script-not-runnable': 'script-not-runnable',
  'disk-full': 'disk-full',
  'engine-unavailable': 'engine-unavailable',
  'no-such-container': 'container-lost',
  'start-unknown': 'container-lost',
  // Passed on, and no verdict.
  fenced: 'internal',
  refused: 'internal',
};

/** Turns what went wrong on our side into a verdict; letting go and being fenced are passed on. */
function judgeError(error: unknown, at: Orders): Verdict {
  letGoIf(at.detach);
  const { name, message } = error as Error;
  const verdict = (cause: Cause): Verdict => ({ cause, message: message.slice(0, 2_000), exitCode: null });
  if (isFenced(error)) throw error;
  if (name === 'ArtifactError') return verdict('artifact-upload');
  if (name === 'EngineError') return verdict(ENGINE_CAUSE[(error as EngineError).reason]);
  if (name !== 'WorkerApiError') throw error;
  return verdict((error as WorkerApiError).reason === 'disk-full' ? 'disk-full' : 'internal');
}

function isFenced(error: unknown): boolean {
  const { name, reason } = error as Error & { reason?: string };
  return (name === 'WorkerApiError' || name === 'EngineError') && reason === 'fenced';
}

function letGoIf(signal: AbortSignal): void {
  if (signal.aborted) throw new DetachedError('another supervisor will adopt the container');
}
