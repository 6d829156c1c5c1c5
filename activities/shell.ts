// Owns the activity that serves a shell into a run that is held: what is typed goes to a terminal on the host of the run, and
// what that shows goes home. Registered by workers/cluster-worker.ts on the worker's own queue.
import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure, Context } from '@temporalio/activity';
import { containerName } from '../domain/names';
import type { Engine, Terminal } from '../adapters/engine';
import type { ShellApi, WorkerApi } from '../adapters/worker-api';
import type { Reach } from '../domain/schemas/hosts';
import type { ShellActivities } from './shell-types';

export interface ShellPorts {
  engines: { at(lease: { host?: string; reach?: Reach }): Engine };
  api: Pick<WorkerApi, 'shell'>;
  heartbeatMs: number;
  /** Aborted when this process goes away: a shell does not outlive it. */
  leaving: AbortSignal;
}

/** More than so much that nobody has read is not sent, bytes. */
const MOST_UNREAD = 1024 * 1024;
const FULL_PAUSE_MS = 200;
/** Of one piece, bytes. */
const PIECE_BYTES = 192 * 1024;

export function makeShellActivities(ports: ShellPorts): ShellActivities {
  return { serveShell: ({ shell }) => serve(ports, shell) };
}

async function serve(ports: ShellPorts, id: string): Promise<string> {
  const context = Context.current();
  const heart = setInterval(() => context.heartbeat(), ports.heartbeatMs);
  const signal = AbortSignal.any([context.cancellationSignal, ports.leaving]);
  const shell = ports.api.shell(id);
  try {
    const { runId, attempt, token, ...orders } = await shell.take(signal);
    const engine = ports.engines.at(orders).under(token);
    const terminal = await engine.openTerminal(containerName(runId, attempt), orders);
    const exitCode = await carry(terminal, shell, signal);
    await shell.end({ exitCode, message: '' });
    return exitCode === null ? 'it was closed' : `it ended with exit code ${exitCode}`;
  } catch (error) {
    const isGone = ports.leaving.aborted;
    const message = isGone ? 'the worker of its host was stopped; open another once it is back' : sayError(error);
    throw ApplicationFailure.nonRetryable(message);
  } finally {
    clearInterval(heart);
  }
}

const sayError = (error: unknown): string => ((error as Error).message || 'it could not be opened').slice(0, 2_000);

/** @returns its exit code; null: it was closed from outside */
async function carry(terminal: Terminal, shell: ShellApi, signal: AbortSignal): Promise<number | null> {
  const over = new AbortController();
  const both = AbortSignal.any([signal, over.signal]);
  let isClosed = false;
  const close = (): void => {
    isClosed = true;
    terminal.close();
  };
  signal.addEventListener('abort', close, { once: true });
  const typed = type(terminal, shell, both).then(
    () => close(),
    (error: unknown) => {
      // At its end nobody waits for what is typed any more.
      if (!over.signal.aborted) close();
      if (!both.aborted) throw error;
    },
  );
  try {
    const [, exitCode] = await Promise.all([show(terminal, shell, signal), terminal.ended]);
    signal.throwIfAborted();
    return isClosed ? null : exitCode;
  } finally {
    over.abort();
    signal.removeEventListener('abort', close);
    await typed.catch(() => undefined);
  }
}

/** Until nobody wants it any more. */
async function type(terminal: Terminal, shell: ShellApi, signal: AbortSignal): Promise<void> {
  let size = '';
  for (let from = 0; ;) {
    const { bytes, cols, rows, isOver } = await shell.typed(from, signal);
    if (`${cols} ${rows}` !== size && size !== '') await terminal.resize({ cols, rows });
    size = `${cols} ${rows}`;
    if (bytes.length > 0) await terminal.write(bytes);
    from += bytes.length;
    if (isOver) return;
  }
}

async function show(terminal: Terminal, shell: ShellApi, signal: AbortSignal): Promise<void> {
  let at = 0;
  for await (const bytes of terminal.output) {
    for (let from = 0; from < bytes.length; from += PIECE_BYTES) {
      const piece = bytes.subarray(from, from + PIECE_BYTES);
      let { unread } = await shell.shown(at, piece, signal);
      at += piece.length;
      while (unread > MOST_UNREAD) {
        await sleep(FULL_PAUSE_MS, undefined, { signal });
        ({ unread } = await shell.shown(at, Buffer.alloc(0), signal));
      }
    }
  }
}
