// Proves that hosts are made for waiting work and end when they are not needed, whatever dies or is lost in between: what the
// ledger says is what there is. Real Temporal, real Docker; the hosts are containers.
import { execFileSync } from 'node:child_process';
import Dockerode from 'dockerode';
import { Client, Connection } from '@temporalio/client';
import type { Blueprint } from '../domain/schemas/blueprints';
import type { HostSummary } from '../domain/schemas/hosts';
import { House, oneRun, tagged, TEST_IMAGE } from './setup/house';
import { SshServer } from './setup/sshd';
import { waitFor } from './setup/wait-for';

const docker = new Dockerode();
let house: House;
let sshd: SshServer;
beforeAll(async () => {
  sshd = await SshServer.open();
  house = await House.open({
    slots: 2,
    without: ['worker'],
    env: {
      SLIPWAY_HEARTBEAT_TIMEOUT_MS: '6000',
      SLIPWAY_REATTACH_GRACE_MS: '6000',
      SLIPWAY_SSH_KEY: sshd.privateKey,
    },
  });
  for (const name of ['first', 'second']) {
    house.add(name, 'worker', {
      SLIPWAY_HOST: name,
      SLIPWAY_LABELS: 'boxes',
      SLIPWAY_WORKER_DIR: `${house.dir}/${name}`,
    });
  }
  await house.start('first');
}, 120_000);
afterAll(async () => {
  const left = await docker.listContainers({ all: true, filters: { label: ['dev.slipway.blueprint'] } });
  await Promise.all(left.map(({ Id }) => docker.getContainer(Id).remove({ force: true, v: true })));
  await house?.stop();
  await sshd?.stop();
}, 60_000);

const BLUEPRINTS = '/v1/clusters/local/blueprints';
const put = (name: string, spec: object): Promise<Blueprint> =>
  house.operated('PUT', `${BLUEPRINTS}/${name}`, {
    make: { kind: 'docker', image: TEST_IMAGE },
    idleSeconds: 3,
    most: 5,
    ...spec,
  });
const blueprint = (name: string): Promise<Blueprint> => house.call('GET', `${BLUEPRINTS}/${name}`);
const hostsOf = async (name: string): Promise<HostSummary[]> =>
  (await house.call<{ hosts: HostSummary[] }>('GET', '/v1/hosts')).hosts.filter(({ made }) => made?.blueprint === name);
/** What there is of the hosts of a blueprint on the engine. */
const containersOf = async (name: string): Promise<Dockerode.ContainerInfo[]> =>
  (await docker.listContainers({ all: true, filters: { label: ['dev.slipway.blueprint'] } })).filter(({ Labels }) =>
    Labels['dev.slipway.host']?.startsWith(`${name}-`),
  );
const isGone = (name: string) =>
  waitFor(async () => (await hostsOf(name)).length === 0 && (await containersOf(name)).length === 0, {
    what: `no host of ${name} is left, in the ledger and on the engine`,
    timeoutMs: 60_000,
    intervalMs: 200,
  });
const isReady = (name: string, count: number) =>
  waitFor(
    async () => {
      const all = await hostsOf(name);
      if (all.filter(({ state }) => state === 'ready').length !== count) {
        throw new Error(all.map(({ name: host, state, why }) => `${host} ${state} ${why}`).join('; ') || 'none');
      }
      return all;
    },
    { what: `${count} hosts of ${name} are ready`, timeoutMs: 60_000, intervalMs: 200 },
  );

async function workflows() {
  const connection = await Connection.connect({ address: house.temporal.address });
  return { client: new Client({ connection }), close: () => connection.close() };
}

test('H2 hosts appear for waiting work, as many as are needed, and go when they are idle', async () => {
  await put('burst', { slots: 1, most: 2, labels: ['ondemand'], costPerHour: 1.5, idleSeconds: 6 });
  const cells = `script: work\n        matrix: { axes: { cell: [a, b, c, d] } }`;
  await house.project(
    'burst',
    tagged('ondemand', '#!/bin/sh\necho "on $H_WORKER"; sleep 1').replace('script: work', cells),
  );
  const { number } = await house.trigger('burst');
  let most = 0;
  const watching = setInterval(() => {
    void hostsOf('burst').then((all) => (most = Math.max(most, all.length)));
  }, 200);
  const build = await house.finished('burst', number, 90_000);
  clearInterval(watching);
  const { costPerHourNow, hosts } = await blueprint('burst');

  expect(build.status).toBe('passed');
  expect(most).toBe(2);
  for (const run of build.runs)
    expect(await house.logOf('burst', number, run.name)).toMatch(/^on burst-[0-9a-f]{8}\n$/);
  expect(costPerHourNow).toBe(1.5 * (hosts.starting + hosts.ready + hosts.ending));
  await isGone('burst');
  expect(await blueprint('burst')).toMatchObject({ hosts: { starting: 0, ready: 0, ending: 0 }, costPerHourNow: 0 });
}, 180_000);

test('H2 H9 for a run that needs several hosts all that are missing are made, and end after it', async () => {
  await put('duo', { most: 2 });
  const script = '#!/bin/sh\nfor host in $H_HOSTS; do slipway on $host -- sh -c \'echo "$H_HOST on $H_WORKER"\'; done';
  const boxes = oneRun(script).replace('script: work', 'script: work\n        hosts: { left: duo, right: duo }');
  await house.project('duo', boxes);
  await house.trigger('duo');
  const build = await house.finished('duo', 1, 90_000);
  const { attempts } = await house.run('duo', 1, 'work');
  const [left, right] = attempts[0]?.hostsBeside ?? [];

  expect(build.status).toBe('passed');
  expect(await house.logOf('duo', 1, 'work')).toBe(`left on ${left?.host}\nright on ${right?.host}\n`);
  expect([left?.host, right?.host].map((host) => /^duo-[0-9a-f]{8}$/.test(host ?? ''))).toEqual([true, true]);
  expect(left?.host).not.toBe(right?.host);
  await isGone('duo');
}, 180_000);

test('H2 each host is a workflow, which tells in its trace what became of it', async () => {
  await put('traced', { minReady: 1 });
  const [host] = await isReady('traced', 1);
  const { client, close } = await workflows();
  const handle = client.workflow.getHandle(`host/local/${host!.name}`);
  const { status, raw } = await handle.describe();
  await put('traced', { most: 0 });
  await isGone('traced');
  const why = await handle.result();
  await close();

  expect(status.name).toBe('RUNNING');
  expect(JSON.stringify(raw.executionConfig?.userMetadata)).toBeDefined();
  expect(why).toMatch(/^it had no run for 3 s$/);
}, 120_000);

test('H2 ready hosts are kept, and one that has taken its runs is replaced', async () => {
  await put('fresh', { minReady: 1, maxUses: 1, idleSeconds: 3600 });
  const [before] = await isReady('fresh', 1);
  await house.project('fresh', tagged('fresh', '#!/bin/sh\ntouch /was-here; ls /was-here; echo "$H_WORKER"'));
  const used = [];
  for (const at of [1, 2]) {
    await house.trigger('fresh');
    await house.finished('fresh', at, 60_000);
    used.push((await house.run('fresh', at, 'work')).host);
  }
  const now = await waitFor(
    async () => {
      const all = await hostsOf('fresh');
      return all.length === 1 && all[0]!.state === 'ready' && all;
    },
    { what: 'one unused host is left', timeoutMs: 60_000, intervalMs: 200 },
  );

  expect(used[0]).toBe(before!.name);
  expect(used[1]).not.toBe(used[0]);
  expect(used).not.toContain(now[0]!.name);
  await house.operated('DELETE', `${BLUEPRINTS}/fresh`);
  await isGone('fresh');
}, 180_000);

test('H2 a run that waits says that a host is being made for it, and what keeps that from happening', async () => {
  await put('nothing', { make: { kind: 'docker', image: 'localhost:1/no-such/image:1' }, startSeconds: 5 });
  await house.project('nothing', tagged('nothing', '#!/bin/sh\ntrue'));
  const { number } = await house.trigger('nothing');
  const saying = (what: RegExp) =>
    waitFor(
      async () => {
        const { waiting } = await house.run('nothing', number, 'work');
        if (!what.test(waiting ?? '')) throw new Error(String(waiting));
        return waiting;
      },
      { what: `the run says ${what}`, timeoutMs: 40_000, intervalMs: 100 },
    );

  await saying(/blueprint nothing is making it; last: image localhost:1\/no-such\/image:1 is not there/);
  const rests = await waitFor(
    async () => {
      const now = await blueprint('nothing');
      return now.faults > 0 && now.restingUntil !== null && now;
    },
    { what: 'the blueprint rests', timeoutMs: 60_000 },
  );
  expect(rests.fault).toMatch(/did not take runs within 5 s; last: image/);
  await put('nothing', {});
  expect((await house.finished('nothing', number, 60_000)).status).toBe('passed');
  await isGone('nothing');
}, 180_000);

test('H8 the worker that makes hosts is killed in the middle: another goes on, and nothing is made twice', async () => {
  await house.start('second');
  await put('robust', { minReady: 3, idleSeconds: 3600 });
  await waitFor(async () => (await hostsOf('robust')).length === 3, { what: 'hosts are asked for', intervalMs: 20 });
  await house.kill9('first');
  const ready = await isReady('robust', 3);
  const containers = await containersOf('robust');
  await house.start('first');

  expect(new Set(containers.map(({ Labels }) => Labels['dev.slipway.host']))).toEqual(
    new Set(ready.map(({ name }) => name)),
  );
  expect(containers).toHaveLength(3);
  await put('robust', { most: 0 });
  await isGone('robust');
}, 180_000);

test('H8 workflows that somebody terminates or cancels leave nothing behind', async () => {
  await put('cut', { minReady: 2, idleSeconds: 3600 });
  const [one, other] = await isReady('cut', 2);
  const { client, close } = await workflows();
  await client.workflow.getHandle(`host/local/${one!.name}`).cancel();
  await client.workflow.getHandle(`host/local/${other!.name}`).terminate('by hand');
  await waitFor(async () => !(await hostsOf('cut')).some(({ name }) => name === one!.name), {
    what: 'the cancelled one is gone',
    timeoutMs: 60_000,
  });
  await house.operated('DELETE', `${BLUEPRINTS}/cut`);
  await isGone('cut');
  await close();
}, 180_000);

test('H8 both ways: a container that nobody knows is ended, and a host whose container is gone ends in the ledger', async () => {
  await put('swept', { minReady: 1, idleSeconds: 3600 });
  const [host] = await isReady('swept', 1);
  const [container] = await containersOf('swept');
  const labels = { ...container!.Labels, 'dev.slipway.host': 'swept-stranger' };
  execFileSync('docker', [
    'run',
    '-d',
    '--name',
    'slipway-host-stranger',
    ...label(labels),
    TEST_IMAGE,
    'sleep',
    '3600',
  ]);
  // Its name is not the one that it would have been made under; the sweep goes by labels, and ends by name.
  execFileSync('docker', ['rename', 'slipway-host-stranger', nameLike(container!, host!.name, 'swept-stranger')]);
  await waitFor(
    async () => !(await containersOf('swept')).some(({ Labels }) => Labels['dev.slipway.host'] === 'swept-stranger'),
    {
      what: 'the stranger is gone',
      timeoutMs: 60_000,
      intervalMs: 500,
    },
  );
  await docker.getContainer(container!.Id).remove({ force: true });
  const next = await waitFor(
    async () => {
      const all = await hostsOf('swept');
      return all.length === 1 && all[0]!.name !== host!.name && all[0]!.state === 'ready' && all[0];
    },
    { what: 'another host has taken its place', timeoutMs: 150_000, intervalMs: 500 },
  );

  expect(next).toBeTruthy();
  await house.operated('DELETE', `${BLUEPRINTS}/swept`);
  await isGone('swept');
}, 300_000);

const label = (labels: Record<string, string>): string[] =>
  Object.entries(labels).flatMap(([key, value]) => ['--label', `${key}=${value}`]);
const nameLike = ({ Names: [name = ''] }: Dockerode.ContainerInfo, host: string, other: string): string =>
  name.replace('/', '').replace(host, other);

test('H9 H1 one build runs in a container, on a host over SSH and on one that is made for it, at the same time', async () => {
  await put('extra', { idleSeconds: 5 });
  const reach = sshd.reach();
  await house.operated('POST', '/v1/clusters/local/hosts', { name: 'board', labels: ['board'], reach });
  const values = '[boxes, board, extra]';
  const loop = `script: work\n        loop-on: [{ param: host-tag, values: ${values} }]`;
  const script = `#!/bin/sh\necho "on $H_WORKER"\nsleep 40`;
  await house.project('three', oneRun(script).replace('name: work', 'name: on-{loop}').replace('script: work', loop));
  const { number } = await house.trigger('three');
  const together = await waitFor(
    async () => (await house.build('three', number)).runs.every(({ state }) => state === 'running'),
    { what: 'all three run at the same time', timeoutMs: 90_000, intervalMs: 100 },
  );
  const build = await house.finished('three', number, 120_000);

  expect(together).toBe(true);
  expect(build.status).toBe('passed');
  expect(build.runs.map(({ host }) => host)).toEqual([
    expect.stringMatching(/^(first|second)$/),
    'board',
    expect.stringMatching(/^extra-/),
  ]);
  await isGone('extra');
}, 300_000);
