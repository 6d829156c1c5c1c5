// Proves what a run finds in /repo: the commit that was asked for, clean, from a mirror that its host keeps and mends.
// A real git server, a real sshd, real Docker, real Temporal.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, createServer } from 'node:net';
import { BareEngine } from '../adapters/bare-engine';
import type { Engine } from '../adapters/engine';
import { LocalShell } from '../adapters/local-shell';
import { SshHost } from '../adapters/ssh-host';
import { checkOut } from '../adapters/working-copies';
import { containerName } from '../domain/names';
import type { Build } from '../domain/schemas/api';
import type { Checkout } from '../domain/schemas/plan';
import { CuttableLink } from './setup/cuttable-link';
import { freePort } from './setup/free-port';
import { House, TEST_IMAGE } from './setup/house';
import { SshServer } from './setup/sshd';
import { waitFor } from './setup/wait-for';

const dir = mkdtempSync(join(tmpdir(), 'slipway-copies-'));
const origin = join(dir, 'served', 'origin');
/** Its servers are on the loopback, its repositories below the folder. */
const localRepositories = ['127.0.0.1', join(dir, 'served')];
const forever = new AbortController().signal;
let daemon: ChildProcess;
let sshd: SshServer;
let link: CuttableLink;
let host: SshHost;

const git = (at: string, ...args: string[]): string => {
  const who = ['-c', 'user.name=A', '-c', 'user.email=a@example.org', '-c', 'protocol.file.allow=always'];
  return execFileSync('git', ['-C', at, ...who, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  }).trim();
};

function commit(at: string, file: string, text: string | Buffer): string {
  writeFileSync(join(at, file), text);
  git(at, 'add', '--all');
  git(at, 'commit', '-q', '-m', `writes ${file}`);
  return git(at, 'rev-parse', 'HEAD');
}

function newRepository(name: string): string {
  const at = join(dir, 'served', name);
  mkdirSync(at, { recursive: true });
  git(at, 'init', '-q', '-b', 'main');
  return at;
}

beforeAll(async () => {
  newRepository('origin');
  commit(origin, '.gitignore', '*.cache\n');
  commit(origin, 'large', randomBytes(2 * 1024 * 1024));
  commit(origin, 'file', 'first\n');
  git(origin, 'tag', 'v1');
  git(origin, 'branch', 'topic/a');
  commit(origin, 'file', 'second\n');
  const port = await freePort();
  const args = ['daemon', '--export-all', `--base-path=${join(dir, 'served')}`, `--port=${port}`, '--listen=127.0.0.1'];
  // git starts the server as another program, which must end with it.
  daemon = spawn('git', args, { stdio: 'ignore', detached: true });
  await waitFor(
    () =>
      new Promise<boolean>((done) => {
        const socket = connect(port, '127.0.0.1', () => (socket.destroy(), done(true)));
        socket.once('error', () => done(false));
      }),
    { what: 'the git server answers' },
  );
  [sshd, link] = await Promise.all([SshServer.open(), CuttableLink.open(port)]);
  host = new SshHost('box', sshd.reach(), sshd.privateKey);
}, 60_000);
afterAll(async () => {
  host?.close();
  await link?.close();
  await sshd?.stop();
  if (daemon?.pid) process.kill(-daemon.pid);
  rmSync(dir, { recursive: true, force: true });
});

const url = (name = 'origin'): string => `git://127.0.0.1:${link.port.at}/${name}`;
const wish = (ref: string, more: Partial<Checkout> = {}): Checkout => ({
  url: url(),
  ref,
  submodules: true,
  lfs: true,
  ...more,
});

/** Checks out into a new run. @returns the commit and where the tree is */
async function take(engine: Engine, root: string, checkout: Checkout): Promise<{ at: string; commit: string }> {
  const name = containerName(randomUUID(), 1);
  await engine.makeRunDir(name, '#!/bin/sh\n');
  return { commit: await engine.checkOut(name, checkout, forever), at: join(root, name, 'repo') };
}

describe.each(['the machine itself', 'a host over SSH'])('on %s', (kind) => {
  const root = join(dir, kind.replaceAll(' ', '-'));
  const engine = (): Engine =>
    new BareEngine(kind === 'the machine itself' ? new LocalShell() : host, root, { localRepositories });
  const mirrors = join(root, 'mirrors');
  const mirrorDirs = (): string[] => readdirSync(mirrors).filter((name) => statSync(join(mirrors, name)).isDirectory());

  test('H5 branches, tags, commits, whole refs and the default branch are found', async () => {
    const first = git(origin, 'rev-parse', 'v1');
    const second = git(origin, 'rev-parse', 'main');
    git(origin, 'checkout', '-q', '--detach', 'v1');
    const pull = commit(origin, 'pulled', 'by a request\n');
    git(origin, 'update-ref', 'refs/pull/7/head', pull);
    git(origin, 'checkout', '-q', 'main');

    for (const [ref, is] of [
      ['HEAD', second],
      ['main', second],
      ['topic/a', first],
      ['v1', first],
      [first, first],
      [first.slice(0, 10), first],
      ['refs/pull/7/head', pull],
      ['pull/7/head', pull],
    ] as const) {
      const { commit: got, at } = await take(engine(), root, wish(ref));
      expect([ref, got, git(at, 'rev-parse', 'HEAD'), git(at, 'status', '--porcelain')]).toEqual([ref, is, is, '']);
      expect(existsSync(join(at, 'pulled'))).toBe(is === pull);
      expect(git(at, 'remote', 'get-url', 'origin')).toBe(url());
    }
  }, 60_000);

  test('H5 a second build fetches a tenth at most, and finds nothing of the first, ignored files included', async () => {
    const before = link.received;
    rmSync(mirrors, { recursive: true, force: true });
    const cold = await take(engine(), root, wish('main'));
    const coldBytes = link.received - before;
    writeFileSync(join(cold.at, 'left.cache'), 'planted');
    writeFileSync(join(cold.at, 'file'), 'changed');
    commit(origin, 'new', `${randomUUID()}\n`);
    const warm = await take(engine(), root, wish('main'));
    const warmBytes = link.received - before - coldBytes;

    expect(coldBytes).toBeGreaterThan(2 * 1024 * 1024);
    expect(warmBytes).toBeLessThan(coldBytes / 10);
    expect(readdirSync(warm.at).sort()).toEqual(['.git', ...git(origin, 'ls-tree', '--name-only', 'main').split('\n')]);
    expect(git(warm.at, 'status', '--porcelain', '--ignored')).toBe('');
    const known = link.received;
    await take(engine(), root, wish(warm.commit));
    expect(link.received).toBe(known);
  }, 60_000);

  test('H5 a tree has no link into the mirror: what a run does to it harms nobody', async () => {
    const { at } = await take(engine(), root, wish('main'));
    for (const name of readdirSync(join(at, '.git', 'objects', 'pack')))
      rmSync(join(at, '.git', 'objects', 'pack', name));
    const again = await take(engine(), root, wish('main'));

    expect(existsSync(join(at, '.git', 'objects', 'info', 'alternates'))).toBe(false);
    expect(git(again.at, 'fsck')).toBe('');
  }, 60_000);

  test.each([
    'its objects are cut',
    'a ref is nonsense',
    'its settings are gone',
    'a killed git left its locks',
    'a folder is in the way of a branch',
  ])(
    'H5 a mirror is mended: %s',
    async (how) => {
      await take(engine(), root, wish('main'));
      const mirror = join(mirrors, mirrorDirs()[0]!);
      const objects = join(mirror, 'objects');
      if (how === 'its objects are cut') {
        for (const name of readdirSync(objects, { recursive: true, encoding: 'utf8' })) {
          const file = join(objects, name);
          if (!statSync(file).isFile()) continue;
          chmodSync(file, 0o644);
          truncateSync(file, Math.floor(statSync(file).size / 2));
        }
      }
      if (how === 'a ref is nonsense') writeFileSync(join(mirror, 'refs', 'heads', 'main'), 'nonsense\n');
      if (how === 'its settings are gone') for (const name of ['HEAD', 'config']) rmSync(join(mirror, name));
      if (how === 'a killed git left its locks') {
        const names = ['refs/heads/main', 'packed-refs', 'config', 'HEAD', 'shallow', 'refs/slipway/one'];
        mkdirSync(join(mirror, 'refs', 'slipway'), { recursive: true });
        for (const name of names) writeFileSync(join(mirror, `${name}.lock`), '');
        writeFileSync(join(objects, 'pack', 'tmp_pack_x'), 'half of one');
      }
      if (how === 'a folder is in the way of a branch') {
        rmSync(join(mirror, 'refs', 'heads', 'main'), { force: true });
        mkdirSync(join(mirror, 'refs', 'heads', 'main', 'x.y'), { recursive: true });
        writeFileSync(join(mirror, 'refs', 'heads', 'main', 'x.y', '..z'), '');
      }
      commit(origin, 'pushed', `${randomUUID()}\n`);
      const { at, commit: got } = await take(engine(), root, wish('main'));

      expect(readdirSync(join(at, '.git', 'objects', 'pack')).filter((name) => name.startsWith('tmp'))).toEqual([]);
      expect(got).toBe(git(origin, 'rev-parse', 'main'));
      expect(git(at, 'status', '--porcelain')).toBe('');
    },
    60_000,
  );

  test('H5 several runs at once, each with a tree of its own', async () => {
    rmSync(mirrors, { recursive: true, force: true });
    const trees = await Promise.all(['main', 'v1', 'topic/a', 'main'].map((ref) => take(engine(), root, wish(ref))));

    expect(trees.map(({ at }) => readFileSync(join(at, 'file'), 'utf8'))).toEqual([
      'second\n',
      'first\n',
      'first\n',
      'second\n',
    ]);
    expect(mirrorDirs()).toHaveLength(1);
  }, 60_000);

  test('H5 what cannot be had says why, in the words of git', async () => {
    const missing = take(engine(), root, wish('no-such-branch'));
    await expect(missing).rejects.toMatchObject({
      reason: 'checkout-failed',
      message: expect.stringContaining("couldn't find remote ref no-such-branch"),
    });
    const absent = take(engine(), root, wish('main', { url: url('nothing') }));
    await expect(absent).rejects.toMatchObject({
      reason: 'checkout-failed',
      message: expect.stringContaining('access denied or repository not exported'),
    });
    // The mirror was sound, and is still there.
    expect(mirrorDirs().length).toBeGreaterThan(0);
  }, 60_000);

  test('H5 H7 one that is given up leaves no process', async () => {
    const mark = randomUUID();
    // A server that takes the connection and says nothing.
    const mute = createServer((socket) => socket.resume());
    await new Promise<void>((done) => mute.listen(0, '127.0.0.1', done));
    const { port } = mute.address() as { port: number };
    const giveUp = new AbortController();
    const name = containerName(randomUUID(), 1);
    await engine().makeRunDir(name, '#!/bin/sh\n');
    const taking = engine().checkOut(name, wish('main', { url: `git://127.0.0.1:${port}/${mark}` }), giveUp.signal);
    const seen = (): boolean => execFileSync('ps', ['-eo', 'args', '-ww'], { encoding: 'utf8' }).includes(mark);
    await waitFor(seen, { what: 'git runs' });
    giveUp.abort();
    await expect(taking).rejects.toThrow();
    await waitFor(() => !seen(), { what: 'no process of it is left' });
    await engine().remove(name);
    await new Promise((done) => mute.close(done));

    expect(existsSync(join(root, name))).toBe(false);
  }, 60_000);
});

describe('more than one repository', () => {
  const root = join(dir, 'more');
  const engine = new BareEngine(new LocalShell(), root, { localRepositories });

  test('H5 submodules, and those inside of them, come from mirrors of their own', async () => {
    const inner = newRepository('inner');
    commit(inner, 'deep', 'inner\n');
    const middle = newRepository('middle');
    git(middle, 'submodule', '--quiet', 'add', '../inner', 'in ner');
    commit(middle, 'half', 'middle\n');
    const outer = newRepository('outer');
    git(outer, 'submodule', '--quiet', 'add', '../middle', 'lib/middle');
    commit(outer, 'whole', 'outer\n');
    const checkout = wish('main', { url: `file://${outer}` });
    const { at } = await take(engine, root, checkout);
    const without = await take(engine, root, { ...checkout, submodules: false });

    expect(readFileSync(join(at, 'lib', 'middle', 'in ner', 'deep'), 'utf8')).toBe('inner\n');
    expect(
      git(at, 'submodule', 'status', '--recursive')
        .split('\n')
        .every((line) => /^ ?[0-9a-f]{40} /.test(line)),
    ).toBe(true);
    expect(git(at, 'status', '--porcelain')).toBe('');
    expect(readdirSync(join(without.at, 'lib', 'middle'))).toEqual([]);
    expect(readdirSync(join(root, 'mirrors')).filter((name) => !name.includes('.'))).toHaveLength(3);
  }, 60_000);

  test('H5 a repository from afar cannot have files of the host brought in by a submodule', async () => {
    const sly = newRepository('sly');
    writeFileSync(join(sly, '.gitmodules'), `[submodule "x"]\n\tpath = x\n\turl = ${origin}\n`);
    git(sly, 'update-index', '--add', '--cacheinfo', `160000,${git(origin, 'rev-parse', 'HEAD')},x`);
    git(sly, 'add', '.gitmodules');
    git(sly, 'commit', '-q', '-m', 'sly');

    await expect(take(engine, root, wish('main', { url: url('sly') }))).rejects.toMatchObject({
      message: expect.stringContaining('which is of this host'),
    });
  }, 60_000);

  test('H5 mirrors go when all of them are too large, the least used first, and never the one in use', async () => {
    const mirrors = join(dir, 'kept');
    const into = async (name: string, kib: number): Promise<void> => {
      const repo = join(dir, `tree-${randomUUID()}`);
      await checkOut(new LocalShell(), {
        mirrors,
        repo,
        signal: forever,
        local: localRepositories,
        checkout: wish('main', { url: url(name) }),
        kept: { days: 30, kib },
      });
    };
    const count = (): number => readdirSync(mirrors).filter((name) => !name.includes('.')).length;
    await into('origin', 1024 ** 2);
    await into('inner', 1024 ** 2);
    expect(count()).toBe(2);
    await into('middle', 1_000);

    expect(count()).toBe(2);
    await into('origin', 1);
    expect(count()).toBe(1);
  }, 60_000);
});

test('H5 files kept by git-lfs are there, and come from the mirror the second time', async () => {
  const root = join(dir, 'lfs');
  const engine = new BareEngine(new LocalShell(), root, { localRepositories });
  const large = newRepository('large');
  git(large, 'lfs', 'install', '--local');
  git(large, 'lfs', 'track', '*.bin');
  writeFileSync(join(large, '.lfsconfig'), '[lfs]\n\tfetchexclude = *\n');
  commit(large, 'a.bin', 'the real bytes\n');
  const checkout = wish('main', { url: `file://${large}` });
  const first = await take(engine, root, checkout);
  rmSync(join(large, '.git', 'lfs', 'objects'), { recursive: true });
  const second = await take(engine, root, checkout);
  const without = await take(engine, root, { ...checkout, lfs: false });

  for (const { at } of [first, second]) expect(readFileSync(join(at, 'a.bin'), 'utf8')).toBe('the real bytes\n');
  expect(git(second.at, 'status', '--porcelain')).toBe('');
  expect(readFileSync(join(without.at, 'a.bin'), 'utf8')).toMatch(/^version https:\/\/git-lfs/);
}, 60_000);

describe('in a build', () => {
  let house: House;
  beforeAll(async () => {
    house = await House.open({
      slots: 2,
      env: { SLIPWAY_SSH_KEY: sshd.privateKey, SLIPWAY_LOCAL_REPOSITORIES: localRepositories.join() },
    });
    const reach = sshd.reach();
    for (const name of ['box-1', 'box-2']) {
      await house.operated('POST', '/v1/clusters/local/hosts', {
        name,
        labels: ['box'],
        slots: 4,
        reach: { ...reach, dir: join(dir, name) },
      });
    }
    await waitFor(
      async () => {
        const { hosts } = await house.call<{ hosts: { state: string }[] }>('GET', '/v1/hosts');
        return hosts.length === 3 && hosts.every(({ state }) => state === 'ready');
      },
      { what: 'the hosts are ready', timeoutMs: 30_000, intervalMs: 200 },
    );
  }, 120_000);
  afterAll(async () => house?.stop(), 60_000);

  const definition = (tag: string): string => `timeout: 5
repository: { url: '${url()}' }
triggers:
  - name: main
    runs:
      - { name: work, container: '${TEST_IMAGE}', script: work${tag} }
      - { name: bare, container: '${TEST_IMAGE}', script: work, checkout: false${tag} }
scripts:
  work: "#!/bin/sh\\ncat file 2>/dev/null; echo $GIT_REF=$GIT_SHA; touch made.cache; ls"
`;

  test.each([
    ['in a container', ''],
    ['on a host', ', host-tag: box'],
  ])(
    'H5 %s the script finds the commit that the trigger names',
    async (where, tag) => {
      const project = where.replaceAll(' ', '-');
      await house.project(project, definition(tag));
      await house.trigger(project, { params: { GIT_REF: 'v1' } });
      await house.trigger(project);
      const builds = await Promise.all([1, 2].map((number) => house.finished(project, number)));
      const logs = await Promise.all([1, 2].map((number) => house.logOf(project, number, 'work')));

      expect(builds.map(({ status }) => status)).toEqual(['passed', 'passed']);
      expect(logs[0]).toMatch(new RegExp(`^first\nv1=${git(origin, 'rev-parse', 'v1')}\n`));
      expect(logs[1]).toMatch(new RegExp(`^second\nHEAD=${git(origin, 'rev-parse', 'main')}\n`));
      for (const log of logs) expect(log.match(/made\.cache/g)).toHaveLength(1);
      expect(await house.logOf(project, 1, 'bare')).toBe('v1=\nmade.cache\n');
    },
    90_000,
  );

  test('H5 a run goes where its repository is already', async () => {
    const definitionOf = (repository: string): string =>
      definition(', host-tag: box')
        .replace(/ {6}- \{ name: bare.*\n/, '')
        .replace(url(), repository);
    for (const name of ['inner', 'middle']) await house.project(name, definitionOf(url(name)));
    const hostsOf = async (project: string): Promise<(string | null)[]> => {
      const hosts = [];
      for (let times = 0; times < 2; times += 1) {
        const { number } = await house.trigger(project);
        await house.finished(project, number);
        hosts.push((await house.run(project, number, 'work')).host);
      }
      return hosts;
    };
    const drain = (name: string, how: 'drain' | 'undrain'): Promise<unknown> =>
      house.operated('POST', `/v1/clusters/local/hosts/${name}/${how}`, how === 'drain' ? { reason: 'for once' } : {});
    // The one that would be taken last among equals has it.
    await drain('box-1', 'drain');
    const first = await hostsOf('inner');
    await drain('box-1', 'undrain');

    expect(first).toEqual(['box-2', 'box-2']);
    expect(await hostsOf('inner')).toEqual(['box-2', 'box-2']);
    expect(await hostsOf('middle')).toEqual(['box-1', 'box-1']);
  }, 90_000);

  test('B14 20 runs on two hosts, a force-push after the first: all print the same commit, a rerun too', async () => {
    const moving = newRepository('moving');
    const pushed = commit(moving, 'file', 'as it was\n');
    const gate = join(dir, 'gate');
    const cells = Array.from({ length: 19 }, (_, at) => at).join(', ');
    await house.project(
      'moving',
      `timeout: 5
repository: { url: '${url('moving')}', ref: main }
triggers:
  - name: main
    runs:
      - { name: first, container: '${TEST_IMAGE}', script: wait, host-tag: box }
      - { name: 'n{n}', container: '${TEST_IMAGE}', script: show, host-tag: box, needs: [first], matrix: { axes: { n: [${cells}] } } }
scripts:
  wait: "#!/bin/sh\\nwhile [ ! -e '${gate}' ]; do sleep 0.1; done; echo $GIT_SHA $(git rev-parse HEAD) $(cat file)"
  show: "#!/bin/sh\\necho $GIT_SHA $(git rev-parse HEAD) $(cat file)"
`,
    );
    const { number } = await house.trigger('moving');
    await waitFor(async () => (await house.run('moving', number, 'first')).state === 'running', { what: 'it runs' });
    git(moving, 'commit', '-q', '--amend', '-m', 'another');
    commit(moving, 'file', 'as it is now\n');
    git(moving, 'reflog', 'expire', '--expire=now', '--all');
    writeFileSync(gate, '');
    const { runs } = await house.finished('moving', number, 60_000);
    const logs = await Promise.all(runs.map(({ name }) => house.logOf('moving', number, name)));
    await house.call('POST', `/v1/projects/moving/builds/${number}/runs/n7/rerun`, {});
    await house.finished('moving', number);
    logs.push(await house.logOf('moving', number, 'n7'));

    expect(new Set(runs.map(({ host }) => host))).toEqual(new Set(['box-1', 'box-2']));
    expect([logs.length, new Set(logs)]).toEqual([21, new Set([`${pushed} ${pushed} as it was\n`])]);
    const { commits } = await house.call<Build>('GET', `/v1/projects/moving/builds/${number}`);
    expect(commits).toEqual([{ url: url('moving'), ref: 'main', commit: pushed }]);
  }, 120_000);

  test('H5 one that cannot be had is an error of its own, with the words of git', async () => {
    await house.project('unknown', definition('').replace('repository:', 'retry: { infrastructure: 0 }\nrepository:'));
    const { number } = await house.trigger('unknown', { params: { GIT_REF: 'nowhere' } });
    await house.finished('unknown', number);
    const run = await house.run('unknown', number, 'work');

    expect(run).toMatchObject({ status: 'errored', cause: 'checkout-failed' });
    expect(run.message).toContain("couldn't find remote ref nowhere");
  }, 60_000);
});
