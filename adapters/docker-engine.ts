// Owns the Docker engine: the one door to dockerode. Containers are made detached under names that we can find again.
// Called by workers/cluster-worker.ts, which hands it to the activities as an Engine.
import { chmod, mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type Dockerode from 'dockerode';
import {
  createContainer,
  inspectContainer,
  isRemoving,
  lacksImage,
  messageOf,
  pullImage,
  reasonOf,
  statusOf,
  translate,
} from './docker-client';
import { BEGIN, Beginning, beginProgram } from './docker-begin';
import { followContainer } from './docker-log';
import { endHeld, isOfTerminal, listHeld, openHeld } from './docker-terminal';
import { LABEL_NAME, logFileOf, pipesDirOf } from './docker-files';
import { DockerProof } from './docker-proof';
import { optionsOf } from './docker-options';
import { endInOrder } from './docker-stop';
import { DockerWaiter } from './docker-wait';
import { filesBelow } from './archive-files';
import { endProcessesOf } from './container-processes';
import { EngineError } from './engine';
import { hasRunSinceMaking } from './engine-life';
import { FileSpool, makeSpool } from './file-spool';
import { LocalShell } from './local-shell';
import { removeTree } from './remove-tree';
import { checkOut } from './working-copies';
import type { Checkout } from '../domain/schemas/plan';
import type {
  Archived,
  ContainerExit,
  ContainerSpec,
  Engine,
  FollowOptions,
  FoundContainer,
  SpoolFile,
  Terminal,
  TerminalWish,
  WaitOptions,
  WatchOptions,
} from './engine';

/** Codes of a call that cannot have reached the engine. */
const NOBODY_LISTENS = ['ECONNREFUSED', 'ENOENT'];
/** Every container of an attempt carries it. */
const LABEL_RUN_ID = 'dev.slipway.run-id';
const LABEL_WORKER = 'dev.slipway.worker';

export class DockerEngine implements Engine {
  private readonly digests = new Map<string, string>();
  private readonly waiter: DockerWaiter;
  private readonly beginning: Beginning;
  /** Made by this process, and nobody has asked for their start yet. */
  private readonly unstarted = new Set<string>();
  private readonly starting = new Map<string, Promise<void>>();
  private readonly proof: DockerProof;

  /**
   * @param docker connected client
   * @param runsDir folder for the runs' files, seen under the same path by the engine
   * @param life.lastAliveAt until when an earlier life of this process was there; default: there was none
   * @param life.isElsewhere the engine is another machine's: its files and its processes are out of reach
   * @param life.localRepositories folders and addresses of this machine that repositories may come from; default: none
   */
  constructor(
    private readonly docker: Dockerode,
    private readonly runsDir: string,
    private readonly life: { lastAliveAt?: Date; isElsewhere?: boolean; localRepositories?: readonly string[] } = {},
  ) {
    const { lastAliveAt = new Date() } = life;
    this.proof = new DockerProof(docker, life.isElsewhere ? undefined : runsDir);
    this.beginning = new Beginning(docker);
    this.waiter = new DockerWaiter(docker, { lastAliveAt, unreadFile: (name) => this.unreadFile(name) });
  }

  /** The engine is of one worker alone, which holds one supervisor a container. */
  under(): Engine {
    return this;
  }

  private unreadFile(name: string): string {
    return join(this.runsDir, name, 'unread');
  }

  async pull(reference: string): Promise<void> {
    try {
      await pullImage(this.docker, reference);
    } catch (error) {
      const reason = reasonOf(error, 'image-missing');
      const why =
        reason === 'disk-full'
          ? `no space left to pull image ${reference}`
          : `image ${reference} is not on the host and cannot be pulled: ${messageOf(error)}; check its name, or load it there`;
      throw new EngineError(reason, why, { cause: error });
    }
  }

  /** An image never changes under its id, so each is asked for once. */
  async digestOf(imageId: string): Promise<string> {
    const known = this.digests.get(imageId);
    if (known !== undefined) return known;
    try {
      const { RepoDigests: digests } = await this.docker.getImage(imageId).inspect();
      const digest = digests?.[0] ?? imageId;
      this.digests.set(imageId, digest);
      return digest;
    } catch (error) {
      // Removed under a running container: the id is all there is to say.
      if (statusOf(error) === 404) return imageId;
      throw translate(error, `cannot look for image ${imageId}`);
    }
  }

  async makeRunDir(name: string, script: string, program?: string): Promise<string> {
    const dir = join(this.runsDir, name);
    try {
      // Other users of the machine get at nothing of it; the engine mounts what lies below without their rights.
      await mkdir(dir, { recursive: true, mode: 0o700 });
      for (const part of ['repo', 'archive', 'secrets']) await mkdir(join(dir, part), { recursive: true });
      // The user inside the container is not ours: both folders must take anybody's files.
      for (const part of ['repo', 'archive']) await chmod(join(dir, part), 0o777);
      for (const [file, text] of Object.entries({ script, begin: beginProgram(name, script) })) {
        await writeFile(join(dir, file), text, { mode: 0o755 });
        await chmod(join(dir, file), 0o755);
      }
      if (program !== undefined) await makeSpool(dir, program);
      return dir;
    } catch (error) {
      throw translate(error, `cannot write the files of ${name}`);
    }
  }

  checkOut(name: string, checkout: Checkout, signal: AbortSignal): Promise<string> {
    const repo = join(this.runsDir, name, 'repo');
    const { localRepositories: local } = this.life;
    return checkOut(new LocalShell(), { mirrors: join(this.runsDir, 'mirrors'), repo, checkout, signal, local });
  }

  async find(name: string): Promise<FoundContainer | undefined> {
    try {
      const found = await inspectContainer(this.docker, name).catch((error: unknown) => this.renamed(name, error));
      const { State: state, Config: config } = found;
      const started = Date.parse(state.StartedAt) > 0;
      return {
        name,
        id: found.Id,
        state: state.Running || state.Paused ? 'running' : started || state.Status !== 'created' ? 'exited' : 'created',
        createdAt: new Date(found.Created),
        startedAt: started ? new Date(state.StartedAt) : null,
        beginning: config.Cmd?.[0] === BEGIN ? { entrypoint: [config.Entrypoint ?? []].flat() } : null,
        imageId: found.Image,
        hasMemoryLimit: Boolean(found.HostConfig.Memory),
        logFile: this.life.isElsewhere ? null : logFileOf(found),
        pipesDir: this.life.isElsewhere ? null : pipesDirOf(found),
      };
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw translate(error, `cannot look for container ${name}`);
    }
  }

  /** One that somebody gave another name keeps its label. @throws what was said of the name when there is none */
  private async renamed(name: string, error: unknown): Promise<Dockerode.ContainerInspectInfo> {
    if (statusOf(error) !== 404) throw error;
    const [found] = await this.docker.listContainers({ all: true, filters: { label: [`${LABEL_NAME}=${name}`] } });
    if (!found) throw error;
    return inspectContainer(this.docker, found.Id);
  }

  async create(spec: ContainerSpec): Promise<string> {
    this.unstarted.add(spec.name);
    try {
      const isTold = await this.beginning.isPossible(spec);
      const created = await createContainer(this.docker, optionsOf(spec, isTold));
      return created.id;
    } catch (error) {
      if (statusOf(error) === 409) {
        const found = await this.find(spec.name);
        if (found) return found.id;
      }
      if (lacksImage(error)) {
        throw new EngineError('image-missing', `image ${spec.image} is not on the host`, { cause: error });
      }
      throw await this.proof.judge(error, 'the container cannot be created', 'refused');
    }
  }

  /** Has a container of ours run here. @throws EngineError when the host can begin none, whatever a run asks for */
  prove(): Promise<void> {
    return this.proof.now();
  }

  /** One that is under way is joined: an engine may take long, and whoever supervises may change meanwhile. */
  start(name: string): Promise<void> {
    const underWay = this.starting.get(name) ?? this.startOnce(name).finally(() => this.starting.delete(name));
    this.starting.set(name, underWay);
    return underWay;
  }

  private async startOnce(name: string, isSecondTry = false): Promise<void> {
    // The engine would run an ended container once more; the script of an attempt is started once.
    const found = await this.find(name);
    if (found && found.state !== 'created') return;
    const isSure = this.unstarted.delete(name);
    if (!isSure && found) await this.requireNotStarted(found);
    try {
      await this.docker.getContainer(name).start();
      this.waiter.started(name);
    } catch (error) {
      if (statusOf(error) === 304) return;
      if (isSure && NOBODY_LISTENS.includes((error as NodeJS.ErrnoException).code ?? '')) this.unstarted.add(name);
      if (statusOf(error) === 404 && /no such container/i.test(messageOf(error))) {
        throw new EngineError('no-such-container', `container ${name} is gone`, { cause: error });
      }
      const refusal = await this.proof.judge(error, 'the container cannot be started', 'engine-unavailable');
      // What failed once may have been a moment's trouble of the host.
      if (refusal.reason !== 'container-refused' || isSecondTry) throw refusal;
      await this.startOnce(name, true);
    }
  }

  /**
   * An engine that was killed after its container began and before it had noted that says «created» when it is back, and
   * would start it once more (seen in a soak). Only one that has been running since it made the container is believed.
   */
  private async requireNotStarted({ id, name, createdAt }: FoundContainer): Promise<void> {
    try {
      if (await hasRunSinceMaking(this.docker, { id, createdAt })) return;
    } catch (error) {
      throw translate(error, `cannot ask whether container ${name} was started`, 'engine-unavailable');
    }
    const isEnded = !this.life.isElsewhere && (await endProcessesOf(id));
    const rest = isEnded ? '' : '; processes of it may still run on the host';
    throw new EngineError(
      'start-unknown',
      `the engine died while it started the container, and cannot say whether it did${rest}`,
    );
  }

  follow(container: FoundContainer, options: FollowOptions): AsyncGenerator<Buffer> {
    return followContainer(this.docker, container, { ...options, unreadFile: this.unreadFile(container.name) });
  }

  wait(container: FoundContainer, options: WaitOptions): Promise<ContainerExit> {
    return this.waiter.wait(container, options);
  }

  async stop(name: string, graceMs: number): Promise<void> {
    const id = (await this.find(name))?.id;
    if (id === undefined) return;
    try {
      if (await endInOrder(this.docker, id, { graceMs, isElsewhere: this.life.isElsewhere === true })) return;
      await this.docker.getContainer(id).stop({ t: Math.ceil(graceMs / 1000) });
    } catch (error) {
      if (statusOf(error) !== 304 && statusOf(error) !== 404) throw translate(error, `cannot stop ${name}`);
    }
    if ((await this.find(name))?.state === 'running') {
      throw new EngineError('refused', `container ${name} is still running after KILL`);
    }
  }

  archivedFiles(name: string): AsyncGenerator<Archived> {
    return filesBelow(join(this.runsDir, name, 'archive'));
  }

  async spooled(name: string): Promise<SpoolFile[]> {
    return this.inSpool(name, (spool) => spool.list());
  }

  async *watchSpool(name: string, options: WatchOptions): AsyncGenerator<SpoolFile[]> {
    try {
      yield* this.spoolOf(name).watch(options);
    } catch (error) {
      options.signal.throwIfAborted();
      throw asSpoolError(name, error);
    }
  }

  async *take(name: string, file: string, fromByte: number): AsyncGenerator<Buffer> {
    yield* await this.inSpool(name, (spool) => spool.take(file, fromByte));
  }

  put(name: string, file: string, bytes: Uint8Array): Promise<number> {
    return this.inSpool(name, (spool) => spool.put(file, bytes));
  }

  async discard(name: string, prefix: string): Promise<void> {
    await this.inSpool(name, (spool) => spool.discard(prefix));
  }

  private async inSpool<T>(name: string, call: (spool: FileSpool) => Promise<T>): Promise<T> {
    try {
      return await call(this.spoolOf(name));
    } catch (error) {
      throw asSpoolError(name, error);
    }
  }

  private spoolOf(name: string): FileSpool {
    return new FileSpool(join(this.runsDir, name));
  }

  async openTerminal(name: string, wish: TerminalWish): Promise<Terminal> {
    try {
      return await openHeld(this.docker, name, wish);
    } catch (error) {
      const isGone = statusOf(error) === 404 && /no such container/i.test(messageOf(error));
      if (isGone) throw new EngineError('no-such-container', `container ${name} is gone`, { cause: error });
      throw translate(error, 'no terminal can be opened there');
    }
  }

  async remove(name: string): Promise<void> {
    if (isOfTerminal(name)) return endHeld(this.docker, name);
    try {
      await this.docker
        .getContainer(name)
        .remove({ force: true, v: true })
        .catch(async (error: unknown) => {
          const { Id: id } = await this.renamed(name, error);
          await this.docker.getContainer(id).remove({ force: true, v: true });
        });
    } catch (error) {
      if (statusOf(error) !== 404 && !isRemoving(error)) {
        throw translate(error, `cannot remove ${name}`);
      }
    }
    this.waiter.forget(name);
    this.unstarted.delete(name);
    if (this.life.isElsewhere) return;
    const dir = join(this.runsDir, name);
    try {
      await removeTree(dir);
    } catch (error) {
      throw translate(error, `cannot remove the files of ${name} in ${dir}`);
    }
  }

  /** Those that run and are this worker's, before their supervisors come: the engine may die first. */
  private async holdOutputs(running: readonly string[], folders: readonly string[]): Promise<void> {
    this.waiter.holdOnly(folders);
    for (const name of running) {
      if (!folders.includes(name) || this.waiter.isHeld(name)) continue;
      const found = await this.find(name);
      if (found) this.waiter.hold(found);
    }
  }

  async listRemains(by?: { worker: string }): Promise<string[]> {
    try {
      const label = [LABEL_RUN_ID, ...(by ? [`${LABEL_WORKER}=${by.worker}`] : [])];
      const all = await this.docker.listContainers({ all: true, filters: { label } });
      const folders = this.life.isElsewhere ? [] : await readdir(this.runsDir).catch(() => []);
      const nameOf = (one: Dockerode.ContainerInfo): string =>
        one.Labels[LABEL_NAME] ?? (one.Names[0] ?? '').replace(/^\//, '');
      await this.holdOutputs(all.filter((one) => one.State === 'running').map(nameOf), folders);
      const held = by ? [] : await listHeld(this.docker);
      return [...new Set([...all.map(nameOf), ...held, ...folders])];
    } catch (error) {
      throw translate(error, 'cannot list containers');
    }
  }
}

function asSpoolError(name: string, error: unknown): EngineError {
  if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
    return new EngineError('no-such-container', `a file that passes to or from ${name} is gone`);
  }
  return translate(error, `cannot get at the files that pass to and from ${name}`);
}
