// Owns the start of an attempt: what is there already is adopted, else all that it needs is made ready on its hosts, and
// its script started once. Called by supervise.ts.
import { DEFAULT_LIMITS } from '../domain/build-input';
import { isCommitId, trusting } from '../domain/repository';
import type { Checkout } from '../domain/schemas/plan';
import type { HolderKey, Lease } from '../domain/schemas/worker-api';
import type { ContainerSpec, Engine, EngineError, FoundContainer } from '../adapters/engine';
import type { AttemptApi } from '../adapters/worker-api';
import { HOLDER_PROGRAM, SLIPWAY_PROGRAM } from './beside-program';
import { besideEnv, type HostBeside, type HostsBeside } from './hosts-beside';
import { cancelled, judgeUnbegun, letGoIf, lost, words, type Orders, type Verdict } from './judge';
import { longTimer } from './limits';

export interface SupervisePorts {
  engine: Engine;
  /** Those that the run has beside its own host. */
  beside: readonly HostBeside[];
  api: AttemptApi;
  worker: { id: string; cluster: string; stopGraceMs: number };
}

/** An attempt by its container. */
export type Named = HolderKey & Orders & { name: string };

export type Started =
  /** `isNew`: by this call. */
  { kind: 'started'; container: FoundContainer; isNew: boolean } | { kind: 'not-started'; verdict: Verdict };

const notStarted = (verdict: Verdict): Started => ({ kind: 'not-started', verdict });

export async function startOnce(
  ports: SupervisePorts,
  lease: Lease,
  at: Named & { beside: HostsBeside },
): Promise<Started> {
  const { engine } = ports;
  // Asked first only when there may be something to adopt; else the engine itself refuses a second one of this name.
  const found = lease.mayHaveStarted ? await engine.find(at.name) : undefined;
  if (!found && lease.mayHaveStarted) return notStarted(lost());
  if (found && found.state !== 'created') return { kind: 'started', container: found, isNew: false };
  const made = await withinStartLimit(
    lease,
    at,
    async (given) => (await makeReady(ports, lease, { ...at, given, found })).id,
  ).catch((error: unknown): Within<string> => {
    if (found) throw error;
    return { kind: 'ended', verdict: judgeUnbegun(error, at) };
  });
  if (made.kind !== 'done') return notStarted(made.verdict);
  const isMine = await confirmStart(ports, at, made.result);
  if (!isMine) return notStarted(cancelled());
  await engine.start(at.name);
  const container = await engine.find(at.name);
  return container ? { kind: 'started', container, isNew: true } : notStarted(lost());
}

/**
 * A start that was confirmed longer ago than this is confirmed again, ms: the process may have been paused meanwhile. Far
 * below the heartbeat time-out and the grace time together, before which nobody else gets the attempt.
 */
const FRESH_MS = 5_000;

/**
 * Says that the script is about to start: whoever comes after a crash here may adopt a container, but never make another.
 * Refused when the lease is another's by now. @returns false when the run was cancelled
 */
async function confirmStart(ports: SupervisePorts, at: Named, containerId: string): Promise<boolean> {
  for (;;) {
    const askedMs = performance.now();
    await ports.api.progress({ state: 'preparing', starting: true, containerId }, at.detach);
    letGoIf(at.detach);
    if (at.cancel.aborted) return false;
    if (performance.now() - askedMs < FRESH_MS) return true;
  }
}

/** What may still stop the preparation of an attempt. */
interface Given {
  /** Aborted when the attempt is given up meanwhile. */
  given: AbortSignal;
}

/** On all of its hosts. */
async function makeReady(
  ports: SupervisePorts,
  lease: Lease,
  at: Named & Given & { beside: HostsBeside; found: FoundContainer | undefined },
): Promise<{ id: string }> {
  const onOthers = at.beside.begin((host, name) => createBeside(ports, lease, { ...at, host, name }), at.given);
  const [own, others] = await Promise.allSettled([
    at.found ?? create(ports, lease, at).then((id) => ({ id })),
    onOthers,
  ]);
  if (own.status === 'rejected') throw own.reason;
  if (others.status === 'rejected') throw others.reason;
  return own.value;
}

async function create(
  { engine, api, worker, beside }: SupervisePorts,
  lease: Lease,
  at: Named & Given,
): Promise<string> {
  const { checkout, script, hosts } = lease.spec;
  const runDir = await engine.makeRunDir(at.name, script, hosts && SLIPWAY_PROGRAM);
  const commit = checkout && (await checkOutOnce({ engine, api }, checkout, at));
  const spec = containerSpec(worker, lease, { ...at, runDir, host: lease.host });
  const env = {
    ...spec.env,
    ...besideEnv(beside),
    ...(commit === undefined ? {} : { GIT_SHA: commit, ...trusting(spec.env) }),
  };
  // An image that was made on another host has no name in a registry; there the reference of the plan is all there is.
  const image = lease.image.startsWith('sha256:') ? lease.spec.container : lease.image;
  return createFrom(engine, { ...spec, script, env, image: lease.image }, { image, given: at.given });
}

/**
 * Puts the tree into /repo: of the commit that the lease names, else of what its ref is now, if no other run of the build
 * was first to look; then of what that one found. Killed at any point, it is done again with the same end.
 */
async function checkOutOnce(
  { engine, api }: Pick<SupervisePorts, 'engine' | 'api'>,
  checkout: Checkout,
  at: Named & Given,
): Promise<string> {
  const found = await engine.checkOut(at.name, checkout, at.given);
  if (isCommitId(checkout.ref)) return found;
  const commit = await api.freeze(found, at.given);
  return commit === found ? found : engine.checkOut(at.name, { ...checkout, ref: commit }, at.given);
}

async function createBeside(
  { worker }: SupervisePorts,
  lease: Lease,
  { host, ...at }: Named & Given & { host: HostBeside },
): Promise<string> {
  const runDir = await host.engine.makeRunDir(at.name, HOLDER_PROGRAM, SLIPWAY_PROGRAM);
  const spec = containerSpec(worker, lease, { ...at, runDir, host: host.host });
  const image = lease.spec.container;
  return createFrom(
    host.engine,
    { ...spec, env: { ...spec.env, H_HOST: host.name }, image },
    { image, given: at.given },
  );
}

/** @param to.image to be pulled when the container cannot be made from what is there */
async function createFrom(engine: Engine, spec: ContainerSpec, to: Given & { image: string }): Promise<string> {
  to.given.throwIfAborted();
  try {
    return await engine.create(spec);
  } catch (error) {
    if ((error as EngineError).reason !== 'image-missing') throw error;
  }
  await engine.pull(to.image);
  to.given.throwIfAborted();
  return engine.create({ ...spec, image: to.image });
}

type Within<T> = { kind: 'done'; result: T } | { kind: 'ended'; verdict: Verdict };

/** A pull may take minutes and cannot be stopped; nobody waits for it when the run is cancelled, let go or out of time. */
async function withinStartLimit<T>(
  lease: Lease,
  at: Named,
  body: (given: AbortSignal) => Promise<T>,
): Promise<Within<T>> {
  const givenUp = new AbortController();
  const limitMs = lease.spec.startTimeoutMs ?? DEFAULT_LIMITS.startMs;
  const told = (signal: AbortSignal) =>
    new Promise<'told'>((done) => {
      if (signal.aborted) done('told');
      signal.addEventListener('abort', () => done('told'), { once: true });
    });
  let timer: { clear(): void } | undefined;
  const late = new Promise<'late'>((done) => {
    timer = longTimer(() => done('late'), Math.max(limitMs - lease.leasedForMs, 0));
  });
  try {
    if (at.cancel.aborted) return { kind: 'ended', verdict: cancelled() };
    const work = body(givenUp.signal);
    work.catch(() => undefined);
    const first = await Promise.race([work.then((result) => ({ result })), told(at.cancel), told(at.detach), late]);
    letGoIf(at.detach);
    if (at.cancel.aborted) return { kind: 'ended', verdict: cancelled() };
    if (typeof first === 'object') return { kind: 'done', result: first.result };
    const message = `did not start within ${words(limitMs)} of getting its host; a pull may be slow, or the engine`;
    return { kind: 'ended', verdict: { cause: 'start-timeout', message, exitCode: null } };
  } finally {
    givenUp.abort();
    timer?.clear();
  }
}

function containerSpec(
  worker: SupervisePorts['worker'],
  lease: Lease,
  at: HolderKey & { name: string; runDir: string; host: string },
): Omit<ContainerSpec, 'image'> {
  const { spec } = lease;
  return {
    name: at.name,
    runDir: at.runDir,
    hasSpool: spec.hosts !== undefined,
    user: spec.containerUser,
    entrypoint: spec.containerEntrypoint,
    privileged: spec.privileged,
    capAdd: spec.capAdd,
    capDrop: spec.capDrop,
    resources: spec.resources,
    logCapBytes: lease.logCapBytes,
    env: {
      ...spec.env,
      CI: 'true',
      H_PROJECT: lease.project,
      H_BUILD: String(lease.build),
      H_RUN: lease.run,
      H_RUN_URL: lease.runUrl,
      H_ATTEMPT: String(at.attempt),
      H_WORKER: at.host,
    },
    labels: {
      'dev.slipway.worker': worker.id,
      'dev.slipway.project': lease.project,
      'dev.slipway.build': String(lease.build),
      'dev.slipway.run': lease.run,
      'dev.slipway.run-id': at.runId,
      'dev.slipway.attempt': String(at.attempt),
      'dev.slipway.token': String(at.token),
    },
  };
}
