// Owns the patience with an engine that is away, as when it is restarted: containers live on, and every call may be repeated.
// Wrapped around an Engine by workers/cluster.ts.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Engine } from './engine';

/** How long an engine that does not answer is waited for, ms: a restart takes seconds. */
const AWAY_LIMIT_MS = 60_000;
const RETRY_MS = 500;

/** The same engine; what only breaks because it is away for a moment is tried again. `follow` and `wait` do so themselves. */
export function patient(engine: Engine): Engine {
  return {
    pull: (reference) => patiently(() => engine.pull(reference)),
    digestOf: (imageId) => patiently(() => engine.digestOf(imageId)),
    makeRunDir: (name, script) => engine.makeRunDir(name, script),
    find: (name) => patiently(() => engine.find(name)),
    create: (spec) => patiently(() => engine.create(spec)),
    start: (name) => patiently(() => engine.start(name)),
    follow: (container, options) => engine.follow(container, options),
    wait: (name, signal) => engine.wait(name, signal),
    stop: (name, graceMs) => patiently(() => engine.stop(name, graceMs)),
    archivedFiles: (name) => engine.archivedFiles(name),
    remove: (name) => patiently(() => engine.remove(name)),
    listRemains: () => patiently(() => engine.listRemains()),
  };
}

/** @throws EngineError of the last try */
async function patiently<T>(call: () => Promise<T>): Promise<T> {
  const giveUpAtMs = performance.now() + AWAY_LIMIT_MS;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!isAway((error as Error).cause) || performance.now() > giveUpAtMs) throw error;
    }
    await sleep(RETRY_MS);
  }
}

/** Nobody listens, the connection broke, or the engine has lost what is below it for a moment. */
function isAway(cause: unknown): boolean {
  const { code, statusCode, message } = (cause ?? {}) as NodeJS.ErrnoException & { statusCode?: number };
  if (statusCode === undefined) return ['ECONNREFUSED', 'ENOENT', 'ECONNRESET', 'EPIPE'].includes(code ?? '');
  return statusCode >= 500 && /containerd|transport is closing|while dialing|shutting down/i.test(message ?? '');
}
