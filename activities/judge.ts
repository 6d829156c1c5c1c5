// Owns every verdict on an attempt: from how its container ended, or from what went wrong with its host, its engine or the
// server. Called by start.ts and supervise.ts.
import type { LogGap } from '../domain/schemas/api';
import type { Cause } from '../domain/schemas/words';
import type { Lease } from '../domain/schemas/worker-api';
import type { ContainerExit, EngineError, EngineErrorReason } from '../adapters/engine';
import type { WorkerApiError } from '../adapters/worker-api';
import type { HostBesideError } from './hosts-beside';
import type { Stopped } from './limits';

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
  /** Its script was not begun, for the sake of its host. */
  isUnbegun?: boolean;
}

/** This supervisor let go; the container lives on. */
export class DetachedError extends Error {
  override readonly name = 'DetachedError';
}

interface Ended {
  exit: ContainerExit;
  stopped: Stopped;
  lease: Lease;
  lastLines: string;
  /** A host that the run had beside its own. */
  besideLost?: HostBesideError;
}

/** 126 and 127 are also what shells say; the init process names our script when it was the one that could not begin. */
const NOT_RUNNABLE = /(?:exec (?:\/slipway\/script|\S+) failed|env: .*\/script['’]?): (.+)/;

/** What the engine says of a container that ended while it was away and whose exit code it could not learn. */
const UNKNOWN_EXIT = 255;

export function judge({ exit, stopped, lease, lastLines, besideLost }: Ended): Verdict {
  const { exitCode } = exit;
  const { spec } = lease;
  if (stopped === 'cancel-requested') return { ...cancelled(), exitCode };
  if (stopped === 'beside-lost') return { cause: stopped, message: besideLost?.message ?? '', exitCode };
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

export function lost(): Verdict {
  return { cause: 'container-lost', message: 'its container is gone from the engine', exitCode: null };
}

export function cancelled(): Verdict {
  return { cause: 'cancel-requested', message: 'cancelled on request', exitCode: null };
}

export function words(ms: number): string {
  const seconds = ms / 1000;
  return seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 6) / 10} min`;
}

const ENGINE_CAUSE: Record<EngineErrorReason, Cause> = {
  'image-missing': 'image-missing',
  'checkout-failed': 'checkout-failed',
  'script-not-runnable': 'script-not-runnable',
  'container-refused': 'container-refused',
  'cannot-start': 'engine-unavailable',
  'disk-full': 'disk-full',
  'engine-unavailable': 'engine-unavailable',
  'no-such-container': 'container-lost',
  'start-unknown': 'container-lost',
  // Passed on, and no verdict.
  fenced: 'internal',
  refused: 'internal',
};

const HOST_CAUSES: readonly Cause[] = ['engine-unavailable', 'disk-full'];

/** What went wrong before anybody asked for the start of the script. @throws as judgeError does */
export function judgeUnbegun(error: unknown, at: Orders): Verdict {
  const verdict = judgeError(error, at);
  return HOST_CAUSES.includes(verdict.cause) ? { ...verdict, isUnbegun: true } : verdict;
}

/** Of a host beside its own; anything else: it is lost. */
const BESIDE_CAUSE: Partial<Record<EngineErrorReason, Cause>> = {
  'image-missing': 'image-missing',
  'script-not-runnable': 'script-not-runnable',
  'container-refused': 'container-refused',
  'disk-full': 'disk-full',
};

/** Turns what went wrong on our side into a verdict; letting go and being fenced are passed on. */
export function judgeError(error: unknown, at: Orders): Verdict {
  letGoIf(at.detach);
  const { name, message } = error as Error;
  const verdict = (cause: Cause): Verdict => ({ cause, message: message.slice(0, 2_000), exitCode: null });
  if (isFenced(error)) throw error;
  if (name === 'ArtifactError') return verdict('artifact-upload');
  if (name === 'EngineError') {
    const { reason } = error as EngineError;
    return { ...verdict(ENGINE_CAUSE[reason]), ...(reason === 'cannot-start' ? { isUnbegun: true } : {}) };
  }
  if (name === 'HostBesideError') return verdict(BESIDE_CAUSE[(error as HostBesideError).reason] ?? 'beside-lost');
  if (name !== 'WorkerApiError') throw error;
  return verdict((error as WorkerApiError).reason === 'disk-full' ? 'disk-full' : 'internal');
}

export function isFenced(error: unknown): boolean {
  const { name, reason } = error as Error & { reason?: string };
  return (name === 'WorkerApiError' || name === 'EngineError') && reason === 'fenced';
}

export function letGoIf(signal: AbortSignal): void {
  if (signal.aborted) throw new DetachedError('another supervisor will adopt the container');
}
