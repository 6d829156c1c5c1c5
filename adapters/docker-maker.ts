// Owns hosts that are containers of the worker's own Docker engine: for trying on-demand hosts without a cloud.
// Made by workers/makers.ts; handed out as a HostMaker.
import type Dockerode from 'dockerode';
import type { DockerMake, HostToMake } from '../domain/schemas/blueprints';
import { ensureRunning, isRemoving, messageOf, pullImage, statusOf } from './docker-client';
import { MakerError, type HostMaker, type Made } from './host-maker';

const LABELS = { blueprint: 'dev.slipway.blueprint', host: 'dev.slipway.host' };

type DockerHost = HostToMake & { make: DockerMake };

export class DockerMaker implements HostMaker {
  /** @param engine id of the engine */
  constructor(
    private readonly docker: Dockerode,
    private readonly engine: string,
  ) {}

  async create(host: DockerHost): Promise<void> {
    const { image } = host.make;
    if (await this.tryToCreate(host)) return;
    try {
      await pullImage(this.docker, image);
    } catch (error) {
      throw new MakerError(`image ${image} is not there and cannot be pulled: ${messageOf(error)}`);
    }
    if (!(await this.tryToCreate(host))) throw new MakerError(`image ${image} is not there after it was pulled`);
  }

  /** @returns false when its image is not there */
  private async tryToCreate(host: DockerHost): Promise<boolean> {
    const name = nameOf(host);
    const { cpus, memoryBytes, image } = host.make;
    const options = {
      name,
      Image: image,
      Entrypoint: ['/bin/sh', '-c', 'while :; do sleep 3600; done'],
      Cmd: [],
      Labels: { [LABELS.blueprint]: host.blueprint, [LABELS.host]: host.host },
      HostConfig: {
        Init: true,
        ...(cpus === undefined ? {} : { NanoCpus: Math.round(cpus * 1e9) }),
        ...(memoryBytes === undefined ? {} : { Memory: memoryBytes, MemorySwap: memoryBytes }),
      },
    };
    try {
      return await ensureRunning(this.docker, options);
    } catch (error) {
      throw new MakerError(`cannot make a container of image ${image}: ${messageOf(error)}`);
    }
  }

  async probe(host: DockerHost): Promise<Made> {
    try {
      const { State: state, Id: resource } = await this.docker.getContainer(nameOf(host)).inspect();
      if (!state.Running) return { state: state.Status === 'created' ? 'coming' : 'off' };
      const container = nameOf(host);
      const place = { dir: '/var/tmp/slipway', shell: '/bin/sh' };
      return {
        state: 'there',
        resource: resource.slice(0, 12),
        reach: { kind: 'container', engine: this.engine, container, ...place },
      };
    } catch (error) {
      if (statusOf(error) === 404) return { state: 'absent' };
      throw new MakerError(`cannot look for the container: ${messageOf(error)}`);
    }
  }

  async list({ blueprint }: Pick<HostToMake, 'blueprint'>): Promise<{ host: string; isAlive: boolean }[]> {
    try {
      const filters = { label: [`${LABELS.blueprint}=${blueprint}`] };
      const all = await this.docker.listContainers({ all: true, filters });
      return all.flatMap(({ Labels: labels, State: state }) => {
        const host = labels[LABELS.host];
        return host === undefined ? [] : [{ host, isAlive: state === 'running' || state === 'created' }];
      });
    } catch (error) {
      throw new MakerError(`cannot list containers: ${messageOf(error)}`);
    }
  }

  async destroy(host: Pick<HostToMake, 'host' | 'blueprint'>): Promise<boolean> {
    try {
      await this.docker.getContainer(nameOf(host)).remove({ force: true, v: true });
      return true;
    } catch (error) {
      if (statusOf(error) === 404) return true;
      if (isRemoving(error)) return false;
      throw new MakerError(`cannot remove the container: ${messageOf(error)}`);
    }
  }
}

/** Two clusters, or two Slipways, may have hosts of one name on one engine. */
const nameOf = ({ host, blueprint }: Pick<HostToMake, 'host' | 'blueprint'>): string =>
  `slipway-host-${blueprint.slice(0, 8)}-${host}`;
