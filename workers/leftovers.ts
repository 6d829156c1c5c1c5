// Owns the pid files of supervised children, and ending those that a killed supervisor has left behind.
// Called by workers/supervised-child.ts (writes) and workers/supervisor.ts (clears up before it starts anything).
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startOf } from '../adapters/pid-lock';

const SUFFIX = '.pid';
const POLL_MS = 20;

const fileOf = (runDir: string, name: string): string => join(runDir, `${name}${SUFFIX}`);

/** Notes process id and start time: together they name one process for good, however often the number is used again. */
export function rememberChild(runDir: string, name: string, pid: number): void {
  mkdirSync(runDir, { recursive: true });
  writeFileSync(fileOf(runDir, name), `${pid} ${startOf(pid) ?? ''}\n`, { mode: 0o600 });
}

export function forgetChild(runDir: string, name: string): void {
  rmSync(fileOf(runDir, name), { force: true });
}

/** The process that a file names by number and start time (a pid file, or a pid lock), if that very one still lives. */
export function livingProcessIn(file: string): number | undefined {
  try {
    // The start may have spaces in it.
    const [, pid, start] = /^(\d+) (.+)/.exec(readFileSync(file, 'utf8')) ?? [];
    return Number(pid) > 1 && startOf(Number(pid)) === start ? Number(pid) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Ends the processes that an earlier supervisor of this folder has left: TERM, and KILL after `graceMs`.
 * A process that merely has the same number now is left alone.
 */
export async function endLeftovers(runDir: string, graceMs: number, announce: (line: string) => void): Promise<void> {
  mkdirSync(runDir, { recursive: true });
  const files = readdirSync(runDir).filter((file) => file.endsWith(SUFFIX));
  await Promise.all(
    files.map(async (file) => {
      const name = file.slice(0, -SUFFIX.length);
      const pid = livingProcessIn(join(runDir, file));
      if (pid !== undefined) {
        announce(`ending ${name} (pid ${pid}), left over from a start that was killed`);
        await endProcess(pid, () => livingProcessIn(join(runDir, file)) === pid, graceMs);
      }
      forgetChild(runDir, name);
    }),
  );
}

async function endProcess(pid: number, isAlive: () => boolean, graceMs: number): Promise<void> {
  signalIfAlive(pid, 'SIGTERM');
  const until = Date.now() + graceMs;
  while (isAlive() && Date.now() < until) await sleep(POLL_MS);
  // Children lead groups of their own; what they have started goes with them.
  signalIfAlive(-pid, 'SIGKILL');
  while (isAlive()) await sleep(POLL_MS);
}

/** Sends a signal to a process, or with a negative number to its group; nobody there is not an error. */
export function signalIfAlive(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    // EPERM: what is left of the group belongs to another user, or (macOS) is a zombie.
    if (!['ESRCH', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
}
