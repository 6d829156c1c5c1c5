// Owns ending the processes of a container that its engine knows nothing of: an engine that dies while it starts one
// believes afterwards that it did not. They are found by their control group, and containerd's shim, which would stay for
// ever, by its arguments; on the engine's own machine and as root only.
// Called by docker-engine.ts.
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

const LIMIT_MS = 10_000;
const POLL_MS = 50;

/** Kills them and waits until they are gone. @param id of the container, 64 hex digits @returns false when some live on */
export async function endProcessesOf(id: string): Promise<boolean> {
  const giveUpAtMs = performance.now() + LIMIT_MS;
  for (;;) {
    const alive = await processesOf(id);
    if (alive.length === 0) return true;
    if (performance.now() > giveUpAtMs) return false;
    for (const pid of alive) tryToKill(pid);
    await sleep(POLL_MS);
  }
}

async function processesOf(id: string): Promise<number[]> {
  const entries = await readdir('/proc').catch(() => []);
  const found = await Promise.all(
    entries
      .filter((entry) => /^\d+$/.test(entry))
      .map(async (entry) => {
        const [groups, command] = await Promise.all(
          ['cgroup', 'cmdline'].map((file) => textOf(`/proc/${entry}/${file}`)),
        );
        const isShim = command?.includes('containerd-shim') && command.includes(id);
        return isShim || groups?.includes(id) ? [Number(entry)] : [];
      }),
  );
  return found.flat();
}

/** Of a process that ended meanwhile: empty. */
const textOf = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '');

function tryToKill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    // ESRCH: it ended meanwhile. EPERM: not ours to end; the caller sees that it lives.
    if (!['ESRCH', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
}
