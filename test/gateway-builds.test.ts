// Proves that a cluster's worker builds through the gateway alone: one address, and nothing but the key of its cluster.
// Real processes, Temporal and Docker.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster } from '../domain/schemas/clusters';
import { TEST_TLS } from './setup/certificate';
import { House, oneRun } from './setup/house';
import { waitFor } from './setup/wait-for';

let house: House;
beforeAll(async () => {
  house = await House.open({
    gateway: true,
    env: { SLIPWAY_HEARTBEAT_TIMEOUT_MS: '4000', SLIPWAY_REATTACH_GRACE_MS: '4000' },
  });
}, 120_000);
afterAll(async () => house?.stop(), 60_000);

const WAITS = '#!/bin/sh\necho started >> /archive/starts; while [ ! -e /archive/go ]; do echo waits; sleep 0.2; done';

test('C2 C3 B4 a build passes through the gateway, which is killed and started again meanwhile: same attempt, script started once', async () => {
  await house.project(
    'through',
    oneRun('#!/bin/sh\necho started >> /archive/starts\nfor i in $(seq 20); do echo $i; sleep 0.3; done'),
  );
  await house.trigger('through');
  await house.runIn('running', 'through', 1, 'work');

  await house.kill9('gateway');
  await house.start('gateway');

  const build = await house.finished('through', 1);
  expect(build.status).toBe('passed');
  const run = await house.run('through', 1, 'work');
  expect(run.attempts.map(({ cause }) => cause)).toEqual(['ok']);
  expect(await house.logOf('through', 1, 'work')).toBe(Array.from({ length: 20 }, (_, at) => `${at + 1}\n`).join(''));
  const starts = await house.request('GET', run.artifacts[0]!.url);
  expect(await starts.text()).toBe('started\n');
}, 120_000);

test('C3 B5 the gateway hangs for longer than a worker has to come back: no host is lost, the attempt is the first', async () => {
  await house.project('hanging', oneRun('#!/bin/sh\nfor i in $(seq 40); do echo $i; sleep 0.5; done'));
  await house.trigger('hanging');
  await house.runIn('running', 'hanging', 1, 'work');

  house.signal('gateway', 'SIGSTOP');
  await sleep(14_000);
  house.signal('gateway', 'SIGCONT');

  expect((await house.finished('hanging', 1, 90_000)).status).toBe('passed');
  const { attempts } = await house.run('hanging', 1, 'work');
  expect(attempts.map(({ cause }) => cause)).toEqual(['ok']);
}, 120_000);

test('C3 a build goes on over a change of the secret of the gateway, as long as the one before is named', async () => {
  await house.project('sealed', oneRun('#!/bin/sh\nsleep 4'));
  await house.trigger('sealed');
  await house.runIn('running', 'sealed', 1, 'work');

  await house.kill9('gateway');
  house.add('gateway', 'gateway', {
    SLIPWAY_GATEWAY_SECRET: 'the next secret of the gateway, for tests only',
    SLIPWAY_GATEWAY_SECRET_BEFORE: 'a secret of the gateway, for tests only',
  });
  await house.start('gateway');

  expect((await house.finished('sealed', 1)).status).toBe('passed');
  const { attempts } = await house.run('sealed', 1, 'work');
  expect(attempts.map(({ cause }) => cause)).toEqual(['ok']);
  expect(house.wholeLog('gateway')).not.toContain('foreign-token');
}, 120_000);

test('C3 a cancel reaches a container through the gateway', async () => {
  await house.project('cancelled', oneRun(WAITS));
  await house.trigger('cancelled');
  await house.runIn('running', 'cancelled', 1, 'work');

  await house.call('POST', '/v1/projects/cancelled/builds/1/cancel');

  expect((await house.finished('cancelled', 1)).status).toBe('cancelled');
}, 120_000);

test('C3 a worker that is dismissed is cut off at once, on record; enlisted again, the work goes on', async () => {
  const { fleet } = await house.call<Cluster>('GET', '/v1/clusters/local');
  const path = `/v1/clusters/local/workers/${fleet[0]!.id}`;
  await house.operated('POST', `${path}/dismiss`);
  await waitFor(() => house.wholeLog('gateway').includes('not-enlisted'), {
    what: 'the refusal is on record',
    timeoutMs: 30_000,
  });
  await house.project('later', oneRun('#!/bin/sh\necho done'));
  await house.trigger('later');
  const { entries } = await house.operated<{ entries: { action: string; detail: string }[] }>('GET', '/v1/audit');
  expect(entries).toContainEqual(
    expect.objectContaining({ action: 'worker.refused', detail: expect.stringContaining('not-enlisted') }),
  );

  await house.operated('POST', `${path}/enlist`);

  expect((await house.finished('later', 1, 90_000)).status).toBe('passed');
}, 180_000);

test('C3 a key that is revoked cuts its holder off; with another key of the cluster the worker goes on', async () => {
  await house.operated('POST', `/v1/clusters/local/keys/${house.key.publicKey.kid}/revoke`);
  await waitFor(() => house.wholeLog('gateway').includes('key-revoked'), { what: 'it is refused', timeoutMs: 30_000 });
  await house.project('rekeyed', oneRun('#!/bin/sh\necho done'));
  await house.trigger('rekeyed');

  await house.rekey('worker');

  expect((await house.finished('rekeyed', 1, 90_000)).status).toBe('passed');
}, 180_000);

test('C3 C2 workers reach the gateway by TLS, with an authority of their own, and log, artifact and cancel come through', async () => {
  const secure = await House.open({ gateway: { tls: TEST_TLS } });
  try {
    await secure.project('secure', oneRun('#!/bin/sh\necho safe | tee /archive/file'));
    await secure.project('cancelled', oneRun(WAITS));
    await secure.trigger('secure');
    await secure.trigger('cancelled');

    expect((await secure.finished('secure', 1)).status).toBe('passed');
    expect(await secure.logOf('secure', 1, 'work')).toBe('safe\n');
    expect((await secure.run('secure', 1, 'work')).artifacts.map(({ path }) => path)).toEqual(['file']);
    await secure.runIn('running', 'cancelled', 1, 'work');
    await secure.call('POST', '/v1/projects/cancelled/builds/1/cancel');
    expect((await secure.finished('cancelled', 1)).status).toBe('cancelled');
  } finally {
    await secure.stop();
  }
}, 180_000);

test.each([
  ['a certificate without its key', { SLIPWAY_GATEWAY_TLS_CERT: TEST_TLS.cert }, /set both of them or none/],
  [
    'what is no certificate',
    { SLIPWAY_GATEWAY_TLS_CERT: 'no certificate', SLIPWAY_GATEWAY_TLS_KEY: TEST_TLS.key },
    /not a certificate and its key in PEM/,
  ],
])('C3 a gateway with %s does not start, and says why', async (_what, env, why) => {
  house.add('unsafe', 'gateway', env);
  await expect(house.start('unsafe')).rejects.toThrow(why);
});
