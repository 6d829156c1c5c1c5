// Owns how every process of ours starts and ends: clear words when it cannot start, one clean stop, no orphan.
// Called by each entry point (api/main.ts, workers/*.ts).
import pino, { type Logger } from 'pino';
import { readSettings, SettingsError } from './settings';

export interface Running {
  /** Finishes what was begun, however long that takes; a second signal stops at once. Left out: the first one does. */
  drain?(): Promise<void>;
  stop(): Promise<void>;
}

/** Above this a stop that hangs is cut short, ms; the supervisor kills at 20 s. */
const STOP_LIMIT_MS = 15_000;
/** A terminal's Ctrl-C comes twice: from the terminal, and passed on by npm. Only a later one is meant as a second. */
const SAME_SIGNAL_MS = 500;

/**
 * Runs a role until SIGTERM, SIGINT or the end of its supervisor (the IPC channel closes).
 * Tells the supervisor `ready` once `start` has resolved; `start` may end the process by itself.
 */
export function runProcess(role: string, start: (log: Logger, end: (why: string) => void) => Promise<Running>): void {
  const log = makeLogger(role);
  let running: Running | undefined;
  let stopping = false;
  const stop = (why: string): void => {
    if (stopping) return;
    stopping = true;
    log.info({ why }, 'stopping');
    setTimeout(() => process.exit(1), STOP_LIMIT_MS).unref();
    (running?.stop() ?? Promise.resolve()).then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ error: String(error) }, 'stop failed');
        process.exit(1);
      },
    );
  };
  let drainingSince: number | undefined;
  const onSignal = (signal: string): void => {
    if (drainingSince !== undefined && performance.now() - drainingSince < SAME_SIGNAL_MS) return;
    if (stopping || drainingSince !== undefined || !running?.drain) return stop(signal);
    drainingSince = performance.now();
    log.info({ why: signal }, 'finishing what runs; once more to stop at once');
    running.drain().then(
      () => stop('nothing runs any more'),
      (error: unknown) => {
        log.error({ error: String(error) }, 'cannot finish what runs');
        stop('it could not be waited for');
      },
    );
  };
  process.on('SIGTERM', () => onSignal('SIGTERM'));
  process.on('SIGINT', () => onSignal('SIGINT'));
  process.on('disconnect', () => stop('supervisor is gone'));
  start(log, stop).then(
    (started) => {
      running = started;
      log.info('ready');
      process.send?.('ready');
    },
    (error: unknown) => {
      log.fatal(error instanceof SettingsError ? `settings: ${error.message}` : `cannot start: ${describe(error)}`);
      log.debug({ stack: (error as Error).stack }, 'where');
      process.exit(1);
    },
  );
}

function makeLogger(role: string): Logger {
  let level = 'info';
  try {
    level = readSettings().SLIPWAY_LOG_LEVEL;
  } catch {
    // Reported by the role itself, which reads the same settings.
  }
  return pino({ level, base: { role, pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime });
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause instanceof Error ? ` (${error.cause.message})` : '';
  return `${error.message}${cause}`;
}
