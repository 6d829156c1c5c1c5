// Owns hosts that are instances of Amazon EC2. Its credentials are found as the AWS SDK finds them, on the worker alone.
// Made by workers/makers.ts; handed out as a HostMaker.
import { createHash } from 'node:crypto';
import {
  EC2Client,
  paginateDescribeInstances,
  RunInstancesCommand,
  TerminateInstancesCommand,
  type Filter,
  type Instance,
  type RunInstancesCommandInput,
} from '@aws-sdk/client-ec2';
import type { Ec2Make, HostToMake } from '../domain/schemas/blueprints';
import { Reach } from '../domain/schemas/hosts';
import { MakerError, type HostMaker, type Made } from './host-maker';
import { makeHostKey, type HostKey } from './ssh-keys';

const TAGS = { blueprint: 'slipway-blueprint', host: 'slipway-host' };

type Ec2Host = HostToMake & { make: Ec2Make };
type Place = Pick<Ec2Host, 'host' | 'blueprint' | 'make'>;

export class Ec2Maker implements HostMaker {
  private readonly clients = new Map<string, EC2Client>();

  /** @param sshKey private key of the workers: instances let its owner in, and have host keys that follow from it */
  constructor(private readonly sshKey: string) {}

  async create(host: Ec2Host): Promise<void> {
    await this.doing(`cannot make an instance of ${host.make.type} in ${host.make.region}`, async () => {
      // A call whose answer was lost may have made one already; its token keeps a repeated one from making another.
      if ((await this.find(host)).length > 0) return;
      await this.clientOf(host.make).send(new RunInstancesCommand(this.wish(host)));
    });
  }

  async probe(host: Ec2Host): Promise<Made> {
    return this.doing('cannot look for the instance', async () => {
      const { make } = host;
      const [instance, ...extra] = await this.find(host);
      await this.terminate(make, extra);
      if (!instance) return { state: 'absent' };
      const { State: state, InstanceId: resource = '' } = instance;
      const address = make.address === 'public' ? instance.PublicIpAddress : instance.PrivateIpAddress;
      if (state?.Name === 'running' && address) {
        return { state: 'there', resource, reach: reachOf(make, address, this.hostKey(host)) };
      }
      return { state: isAlive(state?.Name) ? 'coming' : 'off' };
    });
  }

  async list({ blueprint, make }: Pick<Place, 'blueprint' | 'make'>): Promise<{ host: string; isAlive: boolean }[]> {
    return this.doing(`cannot list instances in ${make.region}`, async () => {
      const found = await this.describe(make, [{ Name: `tag:${TAGS.blueprint}`, Values: [blueprint] }]);
      const hosts = new Map<string, boolean>();
      const extra: Instance[] = [];
      for (const instance of found) {
        const host = instance.Tags?.find(({ Key: key }) => key === TAGS.host)?.Value ?? '';
        if (hosts.has(host)) extra.push(instance);
        else hosts.set(host, isAlive(instance.State?.Name));
      }
      await this.terminate(make, extra);
      return [...hosts].map(([host, isUp]) => ({ host, isAlive: isUp }));
    });
  }

  async destroy(host: Place): Promise<boolean> {
    return this.doing('cannot end the instance', async () => {
      const found = await this.find(host);
      if (found.length === 0) return true;
      await this.terminate(host.make, found);
      return false;
    });
  }

  private async terminate(make: Ec2Make, instances: Instance[]): Promise<void> {
    const ids = instances.flatMap(({ InstanceId: id }) => id ?? []);
    if (ids.length > 0) await this.clientOf(make).send(new TerminateInstancesCommand({ InstanceIds: ids }));
  }

  /** What is there of a host and not yet terminated, oldest first: more than one only after a mishap. */
  private find({ host, blueprint, make }: Place): Promise<Instance[]> {
    return this.describe(make, [
      { Name: `tag:${TAGS.blueprint}`, Values: [blueprint] },
      { Name: `tag:${TAGS.host}`, Values: [host] },
    ]);
  }

  private async describe(make: Ec2Make, filters: Filter[]): Promise<Instance[]> {
    const states = {
      Name: 'instance-state-name',
      Values: ['pending', 'running', 'shutting-down', 'stopping', 'stopped'],
    };
    const pages = paginateDescribeInstances({ client: this.clientOf(make) }, { Filters: [...filters, states] });
    const found: Instance[] = [];
    for await (const { Reservations: reservations = [] } of pages) {
      found.push(...reservations.flatMap(({ Instances: instances = [] }) => instances));
    }
    return found.sort((a, b) => (a.LaunchTime?.getTime() ?? 0) - (b.LaunchTime?.getTime() ?? 0));
  }

  private wish(host: Ec2Host): RunInstancesCommandInput {
    const { make, blueprint, cluster } = host;
    const tags = [
      { Key: TAGS.blueprint, Value: blueprint },
      { Key: TAGS.host, Value: host.host },
      { Key: 'slipway-cluster', Value: cluster },
      { Key: 'Name', Value: host.host },
    ];
    return {
      // The same call again, by whichever worker, is the same wish.
      ClientToken: createHash('sha256').update(`${blueprint}/${host.host}`).digest('hex').slice(0, 64),
      ImageId: make.image,
      InstanceType: make.type as RunInstancesCommandInput['InstanceType'],
      MinCount: 1,
      MaxCount: 1,
      ...(make.subnet === undefined ? {} : { SubnetId: make.subnet }),
      ...(make.securityGroups.length === 0 ? {} : { SecurityGroupIds: make.securityGroups }),
      ...(make.profile === undefined ? {} : { IamInstanceProfile: { Name: make.profile } }),
      ...(make.spot ? { InstanceMarketOptions: { MarketType: 'spot' as const } } : {}),
      InstanceInitiatedShutdownBehavior: 'terminate',
      MetadataOptions: { HttpTokens: 'required' },
      UserData: Buffer.from(cloudConfig(this.hostKey(host))).toString('base64'),
      TagSpecifications: (['instance', 'volume'] as const).map((type) => ({ ResourceType: type, Tags: tags })),
    };
  }

  private hostKey({ host, blueprint }: Pick<Place, 'host' | 'blueprint'>): HostKey {
    return makeHostKey(this.sshKey, `${blueprint}/${host}`);
  }

  private clientOf({ region }: Ec2Make): EC2Client {
    const known = this.clients.get(region) ?? new EC2Client({ region });
    this.clients.set(region, known);
    return known;
  }

  private async doing<T>(what: string, body: () => Promise<T>): Promise<T> {
    try {
      return await body();
    } catch (error) {
      throw new MakerError(`${what}: ${(error as Error).message}`, { cause: error });
    }
  }
}

const isAlive = (state: string | undefined): boolean => state === 'pending' || state === 'running';

/** One who knows no other key of it can be sure of the host. */
function cloudConfig({ privatePem, publicLine, clientLine }: HostKey): string {
  const indented = privatePem.trim().replaceAll('\n', '\n    ');
  return `#cloud-config
ssh_deletekeys: true
ssh_keys:
  ecdsa_private: |
    ${indented}
  ecdsa_public: ${publicLine}
ssh_authorized_keys:
  - ${clientLine}
`;
}

function reachOf({ port, user, containers, dir, shell }: Ec2Make, address: string, { fingerprint }: HostKey): Reach {
  const ssh = { address, port, user, hostKeys: [fingerprint], ...(dir === undefined ? {} : { dir }) };
  return Reach.parse(containers ? { kind: 'docker-ssh', ...ssh } : { kind: 'ssh', ...ssh, shell });
}
