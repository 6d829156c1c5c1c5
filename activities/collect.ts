// Owns the way home of what a run left in /archive: file by file, several at once, within limits of size, number and time.
// What cannot be stored is named and decides nothing. Called by supervise.ts, perhaps again by another supervisor.
import { createHash } from 'node:crypto';
import type { Archived, ArchivedFile } from '../adapters/engine';
import type { AttemptApi } from '../adapters/worker-api';
import type { NotStoredFiles } from '../domain/schemas/api';
import type { Collecting } from '../domain/schemas/worker-api';
import { whyTooMuch } from '../domain/artifact-limits';
import { isFenced, letGoIf, type Collected, type Orders } from './judge';
import { HoldableTimer, type Stopped } from './limits';
import { plainText } from '../domain/untrusted';

/** Uploads of one run at once: small files cost a round trip each. */
const AT_ONCE = 6;
/** Of the files that are not stored, so many are named; the others are counted. */
const MOST_NAMED = 50;
const NO_LIMITS: Collecting = { limits: { fileBytes: Infinity, bytes: Infinity, files: Infinity }, stored: [] };

interface CollectPorts {
  api: Pick<AttemptApi, 'collecting' | 'putArtifact'>;
  archived: AsyncIterable<Archived>;
}

/** @param at.stopped why its script was stopped, if it was @param at.leftMs of its time */
export async function collect(
  ports: CollectPorts,
  at: Orders & { stopped: Stopped; leftMs: number },
): Promise<Collected> {
  const collector = new Collector(ports, at);
  try {
    return await collector.run();
  } finally {
    collector.end();
  }
}

class Collector {
  private readonly named: NotStoredFiles['files'] = [];
  private count = 0;
  private readonly used = { bytes: 0, files: 0 };
  private stored = 0;
  private refused = 0;
  /** It was ended before everything was looked at or stored. */
  private isCut = false;
  private broken: { error: unknown } | undefined;
  private readonly late = new AbortController();
  private readonly fault = new AbortController();
  private readonly timer: HoldableTimer;
  private readonly signal: AbortSignal;
  private known: Promise<Collecting> | undefined;

  constructor(
    private readonly ports: CollectPorts,
    private readonly at: Orders & { stopped: Stopped; leftMs: number },
  ) {
    this.timer = new HoldableTimer(at.leftMs, () => this.late.abort());
    const signals = [at.detach, this.late.signal, this.fault.signal];
    // A cancel that stopped the script already says nothing about its artifacts; a later one does.
    this.signal = AbortSignal.any(at.stopped === 'cancel-requested' ? signals : [...signals, at.cancel]);
  }

  end(): void {
    this.timer.clear();
  }

  async run(): Promise<Collected> {
    const underWay = new Set<Promise<void>>();
    try {
      for await (const entry of this.whileInTime()) {
        const { limits } = await this.begin();
        const why = entry.kind === 'file' ? whyTooMuch(entry.sizeBytes, this.used, limits) : entry.why;
        if (why !== undefined) this.note(entry.path, why);
        if (entry.kind !== 'file' || why !== undefined) continue;
        this.used.files += 1;
        this.used.bytes += entry.sizeBytes;
        const task = this.store(entry).finally(() => underWay.delete(task));
        underWay.add(task);
        if (underWay.size >= AT_ONCE) await Promise.race(underWay);
      }
    } catch (error) {
      this.failed('/', error);
    }
    await Promise.all(underWay);
    return this.judge();
  }

  /** What is in the archive, until the signal: the walk itself may take long. */
  private async *whileInTime(): AsyncGenerator<Archived> {
    const walk = this.ports.archived[Symbol.asyncIterator]();
    let stop = (): void => undefined;
    this.signal.addEventListener('abort', () => stop());
    // One listener for all: a promise that lives as long as the walk would keep what each race gave.
    const orOver = (): Promise<IteratorResult<Archived> | 'over'> =>
      new Promise((done, fail) => {
        stop = () => done('over');
        walk.next().then(done, fail);
      });
    for (;;) {
      const next = this.signal.aborted ? 'over' : await orOver();
      if (next === 'over') {
        this.isCut = true;
        void walk.return?.();
        return;
      }
      if (next.done) return;
      yield next.value;
    }
  }

  /** Says once that files come, and learns what may come and what is stored already. */
  private begin(): Promise<Collecting> {
    this.known ??= this.ports.api
      .collecting({ signal: this.signal, hold: () => this.timer.hold() })
      .then((told) => told ?? NO_LIMITS);
    return this.known;
  }

  private async store(file: ArchivedFile): Promise<void> {
    try {
      if (!(await this.isStored(file))) {
        await this.ports.api.putArtifact(file, { signal: this.signal, hold: () => this.timer.hold() });
      }
      this.stored += 1;
    } catch (error) {
      this.failed(file.path, error);
    }
  }

  /** By an earlier supervisor: the bytes need not travel again. */
  private async isStored(file: ArchivedFile): Promise<boolean> {
    const { stored } = await this.begin();
    const before = stored.find(({ path }) => path === file.path);
    if (before?.sizeBytes !== file.sizeBytes) return false;
    const hash = createHash('sha256');
    for await (const piece of file.open()) hash.update(piece);
    return before.digest === `sha256:${hash.digest('hex')}`;
  }

  private failed(path: string, error: unknown): void {
    const { name, message, reason } = error as Error & { reason?: string };
    if (isFenced(error) || reason === 'engine-unavailable') {
      this.broken ??= { error };
      this.fault.abort();
    }
    if (this.signal.aborted) {
      // What was under way is one with all the rest.
      this.isCut = true;
      return;
    }
    if (name === 'WorkerApiError') this.refused += 1;
    this.note(path, message);
  }

  private note(path: string, why: string): void {
    this.count += 1;
    if (this.named.length < MOST_NAMED) this.named.push({ path, why: clean(why) });
  }

  private judge(): Collected {
    letGoIf(this.at.detach);
    if (this.broken) throw this.broken.error;
    const isLate = this.isCut && this.late.signal.aborted;
    const isCancelled = this.isCut && !isLate;
    if (isLate) this.note('/', 'the time of the run was over; what was not stored until then is left out');
    const notStored = this.count > 0 ? { count: this.count, files: this.named } : undefined;
    const isRefused = this.refused > 0 && this.stored === 0;
    return { isLate, isCancelled, isRefused, ...(notStored ? { notStored } : {}) };
  }
}

const clean = (text: string): string => plainText(text, 300);
