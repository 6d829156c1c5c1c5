// Owns one child process that is to be alive: started, watched, started again when it dies, and stopped for good.
// Called by workers/supervisor.ts, one instance a child.
//
//   starting --ready--> up --exit--> waiting --back-off over--> starting
//      |  \--exit before it was ever ready, too often, or too slow--> failed
//      any --stop--> stopping --exit, or SIGKILL--> stopped
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, renameSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { boundCommand } from '../adapters/bound-command';
import { whyTaken, type OwnPort } from '../adapters/own-port';
import { forgetChild, rememberChild, signalIfAlive } from './leftovers';

export interface ChildSpec {
  /** Unique; names the pid file and the lines that are announced. */
  name: string;
  command: string;
  args: string[];
  env?: NodeJS.ProcessEnv;
  /** True for a Node program of ours: it gets an IPC channel, says `ready` on it, and ends when it closes. */
  isOurs?: boolean;
  /** Asked until true, beside or in place of the message; neither given: ready once it runs. */
  readyWhen?: () => Promise<boolean>;
  stopSignal?: NodeJS.Signals;
  stopTimeoutMs?: number;
  logFile: string;
  /** On which it listens; those that another program has taken are named when it ends. */
  ports?: readonly OwnPort[];
}

export interface SupervisorOptions {
  /** Folder of the pid files and the lock. */
  runDir: string;
  announce(line: string): void;
  /** Wait before the first restart, ms; doubles up to `backoffMaxMs`, and begins anew after `backoffResetMs` of life. */
  backoffMs?: number;
  backoffMaxMs?: number;
  backoffResetMs?: number;
  /** Deadline of the first start of a child, ms. */
  readyTimeoutMs?: number;
  /** Starts that may end before the child was ready for the first time. */
  startTries?: number;
  /** Interval of `readyWhen`, ms. */
  pollMs?: number;
  maxLogBytes?: number;
}

export type Limits = Required<Omit<SupervisorOptions, 'runDir' | 'announce'>>;

export const LIMITS: Limits = {
  backoffMs: 200,
  backoffMaxMs: 5_000,
  backoffResetMs: 30_000,
  readyTimeoutMs: 60_000,
  startTries: 3,
  pollMs: 50,
  maxLogBytes: 10 * 1024 * 1024,
};

/** Above the limit that a process of ours sets itself for its own stop. */
export const STOP_TIMEOUT_MS = 20_000;

/** How long to wait before the next start. Pure. @param earlierMs the wait before the last start; 0 at first */
export function nextBackoffMs(earlierMs: number, livedMs: number, limits: Limits): number {
  if (earlierMs === 0 || livedMs >= limits.backoffResetMs) return limits.backoffMs;
  return Math.min(earlierMs * 2, limits.backoffMaxMs);
}

export class SupervisedChild {
  private process: ChildProcess | undefined;
  private state: 'starting' | 'up' | 'waiting' | 'failed' | 'stopping' | 'stopped' = 'starting';
  private startedAtMs = 0;
  private waitMs = 0;
  private earlyExits = 0;
  private restartTimer: NodeJS.Timeout | undefined;
  private pollTimer: NodeJS.Timeout | undefined;
  private firstReady: { done(): void; fail(error: Error): void } | undefined;
  private gone: Promise<void> = Promise.resolve();

  constructor(
    readonly spec: ChildSpec,
    private readonly options: SupervisorOptions & Limits,
  ) {}

  /** Process id while there is a process. */
  get pid(): number | undefined {
    return this.process?.pid;
  }

  get isUp(): boolean {
    return this.state === 'up';
  }

  /** Starts it. @returns when it is ready @throws Error with the end of its log when it never gets there */
  async start(): Promise<void> {
    const { readyTimeoutMs } = this.options;
    const ready = new Promise<void>((done, fail) => (this.firstReady = { done, fail }));
    const timer = setTimeout(() => this.giveUp(`is not ready after ${readyTimeoutMs / 1000} s`), readyTimeoutMs);
    this.launch();
    try {
      await ready;
    } catch (error) {
      await this.end('failed');
      throw error;
    } finally {
      clearTimeout(timer);
      this.firstReady = undefined;
    }
  }

  /** Ends it for good: its stop signal, then KILL for it and whatever it has started. */
  async stop(): Promise<void> {
    if (this.state === 'failed' || this.state === 'stopped') return;
    await this.end('stopped');
  }

  /** Ends it now, without waiting: for an owner that is about to exit. */
  kill(): void {
    this.state = 'stopping';
    clearTimeout(this.restartTimer);
    this.signalGroup('SIGKILL');
  }

  private async end(last: 'failed' | 'stopped'): Promise<void> {
    this.state = 'stopping';
    this.firstReady?.fail(new Error(`${this.spec.name} was stopped before it was ready`));
    clearTimeout(this.restartTimer);
    clearTimeout(this.pollTimer);
    const limit = setTimeout(() => this.signalGroup('SIGKILL'), this.spec.stopTimeoutMs ?? STOP_TIMEOUT_MS);
    this.process?.kill(this.spec.stopSignal ?? 'SIGTERM');
    await this.gone;
    clearTimeout(limit);
    this.state = last;
  }

  private launch(): void {
    const { spec } = this;
    this.state = 'starting';
    this.startedAtMs = Date.now();
    const log = openLog(spec.logFile, this.options.maxLogBytes);
    const { command, args } = spec.isOurs ? spec : boundCommand(spec.command, spec.args);
    // A group of its own: Ctrl-C in the terminal reaches us alone, and we end the children in order.
    const child = spawn(command, args, {
      env: spec.env ?? process.env,
      detached: true,
      stdio: ['ignore', log, log, ...(spec.isOurs ? (['ipc'] as const) : [])],
    });
    closeSync(log);
    this.process = child;
    this.gone = new Promise((done) => {
      const onEnd = (how: string): void => {
        if (this.process !== child) return;
        this.onExit(how);
        done();
      };
      child.once('exit', (code, signal) => onEnd(signal ?? `exit code ${code}`));
      child.on('error', (error) => child.pid === undefined && onEnd(error.message));
    });
    if (child.pid !== undefined) rememberChild(this.options.runDir, spec.name, child.pid);
    child.on('message', (message) => message === 'ready' && this.onReady(child));
    if (spec.readyWhen) this.poll(child, spec.readyWhen);
    else if (!spec.isOurs) child.once('spawn', () => this.onReady(child));
  }

  private poll(child: ChildProcess, readyWhen: () => Promise<boolean>): void {
    this.pollTimer = setTimeout(() => {
      readyWhen().then(
        (isReady) => (isReady ? this.onReady(child) : this.pollAgain(child, readyWhen)),
        () => this.pollAgain(child, readyWhen),
      );
    }, this.options.pollMs);
  }

  private pollAgain(child: ChildProcess, readyWhen: () => Promise<boolean>): void {
    if (this.process === child && this.state === 'starting') this.poll(child, readyWhen);
  }

  private onReady(child: ChildProcess): void {
    if (this.process !== child || this.state !== 'starting') return;
    this.state = 'up';
    if (this.firstReady) this.firstReady.done();
    else this.options.announce(`${this.spec.name} is back (pid ${child.pid})`);
  }

  private onExit(how: string): void {
    const { spec, options } = this;
    clearTimeout(this.pollTimer);
    this.signalGroup('SIGKILL');
    this.process = undefined;
    forgetChild(options.runDir, spec.name);
    if (this.state === 'stopping') return;
    if (this.firstReady && ++this.earlyExits >= options.startTries) return this.giveUp(`does not start: ${how}`);
    this.waitMs = nextBackoffMs(this.waitMs, Date.now() - this.startedAtMs, options);
    this.state = 'waiting';
    void this.launchLater(how);
  }

  /** Its own words are in its log alone, and one word of a stolen port is worth more than its exit code. */
  private async launchLater(how: string): Promise<void> {
    const { spec, options, waitMs } = this;
    const said = [`${spec.name} ended (${how})`];
    for (const port of spec.ports ?? []) {
      const why = await whyTaken(port);
      if (why !== undefined) said.push(why);
    }
    if (this.state !== 'waiting') return;
    options.announce(`${said.join('; ')}; starting it again in ${waitMs / 1000} s`);
    this.restartTimer = setTimeout(() => this.launch(), waitMs);
  }

  private giveUp(why: string): void {
    const { name, logFile } = this.spec;
    this.firstReady?.fail(new Error(`${name} ${why}. The end of ${logFile}:\n${lastLines(logFile)}`));
  }

  /** The whole group, so that nothing that a child has started is left behind. */
  private signalGroup(signal: NodeJS.Signals): void {
    if (this.process?.pid === undefined) return;
    signalIfAlive(-this.process.pid, signal);
  }
}

function openLog(path: string, maxBytes: number): number {
  mkdirSync(dirname(path), { recursive: true });
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  if (size > maxBytes) renameSync(path, `${path}.1`);
  return openSync(path, 'a', 0o600);
}

function lastLines(path: string, count = 8): string {
  try {
    return readFileSync(path, 'utf8').trimEnd().split('\n').slice(-count).join('\n');
  } catch {
    return '(empty)';
  }
}
