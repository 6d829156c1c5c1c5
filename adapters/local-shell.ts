// Owns the commands on the worker's own machine. Used by bare-engine.ts as a Shell.
import { spawn } from 'node:child_process';
import { ERRORS_KEPT, type Opened, type OpenOptions, type Shell } from './shell';

export class LocalShell implements Shell {
  readonly name = 'this machine';
  readonly shell = '/bin/sh';

  async open(
    [program = '', ...args]: readonly string[],
    { input, keepsInput, signal }: OpenOptions = {},
  ): Promise<Opened> {
    // In a group of its own: what is sent to that of the worker, as by a terminal, is not for it.
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'], signal, detached: true, env: envOfRuns() });
    let errors = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (errors = (errors + text).slice(-ERRORS_KEPT)));
    const ended = new Promise<{ code: number; errors: string }>((done, fail) => {
      child.once('error', fail);
      child.once('close', (code, killer) =>
        done({ code: code ?? 255, errors: killer ? `killed by ${killer}` : errors }),
      );
    });
    ended.catch(() => undefined);
    // A command that ends before it has read everything says so by its exit code.
    child.stdin.on('error', () => undefined);
    if (keepsInput) child.once('exit', () => child.stdin.destroy());
    else child.stdin.end(input);
    return { output: child.stdout, ended };
  }
}

/** What a worker is given is not for its runs: keys and addresses of its cluster, of Temporal and of a cloud. */
function envOfRuns(): NodeJS.ProcessEnv {
  const isOurs = (name: string): boolean => /^(?:SLIPWAY|TEMPORAL|AWS)_|^DATABASE_URL$/.test(name);
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !isOurs(name)));
}
