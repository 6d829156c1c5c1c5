// Owns the proof that a Docker engine can run anything at all: a container of ours, which needs no image of anybody's.
// Called by docker-engine.ts.
import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { Readable } from 'node:stream';
import type Dockerode from 'dockerode';
import { pack } from 'tar-stream';
import { createContainer, lacksImage, messageOf, statusOf, translate } from './docker-client';
import { LOG_DRIVER } from './docker-files';
import { EngineError, type EngineErrorReason } from './engine';

/** Empty: the engine's own init program, which is mounted into every run, is all that runs in it. */
const IMAGE = 'slipway/proof:1';
/** For a container that does nothing, on a machine that is busy, ms. */
const LIMIT_MS = 20_000;

/** What the engine says of a program or a user that the image does not have. */
const NOT_RUNNABLE =
  /unable to start container process|exec format error|executable file not found|unable to find user|no matching entries in (passwd|group)/i;

/** What the engine says when containerd went away while it was asked. */
const CUT_OFF = /transport is closing|error while dialing|connection error|shutting down|containerd\.sock/i;

export class DockerProof {
  private underWay: Promise<void> | undefined;

  /** @param runsDir folder that the engine must see; undefined: it is another machine's */
  constructor(
    private readonly docker: Dockerode,
    private readonly runsDir: string | undefined,
  ) {}

  /** One at a time. @throws EngineError when the host can begin no container, whatever a run asks for */
  now(): Promise<void> {
    this.underWay ??= runOurs(this.docker, this.runsDir)
      .catch((error: unknown) => {
        throw translate(error, 'no container of ours can be started', 'cannot-start');
      })
      .finally(() => (this.underWay = undefined));
    return this.underWay;
  }

  /**
   * Says whose fault it is that the engine refused a container. The engine's words do not tell, and an author chooses some
   * of them: where a container of ours runs, it is what this one asks for.
   * @param unanswered the reason when the engine did not answer at all
   */
  async judge(error: unknown, what: string, unanswered: EngineErrorReason): Promise<EngineError> {
    if (error instanceof EngineError || statusOf(error) === undefined) return translate(error, what, unanswered);
    const said = `${what}: ${messageOf(error)}`;
    // What lies below the engine was cut off in the middle: it may have begun the container, and nobody knows.
    if (CUT_OFF.test(messageOf(error))) return new EngineError('engine-unavailable', said, { cause: error });
    const refused = NOT_RUNNABLE.test(messageOf(error)) ? 'script-not-runnable' : 'container-refused';
    return this.now().then(
      () => new EngineError(refused, said),
      (fault: EngineError) => new EngineError(fault.reason, `${said}; ${fault.message}`, { cause: error }),
    );
  }
}

/** A container of the same kind as those of runs: same network, init and log. @throws what the engine said, or EngineError */
async function runOurs(docker: Dockerode, runsDir: string | undefined): Promise<void> {
  const abortSignal = AbortSignal.timeout(LIMIT_MS);
  if (runsDir !== undefined) await mkdir(runsDir, { recursive: true });
  // One name for each worker's folder, so that what a killed worker left is removed by the next proof.
  const name = `slipway-proof-${createHash('sha256')
    .update(runsDir ?? '')
    .digest('hex')
    .slice(0, 12)}`;
  const container = docker.getContainer(name);
  const remove = (): Promise<void> =>
    container.remove({ force: true, v: true, abortSignal: AbortSignal.timeout(LIMIT_MS) }).catch((error: unknown) => {
      if (statusOf(error) === undefined) throw error;
    });
  try {
    await remove();
    await create(docker, optionsOf(name, runsDir), abortSignal);
    // One that has not begun is not running either.
    const over = container.wait({ condition: 'next-exit', abortSignal }) as Promise<{ StatusCode: number }>;
    over.catch(() => undefined);
    await container.start({ abortSignal });
    const { StatusCode: exitCode } = await over;
    if (exitCode !== 0) throw new EngineError('cannot-start', `it ended with exit code ${exitCode}`);
  } catch (error) {
    if (!abortSignal.aborted) throw error;
    throw new EngineError('cannot-start', `a container of ours had not run to its end after ${LIMIT_MS / 1000} s`);
  } finally {
    await remove().catch(() => undefined);
  }
}

function optionsOf(name: string, runsDir: string | undefined): Dockerode.ContainerCreateOptions {
  const runs = { Type: 'bind' as const, Source: runsDir ?? '', Target: '/runs', ReadOnly: true };
  return {
    name,
    Image: IMAGE,
    Entrypoint: ['/sbin/docker-init'],
    Cmd: ['--version'],
    HostConfig: {
      Init: true,
      LogConfig: { Type: LOG_DRIVER, Config: {} },
      Mounts: runsDir === undefined ? [] : [runs],
    },
  };
}

async function create(
  docker: Dockerode,
  options: Dockerode.ContainerCreateOptions,
  abortSignal: AbortSignal,
): Promise<void> {
  try {
    await createContainer(docker, { ...options, abortSignal });
  } catch (error) {
    if (!lacksImage(error)) throw error;
    await importImage(docker);
    await createContainer(docker, { ...options, abortSignal });
  }
}

async function importImage(docker: Dockerode): Promise<void> {
  const tar = pack();
  tar.entry({ name: 'runs', type: 'directory' });
  tar.finalize();
  const [repo, tag] = IMAGE.split(':');
  const progress = await docker.importImage(Readable.from(tar), { repo, tag });
  await new Promise<void>((done, fail) => {
    docker.modem.followProgress(progress, (error) => (error ? fail(error) : done()));
  });
}
