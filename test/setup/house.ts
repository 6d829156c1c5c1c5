// Owns a whole Slipway for a test: real processes on free ports in a folder of its own, each killable by name.
// Called by scenario tests. Everything it started is ended by `stop`, by pid.
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import Dockerode from 'dockerode';
import { startOf } from '../../adapters/pid-lock';
import { makeClusterKey } from '../../adapters/cluster-keys';
import { hasStarterImage, makeStarterImage } from '../../adapters/starter-image';
import type { Build, Project, Run } from '../../domain/schemas/api';
import type { PublicKey } from '../../domain/schemas/clusters';
import type { HostSummary } from '../../domain/schemas/hosts';
import { freePort } from './free-port';
import { startTemporal } from './temporal';
import { waitFor } from './wait-for';

const TOP = resolve(__dirname, '..', '..');
/** The compiled program, whether this file runs from its source or, for a benchmark, from dist/test/setup. */
export const DIST = basename(TOP) === 'dist' ? TOP : join(TOP, 'dist');
export const ADMIN_TOKEN = 'a-token-for-tests-only';

type Env = Record<string, string>;
type Role = 'database' | 'api' | 'orchestrator' | 'gateway' | 'worker';
const ENTRY: Record<Role, string> = {
  database: 'workers/database.js',
  api: 'api/main.js',
  orchestrator: 'workers/orchestrator.js',
  gateway: 'gateway/main.js',
  worker: 'workers/cluster.js',
};

export interface HouseOptions {
  env?: Env;
  /** PostgreSQL instead of the embedded database. */
  databaseUrl?: string;
  /** Copies of the API; the first is `url`. */
  apis?: number;
  slots?: number;
  /** Workers know one address alone, that of a gateway. */
  gateway?: boolean | { tls: { ca: string; cert: string; key: string } };
  /** Temporal does not push cancellations to workers. */
  withoutPush?: boolean;
  /** For single roles, once the addresses of API and Temporal are known. */
  roleEnv?: (at: { url: string; temporal: string; dir: string }) => Promise<Partial<Record<Role, Env>>>;
  /** Roles to leave out at the start. */
  without?: Role[];
}

interface Member {
  role: Role;
  env: Env;
  /** Folder of its program; default: the one that was built. */
  program?: string;
  child?: ChildProcess;
}

export class House {
  readonly dir = mkdtempSync(join(tmpdir(), 'slipway-test-'));
  private readonly members = new Map<string, Member>();
  url = '';
  /** Of cluster `local`, which enlists by itself. */
  key!: Awaited<ReturnType<typeof makeClusterKey>>;
  gatewayUrl = '';
  readonly apiUrls: string[] = [];
  temporal!: Awaited<ReturnType<typeof startTemporal>>;

  static async open(options: HouseOptions = {}): Promise<House> {
    const house = new House();
    try {
      await house.begin(options);
      return house;
    } catch (error) {
      await house.stop();
      throw error;
    }
  }

  private async begin(options: HouseOptions): Promise<void> {
    await ensureTestImage();
    this.key = await makeClusterKey();
    this.temporal = await startTemporal({ withoutPush: options.withoutPush });
    const ports = await Promise.all(Array.from({ length: options.apis ?? 1 }, freePort));
    this.apiUrls.push(...ports.map((port) => `http://127.0.0.1:${port}`));
    this.url = this.apiUrls[0] ?? '';
    const env = {
      SLIPWAY_DATA_DIR: this.dir,
      SLIPWAY_ADMIN_TOKEN: ADMIN_TOKEN,
      SLIPWAY_CLUSTER_KEY: this.key.privateKey,
      SLIPWAY_URL: this.url,
      SLIPWAY_SLOTS: String(options.slots ?? 4),
      SLIPWAY_HOST: 'test-host',
      TEMPORAL_ADDRESS: this.temporal.address,
      ...(options.databaseUrl ? { DATABASE_URL: options.databaseUrl } : {}),
      ...options.env,
    };
    if (!options.databaseUrl) this.members.set('database', { role: 'database', env });
    ports.forEach((port, at) => {
      const name = at === 0 ? 'api' : `api-${at + 1}`;
      this.members.set(name, { role: 'api', env: { ...env, SLIPWAY_LISTEN: `127.0.0.1:${port}` } });
    });
    const roleEnv = await options.roleEnv?.({ url: this.url, temporal: this.temporal.address, dir: this.dir });
    const gateway = options.gateway ? await this.addGateway(env, options.gateway) : {};
    this.members.set('orchestrator', { role: 'orchestrator', env: { ...env, ...roleEnv?.orchestrator } });
    this.members.set('worker', { role: 'worker', env: { ...env, ...gateway, ...roleEnv?.worker } });
    const names = [...this.members]
      .filter(([, member]) => !options.without?.includes(member.role))
      .map(([name]) => name);
    if (names.includes('database')) await this.start('database');
    const others = names.filter((name) => name !== 'database');
    await Promise.all(others.filter((name) => !name.startsWith('worker')).map((name) => this.start(name)));
    if (names.includes('api')) await this.register('local', this.key.publicKey);
    await Promise.all(others.filter((name) => name.startsWith('worker')).map((name) => this.start(name)));
  }

  /** Lets whoever holds the key serve the cluster, which is made if it is not there. */
  async register(cluster: string, key: PublicKey, more: object = {}): Promise<void> {
    const made = await this.operate('POST', '/v1/clusters', {
      name: cluster,
      keys: [key],
      enlistAutomatically: true,
      ...more,
    });
    if (made.ok) return;
    await this.operated('PATCH', `/v1/clusters/${cluster}`, { enlistAutomatically: true, ...more });
    await this.operated('POST', `/v1/clusters/${cluster}/keys`, key);
  }

  /** As an admin of the server. */
  operate(method: string, path: string, body?: unknown): Promise<Response> {
    return this.request(method, path, body, { authorization: `Bearer ${ADMIN_TOKEN}` });
  }

  async operated<T>(method: string, path: string, body?: unknown): Promise<T> {
    return this.call(method, path, body, { authorization: `Bearer ${ADMIN_TOKEN}` });
  }

  /** @returns what its workers need to know in place of the other addresses */
  private async addGateway(env: Env, wish: true | { tls: { ca: string; cert: string; key: string } }): Promise<Env> {
    const listen = `127.0.0.1:${await freePort()}`;
    const own = { SLIPWAY_GATEWAY_LISTEN: listen, SLIPWAY_GATEWAY_SECRET: 'a secret of the gateway, for tests only' };
    this.gatewayUrl = `${wish === true ? 'http' : 'https'}://${listen}`;
    const workers = { SLIPWAY_SERVER: this.gatewayUrl, TEMPORAL_ADDRESS: '' };
    if (wish === true) {
      this.members.set('gateway', { role: 'gateway', env: { ...env, ...own } });
      return workers;
    }
    const { ca, cert, key } = wish.tls;
    const secure = { SLIPWAY_GATEWAY_TLS_CERT: cert, SLIPWAY_GATEWAY_TLS_KEY: key };
    this.members.set('gateway', { role: 'gateway', env: { ...env, ...own, ...secure } });
    const caFile = join(this.dir, 'authority.pem');
    writeFileSync(caFile, ca);
    return { ...workers, NODE_EXTRA_CA_CERTS: caFile };
  }

  /** Gives a worker of cluster `local` a new key, with which it starts again. */
  async rekey(name: string): Promise<void> {
    this.key = await makeClusterKey();
    await this.operated('POST', '/v1/clusters/local/keys', this.key.publicKey);
    const member = this.member(name);
    member.env = { ...member.env, SLIPWAY_CLUSTER_KEY: this.key.privateKey };
    await this.terminate(name);
    await this.start(name);
  }

  /** Adds a member that can be started later, e.g. a second worker. */
  add(name: string, like: string, env: Env): void {
    const member = this.member(like);
    this.members.set(name, { role: member.role, env: { ...member.env, ...env } });
  }

  /** From its next start on a member runs another version of the program. */
  upgrade(name: string, program: string): void {
    this.member(name).program = program;
  }

  /** Starts a member and waits until it says that it is ready. */
  async start(name: string, options: { wait?: boolean } = {}): Promise<void> {
    const member = this.member(name);
    const log = openSync(join(this.dir, `${name}.log`), 'a');
    const child = spawn(process.execPath, [join(member.program ?? DIST, ENTRY[member.role])], {
      env: { ...process.env, NODE_OPTIONS: '', ...member.env },
      stdio: ['ignore', log, log, 'ipc'],
    });
    closeSync(log);
    member.child = child;
    if (options.wait === false) return;
    let isReady = false;
    child.once('message', () => (isReady = true));
    await waitFor(() => isReady || child.exitCode !== null, { what: `${name} is ready`, timeoutMs: 60_000 }).catch(
      (error: unknown) => {
        throw new Error(`${String(error)}\n${this.log(name)}`);
      },
    );
    if (!isReady) throw new Error(`${name} ended: ${this.log(name)}`);
  }

  /** SIGKILL, and waits until the process is gone. */
  async kill9(name: string): Promise<void> {
    await this.end(name, 'SIGKILL');
  }

  async terminate(name: string): Promise<void> {
    await this.end(name, 'SIGTERM');
  }

  signal(name: string, signal: NodeJS.Signals): void {
    this.member(name).child?.kill(signal);
  }

  private async end(name: string, signal: NodeJS.Signals): Promise<void> {
    const { child } = this.member(name);
    if (!child?.pid) return;
    const { pid } = child;
    child.kill(signal);
    await waitFor(() => startOf(pid) === undefined || child.exitCode !== null || child.signalCode !== null, {
      what: `${name} is gone`,
      timeoutMs: 30_000,
    });
  }

  /** Waits for a member to end by itself. @returns its exit code, or the signal that killed it */
  ended(name: string, timeoutMs = 30_000): Promise<number | NodeJS.Signals> {
    const { child } = this.member(name);
    if (!child) throw new Error(`${name} is not running`);
    return waitFor(() => child.exitCode ?? child.signalCode, { what: `${name} has ended`, timeoutMs });
  }

  /** Process id of a running member. */
  pid(name: string): number {
    const { pid } = this.member(name).child ?? {};
    if (pid === undefined) throw new Error(`${name} is not running`);
    return pid;
  }

  private member(name: string): Member {
    const member = this.members.get(name);
    if (!member) throw new Error(`no member ${name}`);
    return member;
  }

  log(name: string): string {
    return this.wholeLog(name).slice(-3000);
  }

  wholeLog(name: string): string {
    return readFileSync(join(this.dir, `${name}.log`), 'utf8');
  }

  /** Paths of the logs of all members that were ever started. */
  logs(): string[] {
    return readdirSync(this.dir)
      .filter((name) => name.endsWith('.log'))
      .map((name) => join(this.dir, name));
  }

  async stop(): Promise<void> {
    const names = [...this.members.keys()].reverse();
    await Promise.all(names.filter((name) => name !== 'database').map((name) => this.end(name, 'SIGTERM')));
    if (this.members.has('database')) await this.end('database', 'SIGTERM');
    await this.temporal?.stop();
    rmSync(this.dir, { recursive: true, force: true });
  }

  async call<T>(method: string, path: string, ...rest: [body?: unknown, headers?: Record<string, string>]): Promise<T> {
    const response = await this.request(method, path, ...rest);
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return (text === '' ? undefined : JSON.parse(text)) as T;
  }

  request(
    method: string,
    path: string,
    ...[body, headers = {}]: [body?: unknown, headers?: Record<string, string>]
  ): Promise<Response> {
    return fetch(path.startsWith('http') ? path : this.url + path, {
      method,
      headers: {
        ...(body === undefined && method !== 'POST' ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  }

  project(name: string, definition: string): Promise<Project> {
    return this.call('POST', '/v1/projects', { name, definition });
  }

  trigger(project: string, body: object = {}): Promise<Build> {
    return this.call('POST', `/v1/projects/${project}/builds`, body);
  }

  build(project: string, number: number): Promise<Build> {
    return this.call('GET', `/v1/projects/${project}/builds/${number}`);
  }

  run(project: string, number: number, run: string): Promise<Run> {
    return this.call('GET', `/v1/projects/${project}/builds/${number}/runs/${encodeURIComponent(run)}`);
  }

  async logOf(project: string, number: number, run: string): Promise<string> {
    const path = `/v1/projects/${project}/builds/${number}/runs/${encodeURIComponent(run)}/log`;
    return (await this.request('GET', path)).text();
  }

  finished(project: string, number: number, timeoutMs = 50_000): Promise<Build> {
    return waitFor(
      async () => {
        const build = await this.build(project, number);
        return build.state === 'finished' && build;
      },
      { what: `build ${project}/${number} is finished`, timeoutMs, intervalMs: 100 },
    ).catch(async (error: unknown) => {
      throw new Error(`${String(error)}\n${await this.standing(project, number)}`);
    });
  }

  /** All that can be known from outside about a build that does not end. */
  private async standing(project: string, number: number): Promise<string> {
    const asked = [`/v1/projects/${project}/builds/${number}`, '/v1/workers', '/v1/clusters'];
    const answers = await Promise.all(asked.map((path) => this.call('GET', path).then(JSON.stringify, String)));
    const started = [...this.members].filter(([, { child }]) => child).map(([name]) => name);
    return [...answers, ...started.map((name) => `--- ${name}\n${this.log(name)}`)].join('\n');
  }

  /** Lists a host in cluster `local`, and waits until its worker has reached it. @param host as the API takes it */
  async listHost(host: { name: string; labels: string[]; slots?: number; reach: object }): Promise<void> {
    await this.operated('POST', HOSTS, host);
    await waitFor(async () => (await this.call<HostSummary>('GET', `${HOSTS}/${host.name}`)).state === 'ready', {
      what: `host ${host.name} is ready`,
      timeoutMs: 30_000,
    });
  }

  /** Containers of attempts that its workers made, running or not: name and state. Other houses use the same engine. */
  async containers(): Promise<{ name: string; state: string }[]> {
    const { workers } = await this.call<{ workers: { id: string }[] }>('GET', '/v1/workers');
    const own = new Set(workers.map(({ id }) => id));
    const all = await new Dockerode().listContainers({ all: true, filters: { label: ['dev.slipway.run-id'] } });
    return all
      .filter(({ Labels: labels }) => own.has(labels['dev.slipway.worker'] ?? ''))
      .map(({ Names: [name = ''], State: state }) => ({ name: name.slice(1), state }));
  }

  /** Waits for a run to be in a state, e.g. `running`. */
  runIn(state: string, project: string, ...[number, name]: [number: number, name: string]): Promise<Run> {
    return waitFor(
      async () => {
        const run = await this.run(project, number, name);
        return run.state === state && run;
      },
      { what: `run ${project}/${number}/${name} is ${state}`, timeoutMs: 30_000, intervalMs: 50 },
    );
  }
}

/** A project file with one run whose script is given. */
export function oneRun(script: string, more = ''): string {
  const indented = script
    .trim()
    .split('\n')
    .map((line) => `    ${line}`)
    .join('\n');
  return `timeout: 10
triggers:
  - name: main
    runs:
      - name: work
        container: ${TEST_IMAGE}
        script: work
${more}scripts:
  work: |
${indented}
`;
}

/** The same for a host that the run asks for. */
export const tagged = (tag: string, script: string): string =>
  oneRun(script).replace('script: work', `script: work\n        host-tag: '${tag}'`);

/** Of the Docker engine that the tests use. */
export const DOCKER_SOCKET = (process.env.DOCKER_HOST ?? '').replace(/^unix:\/\//, '') || '/var/run/docker.sock';

/** Where the hosts of cluster `local` are. */
export const HOSTS = '/v1/clusters/local/hosts';

/** Made from the machine's own busybox. */
export const TEST_IMAGE = 'slipway-test/busybox:1';

export async function ensureTestImage(): Promise<void> {
  const docker = new Dockerode();
  if (!(await hasStarterImage(docker, TEST_IMAGE))) await makeStarterImage(docker, () => undefined, TEST_IMAGE);
}
