// Owns the reading of project files and the making of plans beside the event loop: no text of anybody delays others.
// Called by the API. Two threads: short texts wait for short ones only. Callers take turns, so nobody fills the queue.
//
//   asked -> waiting (by caller) -> in the thread -> answered
//                                       '-> over its time or memory: the thread is ended, the next ask gets a new one
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { makePlan } from '../domain/plan';
import type { Plan } from '../domain/schemas/plan';
import type { Problem } from '../domain/schemas/words';

export interface PlannerWork {
  /** Text of a project file. */
  definition: string;
  /** Absent: the file is checked, and nothing is planned. */
  plan?: Parameters<typeof makePlan>[1];
  /** Of the plan; absent: as many as a plan may have. */
  mostCharacters?: number;
}
export type PlannerAnswer =
  | { kind: 'valid'; description: string; triggers: string[] }
  | { kind: 'invalid'; problems: Problem[] }
  | { kind: 'plan'; plan: Plan; digest: string }
  | { kind: 'refused'; problems: Problem[] };

/** `busy`: too much is waiting, come again; `too-costly`: the text takes more time or memory than one may have. */
export class PlannerError extends Error {
  override readonly name = 'PlannerError';
  constructor(
    readonly reason: 'busy' | 'too-costly',
    message: string,
  ) {
    super(message);
  }
}

export interface PlannerLimits {
  /** Of one text in the thread, ms. */
  deadlineMs: number;
  /** Characters of the waiting texts of one caller, and of all. */
  mostOfOne: number;
  most: number;
}
const MEBI = 1024 ** 2;
const SHORT: PlannerLimits = { deadlineMs: 10_000, mostOfOne: 8 * MEBI, most: 32 * MEBI };
const LONG: PlannerLimits = { deadlineMs: 10_000, mostOfOne: 16 * MEBI, most: 64 * MEBI };
/** Characters from which on a text is long. One with aliases may mean much more than it says. */
const LONG_CHARACTERS = 8 * 1024;
/** The same of a plan: a short text with a large matrix makes a long one. */
const LONG_PLAN_CHARACTERS = 1024 * 1024;
const THREAD_MEMORY_MIB = 512;

export class Planner {
  private readonly short: Lane;
  private readonly long: Lane;

  /** @param entry compiled file of the thread @param limits of both kinds of texts, in place of their own */
  constructor(entry = join(__dirname, 'planner-thread.js'), limits?: PlannerLimits) {
    this.short = new Lane(entry, limits ?? SHORT);
    this.long = new Lane(entry, limits ?? LONG);
  }

  /** @param caller who takes turns with others @throws PlannerError */
  async ask(work: PlannerWork, caller: string): Promise<PlannerAnswer> {
    const isLong = work.definition.length > LONG_CHARACTERS || hasAliases(work.definition);
    if (isLong) return this.long.ask(work, caller);
    const answer = await this.short.ask({ ...work, mostCharacters: LONG_PLAN_CHARACTERS }, caller);
    const isLarge = answer.kind === 'refused' && answer.problems[0]?.code === 'plan-too-large';
    return isLarge ? this.long.ask(work, caller) : answer;
  }

  async close(): Promise<void> {
    await Promise.all([this.short.close(), this.long.close()]);
  }
}

/** A script may well have a star: an alias needs an anchor. */
const hasAliases = (text: string): boolean => /(?:^|[\s,[{])&[^\s&]/.test(text) && /(?:^|[\s,[{])\*[^\s*]/.test(text);

/** What waits for a text is worth some characters as well. */
const sizeOf = (work: PlannerWork): number => work.definition.length + 1_000;

interface Ask {
  work: PlannerWork;
  done: (answer: PlannerAnswer) => void;
  fail: (error: Error) => void;
}

/** One thread, and who waits for it. */
class Lane {
  private readonly waiting = new Map<string, Ask[]>();
  private characters = 0;
  private thread: Worker | undefined;
  private current: (Ask & { timer: NodeJS.Timeout }) | undefined;

  constructor(
    private readonly entry: string,
    private readonly limits: PlannerLimits,
  ) {}

  ask(work: PlannerWork, caller: string): Promise<PlannerAnswer> {
    const own = this.waiting.get(caller) ?? [];
    const size = sizeOf(work);
    const ofOne = own.reduce((sum, ask) => sum + sizeOf(ask.work), size);
    if (ofOne > this.limits.mostOfOne || this.characters + size > this.limits.most) {
      throw new PlannerError('busy', 'too many project files wait to be read; try again in a moment');
    }
    return new Promise((done, fail) => {
      own.push({ work, done, fail });
      this.waiting.set(caller, own);
      this.characters += size;
      this.next();
    });
  }

  async close(): Promise<void> {
    await this.thread?.terminate();
  }

  private next(): void {
    const [turn] = this.waiting;
    if (this.current || !turn) return;
    const [caller, own] = turn;
    const ask = own.shift();
    this.waiting.delete(caller);
    if (own.length > 0) this.waiting.set(caller, own);
    if (!ask) return;
    this.characters -= sizeOf(ask.work);
    const { deadlineMs } = this.limits;
    const late = (): void =>
      this.giveUp(new PlannerError('too-costly', `the file takes more than ${deadlineMs} ms to read and to plan`));
    this.thread ??= this.start();
    this.current = { ...ask, timer: setTimeout(late, deadlineMs) };
    this.thread.postMessage(ask.work);
  }

  private start(): Worker {
    const thread = new Worker(this.entry, { resourceLimits: { maxOldGenerationSizeMb: THREAD_MEMORY_MIB } });
    thread.unref();
    thread.on('message', (answer: PlannerAnswer) => this.settle((ask) => ask.done(answer)));
    thread.on('error', (error: NodeJS.ErrnoException) => {
      const isFull = error.code === 'ERR_WORKER_OUT_OF_MEMORY';
      const refusal = new PlannerError('too-costly', `the file takes more than ${THREAD_MEMORY_MIB} MiB to plan`);
      if (this.thread === thread) this.giveUp(isFull ? refusal : error);
    });
    return thread;
  }

  /** Ends the thread with what it does; the next text gets another. */
  private giveUp(error: Error): void {
    const { thread } = this;
    this.thread = undefined;
    thread
      ?.removeAllListeners('message')
      .terminate()
      .catch(() => undefined);
    this.settle((ask) => ask.fail(error));
  }

  private settle(tell: (ask: Ask) => void): void {
    const { current } = this;
    this.current = undefined;
    clearTimeout(current?.timer);
    if (current) tell(current);
    this.next();
  }
}
