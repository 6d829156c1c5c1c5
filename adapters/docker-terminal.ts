// Owns terminals in what a container has left: a new container from its file system as it is, with the same mounts, environment
// and user, one for each terminal, so that its end takes everything with it. Called by docker-engine.ts; and terminals in a
// container that runs, by container-shell.ts.
import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type Dockerode from 'dockerode';
import { createContainer } from './docker-client';
import { LABEL_NAME } from './docker-files';
import type { Terminal, TerminalWish } from './engine';
import { ANY_SHELL, carried, sized } from './terminal';

const HELD_IMAGES = 'slipway-held';
/** Of a container for a terminal: that of its attempt comes before. */
const MARK = '_shell-';

export async function openHeld(docker: Dockerode, name: string, wish: TerminalWish): Promise<Terminal> {
  const left = await docker.getContainer(name).inspect();
  const shell = `${name}${MARK}${randomBytes(4).toString('hex')}`;
  const end = (): Promise<void> => endHeld(docker, shell);
  try {
    // An image of its own: others come and go at the same time.
    await docker.getContainer(name).commit({ repo: HELD_IMAGES, tag: shell });
    const container = await createContainer(docker, heldOptions(shell, left, wish));
    return await attachTo(container, wish, end);
  } catch (error) {
    await end();
    throw error;
  }
}

function heldOptions(
  shell: string,
  { Config: config, HostConfig: host }: Dockerode.ContainerInspectInfo,
  wish: TerminalWish,
): Dockerode.ContainerCreateOptions {
  return {
    name: shell,
    Image: imageOf(shell),
    Entrypoint: sized(wish.command.length > 0 ? wish.command : ANY_SHELL, wish),
    Cmd: [],
    Env: [...config.Env, `TERM=${wish.term}`],
    User: config.User,
    WorkingDir: config.WorkingDir,
    Labels: { ...config.Labels, [LABEL_NAME]: shell },
    Tty: true,
    OpenStdin: true,
    StdinOnce: true,
    HostConfig: {
      Init: true,
      Privileged: host.Privileged,
      CapAdd: host.CapAdd,
      CapDrop: host.CapDrop,
      NanoCpus: host.NanoCpus,
      Memory: host.Memory,
      MemorySwap: host.MemorySwap,
      PidsLimit: host.PidsLimit,
      Mounts: host.Mounts,
      LogConfig: { Type: 'none', Config: {} },
    },
  };
}

/** Starts it; its end takes it away. */
async function attachTo(
  container: Dockerode.Container,
  wish: TerminalWish,
  end: () => Promise<void>,
): Promise<Terminal> {
  const all = { stream: true, stdin: true, stdout: true, stderr: true, hijack: true };
  const stream = (await container.attach(all)) as Duplex;
  // One that has not begun is not running either.
  const over = container.wait({ condition: 'next-exit' }) as Promise<{ StatusCode: number }>;
  over.catch(() => undefined);
  await container.start();
  const resize = ({ cols, rows }: { cols: number; rows: number }): Promise<void> =>
    // One that has ended has no size.
    container.resize({ w: cols, h: rows }).then(undefined, () => undefined);
  await resize(wish);
  const ended = over.then(({ StatusCode: code }) => code).finally(end);
  return { ...carried(stream), ended, resize, close: () => void end() };
}

/** The container of a terminal, and its image. */
export async function endHeld(docker: Dockerode, name: string): Promise<void> {
  await docker
    .getContainer(name)
    .remove({ force: true, v: true })
    .catch(() => undefined);
  await docker
    .getImage(imageOf(name))
    .remove()
    .catch(() => undefined);
}

/** Names of terminals whose images are there: whoever made one may have been killed before its container was there. */
export async function listHeld(docker: Dockerode): Promise<string[]> {
  const images = await docker.listImages({ filters: { reference: [HELD_IMAGES] } });
  return images.flatMap(({ RepoTags: tags }) => (tags ?? []).map((tag) => tag.slice(HELD_IMAGES.length + 1)));
}

export const isOfTerminal = (name: string): boolean => name.includes(MARK);

const imageOf = (name: string): string => `${HELD_IMAGES}:${name}`;

/** In a container that runs. What is started there goes with the host's own sweep when the terminal is closed from outside. */
export async function execTerminal(
  docker: Dockerode,
  container: string,
  { command, term, cols, rows }: TerminalWish,
): Promise<Terminal> {
  const exec = await docker.getContainer(container).exec({
    AttachStdin: true,
    AttachStdout: true,
    AttachStderr: true,
    Tty: true,
    Cmd: sized(command, { cols, rows }),
    Env: [`TERM=${term}`],
  });
  const stream: Duplex = await exec.start({ hijack: true, stdin: true, Tty: true });
  const resize = async (size: { cols: number; rows: number }): Promise<void> => {
    await exec.resize({ w: size.cols, h: size.rows }).catch(() => undefined);
  };
  await resize({ cols, rows });
  const ended = new Promise<number>((done, fail) => {
    const tell = (): void => void exec.inspect().then(({ ExitCode: code }) => done(code ?? 255), fail);
    stream.once('close', tell);
  });
  ended.catch(() => undefined);
  return { ...carried(stream), ended, resize, close: () => void stream.destroy() };
}
