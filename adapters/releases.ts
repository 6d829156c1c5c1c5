// Owns the releases in a worker's folder: which one its process runs, which one is on trial, and which one it gave up.
// Called by workers/cluster.ts before anything else is loaded, and by workers/upgrader.ts.
//
//   installed --take--> trial --ready--> current --take--> trial ...
//                         '--three starts without it--> given up: what ran before runs again
//
// Every change is one rename, so a process that is killed at any point finds the old one or the new one.
import { execFile } from 'node:child_process';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';

/** What a process that runs a release is told by the installed program, which has chosen it. */
export interface RunningRelease {
  digest: string;
  /** It takes work: from now on it is the one to start. */
  ready(): void;
  /** Top folder of the installed program. */
  installation: string;
}

/** Of the process, not of a module: the installed program and the release that it loads have modules of their own. */
const SLOT = Symbol.for('slipway.release');
type Slots = Record<symbol, RunningRelease | undefined>;
export const runningRelease = (): RunningRelease | undefined => (globalThis as unknown as Slots)[SLOT];

const Entry = z.object({ id: z.string(), digest: z.string(), version: z.string() });
type Entry = z.infer<typeof Entry>;
const State = z.object({
  installed: z.string().describe('version of the installed program; another one there puts an end to all releases'),
  current: Entry.nullable(),
  trial: Entry.extend({ starts: z.number() }).nullable(),
  failed: z.object({ id: z.string(), reason: z.string() }).nullable(),
});
type State = z.infer<typeof State>;

/** A release on trial may be started so often without being ready: what ends a process is not always its fault. */
const MAX_STARTS = 3;
/** It is ready within this time, or is started again, ms. */
const READY_WITHIN_MS = 120_000;
const ENTRY = join('dist', 'workers', 'cluster.js');

/** A release cannot be run here, whatever is tried. */
export class ReleaseError extends Error {
  override readonly name = 'ReleaseError';
}

interface Installed {
  /** Its top folder, with package.json and node_modules. */
  dir: string;
  version: string;
}

export class Releases {
  /** @param dir folder of its own, made when the first release is taken */
  constructor(
    private readonly dir: string,
    private readonly installed: Installed,
  ) {}

  /**
   * Says what this process is to run, and counts the start of one on trial.
   * @returns the path of its entry; undefined: what is installed
   */
  choose(): string | undefined {
    const state = this.read();
    if (!state) return undefined;
    if (state.trial && state.trial.starts >= MAX_STARTS) {
      const reason = `${state.trial.version} was started ${MAX_STARTS} times and took no work; the worker's log says why`;
      state.failed = { id: state.trial.id, reason };
      state.trial = null;
      this.write(state);
    }
    if (state.trial) {
      state.trial.starts += 1;
      this.write(state);
    }
    const chosen = state.trial ?? state.current;
    if (!chosen || !existsSync(join(this.folderOf(chosen), ENTRY))) return undefined;
    this.tell(chosen, state.trial !== null);
    return join(this.folderOf(chosen), ENTRY);
  }

  private tell({ digest }: Entry, onTrial: boolean): void {
    const late = onTrial ? setTimeout(() => process.exit(1), READY_WITHIN_MS).unref() : undefined;
    const ready = (): void => {
      clearTimeout(late);
      this.settle(digest);
    };
    (globalThis as unknown as Slots)[SLOT] = { digest, ready, installation: this.installed.dir };
  }

  /** The one on trial has proved itself; nothing else but it and what is installed is kept. */
  private settle(digest: string): void {
    const state = this.read();
    if (!state || state.trial?.digest !== digest) return;
    const { id, version } = state.trial;
    state.current = { id, digest, version };
    state.trial = null;
    this.write(state);
    const kept = [FILE, nameOf(digest)];
    for (const name of readdirSync(this.dir).filter((name) => !kept.includes(name))) {
      rmSync(join(this.dir, name), { recursive: true, force: true });
    }
  }

  /** The pin that could not be taken. */
  get failed(): State['failed'] {
    return this.read()?.failed ?? null;
  }

  fail(id: string, reason: string): void {
    this.write({ ...this.readOrNew(), failed: { id, reason } });
  }

  /** Where an archive is put before it counts for anything. */
  archivePath(): string {
    mkdirSync(this.dir, { recursive: true, mode: 0o700 });
    return join(this.dir, 'archive.tgz');
  }

  /**
   * Unpacks an archive whose signature is known to be right, and puts it on trial from the next start on.
   * @throws ReleaseError when this worker could not run it
   */
  async take(archive: string, { id, digest, version }: Entry): Promise<void> {
    const folder = join(this.dir, nameOf(digest));
    const unpacked = `${folder}.new`;
    rmSync(unpacked, { recursive: true, force: true });
    mkdirSync(unpacked);
    await promisify(execFile)('tar', [
      '-xzf',
      archive,
      '-C',
      unpacked,
      '--strip-components=1',
      '--no-same-owner',
    ]).catch((error: unknown) => {
      throw new ReleaseError(
        `${version} cannot be unpacked: ${String((error as { stderr?: string }).stderr ?? error)}`,
      );
    });
    this.check(unpacked, version);
    rmSync(folder, { recursive: true, force: true });
    renameSync(unpacked, folder);
    rmSync(archive);
    this.write({ ...this.readOrNew(), trial: { id, digest, version, starts: 0 }, failed: null });
  }

  private check(unpacked: string, version: string): void {
    const found = readPackage(join(unpacked, 'package.json'));
    if (found?.version !== version) {
      throw new ReleaseError(`the archive holds version ${found?.version ?? 'none'}, and ${version} was signed`);
    }
    if (!existsSync(join(unpacked, ENTRY)))
      throw new ReleaseError(`${version} has no ${ENTRY}; build it before packing`);
    if (existsSync(join(unpacked, 'node_modules'))) return;
    const here = join(this.installed.dir, 'node_modules');
    for (const [name, wanted] of Object.entries(found.dependencies)) {
      const has = readPackage(join(here, name, 'package.json'))?.version;
      if (has === wanted) continue;
      throw new ReleaseError(
        `${version} needs ${name} ${wanted} and this worker has ${has ?? 'none'}; pack it together with its node_modules`,
      );
    }
    symlinkSync(here, join(unpacked, 'node_modules'));
  }

  private folderOf({ digest }: Entry): string {
    return join(this.dir, nameOf(digest));
  }

  private readOrNew(): State {
    return this.read() ?? { installed: this.installed.version, current: null, trial: null, failed: null };
  }

  /** What another installed version has left counts for nothing. */
  private read(): State | undefined {
    const path = join(this.dir, FILE);
    if (!existsSync(path)) return undefined;
    const state = State.safeParse(parse(path));
    return state.success && state.data.installed === this.installed.version ? state.data : undefined;
  }

  private write(state: State): void {
    mkdirSync(this.dir, { recursive: true, mode: 0o700 });
    const path = join(this.dir, FILE);
    const file = openSync(`${path}.new`, 'w');
    writeFileSync(file, JSON.stringify(state));
    fsyncSync(file);
    closeSync(file);
    renameSync(`${path}.new`, path);
  }
}

/** Those of this machine's worker, whichever of them this code is part of. @param workerDir folder of the worker's state */
export function installedReleases(workerDir: string): Releases {
  const dir = runningRelease()?.installation ?? join(__dirname, '..', '..');
  return new Releases(join(workerDir, 'releases'), {
    dir,
    version: readPackage(join(dir, 'package.json'))?.version ?? '',
  });
}

const FILE = 'state.json';
const nameOf = (digest: string): string => digest.replace(/\W/g, '-');

const Package = z.object({ version: z.string(), dependencies: z.record(z.string(), z.string()).default({}) });
const readPackage = (path: string): z.infer<typeof Package> | undefined => Package.safeParse(parse(path)).data;

function parse(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}
