// Proves that hosts in a cloud always end: whatever answers are lost and calls doubled, what the ledger says is what there is.
// moto's EC2 behind a proxy that loses and doubles on purpose; each instance that comes up is a real sshd with the keys that
// its user data names. Real Temporal, real builds.
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { DescribeInstanceAttributeCommand, EC2Client } from '@aws-sdk/client-ec2';
import { Ec2Maker } from '../adapters/ec2-maker';
import { PutBlueprint, type Blueprint, type Ec2Make } from '../domain/schemas/blueprints';
import type { HostSummary } from '../domain/schemas/hosts';
import { Ec2, type Fate } from './setup/ec2';
import { freePort } from './setup/free-port';
import { House, tagged } from './setup/house';
import { SshServer } from './setup/sshd';
import { waitFor } from './setup/wait-for';

let ec2: Ec2;
let workerKey: SshServer;
beforeAll(async () => {
  ec2 = await Ec2.open();
  workerKey = await SshServer.open();
  Object.assign(process.env, ec2.env);
}, 120_000);
afterAll(async () => {
  await ec2?.stop();
  await workerKey?.stop();
});
beforeEach(() => {
  ec2.fateOf = () => 'pass';
});

const makeOf = (more: object = {}): Ec2Make => {
  const { make } = PutBlueprint.parse({ most: 1, make: { ...ec2.make, ...more } });
  if (make.kind !== 'ec2') throw new Error('another kind');
  return make;
};
const hostOf = (more: object = {}) => {
  const blueprint = randomUUID();
  return { cluster: 'local', host: `box-${blueprint.slice(0, 8)}`, blueprint, make: makeOf(more) };
};
const maker = (): Ec2Maker => new Ec2Maker(workerKey.privateKey);

async function destroy(host: ReturnType<typeof hostOf>): Promise<void> {
  await waitFor(() => maker().destroy(host), { what: 'it is gone' });
}

describe('an instance', () => {
  test('H8 is made once, whoever asks how often, found by its tags, and gone when it is ended', async () => {
    const host = hostOf({ spot: true });
    expect(await maker().probe(host)).toEqual({ state: 'absent' });
    await maker().create(host);
    await maker().create(host);
    const made = await maker().probe(host);
    const listed = await maker().list(host);
    await destroy(host);

    expect(made).toMatchObject({ state: 'there', reach: { kind: 'ssh', user: 'admin', port: 22 } });
    expect(listed).toEqual([{ host: host.host, isAlive: true }]);
    expect(await maker().probe(host)).toEqual({ state: 'absent' });
    expect(await maker().list(host)).toEqual([]);
    await destroy(host);
  }, 60_000);

  test('H8 whose answer was lost is not made again, and one that was made twice is one again', async () => {
    const before = (await ec2.instances()).length;
    const host = hostOf();
    ec2.fateOf = once('RunInstances', 'lose');
    await maker().create(host);
    await maker().probe(host);
    expect(await ec2.instances()).toHaveLength(before + 1);

    const other = hostOf();
    ec2.fateOf = once('RunInstances', 'twice');
    await maker().create(other);
    await maker().probe(other);
    expect(await ec2.instances()).toHaveLength(before + 2);

    ec2.fateOf = once('TerminateInstances', 'lose');
    await destroy(host);
    await destroy(other);
    expect(await ec2.instances()).toHaveLength(before);
  }, 60_000);

  test('H2 lets the workers in under a host key that they know beforehand, the same for every worker with their key', async () => {
    const host = hostOf();
    await maker().create(host);
    const first = await maker().probe(host);
    const again = await new Ec2Maker(`${workerKey.privateKey.trim()}\n`).probe(host);
    const [instance] = (await ec2.instances()).filter(({ Tags }) => Tags?.some(({ Value }) => Value === host.host));
    const { hostKey, clientLine } = await userDataOf(instance?.InstanceId ?? '');
    const sshd = await SshServer.open({ hostKey, clientLine });
    await sshd.stop();
    await destroy(host);

    if (first.state !== 'there' || first.reach.kind !== 'ssh') throw new Error('not there');
    expect(again).toEqual(first);
    expect(first.reach.hostKeys).toEqual([sshd.hostKey]);
    expect(first.resource).toBe(instance?.InstanceId);
  }, 60_000);

  test('H1 H2 that brings a Docker engine is reached as one that is listed by hand is', async () => {
    const host = hostOf({ containers: true });
    await maker().create(host);
    const made = await maker().probe(host);
    await destroy(host);

    const socket = '/var/run/docker.sock';
    expect(made).toMatchObject({ state: 'there', reach: { kind: 'docker-ssh', socket, dir: '/var/lib/slipway' } });
  }, 60_000);

  test('H8 that cannot be made or looked for says what and why in one sentence', async () => {
    const wrong = hostOf({ subnet: 'subnet-00000000' });
    await expect(maker().create(wrong)).rejects.toThrow(
      /^cannot make an instance of t3\.micro in eu-central-1: .*subnet-00000000/,
    );
    process.env['AWS_ENDPOINT_URL_EC2'] = `http://127.0.0.1:${await freePort()}`;
    await expect(maker().list(hostOf())).rejects.toThrow(/cannot list instances in eu-central-1: .*ECONNREFUSED/);
    Object.assign(process.env, ec2.env);
  }, 60_000);
});

/** The first call of an action has this fate. */
function once(action: string, fate: Fate): (seen: string) => Fate {
  let isDone = false;
  return (seen) => {
    if (seen !== action || isDone) return 'pass';
    isDone = true;
    return fate;
  };
}

/** What cloud-init would do with it, as far as SSH goes. */
async function userDataOf(instanceId: string): Promise<{ hostKey: string; clientLine: string }> {
  const client = new EC2Client({ region: ec2.make.region });
  const wish = new DescribeInstanceAttributeCommand({ InstanceId: instanceId, Attribute: 'userData' });
  const { UserData: data } = await client.send(wish);
  const text = Buffer.from(data?.Value ?? '', 'base64').toString();
  const indented = /ecdsa_private: \|\n((?: {4}.*\n)+)/.exec(text)?.[1] ?? '';
  return {
    hostKey: indented.replaceAll(/^ {4}/gm, ''),
    clientLine: /ssh_authorized_keys:\n {2}- (.+)/.exec(text)?.[1] ?? '',
  };
}

describe('a cluster', () => {
  const dir = mkdtempSync(join(tmpdir(), 'slipway-ec2-'));
  const booted = new Map<string, SshServer>();
  let house: House;
  let port: number;
  let isBooting = true;
  let booting: NodeJS.Timeout;
  beforeAll(async () => {
    port = await freePort();
    house = await House.open({ env: { SLIPWAY_SSH_KEY: workerKey.privateKey, ...ec2.env } });
    booting = setInterval(() => void boot().catch(() => undefined), 500);
  }, 120_000);
  afterAll(async () => {
    clearInterval(booting);
    await house?.stop();
    for (const server of booted.values()) await server.stop();
    rmSync(dir, { recursive: true, force: true });
  }, 60_000);

  /** Starts the sshd of every new instance, at the address that it says it has. */
  async function boot(): Promise<void> {
    if (!isBooting) return;
    for (const { InstanceId: id = '' } of await ec2.instances()) {
      if (booted.has(id)) continue;
      const address = ec2.addressOf(id);
      const keys = await userDataOf(id);
      if (keys.hostKey === '' || booted.has(id)) continue;
      booted.set(id, await SshServer.open({ ...keys, address, port }));
    }
  }

  const put = (name: string, spec: object): Promise<Blueprint> =>
    house.operated('PUT', `/v1/clusters/local/blueprints/${name}`, {
      make: { ...ec2.make, port, user: userInfo().username, dir: join(dir, name) },
      most: 5,
      ...spec,
    });
  const hostsOf = async (name: string): Promise<HostSummary[]> =>
    (await house.call<{ hosts: HostSummary[] }>('GET', '/v1/hosts')).hosts.filter(
      ({ made }) => made?.blueprint === name,
    );
  const instancesOf = async (name: string) =>
    (await ec2.instances()).filter(({ Tags }) =>
      Tags?.some(({ Key, Value }) => Key === 'Name' && Value?.startsWith(`${name}-`)),
    );
  const isGone = (name: string) =>
    waitFor(async () => (await hostsOf(name)).length === 0 && (await instancesOf(name)).length === 0, {
      what: `no host of ${name} is left, in the ledger and in the cloud`,
      timeoutMs: 120_000,
      intervalMs: 500,
    });

  test('H2 an instance is made for a waiting run, runs it over SSH, and ends', async () => {
    await put('cloud', { idleSeconds: 5, maxUses: 1, labels: ['gpu'] });
    await house.project('cloud', tagged('gpu', '#!/bin/sh\necho "on $H_WORKER"'));
    const { number } = await house.trigger('cloud');
    const build = await house.finished('cloud', number, 120_000);
    const { host } = await house.run('cloud', number, 'work');

    expect(build.status).toBe('passed');
    expect(host).toMatch(/^cloud-[0-9a-f]{8}$/);
    expect(await house.logOf('cloud', number, 'work')).toBe(`on ${host}\n`);
    await isGone('cloud');
  }, 300_000);

  test('H8 while answers are lost and calls doubled, a worker dies and a stranger appears: afterwards the ledger is the cloud', async () => {
    isBooting = false;
    let calls = 0;
    // Each third call loses its answer, each fifth takes effect twice.
    ec2.fateOf = () => {
      calls += 1;
      return calls % 3 === 0 ? 'lose' : calls % 5 === 0 ? 'twice' : 'pass';
    };
    await put('storm', { minReady: 4, startSeconds: 600 });
    await waitFor(async () => (await instancesOf('storm')).length > 0, {
      what: 'instances are made',
      timeoutMs: 60_000,
    });
    await house.kill9('worker');
    await house.start('worker');
    const [{ Tags: tags = [] } = {}] = await instancesOf('storm');
    await ec2.plant({
      ...Object.fromEntries(tags.map(({ Key, Value }) => [Key, Value ?? ''])),
      'slipway-host': 'storm-stranger',
      Name: 'storm-stranger',
    });
    await waitFor(async () => (await hostsOf('storm')).filter(({ made }) => made?.resource).length === 4, {
      what: 'all are made',
      timeoutMs: 120_000,
    });
    await house.operated('DELETE', '/v1/clusters/local/blueprints/storm');
    await isGone('storm');

    expect(calls).toBeGreaterThan(20);
  }, 420_000);
});
