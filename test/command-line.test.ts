// Proves the `slipway` command against a real server: exit codes, JSON, live output, what a red run prints.
// Real Temporal, real Docker.
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Build, PlanAnswer } from '../domain/schemas/api';
import type { HostSummary, LeaseSummary } from '../domain/schemas/hosts';
import { ADMIN_TOKEN, House, oneRun, TEST_IMAGE } from './setup/house';

const MAIN = resolve(__dirname, '..', 'dist', 'cli', 'main.js');
const dir = mkdtempSync(join(tmpdir(), 'slipway-cli-'));
let house: House;
beforeAll(async () => {
  house = await House.open();
}, 120_000);
afterAll(async () => {
  await house?.stop();
  rmSync(dir, { recursive: true });
}, 60_000);

interface Ended {
  code: number | null;
  out: string;
  err: string;
}

function slipway(...args: string[]): Promise<Ended> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    cwd: dir,
    env: { ...process.env, NODE_OPTIONS: '', NO_COLOR: '1', SLIPWAY_SERVER: house.url },
  });
  const ended: Ended = { code: null, out: '', err: '' };
  child.stdout.on('data', (data: Buffer) => (ended.out += data.toString()));
  child.stderr.on('data', (data: Buffer) => (ended.err += data.toString()));
  return new Promise((done) => child.once('close', (code) => done({ ...ended, code })));
}

function project(name: string, definition: string): string {
  mkdirSync(join(dir, name), { recursive: true });
  writeFileSync(join(dir, name, 'slipway.yml'), definition);
  return name;
}

test('S3 run of a green folder plans first, prints every line live and exits 0', async () => {
  const ended = await slipway('run', project('green', oneRun('#!/bin/sh\necho one\necho two')));

  expect(ended.code).toBe(0);
  expect(ended.out).toBe('work | one\nwork | two\n');
  expect(ended.err.indexOf('trigger main: 1 run')).toBeLessThan(ended.err.indexOf('build green #1'));
  expect(ended.err).toContain('green #1 passed: 1 of 1 runs passed');
});

test('S3 S5 run of a red folder exits 1 and prints run, exit code, the last lines and what to do next', async () => {
  const ended = await slipway('run', project('red', oneRun('#!/bin/sh\necho the last words\nexit 3')));

  expect(ended.code).toBe(1);
  expect(ended.err).toMatch(/work failed \(exit-code, exit code 3\): exited with code 3\n {2}the last words\n/);
  expect(ended.err).toContain('log:   slipway log red/1/work');
});

test('S5 B8 the commands that a red run prints work: its log, a shell like its container, and a rerun that is green', async () => {
  const flaky = '#!/bin/sh\necho "attempt $H_ATTEMPT"\necho "$WORD" > /archive/word\n[ $H_ATTEMPT -gt 1 ]';
  const first = await slipway(
    'run',
    project('flaky', oneRun(flaky).replace('triggers:', 'params: { WORD: ahoy }\ntriggers:')),
  );
  const commands = [...first.err.matchAll(/^ {2}(log|shell|again): +slipway (.+)$/gm)].map(([, , words = '']) =>
    words.split(' '),
  );
  const [log, shell, again] = commands as [string[], string[], string[]];

  expect(first.code).toBe(1);
  expect(await slipway(...log)).toMatchObject({ code: 0, out: 'attempt 1\n' });
  const inside = await slipway(
    ...shell,
    '--',
    'sh',
    '-c',
    'echo "$WORD from $H_RUN in $(pwd)"; cat /slipway/script; exit 7',
  );
  expect(inside).toMatchObject({ code: 7, out: `ahoy from work in /repo\n${flaky}\n` });
  const second = await slipway(...again);
  expect(second.code).toBe(0);
  expect(second.out).toBe('work | attempt 2\n');
  expect(second.err).toContain('flaky #1 passed: 1 of 1 runs passed');
  expect(await slipway(...log, '--attempt', '1')).toMatchObject({ code: 0, out: 'attempt 1\n' });
}, 60_000);

test('B8 a rerun that cannot be is refused in words, with an exit code of its own', async () => {
  await slipway('run', project('greener', oneRun('#!/bin/sh\ntrue')));

  expect(await slipway('rerun', 'greener/1', '--failed')).toMatchObject({
    code: 2,
    err: 'slipway: all runs of build greener/1 passed; name runs, or rerun all\n',
  });
  expect((await slipway('rerun', 'greener/1/work', '--failed')).code).toBe(64);
  expect((await slipway('rerun', 'greener/9')).err).toContain('build greener/9 does not exist');
});

test('S3 what could not run exits 2: no image, no server, no file, a bad file', async () => {
  const noImage = await slipway(
    'run',
    project('no-image', oneRun('#!/bin/sh\ntrue').replace(TEST_IMAGE, '127.0.0.1:1/none:1')),
  );
  const noServer = await slipway('run', 'green', '--server', 'http://127.0.0.1:1');
  const noFile = await slipway('run', 'nowhere');
  const badFile = await slipway('run', project('bad', 'timeout: 5\n'));

  expect([noImage.code, noServer.code, noFile.code, badFile.code]).toEqual([2, 2, 2, 2]);
  expect(noServer.err).toMatch(/no Slipway server answers at http:\/\/127\.0\.0\.1:1 .+start one with: slipway up/);
  expect(noFile.err).toContain('nowhere does not exist');
  expect(badFile.err).toContain('bad/slipway.yml:1:1');
  expect([noServer, noFile, badFile].map((ended) => /\n\s+at /.test(ended.err))).toEqual([false, false, false]);
});

test('S3 run --json prints the finished build and nothing else', async () => {
  const ended = await slipway('run', 'green', '--json', '-p', 'A=b', '--priority', '2', '--reason', 'because');

  expect(ended.err).toBe('');
  expect(Build.parse(JSON.parse(ended.out))).toMatchObject({ status: 'passed', params: { A: 'b' }, reason: 'because' });
  const { number } = Build.parse(JSON.parse(ended.out));
  const [{ name } = { name: '' }] = (await house.build('green', number)).runs;
  expect((await house.run('green', number, name)).spec.priority).toBe(2);
});

test('P5 plan prints the runs without a server, with the digest that the server gives the build', async () => {
  const offline = await slipway('plan', 'green', '-p', 'A=b', '--json');
  const build = await house.call<{ planDigest: string; urls: { self: string } }>('POST', '/v1/projects/green/builds', {
    params: { A: 'b' },
  });
  const online = PlanAnswer.parse(await house.call('GET', `${build.urls.self}/plan`));

  expect(PlanAnswer.parse(JSON.parse(offline.out))).toEqual(online);
  expect(build.planDigest).toBe(online.digest);
});

test('P1 validate prints file, line, column, path and message of every problem and exits 1', async () => {
  const ended = await slipway(
    'validate',
    project('wrong', oneRun('true').replace('script: work', 'script: x\n        tiemout: 3')),
  );

  expect(ended.code).toBe(1);
  expect(ended.out).toMatch(/^wrong\/slipway\.yml:7:9 triggers\[0\]\.runs\[0\]\.script: unknown script "x"/m);
  expect(ended.out).toMatch(/^wrong\/slipway\.yml:8:9 triggers\[0\]\.runs\[0\]\.tiemout: .*timeout/m);
});

test('builds, log and cancel do what they say, and a wrong command line exits 64', async () => {
  const long = oneRun('#!/bin/sh\necho begun\nwhile true; do sleep 0.1; done');
  project('long', long);
  await house.project('long', long);
  await house.trigger('long');
  await house.runIn('running', 'long', 1, 'work');
  const following = slipway('log', '-f', 'long/1');
  const cancel = await slipway('cancel', 'long/1');
  const list = await slipway('builds', 'green', '--json');
  const table = await slipway('builds');

  expect(cancel.out).toBe('long/1 cancelling\n');
  expect(await following).toMatchObject({ code: 0, out: 'begun\n' });
  expect((JSON.parse(list.out) as { builds: unknown[] }).builds.length).toBeGreaterThan(1);
  expect(table.out).toMatch(/^long\/1 +cancel/m);
  expect((await slipway('log', 'nonsense')).code).toBe(64);
  expect(await slipway('run', 'green', '--priority', '6')).toMatchObject({
    code: 64,
    err: expect.stringContaining('1 (first)'),
  });
  expect((await slipway('no-such-command')).code).toBe(64);
  expect(await slipway('log', 'green/999/work')).toMatchObject({
    code: 2,
    err: expect.stringContaining('does not exist'),
  });
});

test('H1 H11 hosts are listed, edited, shown, taken out of use and removed; what is wrong is named', async () => {
  const operator = (...args: string[]): Promise<Ended> => slipway(...args, '--server', house.url);
  process.env['SLIPWAY_TOKEN'] = ADMIN_TOKEN;
  try {
    const print = `SHA256:${'A'.repeat(43)}`;
    const address = ['--ssh', 'ci@10.255.255.1:2222', '--host-key', print];
    const more = ['--labels', 'board, role=test', '--slots', '2'];
    const made = await operator('host', 'create', 'local', 'board-7', ...address, ...more);
    expect([made.code, made.err]).toEqual([0, expect.stringContaining('SLIPWAY_SSH_KEY_FILE')]);
    const listed = JSON.parse((await operator('host', 'list', '--json')).out) as { hosts: HostSummary[] };
    expect(listed.hosts.find(({ name }) => name === 'board-7')).toMatchObject({
      cluster: 'local',
      origin: 'listed',
      state: 'offline',
      labels: ['board', 'role=test'],
      slots: 2,
      reach: { user: 'ci', address: '10.255.255.1', port: 2222, hostKeys: [print], dir: '/var/tmp/slipway' },
      why: 'no worker of the cluster serves it; start one there with SLIPWAY_SSH_KEY',
    });
    const edited = await operator('host', 'edit', 'local', 'board-7', '--ssh', 'ci@[fe80::1]', '--slots', '3');
    expect(edited.out).toContain('ssh ci@fe80::1, port 22');
    expect((await operator('host', 'drain', 'local', 'board-7', '--reason', 'new disk')).out).toBe(
      'host board-7: drained\n',
    );
    expect((await operator('host', 'show', 'local', 'board-7')).out).toContain('drained by the admin token: new disk');
    expect((await operator('host', 'undrain', 'local', 'board-7')).out).toBe('host board-7: offline\n');
    expect((await operator('host', 'list')).out).toMatch(
      /local\/board-7 +offline +processes over SSH .* 0\/3 slots +board,role=test/,
    );

    const again = await operator('host', 'create', 'local', 'board-7', '--ssh', 'a@b', '--host-key', print);
    expect([again.code, again.err]).toEqual([2, expect.stringContaining('cluster local has a host board-7')]);
    const unread = await operator('host', 'create', 'local', 'x', '--ssh', 'nobody', '--host-key', print);
    expect([unread.code, unread.err]).toEqual([64, expect.stringContaining('write it as user@address')]);
    const wrong = await operator('host', 'create', 'local', 'x', '--ssh', 'a@b', '--host-key', 'MD5:1');
    expect([wrong.code, wrong.err]).toEqual([2, expect.stringContaining('SHA256:')]);
    const own = await operator('host', 'edit', 'local', 'test-host', '--labels', 'x');
    expect([own.code, own.err]).toEqual([2, expect.stringContaining('SLIPWAY_LABELS')]);
    expect((await operator('host', 'remove', 'local', 'board-7')).code).toBe(0);
    expect((await operator('host', 'show', 'local', 'board-7')).code).toBe(2);
  } finally {
    delete process.env['SLIPWAY_TOKEN'];
  }
  const stranger = await slipway('host', 'remove', 'local', 'test-host');
  expect([stranger.code, stranger.err]).toEqual([2, expect.stringContaining('this needs a token of an operator')]);
}, 60_000);

test('H11 leases are listed with what became of them', async () => {
  await slipway('run', project('leased', oneRun('#!/bin/sh\ntrue')));
  const { leases } = JSON.parse((await slipway('lease', 'list', '--all', '--json')).out) as { leases: LeaseSummary[] };
  const lease = leases.find((one) => one.project === 'leased');

  expect(lease).toMatchObject({ host: 'test-host', run: 'work', attempt: 1, state: 'released' });
  expect(lease?.history.map(({ state }) => state)).toEqual(['granted', 'active', 'releasing', 'released']);
  expect(lease?.history.every(({ by, why }) => by === lease.worker && why !== null)).toBe(true);
  expect((await slipway('lease', 'list', '--all')).out).toMatch(
    /local\/test-host#1 +released +leased\/1\/work, attempt 1/,
  );
  expect((await slipway('lease', 'list')).out).toBe('no lease is under way now; see also: --all\n');
}, 60_000);
