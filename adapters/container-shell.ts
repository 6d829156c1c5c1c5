// Owns the commands in a container that serves as a host, by the engine's exec. Used by bare-engine.ts as a Shell.
import { PassThrough, type Duplex } from 'node:stream';
import type Dockerode from 'dockerode';
import type { ContainerReach } from '../domain/schemas/hosts';
import { messageOf, statusOf } from './docker-client';
import { execTerminal } from './docker-terminal';
import type { Terminal, TerminalWish } from './engine';
import { ERRORS_KEPT, lostMachine, type Opened, type OpenOptions, type Shell } from './shell';

export class ContainerShell implements Shell {
  readonly name: string;
  readonly shell: string;
  private readonly container: string;

  /** @param host as people call it */
  constructor(
    private readonly docker: Dockerode,
    { container, shell }: Pick<ContainerReach, 'container' | 'shell'>,
    host: string,
  ) {
    this.name = `host ${host}`;
    this.container = container;
    this.shell = shell;
  }

  async open(command: readonly string[], { input, keepsInput, signal }: OpenOptions = {}): Promise<Opened> {
    signal?.throwIfAborted();
    let exec: Dockerode.Exec;
    let stream: Duplex;
    try {
      const streams = { AttachStdin: true, AttachStdout: true, AttachStderr: true };
      exec = await this.docker.getContainer(this.container).exec({ ...streams, Cmd: [...command] });
      stream = await exec.start({ hijack: true, stdin: true });
    } catch (error) {
      throw this.translate(error);
    }
    const [output, said] = [new PassThrough(), new PassThrough()];
    let errors = '';
    said.setEncoding('utf8').on('data', (text: string) => (errors = (errors + text).slice(-ERRORS_KEPT)));
    this.docker.modem.demuxStream(stream, output, said);
    const letGo = (): void => void stream.destroy(new Error('let go'));
    signal?.addEventListener('abort', letGo, { once: true });
    const ended = new Promise<{ code: number; errors: string }>((done, fail) => {
      stream.once('error', (error) => fail(lostMachine(`${this.name} was lost in the middle of a command`, error)));
      stream.once('close', () => {
        signal?.removeEventListener('abort', letGo);
        this.exitCodeOf(exec).then((code) => done({ code, errors }), fail);
      });
    });
    ended.then(
      () => output.end(),
      (error: Error) => output.destroy(error),
    );
    if (!keepsInput) stream.end(input);
    return { output, ended };
  }

  async openTerminal(wish: TerminalWish): Promise<Terminal> {
    try {
      return await execTerminal(this.docker, this.container, wish);
    } catch (error) {
      throw this.translate(error);
    }
  }

  private async exitCodeOf(exec: Dockerode.Exec): Promise<number> {
    try {
      const { ExitCode: code, Running: isRunning } = await exec.inspect();
      if (code !== null && !isRunning) return code;
    } catch (error) {
      throw this.translate(error);
    }
    throw lostMachine(`${this.name} was lost in the middle of a command`);
  }

  private translate(error: unknown): Error {
    const isGone = statusOf(error) === 404 || statusOf(error) === 409;
    const message = `${this.name} does not take a command: ${messageOf(error)}`;
    // It does not come back, so nobody waits for it.
    return isGone ? new Error(message, { cause: error }) : lostMachine(message, error);
  }
}
