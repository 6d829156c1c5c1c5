// Owns the port of what executes attempts on a host: a Docker engine, or a machine without containers. There a «container»
// is a folder with the processes of the run. Implemented by docker-engine.ts and bare-engine.ts; used by the worker's activities, which see this file's types only.

import type { Checkout } from '../domain/schemas/plan';
import { cutText } from '../domain/untrusted';

/** What a container is made from. Paths are on the engine's machine. */
export interface ContainerSpec {
  /** Deterministic: the same attempt always names the same container. */
  name: string;
  image: string;
  env: Record<string, string>;
  user?: string;
  /** Absent: the image's own; empty: none. */
  entrypoint?: string;
  privileged: boolean;
  capAdd: string[];
  capDrop: string[];
  resources: { cpus?: number; memoryBytes?: number; pids?: number };
  labels: Record<string, string>;
  /** What is kept of its log at home, bytes: the engine's own file is bounded by a multiple of it. */
  logCapBytes?: number;
  /** Folder made by `makeRunDir`: holds the script and what is mounted beside it. */
  runDir: string;
  /** Its text, by which an engine knows whether its beginning can be told; absent: it cannot. */
  script?: string;
  /** It has a spool, and the program `slipway` beside its script. */
  hasSpool?: boolean;
}

/** A file of a spool: in `out` the run writes, in `in` its supervisor does. */
export interface SpoolFile {
  side: 'in' | 'out';
  /** Without folders. */
  name: string;
  sizeBytes: number;
}

export interface FoundContainer {
  name: string;
  id: string;
  state: 'created' | 'running' | 'exited';
  /** Both by the clock of this process, whatever that of the engine's machine says. */
  createdAt: Date;
  startedAt: Date | null;
  /** Its output tells whether its script was begun; null: it does not. */
  beginning: { entrypoint: readonly string[] } | null;
  /** Id of the image it was made from; null: there are none. */
  imageId: string | null;
  /** Its processes share less memory than the host has. */
  hasMemoryLimit: boolean;
  /** Where the engine keeps its output, if that can be told. */
  logFile: string | null;
  /** Folder of the pipes through which a running one's output comes to the engine, if that can be told. */
  pipesDir: string | null;
}

/** Exit code of a container that ended and of which nobody can tell how. */
export const UNKNOWN_EXIT = 255;

export interface ContainerExit {
  exitCode: number;
  /** The kernel killed a process of it, the first one or another, that wanted more memory than there was. */
  outOfMemory: boolean;
  /** Its script could not be begun; undefined: nobody knows. */
  isUnbegun?: boolean;
  /** It ended while the engine was away: its exit code may be lost. */
  isUnwatched: boolean;
  /** So may be what it wrote meanwhile: nobody else held it. */
  isEndLost: boolean;
}

export interface WaitOptions {
  signal: AbortSignal;
  /** Called when the engine was restarted while the container ran: what it had read and not yet stored is lost. */
  onRestart(): void;
}

export interface ArchivedFile {
  kind: 'file';
  /** Below /archive, with / as separator. */
  path: string;
  sizeBytes: number;
  /** Its bytes; an error when it cannot be read, or is not what it was. */
  open(): AsyncIterable<Uint8Array>;
}

/** Something in /archive that is no artifact. */
export interface NotStored {
  kind: 'not-stored';
  /** As people can read it; `/`: all of it. */
  path: string;
  /** In words. */
  why: string;
}

export type Archived = ArchivedFile | NotStored;

/** `cannot-start`: it says itself that it has begun nothing and can begin nothing now; `engine-unavailable`: nobody knows. */
export type EngineErrorReason =
  | 'image-missing'
  | 'script-not-runnable'
  | 'container-refused'
  | 'cannot-start'
  | 'disk-full'
  | 'engine-unavailable'
  | 'no-such-container'
  | 'start-unknown'
  | 'fenced'
  | 'checkout-failed'
  | 'refused';

/** Names of a stranger may stand in a message of the system, and they may be as long as a path. */
const MOST_CHARACTERS = 1_000;

/** The engine could not do what was asked. `message` is one sentence for people. */
export class EngineError extends Error {
  override readonly name = 'EngineError';
  constructor(
    readonly reason: EngineErrorReason,
    message: string,
    options?: { cause: unknown },
  ) {
    super(message.length > MOST_CHARACTERS ? `${cutText(message, MOST_CHARACTERS)}…` : message, options);
  }
}

export interface FollowOptions {
  /** Bytes of the output that are at home already. */
  fromByte: number;
  signal: AbortSignal;
  /** Resolves when the container has ended: what `wait` gave. */
  exited: Promise<unknown>;
  /** Called for what the output itself shows, the first of them once all is read. */
  onFact?(fact: OutputFact): void;
}

/** `unbegun`: the script was not begun. `damaged`: something is missing from here on, since somebody changed what the engine keeps. */
export type OutputFact = 'begun' | 'unbegun' | 'damaged';

export interface TerminalWish {
  /** A program and its arguments; none: a shell. */
  command: readonly string[];
  /** As TERM has it. */
  term: string;
  cols: number;
  rows: number;
}

/** A terminal in which a command runs beside what a run has left. */
export interface Terminal {
  output: AsyncIterable<Buffer>;
  /** Its exit code, once the output is read. */
  ended: Promise<number>;
  write(bytes: Buffer): Promise<void>;
  resize(size: { cols: number; rows: number }): Promise<void>;
  /** Ends it from outside. */
  close(): void;
}

export interface WatchOptions {
  /** Of `out`: it ends when that is there. What it says last was then looked for after it had come. */
  until?: string;
  signal: AbortSignal;
}

/** Every call but that of a terminal is safe to repeat. All throw EngineError. */
export interface Engine {
  /** The same for the holder of a lease: its host refuses changes with `fenced` once it has seen a newer token, where it can. */
  under(token: number): Engine;
  /** Pulls an image. */
  pull(reference: string): Promise<void>;
  /** The digest to record for an image that is there: that of its registry, or its id when it was made locally. */
  digestOf(imageId: string): Promise<string>;
  /** Makes the folder of one attempt with its script; what is there already stays. @param program `slipway`, for one with a spool */
  makeRunDir(name: string, script: string, program?: string): Promise<string>;
  /** Puts a clean tree of a repository into /repo, before the container is created. @returns the commit @throws EngineError `checkout-failed` */
  checkOut(name: string, checkout: Checkout, signal: AbortSignal): Promise<string>;
  find(name: string): Promise<FoundContainer | undefined>;
  /** Creates the container unless it exists; only for an attempt of which nothing can have been started. @returns its id @throws EngineError `image-missing`: pull it, then again */
  create(spec: ContainerSpec): Promise<string>;
  /**
   * Starts it unless it was started before, ended or not. @throws EngineError `start-unknown`: the engine died while it
   * started it and cannot say whether it did; what it may have started is ended then
   */
  start(name: string): Promise<void>;
  /** Output (stdout and stderr as they came) from a byte offset; ends when the container has ended and all is read. */
  follow(container: FoundContainer, options: FollowOptions): AsyncGenerator<Buffer>;
  /** Resolves when it has ended, also when it had ended before; outlives restarts of the engine. */
  wait(container: FoundContainer, options: WaitOptions): Promise<ContainerExit>;
  /** TERM for every process of it, then KILL when the grace time is over. Resolves when none is alive. */
  stop(name: string, graceMs: number): Promise<void>;
  /** What is below /archive of an ended container, file by file, and what of it can be no artifact. */
  archivedFiles(name: string): AsyncGenerator<Archived>;
  /** Plain files of the spool, by name. Those that are being written are left out. */
  spooled(name: string): Promise<SpoolFile[]>;
  /** The same, now and whenever it has changed, until the folder is gone; an engine that is away is waited for. @throws what the signal says */
  watchSpool(name: string, options: WatchOptions): AsyncGenerator<SpoolFile[]>;
  /** What is in a file of `out` now, from a byte offset. Links are not followed. */
  take(name: string, file: string, fromByte: number): AsyncIterable<Buffer>;
  /** Puts a file into `in`, whole or not at all; what is there under its name already stays. @returns the size of what is there, bytes */
  put(name: string, file: string, bytes: Uint8Array): Promise<number>;
  /** Removes the files of both sides whose names begin with a prefix. */
  discard(name: string, prefix: string): Promise<void>;
  /** Opens a terminal in what an attempt left, as its script found it: same folders, same environment, same user. */
  openTerminal(name: string, wish: TerminalWish): Promise<Terminal>;
  /** Removes container and folder; resolves when both are gone. */
  remove(name: string): Promise<void>;
  /**
   * Names of all that is left of attempts: containers, and folders. @param by absent: whoever made them; else only those of
   * this worker, on its own machine
   */
  listRemains(by?: { worker: string }): Promise<string[]>;
}
