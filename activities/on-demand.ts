// Owns the two activities by which a worker makes and ends hosts on demand.
// Registered by workers/cluster-worker.ts on the worker's own queue; the workflow of the host repeats what failed.
import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure, Context } from '@temporalio/activity';
import type { HostMaker, Made } from '../adapters/host-maker';
import type { HostToMake, Make } from '../domain/schemas/blueprints';
import type { MakerActivities } from './on-demand-types';

export interface MakerPorts {
  makers: { at(make: Make): Promise<HostMaker> };
  heartbeatMs: number;
}

const LOOK_MS = { first: 200, most: 3_000 };

export function makeMakerActivities(ports: MakerPorts): MakerActivities {
  return {
    makeHost: (host) =>
      beating(ports, async (signal) => {
        const maker = await ports.makers.at(host.make);
        await maker.create(host);
        const made = await until(signal, async () => {
          const now = await maker.probe(host);
          if (now.state === 'absent') await maker.create(host);
          return now.state === 'there' || now.state === 'off' ? now : undefined;
        });
        return takeThere(host, made);
      }),
    destroyHost: (host) =>
      beating(ports, async (signal) => {
        const maker = await ports.makers.at(host.make);
        await until(signal, async () => ((await maker.destroy(host)) ? 'gone' : undefined));
      }),
  };
}

function takeThere(
  { host }: HostToMake,
  made: Made,
): { resource: string; reach: (Made & { state: 'there' })['reach'] } {
  if (made.state === 'there') return { resource: made.resource, reach: made.reach };
  throw ApplicationFailure.nonRetryable(`host ${host} went off before it had an address`);
}

async function until<T>(signal: AbortSignal, look: () => Promise<T | undefined>): Promise<T> {
  for (let waitMs = LOOK_MS.first; ; waitMs = Math.min(waitMs * 2, LOOK_MS.most)) {
    const found = await look();
    if (found !== undefined) return found;
    await sleep(waitMs, undefined, { signal });
  }
}

async function beating<T>({ heartbeatMs }: MakerPorts, body: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const context = Context.current();
  const heart = setInterval(() => context.heartbeat(), heartbeatMs);
  try {
    return await body(context.cancellationSignal);
  } catch (error) {
    context.cancellationSignal.throwIfAborted();
    if ((error as Error).name !== 'MakerError') throw error;
    throw ApplicationFailure.create({ type: 'MakerError', message: (error as Error).message, nonRetryable: true });
  } finally {
    clearInterval(heart);
  }
}
