// Owns a gateway for a test: a process in front of a Temporal server, keys of clusters, tokens of workers, and raw callers.
// Called by gateway.test.ts. What it started is ended by `stop`, by pid.
import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { join } from 'node:path';
import {
  Client,
  credentials,
  Metadata,
  status,
  type ClientUnaryCall,
  type requestCallback,
  type ServiceError,
} from '@grpc/grpc-js';
import { temporal } from '@temporalio/proto';
import { exportJWK, generateKeyPair, SignJWT, type JWK, type JWTPayload, type KeyLike } from 'jose';
import type { RefusalRecord } from '../../gateway/admission';
import type { ClusterKey } from '../../adapters/access-cache';
import type { GatewaySettings, GatewayWeight } from './gateway-process';
import { freePort } from './free-port';
import { waitFor } from './wait-for';

/** Compiled beforehand by `npm test`. */
const PROGRAM = join(__dirname, '..', '..', 'dist', 'test', 'setup', 'gateway-process.js');

export interface TestKey extends ClusterKey {
  cluster: string;
  privateKey: KeyLike;
}

export async function makeKey(cluster: string, over: Partial<ClusterKey> = {}): Promise<TestKey> {
  const { privateKey, publicKey } = await generateKeyPair('EdDSA', { crv: 'Ed25519', extractable: true });
  const jwk: JWK = await exportJWK(publicKey);
  return { cluster, privateKey, kid: randomUUID(), jwk, expiresAt: null, revokedAt: null, ...over };
}

export interface TokenChanges {
  header?: Record<string, unknown>;
  claims?: JWTPayload;
}

const secondsNow = (): number => Math.floor(Date.now() / 1000);

/** What a worker shows: good as it is; `changes` make it bad. */
export function signToken(key: TestKey, worker: string, { header, claims }: TokenChanges = {}): Promise<string> {
  const iat = secondsNow();
  const good = { iss: `cluster:${key.cluster}`, sub: worker, aud: 'slipway', iat, exp: iat + 300 };
  return new SignJWT({ ...good, ...claims })
    .setProtectedHeader({ alg: 'EdDSA', kid: key.kid, ...header })
    .sign(key.privateKey);
}

export interface GatewayOptions {
  temporal: string;
  keys?: readonly TestKey[];
  limits?: GatewaySettings['limits'];
  tls?: GatewaySettings['tls'];
}

export class TestGateway {
  readonly refusals: RefusalRecord[] = [];
  readonly faults: string[] = [];
  port = 0;
  private readonly secret = randomBytes(32).toString('hex');
  private keys: TestKey[];
  private child?: ChildProcess;

  private constructor(private readonly options: GatewayOptions) {
    this.keys = [...(options.keys ?? [])];
  }

  static async open(options: GatewayOptions): Promise<TestGateway> {
    const gateway = new TestGateway(options);
    gateway.port = await freePort();
    await gateway.start();
    return gateway;
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Keeps the port that it had. */
  async start(): Promise<void> {
    const { port, secret } = this;
    const { limits, tls, temporal: address } = this.options;
    const child = spawn(process.execPath, [PROGRAM], {
      env: {
        ...process.env,
        NODE_OPTIONS: '',
        TEMPORAL_ADDRESS: address,
        TEST_GATEWAY: JSON.stringify({ port, secret, limits, tls } satisfies GatewaySettings),
      },
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    this.child = child;
    this.setKeys(this.keys);
    this.port = await new Promise<number>((ready, fail) => {
      child.once('exit', (code) => fail(new Error(`the gateway ended: ${code}`)));
      child.on('message', (message: { port?: number; refusal?: RefusalRecord; fault?: string }) => {
        if (message.refusal) this.refusals.push(message.refusal);
        if (message.fault) this.faults.push(message.fault);
        if (message.port) ready(message.port);
      });
    });
  }

  get isRunning(): boolean {
    return this.child?.exitCode === null && this.child.signalCode === null;
  }

  setKeys(keys: readonly TestKey[]): void {
    this.keys = [...keys];
    const byCluster: Record<string, object[]> = {};
    for (const { cluster, privateKey: _, ...key } of keys) (byCluster[cluster] ??= []).push(key);
    this.child?.send({ keys: byCluster });
  }

  async weigh(): Promise<GatewayWeight> {
    const question = randomUUID();
    return new Promise((done) => {
      const listen = (message: { weighed?: string; weight?: GatewayWeight }): void => {
        if (message.weighed !== question) return;
        this.child?.off('message', listen);
        done(message.weight!);
      };
      this.child?.on('message', listen).send({ weigh: question });
    });
  }

  /** Refusals on record, of one reason. */
  refused(reason: string): RefusalRecord[] {
    return this.refusals.filter((one) => one.reason === reason);
  }

  async kill9(): Promise<void> {
    await this.end(() => this.child?.kill('SIGKILL'));
  }

  async close(): Promise<void> {
    await this.end(() => this.child?.send({ close: true }));
  }

  private async end(how: () => void): Promise<void> {
    if (!this.child || !this.isRunning) return;
    const gone = once(this.child, 'exit');
    how();
    await gone;
  }
}

const service = temporal.api.workflowservice.v1;
type Service = typeof service;
export type Method =
  | 'GetSystemInfo'
  | 'DescribeNamespace'
  | 'PollActivityTaskQueue'
  | 'PollNexusTaskQueue'
  | 'PollWorkflowTaskQueue'
  | 'RecordActivityTaskHeartbeat'
  | 'RespondActivityTaskCompleted'
  | 'RespondActivityTaskFailed'
  | 'RespondActivityTaskCanceled'
  | 'RespondNexusTaskCompleted'
  | 'RecordWorkerHeartbeat'
  | 'ShutdownWorker'
  | 'StartWorkflowExecution'
  | 'SignalWorkflowExecution'
  | 'TerminateWorkflowExecution'
  | 'GetWorkflowExecutionHistory'
  | 'ListWorkflowExecutions'
  | 'ListNamespaces';

export const servicePath = (method: string): string => `/temporal.api.workflowservice.v1.WorkflowService/${method}`;

type Answer<M extends Method> = ReturnType<Service[`${M}Response`]['decode']>;
type Asked<M extends Method> = Parameters<Service[`${M}Request`]['encode']>[0];

/** A caller that sends what it likes. */
export class RawCaller {
  private readonly client: Client;

  constructor(
    address: string,
    private readonly authorization: string | undefined,
    tls?: { ca: string },
  ) {
    const trust = tls ? credentials.createSsl(Buffer.from(tls.ca)) : credentials.createInsecure();
    this.client = new Client(address, trust, {
      'grpc.use_local_subchannel_pool': 1,
      ...(tls ? { 'grpc.ssl_target_name_override': 'localhost' } : {}),
    });
  }

  async call<M extends Method>(method: M, message: Asked<M>, timeoutMs = 20_000): Promise<Answer<M>> {
    // Every method has both types, and they belong to each other; the compiler cannot follow the name.
    const asked = service[`${method}Request`] as unknown as { encode(message: Asked<M>): { finish(): Uint8Array } };
    const answered = service[`${method}Response`] as unknown as { decode(bytes: Uint8Array): Answer<M> };
    const body = Buffer.from(asked.encode({ namespace: 'default', ...message }).finish());
    return answered.decode(await this.send(servicePath(method), body, timeoutMs));
  }

  send(path: string, body: Buffer, timeoutMs = 20_000): Promise<Buffer> {
    return new Promise((done, fail) => {
      this.begin(path, body, { timeoutMs, done: (error, answer) => (error ? fail(error) : done(answer!)) });
    });
  }

  /** Polls a queue and does not care for the answer. @returns what hangs up */
  poll(queue: string): () => void {
    const asked = service.PollActivityTaskQueueRequest.encode({ namespace: 'default', taskQueue: { name: queue } });
    const path = servicePath('PollActivityTaskQueue');
    const call = this.begin(path, Buffer.from(asked.finish()), { timeoutMs: 60_000, done: () => undefined });
    return () => call.cancel();
  }

  private begin(
    path: string,
    body: Buffer,
    { timeoutMs, done }: { timeoutMs: number; done: requestCallback<Buffer> },
  ): ClientUnaryCall {
    const same = (bytes: Buffer): Buffer => bytes;
    const metadata = new Metadata();
    if (this.authorization !== undefined) metadata.set('authorization', this.authorization);
    return this.client.makeUnaryRequest(path, same, same, body, metadata, { deadline: Date.now() + timeoutMs }, done);
  }

  close(): void {
    this.client.close();
  }
}

/** The status that a call ends with. */
export async function codeOf(call: Promise<unknown>): Promise<string> {
  return call.then(
    () => 'OK',
    (error: ServiceError) => status[error.code] ?? String(error),
  );
}

export async function seenWithin<T>(
  what: string,
  look: () => T | Promise<T>,
  timeoutMs = 30_000,
): Promise<Exclude<T, false | null | undefined>> {
  return waitFor(look, { what, timeoutMs });
}
