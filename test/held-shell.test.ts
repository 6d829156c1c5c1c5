// Proves that `slipway shell` reaches what a held run left, wherever that is, through the server and the gateway: a terminal with
// its keys, its size and its exit code, put on record, and gone with the hold. Real Temporal, Docker, sshd and terminals.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { ADMIN_TOKEN, DIST, House, oneRun } from './setup/house';
import { SshServer } from './setup/sshd';
import { waitFor } from './setup/wait-for';

let house: House;
let sshd: SshServer;
beforeAll(async () => {
  sshd = await SshServer.open();
  house = await House.open({
    gateway: true,
    env: { SLIPWAY_HEARTBEAT_TIMEOUT_MS: '6000', SLIPWAY_SSH_KEY: sshd.privateKey },
  });
  house.add('bare', 'worker', {
    SLIPWAY_HOST: 'bare',
    SLIPWAY_LABELS: 'metal',
    SLIPWAY_ENGINE: 'shell',
    SLIPWAY_WORKER_DIR: `${house.dir}/bare`,
    SLIPWAY_SSH_KEY: '',
  });
  await house.start('bare');
  await house.listHost({ name: 'board-1', labels: ['board'], reach: sshd.reach() });
  const kinds = [
    ['boxed', ''],
    ['far', 'board'],
    ['near', 'metal'],
  ] as const;
  for (const [project, tag] of kinds) {
    const place = tag === '' ? '' : `\n        host-tag: ${tag}`;
    const script = '#!/bin/sh\necho "left by $H_RUN" >left; echo inside >/tmp/inside-$H_PROJECT; exit 3';
    await house.project(project, oneRun(script).replace('script: work', `script: work\n        hold: 60${place}`));
    await house.trigger(project);
    await house.finished(project, 1, 60_000);
  }
}, 240_000);
afterAll(async () => {
  for (const kid of children) kid.kill('SIGKILL');
  for (const { name } of (await house?.containers().catch(() => [])) ?? []) execFileSync('docker', ['rm', '-fv', name]);
  await house?.stop();
  await sshd?.stop();
  for (const project of ['far', 'near']) rmSync(`/tmp/inside-${project}`, { force: true });
}, 60_000);

const children = new Set<ChildProcess>();
const ENV = () => ({
  ...process.env,
  SLIPWAY_SERVER: house.url,
  SLIPWAY_TOKEN: ADMIN_TOKEN,
  SLIPWAY_DATA_DIR: house.dir,
  TERM: 'xterm',
  NODE_OPTIONS: '',
});
const CLI = join(DIST, 'cli', 'main.js');

interface Ended {
  code: number;
  out: string;
  err: string;
}

/** With nothing to type. */
function slipway(...args: string[]): Promise<Ended> {
  const child = spawn(process.execPath, [CLI, ...args], { env: ENV(), stdio: ['ignore', 'pipe', 'pipe'] });
  children.add(child);
  let [out, err] = ['', ''];
  child.stdout.on('data', (bytes: Buffer) => (out += bytes.toString()));
  child.stderr.on('data', (bytes: Buffer) => (err += bytes.toString()));
  return new Promise((done) => child.once('close', (code) => done({ code: code ?? -1, out, err })));
}

/** In a terminal of 100 columns and 30 lines. */
class Typist {
  screen = '';
  readonly ended: Promise<number>;
  private readonly child: ChildProcess;

  constructor(...args: string[]) {
    const line = `stty cols 100 rows 30; exec ${[process.execPath, CLI, ...args].join(' ')}`;
    const child = spawn('script', ['-qefc', line, '/dev/null'], { env: ENV(), stdio: ['pipe', 'pipe', 'inherit'] });
    children.add(child);
    child.stdout.on('data', (bytes: Buffer) => (this.screen += bytes.toString()));
    this.ended = new Promise((done) => child.once('close', (code) => done(code ?? -1)));
    this.child = child;
  }

  type(keys: string): void {
    this.child.stdin?.write(keys);
  }

  async shows(text: string | RegExp): Promise<void> {
    await waitFor(() => (typeof text === 'string' ? this.screen.includes(text) : text.test(this.screen)), {
      what: `the screen shows ${String(text)}`,
      timeoutMs: 30_000,
    }).catch((error: unknown) => {
      throw new Error(`${String(error)}; it shows: ${JSON.stringify(this.screen.slice(-800))}`);
    });
  }
}

test.each(['boxed', 'far', 'near'])(
  'H10 a command runs in what run %s left: its folder, its environment, what it wrote outside, and the exit code comes back',
  async (project) => {
    const script = `cat left /tmp/inside-${project}; basename $PWD; echo "$H_PROJECT/$H_BUILD/$H_RUN"; tty >/dev/null && exit 9`;
    const { code, out, err } = await slipway('shell', `${project}/1/work`, '--', 'sh', '-c', script);

    expect(err).toBe('');
    expect(out.replaceAll('\r', '')).toBe(`left by work\ninside\nrepo\n${project}/1/work\n`);
    expect(code).toBe(9);
  },
  60_000,
);

test.each(['boxed', 'far', 'near'])(
  'H10 a shell in run %s has the size of the terminal, takes keys one by one, and ends with its exit code',
  async (project) => {
    const typist = new Typist('shell', `${project}/1/work`);
    await typist.shows(/is held on host .* until/);
    await typist.shows(/[#$] /);
    typist.type('stty size; echo "one""two"\r');
    await typist.shows('30 100');
    await typist.shows('onetwo');
    typist.type('echo be""gun; sleep 100\r');
    await typist.shows('begun');
    // As a person does that has had enough; what is typed with it goes too, as in any terminal.
    typist.type('\x03');
    await typist.shows(/\^C[^]*[#$] /);
    typist.type('echo rea""dy; cat >typed; cat typed; exit 5\r');
    await typist.shows('ready');
    for (const key of 'ab\x7fc\r\x04') typist.type(key);
    const code = await typist.ended;

    expect(typist.screen).toMatch(/\nac\r*\n/);
    expect(code).toBe(5);
  },
  90_000,
);

test('H10 the server is replaced in the middle: nothing that was typed or shown is lost or doubled', async () => {
  const typist = new Typist('shell', 'boxed/1/work');
  await typist.shows(/[#$] /);
  typist.type('i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo "line-$i."; sleep 0.1; done\r');
  await typist.shows('line-10.');
  await house.kill9('api');
  typist.type('echo typed-while-away\r');
  await house.start('api');
  await typist.shows(/\ntyped-while-away/);
  typist.type('exit\r');
  await typist.ended;

  const lines = [...typist.screen.matchAll(/^line-(\d+)\.\r?$/gm)].map(([, line]) => Number(line));
  expect(lines).toEqual(Array.from({ length: 60 }, (_, at) => at + 1));
}, 120_000);

test('H10 who opens one is an operator, and it is on record; Temporal shows it as a workflow', async () => {
  const path = '/v1/projects/boxed/builds/1/runs/work/shell';
  const stranger = await house.request('POST', path, {});
  const { entries } = await house.operated<{
    entries: { action: string; subject: string; actor: string; allowed: boolean }[];
  }>('GET', '/v1/audit');
  const opened = entries.filter(({ action }) => action === 'run.shell');

  expect(stranger.status).toBe(401);
  expect(opened.find(({ allowed }) => allowed)).toMatchObject({
    subject: 'run boxed/1/work',
    actor: 'the admin token',
  });
  expect(opened.some(({ allowed }) => !allowed)).toBe(true);
  const workflows = execFileSync(
    process.env.SLIPWAY_TEMPORAL_CLI ?? 'temporal',
    ['workflow', 'list', '--address', house.temporal.address, '--query', "WorkflowType='shell'", '--output', 'json'],
    { encoding: 'utf8' },
  );
  expect(workflows).toContain('shell/');
}, 60_000);

test('H10 a shell does not outlive its worker, and says so; once that is back another can be opened', async () => {
  const typist = new Typist('shell', 'far/1/work');
  await typist.shows(/[#$] /);
  await house.kill9('worker');
  const code = await typist.ended;
  await house.start('worker');

  expect(typist.screen).toContain('slipway: the worker of its host is gone; open another once it is back');
  expect(code).toBe(2);
  await waitFor(async () => (await slipway('shell', 'far/1/work', '--', 'true')).code === 0, {
    what: 'another one is opened',
    timeoutMs: 60_000,
    intervalMs: 1_000,
  });
}, 150_000);

test('H10 with the hold the shell ends, and nothing of either is left: no process, no container, no image', async () => {
  const kept = (await house.containers()).find(({ name }) => !name.includes('_shell-'));
  const typists = ['boxed', 'far', 'near'].map((project) => new Typist('shell', `${project}/1/work`));
  for (const typist of typists) {
    await typist.shows(/[#$] /);
    typist.type('sh -c "while :; do sleep 1; done # part-of-a-shell"\r');
  }
  await waitFor(() => processesWith('# part-of-a-shell') >= 3, { what: 'they run', timeoutMs: 30_000 });
  for (const project of ['boxed', 'far', 'near']) {
    await house.call('DELETE', `/v1/projects/${project}/builds/1/runs/work/hold`);
  }
  for (const typist of typists) await typist.ended;
  const images = (): string =>
    execFileSync('docker', ['images', '-q', `slipway-held:${kept?.name}`], { encoding: 'utf8' });
  await waitFor(
    async () => {
      const { leases } = await house.call<{ leases: unknown[] }>('GET', '/v1/leases');
      return leases.length === 0 && (await house.containers()).length === 0 && images() === '';
    },
    { what: 'nothing is left', timeoutMs: 90_000, intervalMs: 500 },
  );

  expect(processesWith('# part-of-a-shell')).toBe(0);
}, 240_000);

const processesWith = (word: string): number =>
  execFileSync('ps', ['-eo', 'pid=,args=', '-ww'], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line.includes(word) && /sh -c while/.test(line)).length;
