// Owns the two activities of a cluster worker, runJob and reattach: lease, heartbeat, and what a cancellation means.
// Registered by workers/cluster-worker.ts. A cancellation is not one thing: only a request that the rows know of stops the
// container; a time-out, a shutdown, a pause, a reset, a lost task or the end of the workflow lets it live, and the next
// supervisor adopts it.
import { CancelledFailure, Context } from '@temporalio/activity';
import { clusterQueue, containerName, workerQueue } from '../domain/names';
import type { Engine } from '../adapters/engine';
import type { WorkerApi } from '../adapters/worker-api';
import type { JobResult } from '../domain/job-result';
import { CancelCheck } from './cancel-check';
import type { JobActivities, JobInput } from './job-types';
import type { Reach } from '../domain/schemas/hosts';
import type { AttemptKey, HostBeside as LeasedBeside, Lease } from '../domain/schemas/worker-api';
import { giveBack, type HostBeside } from './hosts-beside';
import type { SupervisePorts } from './start';
import { supervise } from './supervise';

export interface JobPorts {
  /** Of the host of a lease: a listed one where `reach` says how it is reached, else the worker's own machine. */
  engines: {
    at(lease: { host?: string; reach?: Reach }): Engine;
    /** Of a host beside it, whoever serves that; to be closed. `direct` has no patience. */
    borrow(host: { name: string; reach: Reach }): { engine: Engine; direct: Engine; close(): void };
  };
  api: WorkerApi;
  worker: SupervisePorts['worker'];
  /** Containers that a supervisor of this process holds now: the sweep leaves them alone. */
  held: Map<string, AbortController>;
  heartbeatMs: number;
  /** Aborted when this process goes away now: every supervisor lets go, and says from where the container is adopted. */
  leaving: AbortSignal;
  log: Record<'info' | 'warn', (facts: object, message: string) => void>;
}

/** Both do the same: what is there is adopted, what is not is started unless it may have been started before. */
export function makeJobActivities(ports: JobPorts): JobActivities {
  const check = new CancelCheck(ports.api, ports.worker.id, ports.leaving);
  return {
    runJob: (input) => work(ports, input, check),
    reattach: (input) => work(ports, input, check),
  };
}

async function work(ports: JobPorts, input: JobInput, check: CancelCheck): Promise<JobResult> {
  const context = Context.current();
  const { runId, attempt } = input;
  const orders = readOrders(context, input.cancel === true, async () => {
    const isCancelled = await check.isCancelled({ runId, attempt });
    const what = isCancelled
      ? 'told to cancel this attempt'
      : 'its activity was cancelled, and nobody wants that; letting go';
    ports.log.info({ runId, attempt }, what);
    return isCancelled;
  });
  const leave = (): void => orders.abortDetach.abort();
  if (ports.leaving.aborted) leave();
  else ports.leaving.addEventListener('abort', leave, { once: true });
  const heart = setInterval(() => context.heartbeat(), ports.heartbeatMs);
  try {
    return await leaseAndSupervise(ports, input, orders);
  } catch (error) {
    if (!orders.detach.aborted) throw error;
    // Displaced by another supervisor in this process, it was not cancelled: a failure in its name would end the attempt.
    const isOurs = ports.leaving.aborted || !context.cancellationSignal.aborted;
    const { workerShutdown, reset } = context.cancellationDetails ?? {};
    // Reset by hand as well: as a failure it would end the attempt.
    if (isOurs || workerShutdown || reset) {
      return { kind: 'detached', queue: queueOf(ports) };
    }
    throw new CancelledFailure('detached; the container lives on');
  } finally {
    clearInterval(heart);
    ports.leaving.removeEventListener('abort', leave);
  }
}

interface OrderSignals {
  detach: AbortSignal;
  cancel: AbortSignal;
  abortDetach: AbortController;
}

/**
 * @param isCancelled whether the workflow says so in the task itself: it was cancelled, and the container let go before
 * @param check whether the rows hold a cancel
 */
function readOrders(context: Context, isCancelled: boolean, check: () => Promise<boolean>): OrderSignals {
  const detach = new AbortController();
  const cancel = new AbortController();
  if (isCancelled) cancel.abort();
  const read = async (): Promise<void> => {
    // Let go of without need, an attempt that is to end is sent here again by its workflow, and the task says so.
    const isAsked = context.cancellationDetails?.cancelRequested && (isCancelled || (await check()));
    return isAsked ? cancel.abort() : detach.abort();
  };
  if (context.cancellationSignal.aborted) void read();
  else context.cancellationSignal.addEventListener('abort', () => void read(), { once: true });
  return { detach: detach.signal, cancel: cancel.signal, abortDetach: detach };
}

async function leaseAndSupervise(ports: JobPorts, input: JobInput, orders: OrderSignals): Promise<JobResult> {
  const { runId, attempt, move } = input;
  const reply = await ports.api.lease({ runId, attempt, move, worker: ports.worker.id }, orders.detach);
  switch (reply.kind) {
    case 'elsewhere':
    case 'moved':
    case 'waiting':
      return reply;
    case 'cancelled':
      return { kind: 'finished', cause: 'cancel-requested', message: 'cancelled before it began', recorded: false };
    case 'ended':
      return { kind: 'finished', cause: reply.cause, message: '', recorded: false };
    case 'clean':
      await withBeside(ports, reply, async (beside) => {
        const holder = ports.api.attempt({ runId, attempt, token: reply.token });
        await ports.engines.at(reply).under(reply.token).remove(containerName(runId, attempt));
        await giveBack(beside, { runId, attempt }, holder);
        await holder.release();
      });
      return { kind: 'finished', cause: reply.cause, message: '', recorded: false };
    case 'granted':
      if (isToBeHandedOn(ports, reply)) return { kind: 'elsewhere', queue: queueOf(ports) };
      return superviseLease(ports, { ...reply, runId, attempt }, orders);
  }
}

const queueOf = ({ worker }: JobPorts): string => workerQueue(worker.cluster, worker.id);

/** New work takes one of few places here; on a listed host it goes on in the worker's own queue, which has room for all. */
function isToBeHandedOn({ worker }: JobPorts, { reach }: Lease): boolean {
  return reach !== undefined && Context.current().info.taskQueue === clusterQueue(worker.cluster);
}

async function superviseLease(ports: JobPorts, lease: Lease & AttemptKey, orders: OrderSignals): Promise<JobResult> {
  const { runId, attempt, token } = lease;
  const holder = { runId, attempt, token };
  const engine = ports.engines.at(lease).under(token);
  const name = containerName(runId, attempt);
  const { worker } = ports;
  const api = ports.api.attempt(holder);
  const end = await holding(ports, { name, me: orders.abortDetach }, () =>
    withBeside(ports, lease, (beside) => supervise({ engine, beside, api, worker }, lease, { ...holder, ...orders })),
  );
  if (end?.kind === 'waits') return { kind: 'waiting', reason: end.reason };
  if (end) return { kind: 'finished', cause: end.verdict.cause, message: end.verdict.message, recorded: true };
  await removeIfOrphan(ports, lease);
  return { kind: 'fenced' };
}

/** For as long as they are needed. */
async function withBeside<T>(
  ports: JobPorts,
  { beside = [], token }: { beside?: readonly LeasedBeside[]; token: number },
  body: (hosts: readonly HostBeside[]) => Promise<T>,
): Promise<T> {
  const borrowed = beside.flatMap(({ name, host, reach }) =>
    reach === null ? [] : [{ name, host, reach, ...ports.engines.borrow({ name: host, reach }) }],
  );
  try {
    return await body(
      borrowed.map(({ name, host, reach, ...at }) => ({
        name,
        host,
        address: 'address' in reach ? reach.address : null,
        engine: at.engine.under(token),
        direct: at.direct.under(token),
      })),
    );
  } finally {
    for (const one of borrowed) one.close();
  }
}

/** Told that its token is old, a supervisor may not touch the container any more, unless nobody needs it. */
async function removeIfOrphan(ports: JobPorts, lease: Lease & AttemptKey): Promise<void> {
  const { id, cluster } = ports.worker;
  const attempt = { runId: lease.runId, attempt: lease.attempt };
  const name = containerName(attempt.runId, attempt.attempt);
  ports.log.warn({ ...attempt, cluster }, 'refused by the server as no longer the holder of this attempt; letting go');
  // A server that does not answer now: the sweep asks again.
  const orphans = await ports.api.orphans({ worker: id, found: [attempt], isPart: true }).catch(() => []);
  if (orphans.length > 0 && !ports.held.has(name)) await ports.engines.at(lease).remove(name);
}

/** One supervisor a container in this process: a newer one makes the older let go. */
async function holding<T>(
  ports: JobPorts,
  { name, me }: { name: string; me: AbortController },
  body: () => Promise<T>,
): Promise<T> {
  ports.held.get(name)?.abort();
  ports.held.set(name, me);
  try {
    return await body();
  } finally {
    if (ports.held.get(name) === me) ports.held.delete(name);
  }
}
