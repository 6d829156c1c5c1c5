// Owns every verdict on an attempt: from how its container ended, or from what went wrong with its host, its engine or the
// server. Called by start.ts and supervise.ts.
import { constants } from 'node:os';
import type { LogGap, NotStoredFiles } from '../domain/schemas/api';
import type { Cause } from '../domain/schemas/words';
import type { Lease } from '../domain/schemas/worker-api';
import type { ContainerExit, EngineError, EngineErrorReason } from '../adapters/engine';
import type { HostBesideError } from './hosts-beside';
import { logLimitOf, type Stopped } from './limits';
import { cutText } from '../domain/untrusted';

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
  notStored?: NotStoredFiles;
}

/** This supervisor let go; the container lives on. */
export class DetachedError extends Error {
  override readonly name = 'DetachedError';
}

/** What came of the files in its archive. */
export interface Collected {
  /** Absent: everything is stored. */
  notStored?: NotStoredFiles;
  /** The time of the run was over before its last file was stored. */
  isLate: boolean;
  /** The run was cancelled meanwhile; the rest stayed behind. */
  isCancelled: boolean;
  /** The server took none of the files, for no reason that lies in them. */
  isRefused: boolean;
}

interface Ended {
  exit: ContainerExit;
  stopped: Stopped;
  lease: Lease;
  lastLines: string;
  /** What the container was begun by, when its script was not begun for sure. */
  unbegunBy?: readonly string[];
  /** A host that the run had beside its own. */
  besideLost?: HostBesideError;
  collected: Collected;
}

/** Why, in the words of who could not begin the script: the last ones of a line. For people; what is known is known without. */
const REASON = /: ([^:\n]+)$/;

/** What the engine says of a container that ended while it was away and whose exit code it could not learn. */
const UNKNOWN_EXIT = 255;

/** What the script did decides. Its artifacts are told of beside it, and count where it has passed, or was cancelled. */
export function judge(ended: Ended): Verdict {
  const { stopped, collected, lease, exit } = ended;
  const { isCancelled, isLate, isRefused, notStored } = collected;
  const verdict = judgeScript(isCancelled && stopped === undefined ? { ...ended, stopped: 'cancel-requested' } : ended);
  const said = notStored ? sayNotStored(notStored) : '';
  const message = [verdict.message, said].filter((part) => part !== '').join('; ');
  if (verdict.cause === 'ok' && isLate) {
    const limit = sayLimit('run-timeout', lease);
    return { cause: 'run-timeout', message: `${limit}; ${said}`, exitCode: exit.exitCode };
  }
  return { ...verdict, message, cause: verdict.cause === 'ok' && isRefused ? 'artifact-upload' : verdict.cause };
}

function judgeScript(ended: Ended): Verdict {
  const { exit, stopped, lease, besideLost } = ended;
  const { exitCode } = exit;
  const { spec } = lease;
  if (stopped === 'cancel-requested') return { ...cancelled(), exitCode };
  if (stopped === 'beside-lost') return { cause: stopped, message: besideLost?.message ?? '', exitCode };
  if (stopped !== undefined) return { cause: stopped, message: sayLimit(stopped, lease), exitCode };
  if (exit.isUnwatched && exitCode === UNKNOWN_EXIT) {
    const message = 'nobody saw how it ended: the engine was away, or its host was restarted';
    return { cause: 'container-lost', message, exitCode: null };
  }
  if (ended.unbegunBy) return { cause: 'script-not-runnable', message: sayUnbegun(ended, ended.unbegunBy), exitCode };
  const limit = spec.resources.memoryBytes;
  const memory =
    limit === undefined ? 'the memory of the host' : `its ${Math.round(limit / 1024 / 1024)} MiB of memory`;
  if (exit.outOfMemory && exitCode === SIGNAL_BASE + constants.signals.SIGKILL) {
    return { cause: 'out-of-memory', message: `killed by the kernel: it used more than ${memory}`, exitCode };
  }
  const remark = exit.outOfMemory ? `the kernel killed a process of it above ${memory}` : '';
  if (exitCode === 0) return { cause: 'ok', message: remark, exitCode };
  return { cause: 'exit-code', message: [sayExit(exitCode), remark].filter(Boolean).join('; '), exitCode };
}

/** Shells and init processes add it to the number of the signal that ended a program. */
const SIGNAL_BASE = 128;

function sayExit(exitCode: number): string {
  const signal = Object.entries(constants.signals).find(([, number]) => number === exitCode - SIGNAL_BASE)?.[0];
  const why = signal === undefined ? '' : `, which stands for signal ${signal}; Slipway did not send it`;
  return `exited with code ${exitCode}${why}`;
}

function sayUnbegun({ exit, lease, lastLines }: Ended, entrypoint: readonly string[]): string {
  const { container: image } = lease.spec;
  if (/argument list too long/i.test(lastLines)) {
    return 'the script cannot be begun: its parameters together are longer than the kernel takes (argument list too long); make them shorter';
  }
  if (entrypoint.length > 0) {
    return `the script was not begun: entrypoint ${JSON.stringify(entrypoint)} ended with code ${exit.exitCode} and did not run it; if image ${image} is to run scripts, write container-entrypoint: ""`;
  }
  const [, reason = `exit code ${exit.exitCode}`] = REASON.exec(lastLines.trim()) ?? [];
  return `the script cannot be executed in image ${image} (${reason.trim()}); begin it with a line like #!/bin/sh that names a program of the image`;
}

function sayLimit(limit: 'run-timeout' | 'idle-timeout' | 'log-limit', { spec, logCapBytes }: Lease): string {
  if (limit === 'log-limit') {
    const sizes = [logLimitOf(logCapBytes), logCapBytes].map((bytes) => `${Math.ceil(bytes / 1024 / 1024)} MiB`);
    return `stopped after ${sizes[0]} of output; ${sizes[1]} of a log are kept, so write the rest to a file in /archive`;
  }
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
  const verdict = (cause: Cause): Verdict => ({ cause, message: cutText(message, 2_000), exitCode: null });
  if (isFenced(error)) throw error;
  if (name === 'EngineError') {
    const { reason } = error as EngineError;
    return { ...verdict(ENGINE_CAUSE[reason]), ...(reason === 'cannot-start' ? { isUnbegun: true } : {}) };
  }
  if (name === 'HostBesideError') return verdict(BESIDE_CAUSE[(error as HostBesideError).reason] ?? 'beside-lost');
  if (name !== 'WorkerApiError') throw error;
  return verdict('internal');
}

export function isFenced(error: unknown): boolean {
  const { name, reason } = error as Error & { reason?: string };
  return (name === 'WorkerApiError' || name === 'EngineError') && reason === 'fenced';
}

export function letGoIf(signal: AbortSignal): void {
  if (signal.aborted) throw new DetachedError('another supervisor will adopt the container');
}

/** In one sentence, to be added to how the run ended. */
function sayNotStored({ count, files }: NotStoredFiles): string {
  const [first] = files;
  const which = first?.path === '/' ? '/archive' : (first?.path ?? '');
  const more = count > 1 ? `, and ${count - 1} more` : '';
  return `not stored of its artifacts: ${which} (${first?.why ?? ''})${more}`;
}
