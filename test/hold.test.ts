// Proves that what a failed run left is kept where it was for as long as people said, and no longer: visible, to be extended and
// to be ended, whatever restarts meanwhile. Real Temporal, real Docker, real sshd.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { HostSummary, LeaseSummary } from '../domain/schemas/hosts';
import type { Run } from '../domain/schemas/api';
import { House, HOSTS, oneRun } from './setup/house';
import { SshServer } from './setup/sshd';
import { waitFor } from './setup/wait-for';

let house: House;
let sshd: SshServer;
beforeAll(async () => {
  sshd = await SshServer.open();
  house = await House.open({
    slots: 4,
    env: {
      SLIPWAY_HEARTBEAT_TIMEOUT_MS: '6000',
      SLIPWAY_SSH_KEY: sshd.privateKey,
    },
  });
  await house.listHost({ name: 'board-1', labels: ['board'], reach: sshd.reach() });
}, 120_000);
afterAll(async () => {
  for (const { name } of (await house?.containers().catch(() => [])) ?? []) execFileSync('docker', ['rm', '-fv', name]);
  await house?.stop();
  await sshd?.stop();
}, 60_000);

/** A run with further lines of its own. */
const held = (script: string, hold: string, more = ''): string =>
  oneRun(`#!/bin/sh\n${script}`).replace('script: work', `script: work\n        hold: ${hold}${more}`);
const runPath = (project: string): string => `/v1/projects/${project}/builds/1/runs/work`;
const work = (project: string): Promise<Run> => house.run(project, 1, 'work');
const leases = async (query = ''): Promise<LeaseSummary[]> =>
  (await house.call<{ leases: LeaseSummary[] }>('GET', `/v1/leases${query}`)).leases;
const containers = async (): Promise<string[]> =>
  (await house.containers()).map(({ name, state }) => `${name} ${state}`);
const testHost = (): Promise<HostSummary> => house.call('GET', `${HOSTS}/test-host`);
const isFree = () =>
  waitFor(async () => (await leases()).length === 0 && (await containers()).length === 0, {
    what: 'everything was taken back',
    timeoutMs: 90_000,
    intervalMs: 200,
  });

async function fail(project: string, definition: string): Promise<Run> {
  await house.project(project, definition);
  await house.trigger(project);
  await house.finished(project, 1, 60_000);
  return work(project);
}

test('H10 the host of a run that failed is kept with all it left, over a restart of its worker, until it is given back', async () => {
  const run = await fail('kept', held('echo left >/tmp/inside; echo left >file; exit 3', '30'));
  const [lease] = await leases();
  const [container = ''] = await containers();

  expect(run).toMatchObject({ outcome: 'failed', cause: 'exit-code', exitCode: 3 });
  const minutes = (Date.parse(run.heldUntil ?? '') - Date.now()) / 60_000;
  expect(minutes).toBeGreaterThan(28);
  expect(minutes).toBeLessThanOrEqual(30);
  expect(lease).toMatchObject({ state: 'held', host: 'test-host', heldUntil: run.heldUntil });
  expect(container).toMatch(/ exited$/);
  expect((await testHost()).busySlots).toBe(1);
  await house.terminate('worker');
  await house.start('worker');
  const name = container.split(' ')[0] ?? '';
  expect(execFileSync('docker', ['cp', `${name}:/tmp/inside`, '-']).toString()).toContain('left');
  const [mount] = JSON.parse(
    execFileSync('docker', ['inspect', '-f', '{{json .Mounts}}', name], { encoding: 'utf8' }),
  ).filter(({ Destination: to }: { Destination: string }) => to === '/repo') as { Source: string }[];
  expect(readFileSync(join(mount?.Source ?? '', 'file'), 'utf8')).toBe('left\n');

  const longer = await house.call<Run>('POST', `${runPath('kept')}/hold`, { minutes: 120 });
  expect((Date.parse(longer.heldUntil ?? '') - Date.now()) / 60_000).toBeGreaterThan(118);
  // A worker sweeps before anything else.
  await house.kill9('worker');
  await house.start('worker');
  expect(await containers()).toHaveLength(1);
  expect((await house.call<Run>('DELETE', `${runPath('kept')}/hold`)).heldUntil).toBeNull();
  await isFree();
  expect((await testHost()).busySlots).toBe(0);
  const { entries } = await house.operated<{ entries: { action: string; subject: string; detail: string }[] }>(
    'GET',
    '/v1/audit',
  );
  expect(
    entries
      .filter(({ action }) => action === 'run.hold')
      .map(({ detail }) => detail)
      .sort(),
  ).toEqual(['given back', 'kept for 120 min from now on']);
}, 240_000);

test('H10 it ends by itself, on hosts without containers too, and the hosts beside a run are kept with its own', async () => {
  const run = await fail(
    'expires',
    held('slipway on board -- touch proof; exit 1', '0.2', '\n        hosts: { board: board }'),
  );
  const folder = readdirSync(sshd.reach().dir).find((name) => name.endsWith('-board')) ?? '';
  const before = (await leases()).map(({ host, state }) => `${host} ${state}`).sort();
  const hadProof = existsSync(join(sshd.reach().dir, folder, 'repo', 'proof'));
  await isFree();
  const until = Date.parse(run.heldUntil ?? '');
  const ended = (await leases('?all=true')).filter(({ project }) => project === 'expires');

  expect(before).toEqual(['board-1 held', 'test-host held']);
  expect(hadProof).toBe(true);
  expect(readdirSync(sshd.reach().dir).filter((name) => name.startsWith('slipway-'))).toEqual([]);
  expect(ended.map(({ state }) => state)).toEqual(['released', 'released']);
  for (const { endedAt } of ended) expect(Date.parse(endedAt ?? '')).toBeGreaterThanOrEqual(until);
}, 180_000);

test('H10 only what failed for good is kept: nothing that passed or was cancelled, and no attempt before the last', async () => {
  const passed = await fail('passes', held('true', '30'));
  expect(passed.heldUntil).toBeNull();
  await isFree();
  await house.project('stops', held('sleep 600', '30'));
  await house.trigger('stops');
  await house.runIn('running', 'stops', 1, 'work');
  await house.call('POST', `${runPath('stops')}/cancel`);
  await house.finished('stops', 1, 60_000);
  expect((await work('stops')).heldUntil).toBeNull();
  await isFree();
  const twice = await fail('twice', held('exit 1', '30', '\n        retry: { failure: 1 }'));
  expect(twice.attempts).toHaveLength(2);
  expect((await containers()).map((one) => one.replace(/.*-(\d+) /, '$1 '))).toEqual(['2 exited']);
  expect(twice.heldUntil).not.toBeNull();
  await house.call('POST', '/v1/projects/twice/builds/1/rerun', {});
  await house.finished('twice', 1, 120_000);
  expect((await work('twice')).attempts).toHaveLength(4);
}, 240_000);

test('H10 whoever triggers or reruns a build may have it held, whatever its file says; what is not held is said so', async () => {
  await house.project('wished', oneRun('#!/bin/sh\nexit 1'));
  await house.trigger('wished');
  await house.finished('wished', 1, 60_000);
  expect((await work('wished')).heldUntil).toBeNull();
  const refused = await house.request('POST', `${runPath('wished')}/hold`, { minutes: 5 });
  expect([refused.status, await refused.json()]).toEqual([
    409,
    expect.objectContaining({
      type: 'urn:slipway:problem:not-held',
      detail:
        'run wished/1/work is not held, so there is nothing to keep; trigger or rerun it with hold, or write hold: into its file',
    }),
  ]);
  expect((await house.request('POST', `${runPath('wished')}/hold`, { minutes: 1441 })).status).toBe(400);
  await house.call('POST', `${runPath('wished')}/rerun`, { hold: 10 });
  await house.finished('wished', 1, 60_000);
  expect((await work('wished')).heldUntil).not.toBeNull();
}, 120_000);
