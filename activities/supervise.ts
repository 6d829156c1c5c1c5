// Owns one attempt on a host, from its lease to its release: start once, follow, judge, collect, clean.
//
//   leased ─ find ─┬─ none, may have started ──────────────> container-lost
//                  ├─ none ─ create (pull) ── (intent) ──┐
//                  ├─ created ─────────────── (intent) ──┴─ start ┐
//                  └─ running or exited (adopted) ──────────────┴─ follow ─ exit ─ collect ─ result ─ remove ─ release
//
// Called by job.ts inside a Temporal activity; may be killed at any point and run again.
import { containerName } from '../domain/names';
import type { Cause } from '../domain/schemas/words';
import type { HolderKey, Lease } from '../domain/schemas/worker-api';
import type { ContainerExit, Engine, EngineError, EngineErrorReason, FoundContainer } from '../adapters/engine';
import type { AttemptApi, WorkerApiError } from '../adapters/worker-api';
import { shipLog } from './log-shipper';

export interface SupervisePorts {
  engine: Engine;
  api: AttemptApi;
  worker: { id: string; cluster: string; stopGraceMs: number };
}

/** Told from outside while an attempt runs. */
export interface Orders {
  /** Aborted when this supervisor must let go at once and leave the container alone. */
  detach: AbortSignal;
  /** Aborted when the run is cancelled: the container must die. */
  cancel: AbortSignal;
}

export interface Verdict {
  cause: Cause;
  message: string;
  exitCode: number | null;
}

/** This supervisor let go; the container lives on. */
export class DetachedError extends Error {
  override readonly name = 'DetachedError';
}

/**
 * Carries one attempt to its end, from wherever it is.
 * @returns the verdict, recorded and cleaned up, or undefined when the lease was fenced: then another took over
 * @throws DetachedError
 */
export async function supervise(
  ports: SupervisePorts,
  lease: Lease,
  at: HolderKey & Orders,
): Promise<Verdict | undefined> {
  const name = containerName(at.runId, at.attempt);
  try {
    const verdict = await attempt(ports, lease, { ...at, name }).catch((error: unknown) => judgeError(error, at));
    await ports.api.result(verdict);
    await ports.engine.remove(name);
    await ports.api.release();
    return verdict;
  } catch (error) {
    if (!isFenced(error)) throw error;
    await ports.engine.remove(name);
    return undefined;
  }
}

type Named = HolderKey & Orders & { name: string };

async function attempt(ports: SupervisePorts, lease: Lease, at: Named): Promise<Verdict> {
  const started = await startOnce(ports, lease, at);
  if (started === 'cancelled') return cancelled();
  if (started === 'lost') {
    return { cause: 'container-lost', message: 'its container is gone from the engine', exitCode: null };
  }
  const startedAt = started.startedAt ?? new Date();
  const watch = watchLimits(ports, lease, { ...at, startedAt });
  try {
    const exited = ports.engine.wait(at.name, at.detach);
    // Shown to people, not waited for: the script is running already.
    const shown = showRunning(ports, at, { startedAt, imageId: started.imageId });
    const source = ports.engine.follow(started, { fromByte: lease.logBytes, signal: at.detach, exited });
    const append = (startByte: number, bytes: Buffer) => ports.api.appendLog(startByte, bytes, at.detach);
    const [exit, , lastLines] = await Promise.all([exited, shown, ship(source, append, lease.logBytes)]);
    const stopped = watch.end();
    await collect(ports, at);
    return judge({ exit, stopped, lease, lastLines });
  } finally {
    watch.end();
  }
}

async function showRunning(
  ports: SupervisePorts,
  at: Named,
  facts: { startedAt: Date; imageId: string },
): Promise<void> {
  const imageDigest = await ports.engine.digestOf(facts.imageId);
  await ports.api.progress({ state: 'running', startedAt: facts.startedAt.toISOString(), imageDigest }, at.detach);
}

/** @returns the container, started; or why there is none */
async function startOnce(
  ports: SupervisePorts,
  lease: Lease,
  at: Named,
): Promise<FoundContainer | 'cancelled' | 'lost'> {
  const { engine, api } = ports;
  // Asked first only when there may be something to adopt; else the engine itself refuses a second one of this name.
  const found = lease.mayHaveStarted ? await engine.find(at.name) : undefined;
  if (!found && lease.mayHaveStarted) return 'lost';
  if (found && found.state !== 'created') return found;
  if (at.cancel.aborted) return 'cancelled';
  const containerId = found?.id ?? (await create(ports, lease, at));
  letGoIf(at.detach);
  if (containerId === 'cancelled' || at.cancel.aborted) return 'cancelled';
  // Said before the start: whoever comes after a crash here may adopt a container, but never make another.
  await api.progress({ state: 'preparing', starting: true, containerId }, at.detach);
  letGoIf(at.detach);
  if (at.cancel.aborted) return 'cancelled';
  await engine.start(at.name);
  return (await engine.find(at.name)) ?? 'lost';
}

async function create(ports: SupervisePorts, lease: Lease, at: Named): Promise<string> {
  const { engine } = ports;
  const runDir = await engine.makeRunDir(at.name, lease.spec.script);
  const spec = containerSpec(ports, lease, { ...at, runDir });
  try {
    return await engine.create(spec);
  } catch (error) {
    if ((error as EngineError).reason !== 'image-missing') throw error;
  }
  if ((await unlessTold(engine.pull(spec.image), at)) === 'cancelled') return 'cancelled';
  return engine.create(spec);
}

/** A pull may take minutes and cannot be stopped; nobody has to wait for it when the run is cancelled or let go. */
async function unlessTold<T>(work: Promise<T>, at: Orders): Promise<T | 'cancelled'> {
  work.catch(() => undefined);
  const told = (signal: AbortSignal): Promise<'cancelled'> =>
    new Promise((done) => signal.addEventListener('abort', () => done('cancelled'), { once: true }));
  const first = await Promise.race([work, told(at.cancel), told(at.detach)]);
  letGoIf(at.detach);
  return at.cancel.aborted ? 'cancelled' : first;
}

function containerSpec(ports: SupervisePorts, lease: Lease, at: Named & { runDir: string }) {
  const { spec } = lease;
  return {
    name: at.name,
    image: spec.container,
    runDir: at.runDir,
    user: spec.containerUser,
    entrypoint: spec.containerEntrypoint,
    privileged: spec.privileged,
    capAdd: spec.capAdd,
    capDrop: spec.capDrop,
    resources: spec.resources,
    env: {
      ...spec.env,
      CI: 'true',
      H_PROJECT: lease.project,
      H_BUILD: String(lease.build),
      H_RUN: lease.run,
      H_RUN_URL: lease.runUrl,
      H_WORKER: lease.host,
    },
    labels: {
      'dev.slipway.worker': ports.worker.id,
      'dev.slipway.project': lease.project,
      'dev.slipway.build': String(lease.build),
      'dev.slipway.run': lease.run,
      'dev.slipway.run-id': at.runId,
      'dev.slipway.attempt': String(at.attempt),
      'dev.slipway.token': String(at.token),
    },
  };
}

type Stopped = 'run-timeout' | 'cancel-requested' | undefined;

/** Stops the container when it is cancelled or out of time. `end` says which of them happened, if any. */
function watchLimits(ports: SupervisePorts, lease: Lease, at: Named & { startedAt: Date }): { end(): Stopped } {
  let stopped: Stopped;
  const stop = (why: NonNullable<Stopped>): void => {
    if (stopped || at.detach.aborted) return;
    stopped = why;
    // A stop that the engine refuses is tried again by the next supervisor or the sweep; the wait goes on meanwhile.
    void keepStopping(ports, at);
  };
  const onCancel = (): void => stop('cancel-requested');
  at.cancel.addEventListener('abort', onCancel);
  if (at.cancel.aborted) onCancel();
  const leftMs = at.startedAt.getTime() + lease.spec.timeoutMs - Date.now();
  const timer = longTimer(() => stop('run-timeout'), Math.max(leftMs, 0));
  return {
    end: () => {
      timer.clear();
      at.cancel.removeEventListener('abort', onCancel);
      return stopped;
    },
  };
}

const STOP_RETRY_MS = 1_000;

async function keepStopping(ports: SupervisePorts, at: Named): Promise<void> {
  while (!at.detach.aborted) {
    try {
      return await ports.engine.stop(at.name, ports.worker.stopGraceMs);
    } catch {
      await new Promise((done) => setTimeout(done, STOP_RETRY_MS));
    }
  }
}

/** setTimeout fires at once above 24.8 days. */
function longTimer(fire: () => void, ms: number): { clear(): void } {
  const MOST_MS = 2 ** 31 - 1;
  let timer: NodeJS.Timeout;
  const arm = (leftMs: number): void => {
    timer = setTimeout(() => (leftMs > MOST_MS ? arm(leftMs - MOST_MS) : fire()), Math.min(leftMs, MOST_MS));
  };
  arm(ms);
  return { clear: () => clearTimeout(timer) };
}

const LAST_BYTES = 2_000;

/** @returns the last bytes as text, for the verdict */
async function ship(
  source: AsyncIterable<Buffer>,
  append: (startByte: number, bytes: Buffer) => Promise<number>,
  fromByte: number,
): Promise<string> {
  let last = Buffer.alloc(0);
  async function* remembering(): AsyncGenerator<Buffer> {
    for await (const bytes of source) {
      last = Buffer.concat([last, bytes.subarray(-LAST_BYTES)]).subarray(-LAST_BYTES);
      yield bytes;
    }
  }
  await shipLog({ source: remembering(), append }, fromByte);
  return last.toString('utf8');
}

async function collect(ports: SupervisePorts, at: Named): Promise<void> {
  let told = false;
  for await (const file of ports.engine.archivedFiles(at.name)) {
    if (!told) await ports.api.progress({ state: 'collecting' }, at.detach);
    told = true;
    await ports.api.putArtifact(file, at.detach).catch((error: unknown) => {
      throw asArtifactError(error, file.path, at);
    });
  }
}

/** The run did its work, but a file it left could not be read or was refused. */
class ArtifactError extends Error {
  override readonly name = 'ArtifactError';
}

function asArtifactError(error: unknown, path: string, at: Orders): unknown {
  const isOthers = at.detach.aborted || isFenced(error) || (error as WorkerApiError).reason === 'disk-full';
  return isOthers ? error : new ArtifactError(`artifact ${path} could not be stored: ${(error as Error).message}`);
}

interface Ended {
  exit: ContainerExit;
  stopped: Stopped;
  lease: Lease;
  lastLines: string;
}

/** 126 and 127 are also what shells say; the init process names our script when it was the one that could not begin. */
const NOT_RUNNABLE = /exec (\/slipway\/script|\S+) failed: (.+)/;

function judge({ exit, stopped, lease, lastLines }: Ended): Verdict {
  const { exitCode } = exit;
  const { spec } = lease;
  if (stopped === 'cancel-requested') return { ...cancelled(), exitCode };
  if (stopped === 'run-timeout') {
    return { cause: 'run-timeout', message: `stopped after its time limit of ${words(spec.timeoutMs)}`, exitCode };
  }
  if (exitCode === 0) return { cause: 'ok', message: '', exitCode };
  const notRunnable = exitCode === 126 || exitCode === 127 ? NOT_RUNNABLE.exec(lastLines) : null;
  if (notRunnable) {
    const message = `the script cannot be executed in image ${spec.container} (${notRunnable[2]?.trim()}); begin it with a line like #!/bin/sh that names a program of the image`;
    return { cause: 'script-not-runnable', message, exitCode };
  }
  if (exit.outOfMemory) {
    const limit = spec.resources.memoryBytes;
    const of = limit === undefined ? 'the memory of the host' : `its ${Math.round(limit / 1024 / 1024)} MiB of memory`;
    return { cause: 'out-of-memory', message: `killed by the kernel: it used more than ${of}`, exitCode };
  }
  return { cause: 'exit-code', message: `exited with code ${exitCode}`, exitCode };
}

function cancelled(): Verdict {
  return { cause: 'cancel-requested', message: 'cancelled on request', exitCode: null };
}

function words(ms: number): string {
  const seconds = ms / 1000;
  return seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 6) / 10} min`;
}

const ENGINE_CAUSE: Record<EngineErrorReason, Cause> = {
  'image-missing': 'image-missing',
  'script-not-runnable': 'script-not-runnable',
  'disk-full': 'disk-full',
  'engine-unavailable': 'engine-unavailable',
  'no-such-container': 'container-lost',
  refused: 'internal',
};

/** Turns what went wrong on our side into a verdict; letting go and being fenced are passed on. */
function judgeError(error: unknown, at: Orders): Verdict {
  letGoIf(at.detach);
  const { name, message } = error as Error;
  const verdict = (cause: Cause): Verdict => ({ cause, message: message.slice(0, 2_000), exitCode: null });
  if (name === 'ArtifactError') return verdict('artifact-upload');
  if (name === 'EngineError') return verdict(ENGINE_CAUSE[(error as EngineError).reason]);
  if (name !== 'WorkerApiError' || isFenced(error)) throw error;
  return verdict((error as WorkerApiError).reason === 'disk-full' ? 'disk-full' : 'internal');
}

function isFenced(error: unknown): boolean {
  return (error as Error).name === 'WorkerApiError' && (error as WorkerApiError).reason === 'fenced';
}

function letGoIf(signal: AbortSignal): void {
  if (signal.aborted) throw new DetachedError('another supervisor will adopt the container');
}
