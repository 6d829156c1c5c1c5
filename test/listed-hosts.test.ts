// Proves that hosts that are listed by hand take runs as a worker's own machine does: the same project file on each kind by
// its labels alone, whatever worker serves them, and nothing of a run left there whatever happens.
// Real Temporal, real sshd, real Docker; two workers with the key of the hosts.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { helperName } from '../adapters/remote-docker';
import type { HostSummary, LeaseSummary } from '../domain/schemas/hosts';
import { DOCKER_SOCKET, House, HOSTS, oneRun, tagged, TEST_IMAGE } from './setup/house';
import { SshServer } from './setup/sshd';
import { CuttableLink } from './setup/cuttable-link';
import { waitFor } from './setup/wait-for';

let house: House;
let sshd: SshServer;
let link: CuttableLink;
beforeAll(async () => {
  sshd = await SshServer.open();
  link = await CuttableLink.open(sshd.port);
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
  house.add('bare', 'worker', {
    SLIPWAY_HOST: 'bare',
    SLIPWAY_LABELS: 'metal',
    SLIPWAY_ENGINE: 'shell',
    SLIPWAY_WORKER_DIR: `${house.dir}/bare`,
    SLIPWAY_SSH_KEY: '',
  });
  await Promise.all(['first', 'bare'].map((name) => house.start(name)));
  await list('board-1', { labels: ['board', 'role=test'], slots: 2, reach: sshd.reach({ port: link.port.at }) });
}, 120_000);
afterAll(async () => {
  await house?.stop();
  await link?.close();
  await sshd?.stop();
}, 60_000);

const list = (name: string, more: object): Promise<HostSummary> => house.operated('POST', HOSTS, { name, ...more });
const host = (name: string): Promise<HostSummary> => house.call('GET', `${HOSTS}/${name}`);
const hostIn = (state: string, name: string): Promise<HostSummary> =>
  waitFor(
    async () => {
      const found = await host(name);
      if (found.state !== state) throw new Error(`${found.state}: ${found.why}`);
      return found;
    },
    { what: `host ${name} is ${state}`, timeoutMs: 60_000, intervalMs: 200 },
  );
const leasesOf = async (name: string): Promise<LeaseSummary[]> =>
  (await house.call<{ leases: LeaseSummary[] }>('GET', `/v1/leases?all=true&host=${name}`)).leases;

/** The member that serves a host now, by its name. */
async function ownerOf(name: string): Promise<string> {
  const { worker } = await hostIn('ready', name);
  const { workers } = await house.call<{ workers: { id: string; host: string }[] }>('GET', '/v1/workers');
  return workers.find(({ id }) => id === worker)?.host ?? '';
}

const runsLeft = (): string[] => {
  const dir = sshd.reach().dir;
  return existsSync(dir) ? readdirSync(dir).filter((name) => name.startsWith('slipway-')) : [];
};
const isClean = () =>
  waitFor(async () => runsLeft().length === 0 && !(await host('board-1')).busySlots, {
    what: 'nothing is left',
    timeoutMs: 60_000,
    intervalMs: 200,
  });

test('H1 one project file passes in containers here and on another engine, on the machine itself and over SSH: its labels alone differ', async () => {
  const { address, port, user, hostKeys } = sshd.reach();
  const engine = { kind: 'docker-ssh', address, port, user, hostKeys, socket: DOCKER_SOCKET, helper: TEST_IMAGE };
  const dir = `${house.dir}/far`;
  await list('far-1', { labels: ['far'], reach: { ...engine, dir } });
  const definition = `timeout: 5
triggers:
  - name: main
    runs:
      - name: on-{loop}
        container: ${oneRun('true').match(/container: (.+)/)?.[1]}
        script: work
        params: { GREETING: "it's \\"odd\\"" }
        loop-on: [{ param: host-tag, values: [boxes, metal, 'board,linux', far] }]
scripts:
  work: |
    #!/bin/sh -e
    echo "on $H_WORKER: $GREETING"
    cd "$H_REPO" && pwd >&2
    echo kept >"$H_ARCHIVE/file"
`;
  await Promise.all(['board-1', 'far-1'].map((name) => hostIn('ready', name)));
  await house.project('kinds', definition);
  const { number } = await house.trigger('kinds');
  const build = await house.finished('kinds', number);

  expect(build.status).toBe('passed');
  for (const [tag, where] of [
    ['boxes', 'first'],
    ['metal', 'bare'],
    ['board,linux', 'board-1'],
    ['far', 'far-1'],
  ] as const) {
    const run = await house.run('kinds', number, `on-${tag}`);
    expect(run.host).toBe(where);
    expect(run.attempts).toHaveLength(1);
    expect(run.artifacts.map(({ path, sizeBytes }) => [path, sizeBytes])).toEqual([['file', 5]]);
    expect(await house.logOf('kinds', number, `on-${tag}`)).toContain(`on ${where}: it's "odd"\n`);
  }
  await isClean();
  // Else the engine, which is this machine's as well, would be offered to the other tests.
  await house.operated('DELETE', `${HOSTS}/far-1`);
  execFileSync('docker', ['rm', '-f', helperName({ dir, helper: TEST_IMAGE })]);
}, 150_000);

test('H1 H3 what a host is is found out by itself, and edits count at once', async () => {
  const board = await hostIn('ready', 'board-1');
  await house.project('later', tagged('gpu,role=test', '#!/bin/sh\necho "on $H_WORKER"'));
  const { number } = await house.trigger('later');
  const waiting = await waitFor(
    async () =>
      (await house.run('later', number, 'work')).waiting?.includes('nearest') && house.run('later', number, 'work'),
    {
      what: 'it says why it waits',
    },
  );
  await house.operated('PATCH', `${HOSTS}/board-1`, { labels: ['board', 'role=test', 'gpu'] });
  const build = await house.finished('later', number);

  expect(board).toMatchObject({ origin: 'listed', engine: 'shell', faults: 0, machine: { os: 'linux' }, slots: 2 });
  expect(board.machine.cpus).toBeGreaterThan(0);
  expect(waiting.waiting).toMatch(
    /^no host matches host-tag "gpu,role=test"; nearest: board-1 \(board, role=test, linux, .*\) lacks gpu; /,
  );
  expect(build.status).toBe('passed');
}, 60_000);

test('B5 H4 the worker of a host is killed for good: another goes on with the run, each line is there once, and it ran once', async () => {
  await house.start('second');
  const own = await ownerOf('board-1');
  const other = own === 'first' ? 'second' : 'first';
  const script =
    '#!/bin/sh\necho x >>"$H_ARCHIVE/starts"\ni=0; while [ $i -lt 60 ]; do echo "line $i"; i=$((i+1)); sleep 0.5; done\nwc -l <"$H_ARCHIVE/starts"';
  await house.project('adopted', tagged('board', script));
  const { number } = await house.trigger('adopted');
  await house.runIn('running', 'adopted', number, 'work');
  await house.kill9(own);
  const build = await house.finished('adopted', number, 90_000);
  const run = await house.run('adopted', number, 'work');

  expect(build.status).toBe('passed');
  expect(run.attempts).toHaveLength(1);
  expect(run.attempts[0]?.logGaps).toEqual([]);
  const lines = Array.from({ length: 60 }, (_, at) => `line ${at}\n`).join('');
  expect(await house.logOf('adopted', number, 'work')).toBe(`${lines}1\n`);
  const [lease] = await leasesOf('board-1');
  expect(new Set(lease?.history.map(({ by }) => by)).size).toBe(2);
  expect(lease?.history.map(({ token }) => token)).toEqual(
    lease?.history.map(({ token }) => token).sort((a, b) => a - b),
  );
  expect(lease?.history.at(-1)).toMatchObject({ state: 'released', why: 'nothing of it is left on the host' });
  await isClean();
  expect(house.log(other)).not.toContain('fatal');
  await house.start(own);
}, 150_000);

test('H4 the worker of a host is paused for longer than it may be silent: another goes on, and resumed it changes nothing', async () => {
  const own = await ownerOf('board-1');
  const script =
    '#!/bin/sh\necho x >>"$H_ARCHIVE/starts"\ni=0; while [ $i -lt 80 ]; do echo "line $i"; i=$((i+1)); sleep 0.5; done\nwc -l <"$H_ARCHIVE/starts"';
  await house.project('paused', tagged('board', script));
  const { number } = await house.trigger('paused');
  await house.runIn('running', 'paused', number, 'work');
  house.signal(own, 'SIGSTOP');
  const holders = async (): Promise<number> =>
    new Set((await leasesOf('board-1'))[0]?.history.map(({ by }) => by)).size;
  await waitFor(async () => (await holders()) === 2, { what: 'another goes on', timeoutMs: 60_000, intervalMs: 500 });
  house.signal(own, 'SIGCONT');
  const build = await house.finished('paused', number, 90_000);

  expect(build.status).toBe('passed');
  expect((await house.run('paused', number, 'work')).attempts).toHaveLength(1);
  const lines = Array.from({ length: 80 }, (_, at) => `line ${at}\n`).join('');
  expect(await house.logOf('paused', number, 'work')).toBe(`${lines}1\n`);
  expect(await holders()).toBe(2);
  await isClean();
}, 150_000);

test('H6 R2 the link to a host breaks during a run: the run does not notice', async () => {
  await hostIn('ready', 'board-1');
  await house.project(
    'cut',
    tagged('board', '#!/bin/sh\ni=0; while [ $i -lt 100 ]; do echo "line $i"; i=$((i+1)); sleep 0.05; done'),
  );
  const { number } = await house.trigger('cut');
  await house.runIn('running', 'cut', number, 'work');
  for (let times = 0; times < 3; times += 1) {
    link.cut();
    await new Promise((done) => setTimeout(done, 500));
    link.mend();
    await new Promise((done) => setTimeout(done, 500));
  }
  const build = await house.finished('cut', number);

  expect(build.status).toBe('passed');
  expect((await house.run('cut', number, 'work')).attempts).toHaveLength(1);
  expect(await house.logOf('cut', number, 'work')).toBe(
    Array.from({ length: 100 }, (_, at) => `line ${at}\n`).join(''),
  );
}, 60_000);

test('B7 H7 a cancel reaches a script on a host, and nothing of it is left there', async () => {
  await hostIn('ready', 'board-1');
  await house.project(
    'cancelled',
    tagged('board', '#!/bin/sh\ntrap "" TERM\nsetsid sleep 600 &\nwhile :; do sleep 0.1; done'),
  );
  const { number } = await house.trigger('cancelled');
  await house.runIn('running', 'cancelled', number, 'work');
  await house.call('POST', `/v1/projects/cancelled/builds/${number}/cancel`);
  const build = await house.finished('cancelled', number);

  expect(build.status).toBe('cancelled');
  await isClean();
}, 60_000);

test('C8 H11 a host that is taken out of use finishes its run, says who and why, and takes runs again afterwards', async () => {
  await hostIn('ready', 'board-1');
  await house.project('drained', tagged('board', '#!/bin/sh\nwhile [ ! -e "$H_ARCHIVE/go" ]; do sleep 0.1; done'));
  const first = await house.trigger('drained');
  await house.runIn('running', 'drained', first.number, 'work');
  const draining = await house.operated<HostSummary>('POST', `${HOSTS}/board-1/drain`, { reason: 'new disk' });
  const second = await house.trigger('drained');
  const why = await waitFor(async () => (await house.run('drained', second.number, 'work')).waiting, {
    what: 'it says why it waits',
  });
  await house.call('POST', `/v1/projects/drained/builds/${first.number}/cancel`);
  await house.finished('drained', first.number);
  await hostIn('drained', 'board-1');
  await house.operated('POST', `${HOSTS}/board-1/undrain`);
  await house.runIn('running', 'drained', second.number, 'work');
  await house.call('POST', `/v1/projects/drained/builds/${second.number}/cancel`);
  await house.finished('drained', second.number);

  expect(draining).toMatchObject({ state: 'draining', drain: { reason: 'new disk', by: 'the admin token' } });
  expect(why).toContain('board-1 (drained by the admin token: new disk)');
  const { entries } = await house.operated<{ entries: { action: string; detail: string }[] }>('GET', '/v1/audit');
  expect(entries.map(({ action, detail }) => [action, detail])).toContainEqual([
    'host.drain',
    'host board-1: new disk',
  ]);
}, 90_000);

test('H11 a host that cannot be reached is left alone, says why, and takes runs again when it is well', async () => {
  await hostIn('ready', 'board-1');
  link.cut();
  const broken = await hostIn('quarantined', 'board-1');
  await house.project('broken', tagged('board', '#!/bin/sh\necho on'));
  const { number } = await house.trigger('broken');
  const why = await waitFor(async () => (await house.run('broken', number, 'work')).waiting, {
    what: 'it says why it waits',
  });
  link.mend();
  const build = await house.finished('broken', number, 90_000);

  expect(broken.faults).toBeGreaterThan(0);
  expect(broken.why).toMatch(/^left alone until it has proven that it works: .*127\.0\.0\.1:\d+ is not reached: /);
  expect(why).toMatch(/board-1 \((?:left alone until|its worker does not reach it)/);
  expect(build.status).toBe('passed');
  expect((await host('board-1')).faults).toBe(0);
}, 150_000);

test('H11 a host on which nothing can be run takes no run at all', async () => {
  await list('broken-1', { labels: ['broken'], reach: sshd.reach({ dir: '/proc/slipway' }) });
  const broken = await hostIn('quarantined', 'broken-1');

  expect(broken.why).toContain('cannot do it: ');
  expect(await leasesOf('broken-1')).toEqual([]);
  const gone = await house.operate('DELETE', `${HOSTS}/broken-1`);
  expect(gone.status).toBe(204);
  expect((await house.request('GET', `${HOSTS}/broken-1`)).status).toBe(404);
}, 60_000);

test('H6 a file of 1 GiB comes home whole though the link is cut twice on its way', async () => {
  const script = '#!/bin/sh -e\nhead -c 1073741824 /dev/urandom >"$H_ARCHIVE/big"\nsha256sum <"$H_ARCHIVE/big"';
  await house.project('big', tagged('board', script));
  const { number } = await house.trigger('big');
  await waitFor(async () => (await house.run('big', number, 'work')).state === 'collecting', {
    what: 'it is read',
    timeoutMs: 120_000,
    intervalMs: 50,
  });
  for (const bytes of [200, 400]) {
    const until = link.received + bytes * 1024 ** 2;
    await waitFor(async () => link.received > until, {
      what: `${bytes} MiB have come`,
      timeoutMs: 60_000,
      intervalMs: 20,
    });
    link.cut();
    await new Promise((done) => setTimeout(done, 1_000));
    link.mend();
  }
  const before = link.received;
  const build = await house.finished('big', number, 120_000);
  const run = await house.run('big', number, 'work');
  const [digest] = (await house.logOf('big', number, 'work')).split(' ');

  expect(build.status).toBe('passed');
  expect(run.artifacts).toMatchObject([{ path: 'big', sizeBytes: 1024 ** 3, digest: `sha256:${digest}` }]);
  // What had come was not asked for again.
  expect(link.received - before).toBeLessThan(600 * 1024 ** 2);
  expect(run.attempts).toHaveLength(1);
}, 300_000);
