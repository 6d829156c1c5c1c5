// Owns "this folder belongs to one living process": a lock file that names its holder and is never stolen by age.
// Called by the embedded database; a second process on its folder would lose rows in silence.
import { execFileSync } from 'node:child_process';
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';

/** Somebody alive holds the lock. */
export class LockedError extends Error {
  constructor(
    readonly path: string,
    readonly pid: number,
  ) {
    super(`${path} is held by process ${pid}, which is alive; stop it first or use another data folder`);
  }
}

/** When a process started, in the words of the system: a pid that was used again reads differently. */
export function startOf(pid: number): string | undefined {
  try {
    if (process.platform === 'linux') {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return fields[0] === 'Z' ? undefined : fields[19];
    }
    return execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' }).trim() || undefined;
  } catch {
    return undefined;
  }
}

/** Takes the lock. @returns a function that gives it back @throws LockedError */
export function takePidLock(path: string): () => void {
  const mine = `${process.pid} ${startOf(process.pid) ?? ''}\n`;
  // Written first and linked whole: a lock that is seen while it is still empty would look like a dead one.
  const draft = `${path}.${process.pid}.new`;
  writeFileSync(draft, mine, { mode: 0o600 });
  try {
    while (!tryLink(draft, path)) removeIfDead(path);
  } finally {
    rmSync(draft, { force: true });
  }
  return () => {
    if (readLock(path) === mine) rmSync(path, { force: true });
  };
}

function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    return false;
  }
}

function removeIfDead(path: string): void {
  const found = readLock(path);
  if (found === undefined) return;
  const [pid = '', ...words] = found.trim().split(' ');
  const start = words.join(' ');
  if (pid && startOf(Number(pid)) === start) throw new LockedError(path, Number(pid));
  // Moved aside first, and put back if another process took the lock in between.
  const aside = `${path}.${process.pid}`;
  try {
    renameSync(path, aside);
    if (readLock(aside) !== found) linkSync(aside, path);
  } catch (error) {
    if (!['ENOENT', 'EEXIST'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  } finally {
    rmSync(aside, { force: true });
  }
}

function readLock(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
