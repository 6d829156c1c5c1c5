// Proves that workers upgrade themselves to a release that was signed and pinned, canaries first, and that nothing else makes
// them change. Real processes behind a gateway, a release in an archive as npm pack makes it, the real command line.
import { execFile, execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { signRelease } from '../adapters/release-signature';
import type { Cluster, FleetWorker } from '../domain/schemas/clusters';
import { ADMIN_TOKEN, DIST, House, oneRun } from './setup/house';
import { waitFor } from './setup/wait-for';

const dir = mkdtempSync(join(tmpdir(), 'slipway-releases-'));
const installed = (JSON.parse(readFileSync(join(DIST, 'package.json'), 'utf8')) as { version: string }).version;

let house: House;
let publicKey: string;
const key = join(dir, 'release.key');
beforeAll(async () => {
  house = await House.open({ gateway: true, slots: 2, without: ['worker'] });
  publicKey = (await slipway('release', 'key', '--out', key)).trim();
}, 180_000);
afterAll(async () => {
  await house?.stop();
  rmSync(dir, { recursive: true, force: true });
}, 120_000);

async function slipway(...args: string[]): Promise<string> {
  const env = { ...process.env, SLIPWAY_TOKEN: ADMIN_TOKEN, SLIPWAY_SERVER: house.url, NO_COLOR: '1' };
  const { stdout } = await promisify(execFile)(process.execPath, [join(DIST, 'cli/main.js'), ...args], { env });
  return stdout;
}

interface Wish {
  /** Text of its entry; default: the real one. */
  entry?: string;
  dependencies?: Record<string, string>;
}

/** An archive as `npm pack` makes it, of the program as it is but for its version. @returns its path */
function pack(version: string, { entry, dependencies }: Wish = {}): string {
  const top = join(dir, version, 'package');
  mkdirSync(top, { recursive: true });
  for (const part of readdirSync(DIST).filter((name) => name !== 'test' && name !== 'web' && name !== 'bench')) {
    cpSync(join(DIST, part), join(top, 'dist', part), { recursive: true });
  }
  const manifest = JSON.parse(readFileSync(join(DIST, 'package.json'), 'utf8')) as object;
  const changed = JSON.stringify({ ...manifest, version, ...(dependencies ? { dependencies } : {}) });
  for (const at of ['package.json', 'dist/package.json']) writeFileSync(join(top, at), changed);
  if (entry !== undefined) writeFileSync(join(top, 'dist/workers/cluster.js'), entry);
  const archive = join(dir, `slipway-${version}.tgz`);
  execFileSync('tar', ['-czf', archive, '-C', join(dir, version), 'package']);
  return archive;
}

async function signed(archive: string): Promise<string> {
  await slipway('release', 'sign', archive, '--key', key);
  return archive;
}

const blobs = (): string[] =>
  (readdirSync(house.dir, { recursive: true }) as string[]).filter((path) => /(?:^|\/)releases\//.test(path));

let clusters = 0;

/** A cluster whose workers are started again whenever they end, as a service manager does. */
class ManagedFleet {
  readonly cluster = `managed-${++clusters}`;
  readonly keyFile = join(dir, `${this.cluster}.key`);
  private readonly names: string[] = [];
  private isOver = false;
  private readonly kept: Promise<void>[] = [];

  async open(count: number, env: Record<string, string> = { SLIPWAY_RELEASE_KEYS: publicKey }): Promise<this> {
    await slipway('cluster', 'create', this.cluster, '--enlist', '--out', this.keyFile);
    for (let at = 0; at < count; at++) {
      const name = `${this.cluster}-w${at}`;
      this.names.push(name);
      house.add(name, 'worker', {
        SLIPWAY_CLUSTER: this.cluster,
        SLIPWAY_CLUSTER_KEY: '',
        SLIPWAY_CLUSTER_KEY_FILE: this.keyFile,
        SLIPWAY_HOST: name,
        SLIPWAY_WORKER_DIR: this.dirOf(at),
        ...env,
      });
      await house.start(name);
      this.kept.push(this.keep(name));
    }
    return this;
  }

  dirOf(at: number): string {
    return join(dir, `${this.cluster}-w${at}`);
  }

  name(at: number): string {
    return this.names[at]!;
  }

  private async keep(name: string): Promise<void> {
    while (!this.isOver) {
      await house.ended(name, 600_000);
      if (!this.isOver) await house.start(name, { wait: false });
    }
  }

  async close(): Promise<void> {
    this.isOver = true;
    await Promise.all(this.names.map((name) => house.terminate(name)));
    await Promise.all(this.kept);
  }

  shown(): Promise<Cluster> {
    return house.call('GET', `/v1/clusters/${this.cluster}`);
  }

  until(what: string, is: (cluster: Cluster) => boolean): Promise<Cluster> {
    const look = async (): Promise<Cluster | false> => {
      const cluster = await this.shown();
      return is(cluster) && cluster;
    };
    return waitFor(look, { what, timeoutMs: 90_000, intervalMs: 200 }).catch(async (error: unknown) => {
      const logs = this.names.map((name) => house.log(name));
      throw new Error(`${String(error)}\n${JSON.stringify(await this.shown())}\n${logs.join('\n')}`);
    });
  }
}

let fleet: ManagedFleet | undefined;
afterEach(async () => {
  await fleet?.close();
  fleet = undefined;
}, 60_000);

const versions = ({ fleet: workers }: Cluster): string[] => workers.map(({ version }) => version).sort();
const failures = ({ fleet: workers }: Cluster): (string | null)[] => workers.map((one) => one.upgradeFailure);
const isThere = (one: FleetWorker): boolean => one.connected && one.enlisted && one.takesReleases;

test('C2 a pinned release goes to a canary and, once that was watched, to the others; a run under way keeps its container, its attempt and every line', async () => {
  fleet = await new ManagedFleet().open(3);
  const { cluster } = fleet;
  await fleet.until('all take releases', (one) => one.fleet.filter(isThere).length === 3);
  const script =
    '#!/bin/sh\necho started >> /archive/starts\nfor i in $(seq 1 300); do echo "line $i"; sleep 0.1; done';
  await house.project(cluster, oneRun(script, `cluster: ${cluster}\n`));
  for (let at = 0; at < 6; at++) await house.trigger(cluster);
  for (let at = 1; at <= 6; at++) await house.runIn('running', cluster, at, 'work');

  const archive = await signed(pack('0.9.1'));
  const told = await slipway('cluster', 'upgrade', cluster, archive, '--hold', '6s');
  const mixed = await fleet.until('the canary has it', (one) => versions(one).includes('0.9.1'));
  const whole = await fleet.until('all have it', (one) => versions(one).every((version) => version === '0.9.1'));

  expect(told).toContain('0.9.1, canary');
  expect(versions(mixed)).toEqual([installed, installed, '0.9.1']);
  expect(mixed.release?.state).toMatch(
    /^canary .* is to take it|1 canary watched for another \d s; 1 of 3 workers has it/,
  );
  expect(
    (await fleet.until('it is done', (one) => one.release?.state.startsWith('done') ?? false)).release,
  ).toMatchObject({
    version: '0.9.1',
    by: 'the admin token',
    state: 'done: 3 of 3 workers have it',
  });
  expect(failures(whole)).toEqual([null, null, null]);
  for (let at = 1; at <= 6; at++) {
    expect((await house.finished(cluster, at, 120_000)).status).toBe('passed');
    const run = await house.run(cluster, at, 'work');
    expect(run.attempts).toHaveLength(1);
    expect(await house.logOf(cluster, at, 'work')).toBe(
      Array.from({ length: 300 }, (_, line) => `line ${line + 1}\n`).join(''),
    );
    expect(await (await house.request('GET', `${run.urls.artifacts}/starts`)).text()).toBe('started\n');
  }

  // Killed, it comes back as what it has become; the next release takes its place, and its folder.
  await house.kill9(fleet.name(0));
  await fleet.until('it is back', (one) => one.fleet.every(isThere) && versions(one).join() === '0.9.1,0.9.1,0.9.1');
  await slipway('cluster', 'upgrade', cluster, await signed(pack('0.9.2')), '--hold', '0s', '--canaries', '3');
  await fleet.until('all have the next', (one) => versions(one).join() === '0.9.2,0.9.2,0.9.2');
  await waitFor(() => readdirSync(join(fleet!.dirOf(0), 'releases')).length === 2, { what: 'one release is kept' });
  await slipway('cluster', 'upgrade', cluster, '--stop');
  expect((await fleet.shown()).release).toBeNull();
  expect(versions(await fleet.shown())).toEqual(['0.9.2', '0.9.2', '0.9.2']);
}, 400_000);

test('C2 a release that does not start is tried three times and given up: the worker works on as it was, says so, and nobody else takes it', async () => {
  fleet = await new ManagedFleet().open(2);
  await fleet.until('both take releases', (one) => one.fleet.filter(isThere).length === 2);

  await slipway('cluster', 'upgrade', fleet.cluster, await signed(pack('0.9.3', { entry: 'throw new Error("no")' })));
  const given = await fleet.until('it is given up', (one) => failures(one).some((failure) => failure !== null));
  await house.project(fleet.cluster, oneRun('#!/bin/sh\necho fine', `cluster: ${fleet.cluster}\n`));
  await house.trigger(fleet.cluster);

  expect(failures(given).filter((failure) => failure !== null)).toEqual([
    "0.9.3 was started 3 times and took no work; the worker's log says why",
  ]);
  expect(given.release?.state).toMatch(/^paused: worker \S+ could not take it \(0\.9\.3 was started/);
  expect(versions(given)).toEqual([installed, installed]);
  expect(await slipway('cluster', 'show', fleet.cluster)).toContain('cannot upgrade: 0.9.3 was started 3 times');
  expect((await house.finished(fleet.cluster, 1)).status).toBe('passed');
}, 240_000);

test.each([
  ['that a stranger has signed', /^release 0\.9\.4 is not signed with a key that this worker trusts$/, '0.9.4'],
  ['with another version than was signed', /^the archive holds version 0\.9\.5, and 9\.9\.9 was signed$/, '0.9.5'],
  [
    'that needs packages which are not there',
    /^0\.9\.6 needs no-such-package 1\.0\.0 and this worker has none/,
    '0.9.6',
  ],
])(
  'C2 a release %s is refused by the worker, which says why',
  async (_what, why, version) => {
    fleet = await new ManagedFleet().open(1);
    await fleet.until('it takes releases', (one) => one.fleet.filter(isThere).length === 1);
    const needs = version === '0.9.6' ? { 'no-such-package': '1.0.0' } : undefined;
    const archive = await signed(pack(version, needs ? { dependencies: needs } : {}));
    const foreign = join(dir, `foreign-${version}.key`);
    if (version === '0.9.4') {
      await slipway('release', 'key', '--out', foreign);
      await slipway('release', 'sign', archive, '--key', foreign);
    }
    if (version === '0.9.5') {
      const [, payload] = readFileSync(`${archive}.jws`, 'utf8').split('.');
      const release = JSON.parse(Buffer.from(payload!, 'base64url').toString()) as Parameters<typeof signRelease>[1];
      writeFileSync(`${archive}.jws`, await signRelease(readFileSync(key, 'utf8'), { ...release, version: '9.9.9' }));
    }

    await slipway('cluster', 'upgrade', fleet.cluster, archive);
    const refused = await fleet.until('it is refused', (one) => failures(one)[0] !== null);

    expect(failures(refused)[0]).toMatch(why);
    expect(versions(refused)).toEqual([installed]);
    expect(
      readdirSync(join(fleet.dirOf(0), 'releases')).filter(
        (name) => name.startsWith('sha256') && !name.endsWith('new'),
      ),
    ).toEqual([]);
  },
  120_000,
);

test('C2 without a key of a maker a worker never changes, whatever its cluster is pinned to', async () => {
  fleet = await new ManagedFleet().open(1, {});
  const { cluster } = fleet;
  await slipway('cluster', 'upgrade', cluster, await signed(pack('0.9.7')), '--hold', '0s');
  const seen = (await fleet.shown()).fleet[0]!.lastSeenAt;
  const heard = await fleet.until('it has said hello twice since', (one) => {
    return Date.parse(one.fleet[0]!.lastSeenAt) > Date.parse(seen) + 9_000;
  });

  expect(heard.fleet[0]).toMatchObject({ version: installed, takesReleases: false, upgradeFailure: null });
  expect(heard.release?.state).toBe('no worker of this cluster takes releases');
  expect(existsSync(join(fleet.dirOf(0), 'releases'))).toBe(false);
}, 120_000);

test('C2 what is no release is refused at the door: other bytes, no signature, a cluster of others', async () => {
  fleet = await new ManagedFleet().open(0);
  const path = `/v1/clusters/${fleet.cluster}/release`;
  const archive = await signed(pack('0.9.8'));
  const jws = readFileSync(`${archive}.jws`, 'utf8').trim();
  const before = blobs();
  const put = async (query: object, body: string | Buffer, token = ADMIN_TOKEN): Promise<string> => {
    const url = `${house.url}${path}?${new URLSearchParams({ ...query }).toString()}`;
    const response = await fetch(url, { method: 'PUT', body, headers: { authorization: `Bearer ${token}` } });
    return `${response.status} ${((await response.json()) as { detail: string }).detail}`;
  };

  expect(await put({ signed: jws }, 'other')).toMatch(/^422 these bytes are not those of 0\.9\.8 that were signed/);
  expect(await put({ signed: jws }, Buffer.concat([readFileSync(archive), Buffer.from('x')]))).toMatch(
    /^422 the file is longer/,
  );
  expect(await put({ signed: 'a.b.c' }, 'x')).toMatch(/^422 this is not the signature of a release; make it with/);
  expect(await put({}, 'x')).toMatch(/^400 the request is malformed: signed/);
  expect(await put({ signed: jws, canaries: '0' }, 'x')).toMatch(/^400 the request is malformed: canaries/);
  expect(await put({ signed: jws }, readFileSync(archive), 'nobody')).toMatch(/^401/);
  expect((await fleet.shown()).release).toBeNull();
  expect(blobs()).toEqual(before);
}, 60_000);
