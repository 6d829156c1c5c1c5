// Owns the processes of containers as their machine sees them, for its root alone. They are found by their control group.
// Those that their engine knows nothing of are ended: an engine that dies while it starts a container believes afterwards
// that it did not. Containerd's shim, which would stay for ever, is found by its arguments.
// Called by docker-engine.ts and docker-stop.ts.
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

const LIMIT_MS = 10_000;
const POLL_MS = 50;
const GROUPS = '/sys/fs/cgroup';

/** Kills them and waits until they are gone. @param id of the container, 64 hex digits @returns false when some live on */
export async function endProcessesOf(id: string): Promise<boolean> {
  const giveUpAtMs = performance.now() + LIMIT_MS;
  for (;;) {
    const alive = await processesOf(id);
    if (alive.length === 0) return true;
    if (performance.now() > giveUpAtMs) return false;
    for (const pid of alive) signalIfThere(pid, 'SIGKILL');
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

/** One that ended meanwhile, or is another user's, gets none. */
export function signalIfThere(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    // ESRCH: it ended meanwhile. EPERM: not ours to end; the caller sees that it lives.
    if (!['ESRCH', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
}

/**
 * Processes of a running container beside its first one. @param container.first its number, as the engine has it
 * @returns undefined when they cannot be seen from here, or are not this process's to end
 */
export async function processesBeside({ id, first }: { id: string; first: number }): Promise<number[] | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  for (const dir of groupsOf(await textOf(`/proc/${first}/cgroup`), id)) {
    const lists = await filesNamed(dir, 'cgroup.procs');
    const pids = (await Promise.all(lists.map(textOf))).flatMap((list) => list.split('\n').filter(Boolean).map(Number));
    if (pids.includes(first)) return pids.filter((pid) => pid !== first && pid !== 0);
  }
  return undefined;
}

/** Where the control groups of a process may be, from the lines that name them: `4:pids:/docker/ID`, `0::/docker/ID`. */
function groupsOf(lines: string, id: string): string[] {
  return lines.split('\n').flatMap((line) => {
    const [, controllers = '', path = ''] = line.split(':');
    if (!path.includes(id)) return [];
    return controllers === '' ? [`${GROUPS}${path}`, `${GROUPS}/unified${path}`] : [`${GROUPS}/${controllers}${path}`];
  });
}

/** Groups may have groups of their own. */
async function filesNamed(dir: string, name: string): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true }).catch(() => []);
  return entries.filter((entry) => entry === name || entry.endsWith(`/${name}`)).map((entry) => `${dir}/${entry}`);
}
