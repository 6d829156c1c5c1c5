// Owns the processes of `slipway up`: starts them in order, keeps them alive, stops them in reverse order.
// Called by cli/up.ts. One supervisor a data folder; children do not outlive it, containers do.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { takePidLock } from '../adapters/pid-lock';
import { endLeftovers, livingProcessIn } from './leftovers';
import {
  LIMITS,
  STOP_TIMEOUT_MS,
  SupervisedChild,
  type ChildSpec,
  type Limits,
  type SupervisorOptions,
} from './supervised-child';

export type { ChildSpec, SupervisorOptions } from './supervised-child';

/** A terminal's Ctrl-C comes twice: from the terminal, and passed on by npm. Only a later one is meant as a second. */
const SAME_SIGNAL_MS = 500;

export class Supervisor {
  private readonly children: SupervisedChild[] = [];
  private stopping: Promise<void> | undefined;
  private readonly killOnExit = (): void => this.kill();

  private constructor(
    private readonly options: SupervisorOptions & Limits,
    private readonly unlock: () => void,
  ) {
    process.on('exit', this.killOnExit);
  }

  /**
   * Takes the folder and ends what a killed supervisor has left in it.
   * @throws LockedError when another supervisor that is alive has it
   */
  static async open(options: SupervisorOptions): Promise<Supervisor> {
    mkdirSync(options.runDir, { recursive: true });
    const unlock = takePidLock(lockFile(options.runDir));
    try {
      await endLeftovers(options.runDir, STOP_TIMEOUT_MS, (line) => options.announce(line));
    } catch (error) {
      unlock();
      throw error;
    }
    return new Supervisor({ ...LIMITS, ...options }, unlock);
  }

  /** Starts a child. @returns when it is ready @throws Error with the end of its log when it does not get there */
  async start(spec: ChildSpec): Promise<void> {
    if (this.stopping) throw new Error(`${spec.name} is not started: everything is being stopped`);
    const child = new SupervisedChild(spec, this.options);
    this.children.push(child);
    await child.start();
  }

  /** Process ids of the children that live now, by name. */
  pids(): Record<string, number> {
    return Object.fromEntries(
      this.children.flatMap((child) => (child.pid === undefined ? [] : [[child.spec.name, child.pid]])),
    );
  }

  /** True when every child that was started is ready. */
  isUp(): boolean {
    return this.children.every((child) => child.isUp);
  }

  /** Stops all children, the last started first. May be called more than once. */
  stop(): Promise<void> {
    this.stopping ??= this.stopAll();
    return this.stopping;
  }

  /** Kills all children at once. */
  kill(): void {
    for (const child of this.children) child.kill();
  }

  private async stopAll(): Promise<void> {
    for (const child of [...this.children].reverse()) await child.stop();
    process.off('exit', this.killOnExit);
    this.unlock();
  }
}

const lockFile = (runDir: string): string => join(runDir, 'supervisor.lock');

/** Process id of the supervisor that has this folder now. */
export function findSupervisor(runDir: string): number | undefined {
  return livingProcessIn(lockFile(runDir));
}

/**
 * Waits for SIGINT, SIGTERM or SIGHUP and stops everything cleanly; a second signal kills.
 * @returns when all children are gone: the exit code, 0 after a clean stop and 130 after a kill
 */
export function stopOnSignal(
  supervisor: Supervisor,
  announce: (line: string) => void,
  sameSignalMs = SAME_SIGNAL_MS,
): Promise<number> {
  return new Promise((done, fail) => {
    let firstAtMs = 0;
    let exitCode = 0;
    const onSignal = (signal: NodeJS.Signals): void => {
      if (firstAtMs === 0) {
        firstAtMs = Date.now();
        announce(`stopping (${signal}); once more to stop at once. Running containers are left alone.`);
        supervisor.stop().then(() => done(exitCode), fail);
      } else if (Date.now() - firstAtMs >= sameSignalMs) {
        exitCode = 130;
        supervisor.kill();
      }
    };
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal);
  });
}
