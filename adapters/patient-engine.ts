// Owns the patience with an engine that is away, as when it is restarted: containers live on, and every call may be repeated.
// Wrapped around an Engine by workers/cluster-worker.ts.
import { setTimeout as sleep } from 'node:timers/promises';
import { EngineError, type Engine } from './engine';

/** How long an engine that does not answer is waited for, ms: a restart takes seconds. */
const AWAY_LIMIT_MS = 120_000;
const RETRY_MS = 500;

/** A call that takes longer has lost its answer, ms: dockerode waits for ever for one that was cut in its middle. */
const CALL_LIMIT_MS = 60_000;

/** The same engine; what only breaks because it is away for a moment is tried again. Those that take long do so themselves. */
export function patient(engine: Engine): Engine {
  return {
    under: (token) => patient(engine.under(token)),
    // As long as it takes; the limit of the start of its run ends it.
    pull: (reference) => patiently(() => engine.pull(reference), Infinity),
    digestOf: (imageId) => patiently(() => engine.digestOf(imageId)),
    makeRunDir: (name, script, program) => patiently(() => engine.makeRunDir(name, script, program)),
    // As long as it takes, as with a pull.
    checkOut: (name, checkout, signal) => patiently(() => engine.checkOut(name, checkout, signal), Infinity),
    find: (name) => patiently(() => engine.find(name)),
    create: (spec) => patiently(() => engine.create(spec)),
    start: (name) => patiently(() => engine.start(name)),
    follow: (container, options) => engine.follow(container, options),
    wait: (container, options) => engine.wait(container, options),
    stop: (name, graceMs) => patiently(() => engine.stop(name, graceMs), CALL_LIMIT_MS + graceMs),
    archivedFiles: (name) => engine.archivedFiles(name),
    spooled: (name) => patiently(() => engine.spooled(name)),
    watchSpool: (name, options) => engine.watchSpool(name, options),
    take: (name, file, fromByte) => engine.take(name, file, fromByte),
    put: (name, file, bytes) => patiently(() => engine.put(name, file, bytes)),
    discard: (name, prefix) => patiently(() => engine.discard(name, prefix)),
    openTerminal: (name, wish) => engine.openTerminal(name, wish),
    remove: (name) => patiently(() => engine.remove(name)),
    listRemains: (by) => patiently(() => engine.listRemains(by)),
  };
}

/** @throws EngineError of the last try */
async function patiently<T>(call: () => Promise<T>, limitMs = CALL_LIMIT_MS): Promise<T> {
  const giveUpAtMs = performance.now() + AWAY_LIMIT_MS;
  for (;;) {
    try {
      return await within(limitMs, call());
    } catch (error) {
      if (!isAway((error as Error).cause) || performance.now() > giveUpAtMs) throw error;
    }
    await sleep(RETRY_MS);
  }
}

async function within<T>(limitMs: number, call: Promise<T>): Promise<T> {
  if (limitMs === Infinity) return call;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, fail) => {
    const message = `the engine did not answer within ${limitMs / 1000} s`;
    const error = new EngineError('engine-unavailable', message, { cause: { code: 'ETIMEDOUT' } });
    timer = setTimeout(() => fail(error), limitMs);
  });
  return Promise.race([call, late]).finally(() => clearTimeout(timer));
}

/** Nobody listens, the connection broke, or the engine has lost what is below it for a moment. */
function isAway(cause: unknown): boolean {
  const { code, statusCode, message } = (cause ?? {}) as NodeJS.ErrnoException & { statusCode?: number };
  if (statusCode === undefined)
    return ['ECONNREFUSED', 'ENOENT', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT'].includes(code ?? '');
  return statusCode >= 500 && /containerd|transport is closing|while dialing|shutting down/i.test(message ?? '');
}
