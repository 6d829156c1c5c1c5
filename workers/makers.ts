// Owns what a worker can make hosts with: the Docker engine of its machine, and the clouds that it has credentials for.
// Made by cluster-worker.ts; the activities ask it for the maker of a host, the rounds for what there is.
import type Dockerode from 'dockerode';
import { DockerMaker } from '../adapters/docker-maker';
import { MakerError, type HostMaker } from '../adapters/host-maker';
import type { Make } from '../domain/schemas/blueprints';

export class Makers {
  private engine: string | undefined;
  private ec2: Promise<HostMaker> | undefined;

  constructor(
    private readonly docker: Dockerode,
    private readonly sshKey: string,
  ) {}

  /** Id of the Docker engine of this machine; undefined: none answers. */
  async findEngine(): Promise<string | undefined> {
    this.engine ??= await this.docker.info().then(
      ({ ID: id }: { ID: string }) => id,
      () => undefined,
    );
    return this.engine;
  }

  /** @throws MakerError */
  async at(make: Make): Promise<HostMaker> {
    // Its SDK takes half a second and 75 MB, which most workers have no use for.
    if (make.kind === 'ec2') return (this.ec2 ??= this.openEc2());
    if (this.engine === undefined) throw new MakerError('no Docker engine answers on the machine of the worker');
    return new DockerMaker(this.docker, this.engine);
  }

  private async openEc2(): Promise<HostMaker> {
    const { Ec2Maker } = await import('../adapters/ec2-maker.js');
    return new Ec2Maker(this.sshKey);
  }
}
