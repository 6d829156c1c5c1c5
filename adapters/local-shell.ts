// Owns the commands on the worker's own machine. Used by bare-engine.ts as a Shell.
import { spawn } from 'node:child_process';
import type { Terminal, TerminalWish } from './engine';
import { ERRORS_KEPT, quote, type Opened, type OpenOptions, type Shell } from './shell';
import { carried, sized } from './terminal';

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

  /** By util-linux's `script`, whose terminal keeps the size that it begins with. */
  async openTerminal({ command, term, cols, rows }: TerminalWish): Promise<Terminal> {
    const line = `exec ${sized(command, { cols, rows }).map(quote).join(' ')}`;
    const child = spawn('script', ['-qefc', line, '/dev/null'], {
      stdio: ['pipe', 'pipe', 'ignore'],
      detached: true,
      env: { ...envOfRuns(), TERM: term, SHELL: this.shell },
    });
    const ended = new Promise<number>((done, fail) => {
      child.once('error', fail);
      child.once('close', (code) => done(code ?? 255));
    });
    await new Promise<void>((done, fail) => child.once('spawn', done).once('error', fail));
    const { output, write } = carried(child.stdout, child.stdin);
    const close = (): void => {
      // Its terminal hangs up with it.
      if (child.exitCode === null && child.pid !== undefined) process.kill(child.pid, 'SIGTERM');
    };
    return { output, write, ended, close, resize: async () => undefined };
  }
}

/** What a worker is given is not for its runs: keys and addresses of its cluster, of Temporal and of a cloud. */
function envOfRuns(): NodeJS.ProcessEnv {
  const isOurs = (name: string): boolean => /^(?:SLIPWAY|TEMPORAL|AWS)_|^DATABASE_URL$/.test(name);
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !isOurs(name)));
}
