// Owns the question whether a Docker engine has been running without a break: it has no name for a life of its own, but
// it keeps its newest 256 events, from its own start on, and the making of a container is one.
// Called by docker-engine.ts and docker-wait.ts.
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import type Dockerode from 'dockerode';

/** How far back the engine has been running for sure: its oldest event, or now when it remembers none. */
export async function remembersSince(docker: Dockerode, signal?: AbortSignal): Promise<Date> {
  return (await firstEvent(docker, { signal })) ?? new Date();
}

/** Whether the engine has been running for sure since it made a container. */
export async function hasRunSinceMaking(
  docker: Dockerode,
  container: { id: string; createdAt: Date },
): Promise<boolean> {
  if (await firstEvent(docker, { madeContainer: container.id })) return true;
  return (await remembersSince(docker)) <= container.createdAt;
}

async function firstEvent(
  docker: Dockerode,
  { madeContainer, signal }: { madeContainer?: string; signal?: AbortSignal },
): Promise<Date | undefined> {
  const filters = madeContainer === undefined ? {} : { filters: { container: [madeContainer], event: ['create'] } };
  const options = { since: 1, until: Date.now() / 1000, abortSignal: signal, ...filters };
  const events = (await docker.getEvents(options)) as Readable;
  try {
    for await (const line of createInterface(events)) {
      const { timeNano } = JSON.parse(line) as { timeNano: number };
      return new Date(timeNano / 1e6);
    }
    return undefined;
  } finally {
    events.destroy();
  }
}
