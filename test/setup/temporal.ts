// Owns Temporal dev servers of tests: free ports, a file of their own, and the flags that `slipway up` uses.
// Called by tests on real Temporal; each stops what it has started.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { boundCommand } from '../../adapters/bound-command';
import { devServerArgs, isTemporalReady } from '../../adapters/temporal-dev-server';
import { freePort } from './free-port';
import { waitFor } from './wait-for';

export interface TestTemporal {
  address: string;
  uiUrl: string | undefined;
  /** Of its file and its log. */
  dir: string;
  /** Ends it and removes its file. */
  stop(): Promise<void>;
  /** Ends it by SIGKILL; its file stays. */
  kill9(): Promise<void>;
  /** Starts it again on the same file and the same ports. */
  restart(): Promise<void>;
  /** Starts it anew without any of its data. */
  restartEmpty(): Promise<void>;
}

/**
 * A dev server that is ready. @param options.ui with the Web UI, on a port of its own
 * @param options.withoutPush cancellations reach workers by their heartbeats alone
 */
export async function startTemporal(options: { ui?: boolean; withoutPush?: boolean } = {}): Promise<TestTemporal> {
  const dir = mkdtempSync(join(tmpdir(), 'slipway-temporal-'));
  const port = await freePort();
  const uiPort = options.ui ? await freePort() : undefined;
  const address = `127.0.0.1:${port}`;
  const all = devServerArgs({ dbFile: join(dir, 'temporal.db'), port, uiPort });
  const args = options.withoutPush ? all.map((arg) => arg.replace(PUSH, '$1=false')) : all;
  const logFile = join(dir, 'server.log');
  let server = await launch(args, address, logFile);
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (server.exitCode !== null || server.signalCode !== null) return;
    const gone = once(server, 'exit');
    server.kill(signal);
    await gone;
  };
  return {
    address,
    dir,
    uiUrl: uiPort === undefined ? undefined : `http://127.0.0.1:${uiPort}`,
    stop: async () => {
      // It has nothing to say goodbye to, and its own shutdown takes seconds.
      await end('SIGKILL');
      rmSync(dir, { recursive: true, force: true });
    },
    kill9: () => end('SIGKILL'),
    restartEmpty: async () => {
      await end('SIGKILL');
      for (const file of readdirSync(dir).filter((name) => name.startsWith('temporal.db'))) rmSync(join(dir, file));
      server = await launch(args, address, logFile);
    },
    restart: async () => {
      await end('SIGKILL');
      server = await launch(args, address, logFile);
    },
  };
}

const PUSH = /^(system\.enableCancelActivityWorkerCommand|frontend\.WorkerCommandsEnabled)=true$/;

async function launch(args: string[], address: string, logFile: string): Promise<ChildProcess> {
  const program = process.env.SLIPWAY_TEMPORAL_CLI;
  if (!program)
    throw new Error('no Temporal CLI: run the tests with `npm test`, or set SLIPWAY_TEMPORAL_CLI to its path');
  const bound = boundCommand(program, args);
  const log = openSync(logFile, 'a');
  const server = spawn(bound.command, bound.args, { stdio: ['ignore', log, log] });
  closeSync(log);
  const ended = new Promise<never>((_, fail) => {
    const say = (how: unknown): void =>
      fail(new Error(`Temporal ended (${String(how)}): ${readFileSync(logFile, 'utf8')}`));
    server.once('error', say).once('exit', (code, signal) => say(signal ?? code));
  });
  ended.catch(() => undefined);
  await Promise.race([
    ended,
    waitFor(() => isTemporalReady(address), { what: `Temporal at ${address}`, timeoutMs: 30_000 }),
  ]);
  return server;
}
