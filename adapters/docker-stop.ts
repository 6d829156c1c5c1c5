// Owns the end of a running container in good order: TERM for every process of it, and the grace time for all of them.
// Its first process ends with the script and takes all others along at once, so it is held still until they are gone.
// Called by docker-engine.ts.
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type Dockerode from 'dockerode';
import { signalIfThere, processesBeside } from './container-processes';

/** How often it is looked for processes that are left, ms. */
const LOOK_MS = 50;
/** What a container takes to end once nothing of it is left, ms; a loaded engine is slow. */
const END_MS = 5_000;

/**
 * Tells all processes inside, and waits until they are gone or the tries are over. Everybody but the first process and the
 * caller gets what is sent to -1. As the user of the run: what it executes is the run's own.
 */
const TELL = `kill -s TERM -1
while [ "$1" -gt 0 ]; do
  left=
  for stat in /proc/[0-9]*/stat; do
    { read -r line <"$stat"; } 2>/dev/null || continue
    case \${line##*) } in [ZX]*) continue ;; esac
    case \${line%% *} in 1 | $$) ;; *) left=1 ;; esac
  done
  [ -n "$left" ] || exit 0
  sleep 0.1 || exit 1
  set -- $(($1 - 1))
done
kill -s KILL -1
exit 0`;

interface Stop {
  graceMs: number;
  /** Its processes are out of reach. */
  isElsewhere: boolean;
}

/** @returns false when it still runs, told or not: it is to be stopped as any other @throws what the engine said */
export async function endInOrder(docker: Dockerode, name: string, stop: Stop): Promise<boolean> {
  const container = docker.getContainer(name);
  const { Id: id, State: state } = await container.inspect();
  if (!state.Running) return true;
  await container.kill({ signal: 'SIGSTOP' });
  let isDone = false;
  try {
    isDone = (!stop.isElsewhere && (await tellFromHere(id, state.Pid, stop))) || (await tellInside(container, stop));
  } finally {
    await container.kill({ signal: 'SIGCONT' });
  }
  return isDone && hasEnded(container);
}

/** Where the worker is on the machine of the engine, and may signal what is there. */
async function tellFromHere(id: string, first: number, { graceMs }: Stop): Promise<boolean> {
  const untilMs = performance.now() + graceMs;
  let left = await processesBeside({ id, first });
  if (!left) return false;
  for (const pid of left) signalIfThere(pid, 'SIGTERM');
  while (left && left.length > 0 && performance.now() < untilMs) {
    await sleep(LOOK_MS);
    left = await processesBeside({ id, first });
  }
  for (const pid of left ?? []) signalIfThere(pid, 'SIGKILL');
  return true;
}

/** By a shell of the container. @returns false when it has none, or no room for one more process */
async function tellInside(container: Dockerode.Container, { graceMs }: Stop): Promise<boolean> {
  const command = ['/bin/sh', '-c', TELL, 'sh', String(Math.ceil(graceMs / 100))];
  try {
    const exec = await container.exec({ Cmd: command, AttachStdout: true, AttachStderr: true });
    const stream = (await exec.start({})) as Readable;
    const ended = new Promise<true>((done) => {
      const end = (): void => done(true);
      stream.resume().once('close', end).once('end', end);
    });
    // What is /bin/sh there is the run's: it may be anything that does not end.
    if (await Promise.race([ended, sleep(graceMs + END_MS, false, { ref: false })])) {
      return (await exec.inspect()).ExitCode === 0;
    }
    stream.destroy();
    return false;
  } catch (error) {
    if ((error as { statusCode?: number }).statusCode === undefined) throw error;
    return false;
  }
}

async function hasEnded(container: Dockerode.Container): Promise<boolean> {
  const abortSignal = AbortSignal.timeout(END_MS);
  try {
    await container.wait({ abortSignal });
    return true;
  } catch (error) {
    if (abortSignal.aborted) return false;
    throw error;
  }
}
