// Owns an EC2 for a test: moto's server behind a proxy that loses and doubles calls on purpose, and gives every instance an
// address of this machine. Called by tests of on-demand hosts. `npm test` installs moto and names it in SLIPWAY_MOTO.
import { spawn, type ChildProcess } from 'node:child_process';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { DescribeInstancesCommand, EC2Client, RunInstancesCommand, type Instance } from '@aws-sdk/client-ec2';
import { freePort } from './free-port';
import { waitFor } from './wait-for';

/** `lose`: it takes effect, and its answer is lost; `twice`: it takes effect twice, as when a network repeats it. */
export type Fate = 'pass' | 'lose' | 'twice';

const CREDENTIALS = { accessKeyId: 'test', secretAccessKey: 'test' };
const REGION = 'eu-central-1';
/** One of those that moto has. */
const ANY_IMAGE = 'ami-12c6146b';

export class Ec2 {
  private readonly port: number;
  private child?: ChildProcess;
  private readonly server = createServer((incoming, outgoing) => {
    this.pass(incoming, outgoing).catch(() => outgoing.destroy());
  });
  private readonly addresses = new Map<string, string>();
  /** What becomes of a call, by its action, e.g. RunInstances. */
  fateOf: (action: string) => Fate = () => 'pass';
  /** Actions that came in, in order. */
  readonly calls: string[] = [];
  /** The address of an instance, by its id. */
  addressOf = (id: string): string => this.addresses.get(id) ?? `127.0.9.${1 + (this.addresses.size % 250)}`;

  private constructor(port: number) {
    this.port = port;
  }

  static async open(): Promise<Ec2> {
    const ec2 = new Ec2(await freePort());
    const program = process.env.SLIPWAY_MOTO ?? 'moto_server';
    ec2.child = spawn(program, ['-H', '127.0.0.1', '-p', String(ec2.port)], {
      stdio: 'ignore',
      env: { ...process.env, MOTO_EC2_LOAD_DEFAULT_AMIS: 'true' },
    });
    const failed = new Promise<never>((_, fail) => {
      ec2.child?.once('error', (error) => fail(new Error(`cannot start ${program}: ${error.message}; run npm test`)));
    });
    const answers = waitFor(() => fetch(`http://127.0.0.1:${ec2.port}/moto-api/data.json`).then(({ ok }) => ok), {
      what: 'moto answers',
      timeoutMs: 60_000,
    });
    await Promise.race([answers, failed]);
    await new Promise<void>((done) => ec2.server.listen(0, '127.0.0.1', done));
    return ec2;
  }

  /** For whoever is to use it: an endpoint, and credentials. */
  get env(): Record<string, string> {
    return {
      AWS_ENDPOINT_URL_EC2: `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`,
      AWS_ACCESS_KEY_ID: CREDENTIALS.accessKeyId,
      AWS_SECRET_ACCESS_KEY: CREDENTIALS.secretAccessKey,
    };
  }

  get make() {
    return { kind: 'ec2' as const, region: REGION, image: ANY_IMAGE, type: 't3.micro', user: 'admin' };
  }

  /** Past the proxy. */
  private get client(): EC2Client {
    return new EC2Client({ region: REGION, endpoint: `http://127.0.0.1:${this.port}`, credentials: CREDENTIALS });
  }

  /** What is there and costs something. */
  async instances(): Promise<Instance[]> {
    const { Reservations: all = [] } = await this.client.send(new DescribeInstancesCommand({ MaxResults: 1000 }));
    return all
      .flatMap(({ Instances: some = [] }) => some)
      .filter(({ State: state }) => !['terminated', 'shutting-down'].includes(state?.Name ?? ''));
  }

  /** One that nobody of ours has asked for. */
  async plant(tags: Record<string, string>): Promise<void> {
    const all = Object.entries(tags).map(([Key, Value]) => ({ Key, Value }));
    await this.client.send(
      new RunInstancesCommand({
        ImageId: ANY_IMAGE,
        MinCount: 1,
        MaxCount: 1,
        TagSpecifications: [{ ResourceType: 'instance', Tags: all }],
      }),
    );
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((done) => this.server.close(done));
    const ended = new Promise((done) => this.child?.once('exit', done));
    if (this.child?.kill('SIGKILL')) await ended;
  }

  private async pass(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const parts: Buffer[] = [];
    for await (const part of incoming as AsyncIterable<Buffer>) parts.push(part);
    const body = Buffer.concat(parts);
    const action = new URLSearchParams(body.toString()).get('Action') ?? '';
    this.calls.push(action);
    const fate = this.fateOf(action);
    if (fate === 'twice') await this.forward(incoming, body);
    const answer = await this.forward(incoming, body);
    if (fate === 'lose') return void outgoing.destroy();
    const text = this.readdress(await answer.text());
    outgoing.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? 'text/xml' });
    outgoing.end(text);
  }

  private forward({ method, url, headers }: IncomingMessage, body: Buffer): Promise<Response> {
    const { 'content-length': _, connection: __, host: ___, ...kept } = headers;
    return fetch(`http://127.0.0.1:${this.port}${url}`, { method, headers: kept as Record<string, string>, body });
  }

  /** An instance of moto has an address that leads nowhere. */
  private readdress(xml: string): string {
    return xml.replace(/<instanceId>(i-[0-9a-f]+)<\/instanceId>[\s\S]*?(?=<instanceId>|$)/g, (instance, id: string) => {
      const address = this.addressOf(id);
      this.addresses.set(id, address);
      return instance.replace(/<privateIpAddress>[^<]*</g, `<privateIpAddress>${address}<`);
    });
  }
}
