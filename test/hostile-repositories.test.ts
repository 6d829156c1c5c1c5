// Proves that a repository gets nothing of the host that checks it out, with bubblewrap and without: real git, real git-lfs.
import { execFileSync, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LocalShell } from '../adapters/local-shell';
import type { OpenOptions, Opened, Shell } from '../adapters/shell';
import { checkOut, reasonIn } from '../adapters/working-copies';
import { hideCredentials, trusting } from '../domain/repository';
import { serveFolder } from './setup/http-folder';

const dir = mkdtempSync(join(tmpdir(), 'slipway-hostile-'));
const served = join(dir, 'served');
const noBox = join(dir, 'no-box');
const home = join(dir, 'home');
/** What a program of a repository would write. */
const traces = join(dir, 'traces');
const NAMED = [served, '127.0.0.1'];

/** The worker's machine, with an environment of the test. */
class EnvShell extends LocalShell implements Shell {
  constructor(private readonly env: Record<string, string>) {
    super();
  }

  override open(command: readonly string[], options?: OpenOptions): Promise<Opened> {
    return super.open(
      ['env', ...Object.entries(this.env).map(([name, value]) => `${name}=${value}`), ...command],
      options,
    );
  }
}

function git(at: string, ...args: string[]): string {
  const who = ['-c', 'user.name=A', '-c', 'user.email=a@example.org', '-c', 'filter.lfs.required=false'];
  const env = { ...process.env, GIT_CONFIG_GLOBAL: '/dev/null' };
  return execFileSync('git', ['-C', at, ...who, ...args], {
    encoding: 'utf8',
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  }).trim();
}

/** @param files text by path; `-> target` makes a link */
function repository(name: string, files: Record<string, string>): string {
  const at = join(served, name);
  mkdirSync(at, { recursive: true });
  git(at, 'init', '-q', '-b', 'main');
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(at, path, '..'), { recursive: true });
    if (text.startsWith('-> ')) symlinkSync(text.slice(3), join(at, path));
    else writeFileSync(join(at, path), text);
  }
  git(at, '-c', 'core.attributesFile=/dev/null', 'add', '--all');
  git(at, 'commit', '-q', '--allow-empty', '-m', 'all of it');
  return at;
}

/** Adds submodules as entries of the index alone. */
function link(at: string, entries: Record<string, string>): void {
  for (const [path, commit] of Object.entries(entries)) {
    git(at, 'update-index', '--add', '--cacheinfo', `160000,${commit},${path}`);
  }
  git(at, 'commit', '-q', '-m', 'with submodules');
}

beforeAll(() => {
  for (const folder of [served, noBox, home, traces]) mkdirSync(folder, { recursive: true });
  writeFileSync(join(noBox, 'bwrap'), '#!/bin/sh\nexit 1\n', { mode: 0o755 });
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Not every machine lets a user make namespaces. */
const hasBox = spawnSync('bwrap', ['--unshare-user', '--unshare-net', '--ro-bind', '/', '/', 'true']).status === 0;
describe.each([...(hasBox ? ['in a box'] : []), 'where the host has no box'])('%s', (kind) => {
  const root = join(dir, kind.replaceAll(' ', '-'));
  const path = kind === 'in a box' ? process.env.PATH! : `${noBox}:${process.env.PATH}`;
  const env = { PATH: path, HOME: home };

  /** @returns where the tree is */
  async function take(url: string, more: { local?: string[]; ref?: string; env?: object } = {}): Promise<string> {
    const repo = join(root, `slipway-${randomUUID()}`, 'repo');
    await checkOut(new EnvShell({ ...env, ...more.env }), {
      mirrors: join(root, 'mirrors'),
      repo,
      checkout: { url, ref: more.ref ?? 'main', submodules: true, lfs: true },
      signal: new AbortController().signal,
      local: more.local ?? NAMED,
    });
    return repo;
  }
  const named = (name: string): string => `${name}-${kind.replaceAll(' ', '-')}`;

  test('H5 a submodule is where the index has it, whatever .gitmodules says: nothing is written through a link', async () => {
    const outside = join(dir, named('outside'));
    mkdirSync(outside);
    writeFileSync(join(outside, 'precious'), 'precious\n');
    const payload = repository(named('payload'), { owned: 'by a repository\n' });
    const commit = git(payload, 'rev-parse', 'HEAD');
    const section = `[submodule "m"]\n\tpath = sub\n\turl = file://${payload}\n\tpath = -link\n`;
    const at = repository(named('twice'), { '.gitmodules': section, '-link': `-> ${outside}` });
    link(at, { sub: commit });
    git(payload, 'update-ref', `refs/heads/${git(at, 'rev-parse', 'HEAD:-link')}`, commit);

    await expect(take(`file://${at}`)).rejects.toMatchObject({
      reason: 'checkout-failed',
      message: expect.stringContaining('submodule sub is not in exactly one section of .gitmodules'),
    });
    expect(readdirSync(outside)).toEqual(['precious']);
  });

  test('H5 submodules whose paths are one number are two', async () => {
    const inner = repository(named('numbers-inner'), { file: 'x' });
    const commit = git(inner, 'rev-parse', 'HEAD');
    const sections = ['2.1', '2.10'].map(
      (path) => `[submodule "${path}"]\n\tpath = ${path}\n\turl = file://${inner}\n`,
    );
    const at = repository(named('numbers'), { '.gitmodules': sections.join('') });
    link(at, { '2.1': commit, '2.10': commit });

    const tree = await take(`file://${at}`);

    expect(['2.1', '2.10'].map((path) => readdirSync(join(tree, path)))).toEqual([
      ['.git', 'file'],
      ['.git', 'file'],
    ]);
  });

  test('H5 a URL of several lines names no further submodule', async () => {
    const payload = repository(named('lines-payload'), { owned: 'by a repository\n' });
    const commit = git(payload, 'rev-parse', 'HEAD');
    const lines = `file://${payload}\\nlink ${commit}\\npath kept\\nfrom file://${payload}`;
    const section = `[submodule "m"]\n\tpath = sub\n\turl = "${lines}"\n`;
    const at = repository(named('lines'), { '.gitmodules': section, 'kept/file': 'x' });
    link(at, { sub: commit });

    await expect(take(`file://${at}`)).rejects.toMatchObject({
      message: expect.stringContaining('the url of submodule sub has characters that no URL has'),
    });
  });

  test('H5 a tree that has a link and a folder of one name leads nowhere', async () => {
    const outside = join(dir, named('target'));
    mkdirSync(outside);
    const payload = repository(named('inner'), { owned: 'by a repository\n' });
    const at = repository(named('both'), {});
    const blobOf = (text: string): string =>
      execFileSync('git', ['-C', at, 'hash-object', '-w', '--stdin'], { input: text, encoding: 'utf8' }).trim();
    const treeOf = (text: string): string =>
      execFileSync('git', ['-C', at, 'mktree', '--missing'], { input: text, encoding: 'utf8' }).trim();
    const modules = blobOf(`[submodule "m"]\n\tpath = a/sub\n\turl = file://${payload}\n`);
    const below = treeOf(`160000 commit ${git(payload, 'rev-parse', 'HEAD')}\tsub\n100644 blob ${blobOf('x')}\tfile\n`);
    const both = `120000 blob ${blobOf(outside)}\ta\n040000 tree ${below}\ta\n100644 blob ${modules}\t.gitmodules\n`;
    git(at, 'update-ref', 'refs/heads/main', git(at, 'commit-tree', treeOf(both), '-m', 'both'));

    await take(`file://${at}`).catch(() => undefined);
    expect(readdirSync(outside)).toEqual([]);
  });

  test('H5 links of a tree stay links, and what they lead to keeps its mode', async () => {
    const secret = join(dir, named('secret'));
    writeFileSync(secret, 'secret', { mode: 0o600 });
    const tree = await take(`file://${repository(named('links'), { file: `-> ${secret}`, 'd/up': '-> ../../..' })}`);

    expect(statSync(secret).mode & 0o777).toBe(0o600);
    expect(readFileSync(join(tree, 'file'), 'utf8')).toBe('secret');
  });

  test('H5 a full id is that of a commit, also where a branch is called so, and no branch need have it', async () => {
    const at = repository(named('ids'), { file: 'first\n' });
    const first = git(at, 'rev-parse', 'HEAD');
    writeFileSync(join(at, 'file'), 'second\n');
    git(at, 'commit', '-q', '-a', '--amend', '-m', 'pushed over');
    git(at, 'branch', first, 'HEAD');

    const tree = await take(`file://${at}`, { ref: first });
    expect([git(tree, 'rev-parse', 'HEAD'), readFileSync(join(tree, 'file'), 'utf8')]).toEqual([first, 'first\n']);
  });

  /** Settings by which git starts a program; `%` is one that leaves a trace. */
  const EXECUTING = [
    'core.hooksPath=%/hooks',
    'core.fsmonitor=%',
    'core.sshCommand=%',
    'core.askPass=%',
    'core.editor=%',
    'core.pager=%',
    'core.gitProxy=%',
    'core.alternateRefsCommand=%',
    'core.attributesFile=%/attributes',
    'core.worktree=%',
    'credential.helper=!%',
    'diff.external=%',
    'diff.x.command=%',
    'diff.x.textconv=%',
    'filter.x.clean=%',
    'filter.x.smudge=%',
    'filter.x.process=%',
    'filter.lfs.smudge=%',
    'filter.lfs.process=%',
    'merge.x.driver=%',
    'gpg.program=%',
    'init.templateDir=%/template',
    'lfs.customtransfer.x.path=%',
    'lfs.standalonetransferagent=x',
    'remote.origin.uploadpack=%',
    'remote.origin.vcs=ext',
    'remote.origin.proxy=%',
    'trace2.eventTarget=%',
    'uploadpack.packObjectsHook=%',
    'include.path=%/included',
    'alias.checkout=!%',
    'protocol.ext.allow=always',
    'url.ext::sh -c %.insteadOf=file://',
  ];
  const asConfig = (settings: readonly string[], program: string): string =>
    settings
      .map((setting) => {
        const [, key, name, value] = /^((?:[^.]|\.(?=.*\..*=))*)\.(\w+)=(.*)$/.exec(setting)!;
        const [section, ...rest] = key!.split('.');
        const head = rest.length === 0 ? `[${section}]` : `[${section} "${rest.join('.')}"]`;
        return `${head}\n\t${name} = "${value!.replaceAll('%', program)}"\n`;
      })
      .join('');
  const asProgram = (): string => {
    const program = join(dir, named('program'));
    writeFileSync(program, `#!/bin/sh\n: >${traces}/$$\nexit 1\n`, { mode: 0o755 });
    return program;
  };

  test.each([
    ['everything by which git starts a program', EXECUTING],
    ['a command for the update of a submodule', ['submodule.m.update=!%']],
  ])('H5 %s is without effect in a repository', async (_, list) => {
    rmSync(traces, { recursive: true, force: true });
    mkdirSync(traces);
    const settings = asConfig(list, asProgram());
    const inner = repository(named(`inner-${list.length}`), { file: 'inner\n' });
    const at = repository(named(`executing-${list.length}`), {
      '.gitmodules': `[submodule "m"]\n\tpath = sub\n\turl = file://${inner}\n${settings}`,
      '.gitattributes': '* filter=x diff=x merge=x\n*.bin filter=lfs\n',
      ...Object.fromEntries(
        ['.gitconfig', '.lfsconfig', 'config', 'inside/.gitconfig'].map((name) => [name, settings]),
      ),
      file: 'as it is\n',
    });
    link(at, { sub: git(inner, 'rev-parse', 'HEAD') });

    const tree = await take(`file://${at}`).catch(({ message }: Error) => message);
    expect(readdirSync(traces)).toEqual([]);
    // git itself refuses the command of an update.
    if (list === EXECUTING) expect(readFileSync(join(tree, 'sub', 'file'), 'utf8')).toBe('inner\n');
    else expect(tree).toContain("invalid value for 'submodule.m.update'");
  });

  test("H5 what the worker's user has set for trees of its own is not for those of others", async () => {
    rmSync(traces, { recursive: true, force: true });
    const own = join(dir, named('own-home'));
    const program = asProgram();
    for (const folder of [traces, join(own, 'template', 'hooks'), join(own, 'hooks')])
      mkdirSync(folder, { recursive: true });
    for (const hook of ['template/hooks/post-checkout', 'hooks/post-checkout', 'hooks/reference-transaction']) {
      writeFileSync(join(own, hook), readFileSync(program), { mode: 0o755 });
    }
    const ofTrees = EXECUTING.filter((setting) => /^(?:diff|filter|merge|core.fsm|core.worktree|alias)/.test(setting));
    const folders = [`core.hooksPath=${own}/hooks`, `init.templateDir=${own}/template`];
    writeFileSync(join(own, '.gitconfig'), asConfig([...ofTrees, ...folders], program));
    const at = repository(named('plain'), { '.gitattributes': '* filter=x diff=x merge=x\n', file: 'as it is\n' });

    const tree = await take(`file://${at}`, { env: { HOME: own } });
    expect(readdirSync(traces)).toEqual([]);
    expect(readFileSync(join(tree, 'file'), 'utf8')).toBe('as it is\n');
  });

  test("H5 the credentials of the worker's user are used, wherever its settings say that they are", async () => {
    const at = repository(named('private'), { file: 'for those who know\n' });
    git(at, 'update-server-info');
    const server = await serveFolder(served, { authorization: `Basic ${Buffer.from('ci:s3cret').toString('base64')}` });
    const own = join(dir, named('keeper'));
    const kept = join(dir, named('kept-elsewhere'));
    mkdirSync(own);
    writeFileSync(kept, `http://ci:s3cret@127.0.0.1%3a${server.port}\n`);
    writeFileSync(join(own, '.gitconfig'), `[credential]\n\thelper = store --file=${kept}\n`);
    const url = `http://127.0.0.1:${server.port}/${named('private')}/.git`;

    try {
      const tree = await take(url, { env: { HOME: own } });
      expect(readFileSync(join(tree, 'file'), 'utf8')).toBe('for those who know\n');
      await expect(take(url.replace('http://', 'http://ci:wr0ng@') + '?other')).rejects.toMatchObject({
        message: expect.not.stringContaining('wr0ng'),
      });
    } finally {
      await server.close();
    }
  });

  test('H5 in its box git sees no file but what it needs, and can write to none', async () => {
    const own = join(dir, named('curious'));
    mkdirSync(own);
    writeFileSync(join(own, 'secret'), 'a secret of the host\n');
    const helper = `!cat "$HOME"/secret >&2; echo > "$HOME"/written; echo seen: $(ls "$HOME"/.. | wc -l) >&2; false`;
    writeFileSync(join(own, '.gitconfig'), `[credential]\n\thelper = "${helper.replaceAll('"', '\\"')}"\n`);
    const server = await serveFolder(served, { authorization: 'nobody knows' });
    const url = `http://127.0.0.1:${server.port}/x/.git`;
    const message = await take(url, { env: { HOME: own } }).catch((error: Error) => error.message);
    await server.close();

    expect(message).toContain('seen: ');
    expect([message.includes('a secret of the host'), existsSync(join(own, 'written'))]).toEqual(
      kind === 'in a box' ? [false, false] : [true, true],
    );
  });

  test('H5 a server that sends git on to another one is followed only to where git may go', async () => {
    git(repository(named('moves'), { file: 'there\n' }), 'update-server-info');
    const there = await serveFolder(served);
    const old = await serveFolder(served, { movedTo: `http://127.0.0.1:${there.port}` });
    const url = `http://127.0.0.1:${old.port}/${named('moves')}/.git`;

    try {
      await expect(take(url, { local: [`127.0.0.1:${old.port}`] })).rejects.toMatchObject({
        message: expect.stringMatching(
          new RegExp(`: http://127.0.0.1:${there.port}/\\S+ leads to 127.0.0.1, which is of this host`),
        ),
      });
      expect(there.asked).toEqual([]);
      const tree = await take(url);
      expect(readFileSync(join(tree, 'file'), 'utf8')).toBe('there\n');
      expect(git(tree, 'remote', 'get-url', 'origin')).toBe(url);
    } finally {
      await Promise.all([there.close(), old.close()]);
    }
  });

  test('H5 .lfsconfig is without effect: nobody is asked for files but the server of the repository', async () => {
    const asked: string[] = [];
    const server: Server = createServer(({ method, url = '' }, answer) => {
      asked.push(`${method} ${url}`);
      answer.writeHead(404).end();
    });
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    const { port } = server.address() as { port: number };
    const at = repository(named('lfsconfig'), {
      '.lfsconfig': `[lfs]\n\turl = http://127.0.0.1:${port}/cancel\n[remote "origin"]\n\tlfsurl = http://127.0.0.1:${port}/\n`,
      '.gitattributes': '*.bin filter=lfs diff=lfs merge=lfs -text\n',
    });
    writeFileSync(
      join(at, 'a.bin'),
      `version https://git-lfs.github.com/spec/v1\noid sha256:${'7'.repeat(64)}\nsize 5\n`,
    );
    git(at, '-c', 'filter.lfs.process=', '-c', 'filter.lfs.clean=cat', 'add', '--all');
    git(at, 'commit', '-q', '-m', 'a file that nobody has');

    await expect(take(`file://${at}`)).rejects.toMatchObject({ message: expect.stringContaining('7'.repeat(64)) });
    await new Promise((done) => server.close(done));
    expect(asked).toEqual([]);
  });

  test('H5 a repository on the disk of the host is taken only from folders that its worker names', async () => {
    const inside = repository(named('in-it'), { file: 'x' });
    const outside = join(dir, named('elsewhere'));
    mkdirSync(outside);
    git(outside, 'init', '-q', '-b', 'main');
    git(outside, 'commit', '-q', '--allow-empty', '-m', 'private');
    symlinkSync(outside, join(served, named('a-link')));
    await take(`file://${inside}`);
    const mirror = readdirSync(join(root, 'mirrors')).find((name) => /^[0-9a-f]{40}$/.test(name))!;

    for (const url of [
      `file://${outside}`,
      `file://${served}/../${named('elsewhere')}`,
      `file://${served}/${named('a-link')}`,
      `file://${served}/absent`,
      `file://${join(root, 'mirrors', mirror)}`,
    ]) {
      const local = [...NAMED, join(root, 'mirrors'), join(root, 'mirrors', mirror)];
      await expect(take(url, { local })).rejects.toMatchObject({
        reason: 'checkout-failed',
        message: expect.stringContaining('SLIPWAY_LOCAL_REPOSITORIES'),
      });
    }
    await expect(take(`file://${inside}`, { local: [] })).rejects.toMatchObject({ reason: 'checkout-failed' });
  });
});

test.each([
  'http://127.0.0.1:9/x.git',
  'http://127.1:9/x.git',
  'http://2130706433/x.git',
  'http://0x7f.1/x.git',
  'http://0177.0.0.1/x.git',
  'http://0/x.git',
  'http://localhost:9/x.git',
  'http://localhost./x.git',
  'https://[::1]/x.git',
  'https://[::ffff:127.0.0.1]/x.git',
  'https://[fe80::1]/x.git',
  'http://169.254.169.254/latest/meta-data',
  'http://user@127.0.0.1/x.git',
  'git://127.0.0.1/x.git',
  'ssh://git@127.0.0.1/x.git',
  'git@127.0.0.1:x.git',
])('H5 nothing is taken from the host itself or its own link unless its worker allows it: %s', async (url) => {
  await expect(only(url)).rejects.toMatchObject({
    reason: 'checkout-failed',
    message: expect.stringContaining('SLIPWAY_LOCAL_REPOSITORIES'),
  });
});

test.each([
  'http://a@b@127.0.0.1/x.git',
  'http://example.org\\@127.0.0.1/x.git',
  'http://127%2e0%2e0%2e1/x.git',
  'ssh://-oProxyCommand=id/x.git',
  'ext::sh -c id',
  '-c@example.org:x',
  '--upload-pack=id@example.org:x',
  'ext::sh@x:y',
  'fd::17',
  '/etc',
  './a@b:c',
  'file://localhost/etc',
  'https:///x.git',
])('H5 a URL that two programs may read in two ways is refused: %s', async (url) => {
  await expect(only(url)).rejects.toMatchObject({
    reason: 'checkout-failed',
    message: expect.stringMatching(/cannot be told|is no URL|characters that no URL has/),
  });
});

/** Without any box, which would hide what is tried. */
async function only(url: string): Promise<string> {
  const root = join(dir, randomUUID());
  return checkOut(new EnvShell({ PATH: `${noBox}:${process.env.PATH}` }), {
    mirrors: join(root, 'mirrors'),
    repo: join(root, 'slipway-x', 'repo'),
    checkout: { url, ref: 'main', submodules: true, lfs: true },
    signal: new AbortController().signal,
  });
}

test('H5 an address that the worker names is dialled, alone or with its port', async () => {
  for (const local of ['127.0.0.1', '127.0.0.1:9']) {
    const taking = checkOut(new LocalShell(), {
      mirrors: join(dir, 'named', 'mirrors'),
      repo: join(dir, 'named', 'slipway-x', 'repo'),
      checkout: { url: 'http://127.0.0.1:9/x.git', ref: 'main', submodules: true, lfs: true },
      signal: new AbortController().signal,
      local: [local],
    });
    await expect(taking).rejects.toMatchObject({ message: expect.stringContaining('unable to access') });
  }
});

test.each([
  ['https://ci:s3cret@host/x.git', 'https://***@host/x.git'],
  ['https://s3cret@host/x.git', 'https://***@host/x.git'],
  [
    "fatal: unable to access 'https://ci:s3/cr@et@host/x.git': no",
    "fatal: unable to access 'https://***@host/x.git': no",
  ],
  ['ssh://git:s3cret@host/x.git and ssh://git@host/y', 'ssh://git:***@host/x.git and ssh://git@host/y'],
  ['https://host:8443/@scope/x@1', 'https://host:8443/@scope/x@1'],
  ['git@host:x.git', 'git@host:x.git'],
])('H5 no password of a URL is in a message: %s', (text, shown) => {
  expect(hideCredentials(text)).toBe(shown);
});

test('H5 git works with a tree of another user, and what the file sets for git stays', () => {
  const at = repository('owned', { file: 'x' });
  const log = (env: Record<string, string>): string =>
    spawnSync('git', ['-C', at, 'log', '-1', '--format=%s %(trailers)', '--no-decorate'], {
      encoding: 'utf8',
      env: { PATH: process.env.PATH, HOME: home, GIT_TEST_ASSUME_DIFFERENT_OWNER: '1', ...env },
    }).stderr;

  expect(log({})).toContain('dubious ownership');
  expect(log(trusting({}))).toBe('');
  const own = { GIT_CONFIG_COUNT: '1', GIT_CONFIG_KEY_0: 'user.name', GIT_CONFIG_VALUE_0: 'CI' };
  expect({ ...own, ...trusting(own) }).toEqual({
    ...own,
    GIT_CONFIG_COUNT: '2',
    GIT_CONFIG_KEY_1: 'safe.directory',
    GIT_CONFIG_VALUE_1: '*',
  });
  expect(trusting({ GIT_CONFIG_COUNT: 'many' })).toEqual({});
});

test('H5 a message keeps the first words of git, of the last try alone, and steers no terminal', () => {
  const said = `error: old\n\f\nerror: cannot lock ref 'refs/heads/main'\n\n${'hint: x\n'.repeat(9)}remote: \u001b[2Jboo\r\nfatal: end\n`;

  expect(reasonIn(said)).toBe("error: cannot lock ref 'refs/heads/main'; hint: x; …; remote:  [2Jboo; fatal: end");
});
