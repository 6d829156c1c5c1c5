// Owns the question whether a Docker engine has been running without a break: it has no name for a life of its own, but
// it keeps its newest 256 events, from its own start on, and the making of a container is one.
// Called by docker-engine.ts and docker-wait.ts.
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import type Dockerode from 'dockerode';
import { clockOf } from './docker-client';

/** How far back the engine has been running for sure, by this machine's clock: its oldest event, or now when it remembers none. */
export async function remembersSince(docker: Dockerode, signal?: AbortSignal): Promise<Date> {
  const event = await firstEvent(docker, { signal });
  return event ? new Date(event.timeNano / 1e6 - (await clockOf(docker))) : new Date();
}

/** Whether the engine has been running for sure since it made a container. */
export async function hasRunSinceMaking(
  docker: Dockerode,
  container: { id: string; createdAt: Date },
): Promise<boolean> {
  if (await firstEvent(docker, { of: container.id, event: 'create' })) return true;
  return (await remembersSince(docker)) <= container.createdAt;
}

/** With which exit code the engine told of the end of a container; undefined: it does not remember. */
export async function toldExitCode(docker: Dockerode, id: string): Promise<number | undefined> {
  const code = (await firstEvent(docker, { of: id, event: 'die' }))?.Actor?.Attributes?.['exitCode'];
  return code === undefined ? undefined : Number(code);
}

interface Told {
  timeNano: number;
  Actor?: { Attributes?: Record<string, string> };
}

async function firstEvent(
  docker: Dockerode,
  { of, event = '', signal }: { of?: string; event?: string; signal?: AbortSignal },
): Promise<Told | undefined> {
  const filters = of === undefined ? {} : { filters: { container: [of], event: [event] } };
  const options = { since: 1, until: (Date.now() + (await clockOf(docker))) / 1000, abortSignal: signal, ...filters };
  const events = (await docker.getEvents(options)) as Readable;
  try {
    for await (const line of createInterface(events)) {
      return JSON.parse(line) as Told;
    }
    return undefined;
  } finally {
    events.destroy();
  }
}
