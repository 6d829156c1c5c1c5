// Owns the port of what carries commands to a machine: its own shell, one behind SSH, or one in a container.
// Implemented by local-shell.ts, ssh-host.ts and container-shell.ts; used by bare-engine.ts.

import type { Terminal, TerminalWish } from './engine';

export interface OpenOptions {
  /** What the command reads; default: nothing. */
  input?: Uint8Array;
  /** What it reads does not end before the command, or this process, does. */
  keepsInput?: boolean;
  /** Aborted: the command is let go, and whoever reads its output gets an error. */
  signal?: AbortSignal;
}

/** A command under way. */
export interface Opened {
  /** Its standard output; an error when the machine was lost meanwhile. */
  output: AsyncIterable<Buffer>;
  /** How it ended, once the output is read. @throws Error with `code` ECONNRESET when the machine was lost */
  ended: Promise<{ code: number; errors: string }>;
}

export interface Shell {
  /** As a sentence needs it, e.g. `host box-1`. */
  readonly name: string;
  /** Path of the POSIX shell on the machine. */
  readonly shell: string;
  /** Starts a program with its arguments, none of which any shell may read. @throws Error with `code` when it cannot be reached */
  open(command: readonly string[], options?: OpenOptions): Promise<Opened>;
  /** The same in a terminal; `command` is never empty. */
  openTerminal(wish: TerminalWish): Promise<Terminal>;
}

/** The end of what a command says on standard error, bytes. */
export const ERRORS_KEPT = 8_192;

/** One word of a POSIX shell, whatever is in it. */
export const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

/** The machine was not reached, or lost: repeating the call may help. */
export function lostMachine(message: string, cause?: unknown): NodeJS.ErrnoException {
  return Object.assign(new Error(message, { cause }), { code: 'ECONNRESET' });
}
