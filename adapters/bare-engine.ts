// Owns the engine of machines without containers: runs are processes under a folder each, kept by bare-program.ts.
// Made by workers/engines.ts, for the worker's own machine and for hosts over SSH; handed to the activities as an Engine.
import { createHash } from 'node:crypto';
import { posix } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { MachineFacts } from '../domain/schemas/hosts';
import type { Checkout } from '../domain/schemas/plan';
import { BARE_CODES, BARE_PROGRAM } from './bare-program';
import { EngineError } from './engine';
import type {
  ArchivedFile,
  ContainerExit,
  ContainerSpec,
  Engine,
  EngineErrorReason,
  FollowOptions,
  FoundContainer,
  SpoolFile,
  Terminal,
  TerminalWish,
  WaitOptions,
} from './engine';
import { quote, type Opened, type OpenOptions, type Shell } from './shell';
import { ANY_SHELL } from './terminal';
import { checkOut } from './working-copies';

/** A machine that is not reached for longer is given up, ms. */
const AWAY_LIMIT_MS = 120_000;
const RETRY_MS = 1_000;
/** Of an answer that is read whole, bytes. */
const MOST_ANSWER = 16 * 1024 * 1024;
/** What the container engine says of one whose end nobody saw. */
const UNKNOWN_EXIT = 255;

const NEVER = new AbortController().signal;

export interface BareProbe {
  machine: MachineFacts;
  freeDiskBytes: number;
}

export class BareEngine implements Engine {
  /** @param root folder of the runs on the machine @param token of the one lease that calls; 0: nobody holds the runs */
  constructor(
    private readonly shell: Shell,
    private readonly root: string,
    private readonly token = 0,
  ) {}

  under(token: number): BareEngine {
    return new BareEngine(this.shell, this.root, token);
  }

  async pull(): Promise<void> {
    throw new EngineError('refused', 'there are no images on a host without containers');
  }

  async digestOf(imageId: string): Promise<string> {
    return imageId;
  }

  async makeRunDir(name: string, script: string, program = ''): Promise<string> {
    await this.call('prepare', name, { args: [BARE_PROGRAM, program], input: Buffer.from(script) });
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
    const words = [...env, ...spool, quote(posix.join(spec.runDir, 'script'))];
    const script = words.pop();
    const launch = `[ $# -gt 0 ] || set -- ${script}\nexec env ${words.join(' ')} "$@"\n`;
    await this.call('create', spec.name, { input: Buffer.from(launch) });
    return spec.name;
  }

  checkOut(name: string, checkout: Checkout, signal: AbortSignal): Promise<string> {
    const repo = posix.join(this.dirOf(name), 'repo');
    return checkOut(this.shell, { mirrors: posix.join(this.root, 'mirrors'), repo, checkout, signal });
  }

  /** Has the folder of a run remember the token. @throws EngineError `fenced`: it has seen a newer one */
  async fence(name: string): Promise<void> {
    await this.call('fence', name);
  }

  async start(name: string): Promise<void> {
    await this.call('start', name);
  }

  async find(name: string): Promise<FoundContainer | undefined> {
    const { created, started, state } = readState(await this.call('find', name));
    if (state === 'absent') return undefined;
    return {
      name,
      id: name,
      state: state === 'lost' ? 'exited' : state,
      createdAt: new Date(created * 1000),
      startedAt: started === undefined ? null : new Date(started * 1000),
      imageId: null,
      logFile: null,
      pipesDir: null,
    };
  }

  async *follow({ name }: FoundContainer, { fromByte, signal }: FollowOptions): AsyncGenerator<Buffer> {
    let at = fromByte;
    for (let awaySince: number | undefined; ;) {
      try {
        const { output, ended } = await this.open(['follow', name], { args: [String(at)], signal, isOwn: true });
        for await (const bytes of output) {
          at += bytes.length;
          awaySince = undefined;
          yield bytes;
        }
        await ended;
        return;
      } catch (error) {
        awaySince = await this.rest(error, awaySince, signal);
      }
    }
  }

  async wait({ name }: FoundContainer, { signal }: WaitOptions): Promise<ContainerExit> {
    for (let awaySince: number | undefined; ;) {
      try {
        const opened = await this.open(['wait', name], { signal, isOwn: true });
        const { state, exitCode } = readState(await this.answerOf(opened));
        if (state === 'absent') throw new EngineError('no-such-container', `the folder of ${name} is gone`);
        const isLost = exitCode === undefined;
        return { exitCode: exitCode ?? UNKNOWN_EXIT, outOfMemory: false, isUnwatched: isLost, isEndLost: false };
      } catch (error) {
        awaySince = await this.rest(error, awaySince, signal);
      }
    }
  }

  async stop(name: string, graceMs: number): Promise<void> {
    await this.call('stop', name, { args: [String(Math.ceil(graceMs / 1000))] });
  }

  async *archivedFiles(name: string): AsyncGenerator<ArchivedFile> {
    const listed = await this.call('files', name);
    const entries = listed.split('\0').flatMap((entry) => {
      const [, size, path] = /^ *(\d+) \.\/(.+)$/s.exec(entry) ?? [];
      return path === undefined ? [] : [{ path, sizeBytes: Number(size) }];
    });
    entries.sort((a, b) => (a.path < b.path ? -1 : 1));
    for (const entry of entries) yield { ...entry, open: () => this.read(name, entry) };
  }

  /** Goes on where it was when the machine was lost meanwhile. @throws EngineError when it is not what it was */
  private async *read(name: string, { path, sizeBytes }: { path: string; sizeBytes: number }): AsyncGenerator<Buffer> {
    const hash = createHash('sha256');
    let at = 0;
    let isPieced = false;
    for (let awaySince: number | undefined; ;) {
      try {
        const opened = await this.open(['read', name], { args: [path, String(at)] });
        for await (const piece of opened.output) {
          at += piece.length;
          awaySince = undefined;
          hash.update(piece);
          yield piece;
        }
        await this.require(opened.ended, `cannot read ${path}`);
        break;
      } catch (error) {
        isPieced = true;
        awaySince = await this.rest(error, awaySince, NEVER);
      }
    }
    if (at !== sizeBytes) throw new EngineError('refused', `${path} changed while it was read`);
    // SSH itself vouches for what came in one go.
    if (isPieced && (await this.call('digest', name, { args: [path] })).trim() !== hash.digest('hex')) {
      throw new EngineError('refused', `${path} is not what was read: its digest differs`);
    }
  }

  async spooled(name: string): Promise<SpoolFile[]> {
    return (await this.call('spooled', name)).split('\n').flatMap((line) => {
      // Mode, links, owner, group, size, three words of time: of plain files alone.
      const [, side, size, file] = /^(in|out) -\S+ +\d+ +\S+ +\S+ +(\d+) +\S+ +\S+ +\S+ (.+)$/.exec(line) ?? [];
      if (file === undefined || file.endsWith('.new')) return [];
      return [{ side: side as SpoolFile['side'], name: file, sizeBytes: Number(size) }];
    });
  }

  async *take(name: string, file: string, fromByte: number): AsyncGenerator<Buffer> {
    const { output, ended } = await this.open(['take', name], { args: [file, String(fromByte)] });
    yield* output;
    await this.require(ended, `cannot read ${file}`);
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
    const [system = '', processor = '', cpus = '', memoryKib = '', freeKib = ''] = (
      await this.call('probe', '-')
    ).split('\n');
    const positive = (number: number): number | null => (number > 0 ? number : null);
    return {
      machine: {
        os: osOf(system),
        arch: archOf(processor),
        cpus: positive(Number(cpus)),
        memoryBytes: positive(Number(memoryKib) * 1024),
      },
      freeDiskBytes: Number(freeKib) * 1024,
    };
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
    return this.answerOf(await this.open([verb, name], options));
  }

  private async answerOf(opened: Opened): Promise<string> {
    const pieces: Buffer[] = [];
    let bytes = 0;
    try {
      for await (const piece of opened.output) {
        bytes += piece.length;
        if (bytes > MOST_ANSWER) throw new EngineError('refused', `${this.shell.name} answers without an end`);
        pieces.push(piece);
      }
    } catch (error) {
      throw this.translate(error);
    }
    await this.require(opened.ended, `${this.shell.name} cannot do it`);
    return Buffer.concat(pieces).toString();
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

interface BareState {
  state: 'absent' | 'created' | 'running' | 'exited' | 'lost';
  /** s since 1970 */
  created: number;
  started: number | undefined;
  exitCode: number | undefined;
}

function readState(answer: string): BareState {
  const [state = '', created, started, exitCode] = answer.trim().split(' ');
  if (!['absent', 'created', 'running', 'exited', 'lost'].includes(state)) {
    throw new EngineError('refused', `the program of the run said ${JSON.stringify(answer.slice(0, 200))}`);
  }
  const number = (text: string | undefined): number | undefined => (text === undefined ? undefined : Number(text));
  return {
    state: state as BareState['state'],
    created: Number(created),
    started: number(started),
    exitCode: number(exitCode),
  };
}

function reasonOf(code: number, errors: string): EngineErrorReason {
  if (code === BARE_CODES.gone) return 'no-such-container';
  if (code === BARE_CODES.fenced) return 'fenced';
  if (/no space left on device|disk quota exceeded/i.test(errors)) return 'disk-full';
  // Not by the program: the shell, or the folder of the runs, is not as it should be.
  return [1, 126, 127].includes(code) ? 'engine-unavailable' : 'refused';
}

function osOf(system: string): string | null {
  if (/^(?:MINGW|MSYS|CYGWIN)/.test(system)) return 'windows';
  return system === '' ? null : system.toLowerCase();
}

const ARCHITECTURES: ReadonlyMap<string, string> = new Map([
  ['x86_64', 'amd64'],
  ['x64', 'amd64'],
  ['aarch64', 'arm64'],
  ['i686', '386'],
  ['ia32', '386'],
]);

/** In Docker's words. */
export function archOf(processor: string): string | null {
  return processor === '' ? null : (ARCHITECTURES.get(processor) ?? processor);
}
