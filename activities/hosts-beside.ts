// Owns the hosts that a run has beside its own, from the first script there to the last file: what its script asks of them
// is carried over and the answers back, through the spools on both sides. Whatever is known lies on the hosts, so that a
// supervisor that comes after a killed one goes on in the middle of a file. Called by supervise.ts and job.ts.
import { setMaxListeners } from 'node:events';
import { containerName } from '../domain/names';
import type { AttemptKey } from '../domain/schemas/worker-api';
import type { Engine, EngineError, EngineErrorReason, SpoolFile } from '../adapters/engine';
import type { AttemptApi } from '../adapters/worker-api';

/** A piece of a file on its way, bytes. */
const PIECE_BYTES = 4 * 1024 * 1024;

/** A host as its run calls it. Its engines refuse whoever comes with an older token. */
export interface HostBeside {
  name: string;
  /** As its cluster calls it. */
  host: string;
  /** Where it is reached by others; null: that cannot be told. */
  address: string | null;
  engine: Engine;
  /** The same without patience. */
  direct: Engine;
}

/** What went wrong on a host beside that of its run. `message` names it. */
export class HostBesideError extends Error {
  override readonly name = 'HostBesideError';
  constructor(
    readonly reason: EngineErrorReason,
    message: string,
  ) {
    super(message);
  }
}

const isEngineError = (error: unknown): error is EngineError => (error as Error).name === 'EngineError';

/** Another holder is no fault of the host. */
const isFaultOfHost = (error: unknown): error is EngineError => isEngineError(error) && error.reason !== 'fenced';

function asBesideError(error: unknown, { name, host }: HostBeside): unknown {
  if (!isFaultOfHost(error)) return error;
  return new HostBesideError(error.reason, `host ${name} (${host}): ${error.message}`);
}

/** Variables by which a script knows its other hosts. */
export function besideEnv(hosts: readonly HostBeside[]): Record<string, string> {
  if (hosts.length === 0) return {};
  const addresses = hosts.flatMap(({ name, address }) =>
    address === null ? [] : [[`H_ADDRESS_${name.toUpperCase().replaceAll('-', '_')}`, address]],
  );
  return { H_HOSTS: hosts.map(({ name }) => name).join(' '), ...(Object.fromEntries(addresses) as object) };
}

/**
 * Removes what is there of an attempt and gives the hosts back. One that is not reached is left to the sweep of its worker.
 * @throws whatever says that somebody else is the holder
 */
export async function giveBack(
  hosts: readonly HostBeside[],
  { runId, attempt }: AttemptKey,
  api: Pick<AttemptApi, 'release'>,
): Promise<void> {
  await Promise.all(
    hosts.map(async ({ name, direct }) => {
      try {
        await direct.remove(containerName(runId, attempt, name));
      } catch (error) {
        if (isFaultOfHost(error)) return;
        throw error;
      }
      await api.release(name);
    }),
  );
}

interface Ask {
  id: string;
  host: string;
  kind: 'ask' | 'release';
  sizeBytes: number;
}

/** Of what a script asks for: a command and its arguments, bytes. */
const MOST_ASK = 4 * 1024 * 1024;

export class HostsBeside {
  private readonly hosts: Map<string, HostBeside>;
  /** Being given back. */
  private readonly leaving = new Set<string>();

  constructor(
    hosts: readonly HostBeside[],
    private readonly at: AttemptKey & { detach: AbortSignal },
    private readonly api: Pick<AttemptApi, 'release'>,
  ) {
    this.hosts = new Map(hosts.map((host) => [host.name, host]));
  }

  private nameOn({ name }: HostBeside): string {
    return containerName(this.at.runId, this.at.attempt, name);
  }

  /** Has the program that serves the script run on every host. @param make creates a container there @throws HostBesideError */
  async begin(make: (host: HostBeside, name: string) => Promise<unknown>, given: AbortSignal): Promise<void> {
    await this.each(async (host) => {
      const found = await host.engine.find(this.nameOn(host));
      if (found?.state === 'exited') throw this.lost(host);
      if (!found) await make(host, this.nameOn(host));
      given.throwIfAborted();
      await host.engine.start(this.nameOn(host));
    });
  }

  /** Waits for all of them, whatever went wrong with one: nothing is made behind the back of a cleanup. */
  private async each(body: (host: HostBeside) => Promise<void>): Promise<void> {
    const hosts = [...this.hosts.values()];
    const ends = await Promise.allSettled(hosts.map(body));
    ends.forEach((end, at) => {
      if (end.status === 'rejected') throw asBesideError(end.reason, hosts[at]!);
    });
  }

  private lost({ name, host }: HostBeside): HostBesideError {
    return new HostBesideError('no-such-container', `host ${name} (${host}): what served the run there is gone`);
  }

  /**
   * Does what the script asks for, until told that it is over. @param own the run's own container
   * @throws HostBesideError when a host is lost
   */
  async serve(own: Side, over: AbortSignal): Promise<void> {
    const failing = new AbortController();
    const fail = (error: unknown): void => failing.abort(error);
    const signal = AbortSignal.any([over, this.at.detach, failing.signal]);
    // As many wait as the script has asks under way.
    setMaxListeners(0, signal);
    await this.readLeaving(own).catch(fail);
    for (const host of this.hosts.values()) this.watch(host, signal).catch(fail);
    await this.relay(own, signal, fail).catch(fail);
    if (failing.signal.aborted && !over.aborted && !this.at.detach.aborted) throw failing.signal.reason;
  }

  /** Those that an earlier supervisor was giving back when it was ended: they may be gone. */
  private async readLeaving(own: Side): Promise<void> {
    const files = await list(own);
    for (const { kind, host } of readAsks(files)) if (kind === 'release') this.leaving.add(host);
  }

  private async relay(own: Side, signal: AbortSignal, fail: (error: unknown) => void): Promise<void> {
    const open = new Map<string, { work: Promise<void>; answered: AbortController; isStopped?: true }>();
    for await (const files of own.engine.watchSpool(own.name, { signal })) {
      const asks = new Map(readAsks(files).map((ask) => [ask.id, ask]));
      for (const [id, ask] of asks) {
        if (open.has(id)) continue;
        const answered = new AbortController();
        const both = AbortSignal.any([signal, answered.signal]);
        open.set(id, { work: this.answer(own, ask, both).catch(fail), answered });
      }
      for (const ask of readStopped(files, asks)) {
        const entry = open.get(ask.id);
        if (!entry || entry.isStopped) continue;
        entry.isStopped = true;
        this.stop(ask).catch(fail);
      }
      // Also by a supervisor that was believed dead.
      for (const [id, { answered }] of open) if (!asks.has(id)) answered.abort();
      for (const id of readDone(files)) {
        await open.get(id)?.work;
        await own.engine.discard(own.name, `${id}.`);
        open.delete(id);
      }
    }
  }

  /** @throws HostBesideError when it ends before it is given back */
  private async watch(host: HostBeside, signal: AbortSignal): Promise<void> {
    const isOver = (): boolean => signal.aborted || this.leaving.has(host.name);
    try {
      const found = await host.engine.find(this.nameOn(host));
      if (found) await host.engine.wait(found, { signal, onRestart: () => undefined });
    } catch (error) {
      if (!isOver()) throw asBesideError(error, host);
    }
    if (!isOver()) throw this.lost(host);
  }

  /** Of one that is lost its watch tells. */
  private async stop({ id, host: name }: Ask): Promise<void> {
    const host = this.hosts.get(name);
    await host?.engine.put(this.nameOn(host), `${id}.stop`, new Uint8Array()).catch((error: unknown) => {
      if (!isFaultOfHost(error)) throw error;
    });
  }

  private async answer(own: Side, ask: Ask, signal: AbortSignal): Promise<void> {
    const host = this.hosts.get(ask.host);
    if (!host) return refuse(own, ask, `host ${ask.host} was given back already`);
    if (ask.sizeBytes > MOST_ASK) return refuse(own, ask, 'the command is longer than 4 MiB');
    if (ask.kind === 'release') {
      this.leaving.add(host.name);
      await giveBack([host], this.at, this.api);
      this.hosts.delete(host.name);
      await own.engine.put(own.name, `${ask.id}.exit`, Buffer.from('0\n'));
      return;
    }
    const there: Side = { engine: host.engine, name: this.nameOn(host) };
    try {
      if (!(await carry(own, there, { ...ask, signal }))) throw this.lost(host);
    } catch (error) {
      const isOpen = readAsks(await list(own)).some(({ id }) => id === ask.id);
      if (!isOpen) return there.engine.discard(there.name, `${ask.id}.`);
      if (!this.leaving.has(host.name)) throw asBesideError(error, host);
      await refuse(own, ask, `host ${ask.host} was given back meanwhile`);
    }
  }
}

/** An engine, and the name of a container there. */
export interface Side {
  engine: Engine;
  name: string;
}

/** Not those that were answered: their end is there. */
function readAsks(files: readonly SpoolFile[]): Ask[] {
  const ended = new Set(
    files.filter(({ side, name }) => side === 'in' && name.endsWith('.exit')).map((file) => file.name),
  );
  return files.flatMap(({ side, name, sizeBytes }) => {
    const [, id, host, kind] = /^(\d+(?:-\d+)?)\.([a-z][a-z0-9-]*)\.(ask|release)$/.exec(name) ?? [];
    if (side !== 'out' || id === undefined || host === undefined || ended.has(`${id}.exit`)) return [];
    return [{ id, host, kind: kind as Ask['kind'], sizeBytes }];
  });
}

/** Those of them that are to end: whoever waited for them was told to. */
function readStopped(files: readonly SpoolFile[], asks: ReadonlyMap<string, Ask>): Ask[] {
  return files.flatMap(({ side, name }) => {
    const ask = side === 'out' && name.endsWith('.stop') ? asks.get(name.slice(0, -'.stop'.length)) : undefined;
    return ask?.kind === 'ask' ? [ask] : [];
  });
}

function readDone(files: readonly SpoolFile[]): string[] {
  return files.flatMap(({ side, name }) => (side === 'out' ? (/^(\d+(?:-\d+)?)\.done$/.exec(name)?.[1] ?? []) : []));
}

async function refuse({ engine, name }: Side, { id, kind }: Ask, why: string): Promise<void> {
  if (kind === 'ask') await engine.put(name, `${id}.e.${padded(0)}`, Buffer.from(`slipway: ${why}\n`));
  await engine.put(name, `${id}.exit`, Buffer.from(kind === 'release' ? '0\n' : '2\n'));
}

/** Takes one ask over and its answer back; goes on wherever an earlier call of it was ended. @returns false when what serves it is gone */
async function carry(own: Side, there: Side, { id, host, signal }: Ask & { signal: AbortSignal }): Promise<boolean> {
  const tar = { file: `${id}.tar`, as: `${id}.p.` };
  await pass({ from: own, to: there, ...tar }, await list(own));
  const text = await readHead(own.engine.take(own.name, `${id}.${host}.ask`, 0), MOST_ASK);
  await there.engine.put(there.name, `${id}.ask`, text);
  const output = ['o', 'e'].map((stream): Passage => {
    return { from: there, to: own, file: `${id}.${stream}`, as: `${id}.${stream}.` };
  });
  let files: readonly SpoolFile[] = [];
  for await (files of there.engine.watchSpool(there.name, { until: `${id}.exit`, signal })) {
    for (const passage of output) await pass(passage, files);
  }
  if (sizeOf(files, `${id}.exit`) === 0) return false;
  await pass({ from: there, to: own, ...tar }, files);
  const exit = await readHead(there.engine.take(there.name, `${id}.exit`, 0), MOST_EXIT);
  await own.engine.put(own.name, `${id}.exit`, exit);
  await there.engine.discard(there.name, `${id}.`);
  return true;
}

const list = ({ engine, name }: Side): Promise<SpoolFile[]> => engine.spooled(name);

interface Passage {
  from: Side;
  to: Side;
  /** What the one side writes. */
  file: string;
  /** How the names of its pieces begin on the other. */
  as: string;
  /** Bytes that are there; absent: not known yet. */
  at?: number;
}

/** Takes over what is not there yet of a file, in pieces that are named by their first byte. @param files of the side that writes */
async function pass(passage: Passage, files: readonly SpoolFile[]): Promise<void> {
  const { from, to, file, as } = passage;
  const sizeBytes = sizeOf(files, file);
  while ((passage.at ?? 0) < sizeBytes) {
    passage.at ??= homeOf(await list(to), as);
    for await (const piece of inPieces(from.engine.take(from.name, file, passage.at))) {
      const there = await to.engine.put(to.name, `${as}${padded(passage.at)}`, piece);
      passage.at += piece.length;
      if (there === piece.length) continue;
      // A supervisor that was believed dead has put another piece there: go on behind that one.
      passage.at = undefined;
      break;
    }
  }
}

/** Of what a run wrote, bytes; 0: it is not there. */
const sizeOf = (files: readonly SpoolFile[], file: string): number =>
  files.find(({ side, name }) => side === 'out' && name === file)?.sizeBytes ?? 0;

/** Of all pieces of a file that were put there, bytes. */
const homeOf = (files: readonly SpoolFile[], as: string): number =>
  files.reduce((sum, one) => sum + (one.side === 'in' && one.name.startsWith(as) ? one.sizeBytes : 0), 0);

async function* inPieces(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let held: Buffer[] = [];
  let bytes = 0;
  for await (const piece of source) {
    held.push(piece);
    bytes += piece.length;
    if (bytes < PIECE_BYTES) continue;
    yield Buffer.concat(held);
    [held, bytes] = [[], 0];
  }
  if (bytes > 0) yield Buffer.concat(held);
}

/** Of an exit code with its line end, bytes. */
const MOST_EXIT = 8;

/** What a run writes is its own affair: no more of it than that is kept in mind. */
async function readHead(source: AsyncIterable<Buffer>, most: number): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of source) {
    pieces.push(piece);
    bytes += piece.length;
    if (bytes >= most) break;
  }
  return Buffer.concat(pieces).subarray(0, most);
}

/** As the program on the host counts. */
const padded = (byte: number): string => String(byte).padStart(15, '0');
