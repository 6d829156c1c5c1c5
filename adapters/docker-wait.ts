// Owns waiting for the end of a container, over restarts of its engine and of this process, and what an engine that was
// away did not read: that is put beside the container's files, where docker-log.ts finds it.
// Called by docker-engine.ts.
import { existsSync } from 'node:fs';
import { open, rename } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import type Dockerode from 'dockerode';
import { EngineError, UNKNOWN_EXIT, type ContainerExit, type FoundContainer, type WaitOptions } from './engine';
import { inspectContainer, statusOf } from './docker-client';
import { remembersSince, toldExitCode } from './engine-life';
import { HeldOutput } from './held-output';

const RETRY_MS = 500;
/** Exit code of a process that was ended by SIGKILL. */
const KILLED = 137;
/** In which a restarted engine finds out what became of its containers; a script that says 255 itself may do so later, ms. */
const RESTORE_MS = 30_000;
/** How far apart a container is asked how it ended, and how often it is when an answer may still change, ms. */
const LOOK_MS = 200;
const LOOKS = 6;

export interface WaiterPlaces {
  /** Until when an earlier life of this process was there. */
  lastAliveAt: Date;
  /** Where the output of a container goes that its engine did not read. */
  unreadFile(name: string): string;
}

/** Its name is ours; its engine may know it by another one meanwhile, but keeps its id. */
type Named = Pick<FoundContainer, 'name' | 'id' | 'hasMemoryLimit'>;

/** Since when nobody watched a container; undefined: it is watched. */
interface Missed {
  since: Date | undefined;
  /** When the engine was restarted: since when it has been running for sure. */
  restartedAt?: Date;
}

export class DockerWaiter {
  /** Started by this process, and not waited for yet. */
  private readonly fresh = new Set<string>();
  private readonly held = new Map<string, HeldOutput>();
  /** Until when a container was watched by this process. */
  private readonly watchedUntil = new Map<string, Date>();

  constructor(
    private readonly docker: Dockerode,
    private readonly places: WaiterPlaces,
  ) {}

  started(name: string): void {
    this.fresh.add(name);
  }

  /** The container is gone. */
  forget(name: string): void {
    this.fresh.delete(name);
    this.held.get(name)?.close();
    this.held.delete(name);
    this.watchedUntil.delete(name);
  }

  async wait(container: FoundContainer, options: WaitOptions): Promise<ContainerExit> {
    const { name } = container;
    const missed: Missed = { since: this.fresh.delete(name) ? undefined : this.lastWatch(container) };
    this.hold(container);
    try {
      for (;;) {
        options.signal.throwIfAborted();
        const exit = await this.watch(container, missed, options).catch((error: unknown) => {
          missed.since ??= new Date();
          throwIfHopeless(name, error, options.signal);
        });
        if (exit) return exit;
        await sleep(RETRY_MS, undefined, { signal: options.signal });
      }
    } finally {
      this.watchedUntil.set(name, missed.since ?? new Date());
    }
  }

  /** @returns undefined when the engine says that it ended, and that it runs @throws whatever breaks the connection */
  private async watch(container: Named, missed: Missed, options: WaitOptions): Promise<ContainerExit | undefined> {
    const ended = missed.since && (await this.catchUp(container, missed.since, options));
    if (ended?.exit) return ended.exit;
    missed.restartedAt = ended?.restartedAt ?? missed.restartedAt;
    missed.since = undefined;
    const exitCode = await this.exitCodeOf(container.name, options.signal).catch((error: unknown) => {
      if (statusOf(error) !== 404) throw error;
      return this.exitCodeOf(container.id, options.signal);
    });
    const isPlain = exitCode === 0 && !container.hasMemoryLimit;
    const exit = isPlain ? { exitCode, outOfMemory: false } : await this.detailsOf(container.id, exitCode);
    return exit && { ...exit, isUnwatched: isUnknown(exit, new Date(), missed.restartedAt), isEndLost: false };
  }

  /** The container itself says whether the kernel killed a process of it; the engine may hear of that after the end. */
  private async detailsOf(id: string, exitCode: number): Promise<ReturnType<typeof exitOf>> {
    const mostLooks = exitCode === KILLED ? LOOKS : exitCode === 0 ? 1 : 2;
    for (let looks = 1; ; looks += 1) {
      const found = await this.inspect(id);
      const exit = exitOf(found);
      if (!exit) return undefined;
      await this.requireItsOwn(found);
      const isOver = exit.exitCode !== UNKNOWN_EXIT && (!found.HostConfig.Memory || exit.outOfMemory);
      if (isOver || looks === mostLooks) return exit;
      await sleep(LOOK_MS);
    }
  }

  /**
   * A container that somebody removes is killed first. One whose shim was killed ends with two codes: the engine tells of
   * the end with its word for unknown, and notes that of a KILL. @throws EngineError `no-such-container`
   */
  private async requireItsOwn({ Id: id, Name: name, State: state }: Dockerode.ContainerInspectInfo): Promise<void> {
    const lost = (why: string): EngineError =>
      new EngineError('no-such-container', `container ${name.slice(1)} ${why}`);
    if (state.ExitCode !== KILLED) return;
    if (['removing', 'dead'].includes(state.Status)) throw lost('was removed by somebody while it ran');
    const told = await toldExitCode(this.docker, id);
    if (told === UNKNOWN_EXIT) throw lost('was ended from outside: its shim is gone');
  }

  private lastWatch({ name, startedAt }: FoundContainer): Date {
    const { lastAliveAt } = this.places;
    return this.watchedUntil.get(name) ?? (startedAt && startedAt > lastAliveAt ? startedAt : lastAliveAt);
  }

  isHeld(name: string): boolean {
    return this.held.has(name);
  }

  /** Lets go of all others: somebody else has removed them. */
  holdOnly(names: readonly string[]): void {
    for (const name of this.held.keys()) if (!names.includes(name)) this.forget(name);
  }

  /** Keeps what a running container writes from being lost with its engine. */
  hold({ name, state, pipesDir }: FoundContainer): void {
    if (state !== 'running' || pipesDir === null || this.held.has(name)) return;
    const held = HeldOutput.open(pipesDir);
    if (held) this.held.set(name, held);
  }

  /**
   * What happened while nobody watched. An engine that was restarted has lost what it had read and not yet stored, and
   * drains no output of a container that it finds ended.
   * @returns how the container ended, if it did, and when the engine was restarted, if it was
   */
  private async catchUp(
    { name, id }: Named,
    since: Date,
    options: WaitOptions,
  ): Promise<{ exit?: ContainerExit; restartedAt?: Date }> {
    const found = await this.inspect(id);
    const remembers = await remembersSince(this.docker, options.signal);
    const isRestarted = remembers > since;
    const exit = exitOf(found);
    if (exit) await this.requireItsOwn(found);
    const endedAt = new Date(found.State.FinishedAt);
    const isUnwatched =
      exit !== undefined && isRestarted && (remembers > endedAt || isUnknown(exit, endedAt, remembers));
    const isEndLost = isUnwatched && !(await this.saveUnread(name));
    if (isRestarted && !isEndLost) options.onRestart();
    return { exit: exit && { ...exit, isUnwatched, isEndLost }, restartedAt: isRestarted ? remembers : undefined };
  }

  /** @returns false when there was output, or may have been, that nobody holds */
  private async saveUnread(name: string): Promise<boolean> {
    const file = this.places.unreadFile(name);
    if (existsSync(file)) return true;
    const unread = await this.held.get(name)?.take();
    if (!unread) return false;
    const aside = await open(`${file}.new`, 'w', 0o600);
    try {
      await aside.writeFile(unread.bytes);
      await aside.sync();
    } finally {
      await aside.close();
    }
    await rename(`${file}.new`, file);
    return unread.isWhole;
  }

  private inspect(id: string): Promise<Dockerode.ContainerInspectInfo> {
    return inspectContainer(this.docker, id);
  }

  /**
   * As a stream, because dockerode's own call never returns when the engine dies after it sent its headers, and it sends
   * them at once. @throws whatever breaks the connection
   */
  private async exitCodeOf(container: string, signal: AbortSignal): Promise<number> {
    const answer = await new Promise<Readable>((done, fail) => {
      const call = {
        path: `/containers/${container}/wait?`,
        method: 'POST',
        isStream: true,
        abortSignal: signal,
        statusCodes: { 200: true, 404: 'no such container', 500: 'server error' },
      };
      this.docker.modem.dial(call, (error, stream) => (error ? fail(error) : done(stream as Readable)));
    });
    const { StatusCode: exitCode } = JSON.parse(await text(answer)) as { StatusCode: number };
    return exitCode;
  }
}

/** Several that ended while the engine was away are noted one after the other: the last of them after its first event. */
function isUnknown({ exitCode }: { exitCode: number }, endedAt: Date, restartedAt: Date | undefined): boolean {
  return (
    exitCode === UNKNOWN_EXIT && restartedAt !== undefined && endedAt.getTime() - restartedAt.getTime() < RESTORE_MS
  );
}

function throwIfHopeless(name: string, error: unknown, signal: AbortSignal): void {
  signal.throwIfAborted();
  if (error instanceof EngineError) throw error;
  if (statusOf(error) !== 404) return;
  throw new EngineError('no-such-container', `container ${name} is gone from the engine`, { cause: error });
}

function exitOf({
  State: state,
}: Dockerode.ContainerInspectInfo): { exitCode: number; outOfMemory: boolean } | undefined {
  return state.Running ? undefined : { exitCode: state.ExitCode, outOfMemory: state.OOMKilled };
}
