// Owns the floor: containers driven by nothing but the engine's own calls, what no orchestrator on it can be under.
// Called by the figures, and by ground.ts which removes what an interrupted run has left.
import type Dockerode from 'dockerode';
import type { Bench } from './figure';

const LABEL = 'dev.slipway.bench';
/** Of this run alone: another one may go on beside it. */
const MINE = String(process.pid);

export interface FloorTimes {
  /** From the call that creates it until the call that starts it has returned, s. */
  startedS: number;
  /** Until it is removed, s. */
  wholeS: number;
}

/** Creates, starts, awaits and removes one container. @throws when it does not exit with 0 */
export async function runContainer(bench: Bench, command: string[] = ['true']): Promise<FloorTimes> {
  const began = performance.now();
  const container = await bench.docker.createContainer({
    Image: bench.image,
    Cmd: command,
    Labels: { [LABEL]: MINE },
  });
  await container.start();
  const started = performance.now();
  const { StatusCode: code } = (await container.wait()) as { StatusCode: number };
  await container.remove({ v: true });
  if (code !== 0) throw new Error(`the container of the floor exited with ${code}: ${command.join(' ')}`);
  return { startedS: (started - began) / 1000, wholeS: (performance.now() - began) / 1000 };
}

/** Runs `count` containers, so many at once. @returns wall time of all, s */
export async function runContainers(bench: Bench, count: number, atOnce: number): Promise<number> {
  const began = performance.now();
  let left = count;
  const lane = async (): Promise<void> => {
    while (left > 0) {
      left -= 1;
      await runContainer(bench);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
  return (performance.now() - began) / 1000;
}

/** Removes what this run has left. */
export async function clearFloor(docker: Dockerode): Promise<void> {
  await removeLabelled(docker, `${LABEL}=${MINE}`);
}

/** Removes every container with the label, living or not. */
export async function removeLabelled(docker: Dockerode, label: string): Promise<void> {
  const found = await docker.listContainers({ all: true, filters: { label: [label] } });
  await Promise.all(found.map(({ Id: id }) => docker.getContainer(id).remove({ v: true, force: true })));
}
