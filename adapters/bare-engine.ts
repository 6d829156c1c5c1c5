// Owns the engine of machines without containers: runs are processes under a folder each, kept by bare-program.ts.
// Made by workers/engines.ts, for the worker's own machine and for hosts over SSH; handed to the activities as an Engine.
import { createHash } from 'node:crypto';
import { posix } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Checkout } from '../domain/schemas/plan';
import { leftOut, NO_ARCHIVE } from './archive-files';
import { readArchive, readProbe, readSpool, readState, reasonOf, type BareProbe } from './bare-answers';
import { BARE_PROGRAM } from './bare-program';
import { aheadBy } from './docker-client';
import { EngineError, UNKNOWN_EXIT } from './engine';
import type {
  Archived,
  ContainerExit,
  ContainerSpec,
  Engine,
  FollowOptions,
  FoundContainer,
  SpoolFile,
  Terminal,
  TerminalWish,
  WaitOptions,
  WatchOptions,
} from './engine';
import { quote, type Opened, type OpenOptions, type Shell } from './shell';
import { ANY_SHELL } from './terminal';
import { checkOut } from './working-copies';

/** A machine that is not reached for longer is given up, ms. */
const AWAY_LIMIT_MS = 120_000;
const RETRY_MS = 1_000;
/** Of an answer that is read whole, bytes. */
const MOST_ANSWER = 16 * 1024 * 1024;

const NEVER = new AbortController().signal;

interface Lasting<T> {
  /** Asked at each beginning. */
  args: () => string[];
  read: (output: AsyncIterable<Buffer>) => AsyncIterable<T>;
  /** What cannot be done when it fails, in words. */
  what: string;
  signal?: AbortSignal;
  /** It may take long: the text that lies in the folder of the run is executed. */
  isOwn?: boolean;
}

const asItIs = (output: AsyncIterable<Buffer>): AsyncIterable<Buffer> => output;

export class BareEngine implements Engine {
  /**
   * @param root folder of the runs on the machine
   * @param options.token of the one lease that calls; default 0: nobody holds the runs
   * @param options.localRepositories folders and addresses of the machine that repositories may come from; default: none
   */
  constructor(
    private readonly shell: Shell,
    private readonly root: string,
    private readonly options: { token?: number; localRepositories?: readonly string[] } = {},
  ) {}

  private get token(): number {
    return this.options.token ?? 0;
  }

  under(token: number): BareEngine {
    return new BareEngine(this.shell, this.root, { ...this.options, token });
  }

  async pull(): Promise<void> {
    throw new EngineError('refused', 'there are no images on a host without containers');
  }

  async digestOf(imageId: string): Promise<string> {
    return imageId;
  }

  makeRunDir(name: string, script: string, program?: string): Promise<string> {
    return this.prepare(name, { script, program });
  }

  /** @param files.begin the program by which a container begins its script */
  async prepare(name: string, files: { script: string; program?: string; begin?: string }): Promise<string> {
    const { script, program = '', begin = '' } = files;
    await this.call('prepare', name, { args: [BARE_PROGRAM, program, begin], input: Buffer.from(script) });
    return this.dirOf(name);
  }

  async create(spec: ContainerSpec): Promise<string> {
    const folders = { H_REPO: 'repo', H_ARCHIVE: 'archive', H_SECRETS: 'secrets' };
    const paths = Object.entries(folders).map(([key, part]) => [key, posix.join(spec.runDir, part)]);
    const env = [...Object.entries(spec.env), ...paths].map(([key, value]) => quote(`${key}=${value}`));
    const odd = Object.keys(spec.env).find((key) => key.startsWith('-'));
    if (odd !== undefined) throw new EngineError('refused', `parameter ${odd} cannot be a variable of a process`);
    const spool = spec.hasSpool
      ? [quote(`SLIPWAY_SPOOL=${spec.runDir}`), `PATH=${quote(posix.join(spec.runDir, 'bin'))}:"$PATH"`]
      : [];
    const script = quote(posix.join(spec.runDir, 'script'));
    const launch = `[ $# -gt 0 ] || set -- ${script}\nexec env ${[...env, ...spool].join(' ')} "$@"\n`;
    await this.call('create', spec.name, { input: Buffer.from(launch) });
    return spec.name;
  }

  checkOut(name: string, checkout: Checkout, signal: AbortSignal): Promise<string> {
    const repo = posix.join(this.dirOf(name), 'repo');
    const { localRepositories: local } = this.options;
    return checkOut(this.shell, { mirrors: posix.join(this.root, 'mirrors'), repo, checkout, signal, local });
  }

  /** Has the folder of a run remember the token. @throws EngineError `fenced`: it has seen a newer one */
  async fence(name: string): Promise<void> {
    await this.call('fence', name);
  }

  async start(name: string): Promise<void> {
    await this.call('start', name);
  }

  async find(name: string): Promise<FoundContainer | undefined> {
    const { created, started, state, now } = readState(await this.call('find', name));
    if (state === 'absent') return undefined;
    const aheadMs = aheadBy(new Date(now * 1000));
    const here = (seconds: number): Date => new Date(seconds * 1000 - aheadMs);
    return {
      name,
      id: name,
      state: state === 'lost' ? 'exited' : state,
      createdAt: here(created),
      startedAt: started === undefined ? null : here(started),
      beginning: null,
      imageId: null,
      hasMemoryLimit: false,
      logFile: null,
      pipesDir: null,
    };
  }

  async *follow({ name }: FoundContainer, { fromByte, signal }: FollowOptions): AsyncGenerator<Buffer> {
    let at = fromByte;
    const what = `cannot read the log of ${name}`;
    const log = this.lasting(['follow', name], { args: () => [String(at)], read: asItIs, what, signal, isOwn: true });
    for await (const bytes of log) {
      at += bytes.length;
      yield bytes;
    }
  }

  async wait({ name }: FoundContainer, { signal }: WaitOptions): Promise<ContainerExit> {
    return this.patiently(async () => {
      const opened = await this.open(['wait', name], { signal, isOwn: true });
      const { state, exitCode, isUnbegun } = readState((await this.answerOf(opened)).toString());
      if (state === 'absent') throw new EngineError('no-such-container', `the folder of ${name} is gone`);
      const isLost = exitCode === undefined;
      const ended = { exitCode: exitCode ?? UNKNOWN_EXIT, outOfMemory: false, isUnbegun };
      return { ...ended, isUnwatched: isLost, isEndLost: false };
    }, signal);
  }

  async stop(name: string, graceMs: number): Promise<void> {
    await this.call('stop', name, { args: [String(Math.ceil(graceMs / 1000))] });
  }

  async *archivedFiles(name: string): AsyncGenerator<Archived> {
    let listing: Buffer;
    try {
      listing = await this.patiently(() => this.callForBytes('files', name));
    } catch (error) {
      if ((error as EngineError).reason !== 'no-such-container') throw error;
      return yield leftOut(Buffer.from('/'), NO_ARCHIVE);
    }
    for (const entry of readArchive(listing)) {
      yield entry.kind === 'file' ? { ...entry, open: () => this.read(name, entry) } : entry;
    }
  }

  /** @throws EngineError when it is not what it was */
  private async *read(name: string, { path, sizeBytes }: { path: string; sizeBytes: number }): AsyncGenerator<Buffer> {
    const hash = createHash('sha256');
    const from = { folder: 'archive', path, at: 0, opens: 0 };
    for await (const piece of this.readOn(name, from)) {
      hash.update(piece);
      yield piece;
    }
    if (from.at !== sizeBytes) throw new EngineError('refused', `${path} changed while it was read`);
    // SSH itself vouches for what came in one go.
    if (from.opens === 1) return;
    const digest = await this.patiently(() => this.call('digest', name, { args: [path] }));
    if (digest.trim() !== hash.digest('hex')) {
      throw new EngineError('refused', `${path} is not what was read: its digest differs`);
    }
  }

  /** To the end of a file. @param from moves along */
  private async *readOn(
    name: string,
    from: { folder: string; path: string; at: number; opens: number },
  ): AsyncGenerator<Buffer> {
    const { folder, path } = from;
    const args = (): string[] => {
      from.opens += 1;
      return [folder, path, String(from.at)];
    };
    for await (const piece of this.lasting(['read', name], { args, read: asItIs, what: `cannot read ${path}` })) {
      from.at += piece.length;
      yield piece;
    }
  }

  async spooled(name: string): Promise<SpoolFile[]> {
    return readSpool(await this.call('spooled', name));
  }

  async *watchSpool(name: string, { until, signal }: WatchOptions): AsyncGenerator<SpoolFile[]> {
    const read = (output: AsyncIterable<Buffer>): AsyncIterable<string> => this.listings(output);
    const what = `cannot watch what passes to and from ${name}`;
    const listings = this.lasting(['watch', name], { args: () => [until ?? ''], read, what, signal });
    for await (const listing of listings) yield* listing === '' ? [] : [readSpool(listing)];
  }

  /** Texts that end with a NUL each. */
  private async *listings(output: AsyncIterable<Buffer>): AsyncGenerator<string> {
    let held = Buffer.alloc(0);
    for await (const bytes of output) {
      held = Buffer.concat([held, bytes]);
      for (let end = held.indexOf(0); end !== -1; end = held.indexOf(0)) {
        yield held.toString('utf8', 0, end);
        held = held.subarray(end + 1);
      }
      this.requireBounded(held.length);
    }
  }

  private requireBounded(bytes: number): void {
    if (bytes > MOST_ANSWER) throw new EngineError('refused', `${this.shell.name} answers without an end`);
  }

  take(name: string, file: string, fromByte: number): AsyncGenerator<Buffer> {
    return this.readOn(name, { folder: 'out', path: file, at: fromByte, opens: 0 });
  }

  async put(name: string, file: string, bytes: Uint8Array): Promise<number> {
    const digest = createHash('sha256').update(bytes).digest('hex');
    return Number(await this.call('put', name, { args: [file, digest], input: bytes }));
  }

  async discard(name: string, prefix: string): Promise<void> {
    await this.call('discard', name, { args: [prefix] });
  }

  async openTerminal(name: string, wish: TerminalWish): Promise<Terminal> {
    const { shell } = this.shell;
    const command = wish.command.length > 0 ? wish.command : ANY_SHELL;
    const rest = [this.root, shell, 'terminal', name, String(this.token), ...command];
    try {
      return await this.shell.openTerminal({ ...wish, command: [shell, '-c', BARE_PROGRAM, 'slipway', ...rest] });
    } catch (error) {
      throw this.translate(error);
    }
  }

  async remove(name: string): Promise<void> {
    await this.call('remove', name);
  }

  async listRemains(): Promise<string[]> {
    return (await this.call('remains', '-')).split('\n').filter((name) => name.startsWith('slipway-'));
  }

  /** What the machine is, and whether a program can be written and run there. @throws EngineError */
  async probe(): Promise<BareProbe> {
    return readProbe(await this.call('probe', '-'));
  }

  async prove(): Promise<void> {
    await this.probe();
  }

  private dirOf(name: string): string {
    return posix.join(this.root, name);
  }

  /** @returns what it said @throws EngineError */
  private async call(
    verb: string,
    name: string,
    options: { args?: string[]; input?: Uint8Array } = {},
  ): Promise<string> {
    return (await this.callForBytes(verb, name, options)).toString();
  }

  private async callForBytes(
    verb: string,
    name: string,
    options: { args?: string[]; input?: Uint8Array } = {},
  ): Promise<Buffer> {
    return this.answerOf(await this.open([verb, name], options));
  }

  private async answerOf(opened: Opened): Promise<Buffer> {
    const pieces: Buffer[] = [];
    let bytes = 0;
    try {
      for await (const piece of opened.output) {
        bytes += piece.length;
        this.requireBounded(bytes);
        pieces.push(piece);
      }
    } catch (error) {
      throw this.translate(error);
    }
    await this.require(opened.ended, `${this.shell.name} cannot do it`);
    return Buffer.concat(pieces);
  }

  /** @param options.isOwn it may take long: the text that lies in the folder of the run is executed */
  private async open(
    [verb, name]: [verb: string, name: string],
    { args = [], isOwn, ...options }: OpenOptions & { args?: string[]; isOwn?: boolean },
  ): Promise<Opened> {
    const { shell } = this.shell;
    const rest = [this.root, shell, verb, name, String(this.token), ...args];
    const program = isOwn ? [posix.join(this.dirOf(name), 'program')] : ['-c', BARE_PROGRAM, 'slipway'];
    try {
      return await this.shell.open([shell, ...program, ...rest], options);
    } catch (error) {
      throw this.translate(error);
    }
  }

  /** What a verb says until it ends; begun anew, as `args` has it then, when the machine was lost meanwhile. */
  private async *lasting<T>(
    verb: [verb: string, name: string],
    { args, read, what, signal, isOwn }: Lasting<T>,
  ): AsyncGenerator<T> {
    for (let awaySince: number | undefined; ;) {
      try {
        const { output, ended } = await this.open(verb, { args: args(), signal, isOwn });
        for await (const one of read(output)) {
          awaySince = undefined;
          yield one;
        }
        return await this.require(ended, what);
      } catch (error) {
        awaySince = await this.rest(error, awaySince, signal ?? NEVER);
      }
    }
  }

  private async require(ended: Opened['ended'], what: string): Promise<void> {
    const { code, errors } = await ended.catch((error: unknown) => {
      throw this.translate(error);
    });
    if (code === 0) return;
    const said = errors.trim().split('\n').at(-1) ?? '';
    throw new EngineError(reasonOf(code, errors), said === '' ? `${what}: exit code ${code}` : `${what}: ${said}`);
  }

  private translate(error: unknown): EngineError {
    if (error instanceof EngineError) return error;
    return new EngineError('engine-unavailable', (error as Error).message, { cause: error });
  }

  private async patiently<T>(call: () => Promise<T>, signal = NEVER): Promise<T> {
    for (let awaySince: number | undefined; ;) {
      try {
        return await call();
      } catch (error) {
        awaySince = await this.rest(error, awaySince, signal);
      }
    }
  }

  /** Waits for a machine that was lost. @returns since when it is @throws what cannot be waited for, and when it took too long */
  private async rest(error: unknown, awaySince: number | undefined, signal: AbortSignal): Promise<number> {
    signal.throwIfAborted();
    const since = awaySince ?? performance.now();
    const translated = this.translate(error);
    const isAway = translated.reason === 'engine-unavailable';
    if (!isAway || performance.now() - since > AWAY_LIMIT_MS) throw translated;
    await sleep(RETRY_MS, undefined, { signal });
    return since;
  }
}
