// Proves that every kind of engine keeps the same promises: a script is started once and adopted by whoever comes next,
// every byte of its output arrives once, and what is gone is gone. A real Docker engine, a real sshd, real processes.
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { randomBytes, randomUUID } from 'node:crypto';
import { connect, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createServer } from 'node:tls';
import Dockerode from 'dockerode';
import { KINDS_LEFT_OUT, NO_ARCHIVE } from '../adapters/archive-files';
import { BareEngine } from '../adapters/bare-engine';
import { ContainerShell } from '../adapters/container-shell';
import { DockerEngine } from '../adapters/docker-engine';
import type { ContainerSpec, Engine, EngineError, FoundContainer, SpoolFile, Terminal } from '../adapters/engine';
import { LocalShell } from '../adapters/local-shell';
import { SshHost } from '../adapters/ssh-host';
import { dockerByTls, dockerOverSsh, helperName, HelperShell, RemoteDockerEngine } from '../adapters/remote-docker';
import { containerName } from '../domain/names';
import type { DockerSshReach } from '../domain/schemas/hosts';
import { TEST_CLIENT_TLS, TEST_TLS } from './setup/certificate';
import { CuttableLink } from './setup/cuttable-link';
import { HoldingProxy } from './setup/holding-proxy';
import { DOCKER_SOCKET, ensureTestImage, TEST_IMAGE } from './setup/house';
import { SshServer } from './setup/sshd';
import { waitFor } from './setup/wait-for';

const dir = mkdtempSync(join(tmpdir(), 'slipway-engines-'));
const root = join(dir, 'runs');
let sshd: SshServer;
let link: CuttableLink;
const hosts: SshHost[] = [];
beforeAll(async () => {
  await ensureTestImage();
  sshd = await SshServer.open();
  link = await CuttableLink.open(sshd.port);
  await new Promise<void>((done) => tls.listen(0, '127.0.0.1', done));
  tlsPort = (tls.address() as AddressInfo).port;
  // Its processes and its folder are seen from here as well.
  const shared = ['--pid=host', '-v', `${dir}:${dir}`];
  execFileSync('docker', ['run', '-d', '--init', '--name', boxed, ...shared, TEST_IMAGE, 'sleep', '3600']);
}, 120_000);
afterAll(async () => {
  execFileSync('docker', ['rm', '-f', boxed, helperName(helped)]);
  tls.close();
  for (const host of hosts) host.close();
  await link?.close();
  await sshd?.stop();
  rmSync(dir, { recursive: true, force: true });
});

function overSsh(): BareEngine {
  const host = new SshHost('box', sshd.reach({ port: link.port.at }), sshd.privateKey);
  hosts.push(host);
  return new BareEngine(host, root);
}
const remote = (docker: Dockerode): Engine =>
  RemoteDockerEngine.at(docker, new HelperShell(docker, helped, 'far'), { dir: root });
const helped = { dir: root, helper: TEST_IMAGE };
/** The machine's own engine, for those alone who show that certificate. */
const whom = { ...TEST_TLS, ca: [TEST_CLIENT_TLS.cert], requestCert: true, allowHalfOpen: true };
const tls = createServer(whom, (near) => {
  const far = connect({ path: DOCKER_SOCKET, allowHalfOpen: true });
  near.on('error', () => far.destroy()).pipe(far);
  far.on('error', () => near.destroy()).pipe(near);
});
let tlsPort: number;

const boxed = `slipway-test-host-${randomUUID()}`;
/** Each call makes an engine as a new worker process would. */
const KINDS: Record<string, () => Engine> = {
  docker: () => new DockerEngine(new Dockerode(), root),
  'the machine itself': () => new BareEngine(new LocalShell(), root),
  'a host over SSH': overSsh,
  'Docker over SSH': () => {
    const reach: DockerSshReach = {
      ...sshd.reach(),
      kind: 'docker-ssh',
      socket: DOCKER_SOCKET,
      dir: root,
      helper: TEST_IMAGE,
    };
    const host = new SshHost('far', reach, sshd.privateKey);
    hosts.push(host);
    return remote(dockerOverSsh(host, DOCKER_SOCKET));
  },
  'Docker by TLS': () => {
    const reach = { kind: 'docker-tls', address: '127.0.0.1', port: tlsPort, dir: root, helper: TEST_IMAGE } as const;
    return remote(dockerByTls(reach, { ca: TEST_TLS.ca, ...TEST_CLIENT_TLS }));
  },
  'a container as a host': () =>
    new BareEngine(new ContainerShell(new Dockerode(), { container: boxed, shell: '/bin/sh' }, 'box'), root),
};
const DOCKER = Object.keys(KINDS).filter((kind) => /docker/i.test(kind));
const BARE = Object.keys(KINDS).filter((kind) => !DOCKER.includes(kind));

const never = (): AbortSignal => new AbortController().signal;
const nameOf = (): string => containerName(randomUUID(), 1);

type Made = Partial<ContainerSpec> & { name: string; script: string };

async function make(engine: Engine, { name, script, ...more }: Made): Promise<void> {
  const runDir = await engine.makeRunDir(name, script);
  const none = { env: {}, privileged: false, capAdd: [], capDrop: [], resources: {}, labels: {} };
  await engine.create({ ...none, name, image: TEST_IMAGE, runDir, script, ...more });
}

async function begin(engine: Engine, script: string, more: Partial<ContainerSpec> = {}): Promise<FoundContainer> {
  const name = nameOf();
  await make(engine, { name, script, ...more });
  await engine.start(name);
  return found(engine, name);
}

async function found(engine: Engine, name: string): Promise<FoundContainer> {
  const container = await engine.find(name);
  if (!container) throw new Error(`${name} is not there`);
  return container;
}

/** Those of the machine's own engine that have a variable, under a name or none. */
async function imagesWith(variable: string): Promise<string[]> {
  const docker = new Dockerode();
  // Another test may remove one meanwhile.
  const infos = (await docker.listImages()).map(({ Id: id }) =>
    docker
      .getImage(id)
      .inspect()
      .catch(() => undefined),
  );
  return (await Promise.all(infos)).flatMap((info) => (info?.Config.Env?.includes(variable) ? [info.Id] : []));
}

async function archived(engine: Engine, name: string) {
  const files: [string, number, string][] = [];
  const left: [string, string][] = [];
  for await (const entry of engine.archivedFiles(name)) {
    if (entry.kind === 'not-stored') {
      left.push([entry.path, entry.why]);
      continue;
    }
    const pieces = [];
    for await (const piece of entry.open()) pieces.push(piece);
    files.push([entry.path, entry.sizeBytes, Buffer.concat(pieces).toString()]);
  }
  return { files, left };
}

const wait = (engine: Engine, container: FoundContainer) =>
  engine.wait(container, { signal: never(), onRestart: () => undefined });

async function follow(
  engine: Engine,
  container: FoundContainer,
  { fromByte = 0, facts = [] as string[] } = {},
): Promise<string> {
  const pieces: Buffer[] = [];
  const onFact = (fact: string): void => void facts.push(fact);
  const options = { fromByte, signal: never(), exited: wait(engine, container).catch(() => undefined), onFact };
  for await (const piece of engine.follow(container, options)) pieces.push(piece);
  return Buffer.concat(pieces).toString();
}

async function run(engine: Engine, script: string, more: Partial<ContainerSpec> = {}) {
  const container = await begin(engine, script, more);
  const facts: string[] = [];
  const [exit, output] = await Promise.all([wait(engine, container), follow(engine, container, { facts })]);
  const isUnbegun = exit.isUnbegun ?? facts.includes('unbegun');
  return { name: container.name, exitCode: exit.exitCode, output, facts, isUnbegun };
}

/** Processes of this machine whose command line has a word in it. */
function processesWith(word: string): string[] {
  return execFileSync('ps', ['-eo', 'pid=,args=', '-ww'], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line.includes(word) && !line.includes('ps -eo'));
}

describe.each(Object.keys(KINDS))('%s', (kind) => {
  const engine = (): Engine => KINDS[kind]!();

  test('H1 a script runs in its folder with its environment byte for byte, and its exit code is the verdict', async () => {
    const env = { TRICKY: `a "b" 'c' \`d\` $(e) $F \\n ü`, LINES: 'one\ntwo', EMPTY: '' };
    const script = '#!/bin/sh\nprintf "%s|%s|%s|" "$TRICKY" "$LINES" "$EMPTY"; pwd; sleep 0.3; echo err >&2; exit 7\n';
    const { name, exitCode, output } = await run(engine(), script, { env });

    expect(exitCode).toBe(7);
    const folder = DOCKER.includes(kind) ? '/repo' : join(root, name, 'repo');
    expect(output).toBe(`${env.TRICKY}|${env.LINES}||${folder}\nerr\n`);
    await engine().remove(name);
  }, 30_000);

  test('H1 the folders of a run are named in its environment', async () => {
    const script = '#!/bin/sh\ncd "$H_REPO" && echo kept >"$H_ARCHIVE/file" && ls -d "$H_SECRETS" >/dev/null && pwd\n';
    const { name, exitCode } = await run(engine(), script);
    const files = [];
    for await (const file of engine().archivedFiles(name)) files.push(file.path);
    await engine().remove(name);

    expect([exitCode, files]).toEqual([0, ['file']]);
  }, 30_000);

  test('B4 B5 started again and again, by several at once, a script runs once; who comes later adopts it', async () => {
    const name = nameOf();
    await make(engine(), {
      name,
      script:
        '#!/bin/sh\necho began; echo x >>"$H_ARCHIVE/starts"; while [ ! -e "$H_ARCHIVE/go" ]; do sleep 0.1; done; echo over\n',
    });
    const one = engine();
    await one.start(name);
    await Promise.all([1, 2, 3].map(() => one.start(name)));
    const adopted = engine();
    const container = await found(adopted, name);
    expect(container.state).toBe('running');
    expect(container.startedAt).not.toBeNull();
    await waitFor(() => existsSync(join(root, name, 'archive', 'starts')), { what: 'it has begun' });
    execFileSync('touch', [join(root, name, 'archive', 'go')]);
    const output = await follow(adopted, container);
    await adopted.start(name);
    await engine().create({
      name,
      image: TEST_IMAGE,
      runDir: join(root, name),
      env: {},
      privileged: false,
      capAdd: [],
      capDrop: [],
      resources: {},
      labels: {},
    });

    expect(output).toBe('began\nover\n');
    expect((await found(engine(), name)).state).toBe('exited');
    expect(readFileSync(join(root, name, 'archive', 'starts'), 'utf8')).toBe('x\n');
    await adopted.remove(name);
    expect(await engine().find(name)).toBeUndefined();
  }, 30_000);

  test('R2 what a script writes to its errors stands where it was written between its lines of output, 100 times of 100', async () => {
    const script = `#!/bin/sh
round=0
while [ $round -lt 100 ]; do
  line=0; while [ $line -lt 200 ]; do echo "line $line"; line=$((line+1)); done
  echo "error $round" >&2
  round=$((round+1))
done
`;
    const { name, output } = await run(engine(), script);
    await engine().remove(name);
    const lines = Array.from({ length: 200 }, (_, line) => `line ${line}\n`).join('');

    expect(output === Array.from({ length: 100 }, (_, round) => `${lines}error ${round}\n`).join('')).toBe(true);
  }, 60_000);

  test('R2 output is followed from any byte, and much of it arrives whole', async () => {
    const container = await begin(
      engine(),
      '#!/bin/sh\ni=0; while [ $i -lt 20000 ]; do echo "line $i of this very run"; i=$((i+1)); done\n',
    );
    const whole = Array.from({ length: 20_000 }, (_, at) => `line ${at} of this very run\n`).join('');

    expect(await follow(engine(), container)).toBe(whole);
    expect(await follow(engine(), container, { fromByte: 100_003 })).toBe(whole.slice(100_003));
    expect(await follow(engine(), container, { fromByte: whole.length })).toBe('');
    await engine().remove(container.name);
  }, 60_000);

  test('B7 a stop is over when no process of the run is alive, those that ignore TERM or left their session included', async () => {
    const mark = `mark-${randomUUID()}`;
    const script = `#!/bin/sh
trap 'echo told' TERM
setsid sh -c 'trap "" TERM; while :; do sleep 1; done # ${mark}' &
sh -c 'trap "" TERM; while :; do sleep 1; done # ${mark}' &
echo ready
while :; do sleep 0.1; done
`;
    const container = await begin(engine(), script);
    await waitFor(() => processesWith(mark).length >= 2, { what: 'they run' });
    const output = follow(engine(), container);
    await engine().stop(container.name, 1_000);
    const left = processesWith(mark);

    expect(left).toEqual([]);
    expect(await output).toMatch(/^ready\n(?:Terminated\n)?told\n/);
    expect((await wait(engine(), container)).exitCode).toBe(137);
    await engine().stop(container.name, 1_000);
    await engine().remove(container.name);
  }, 30_000);

  test('B7 what a script has started is told to end as well, and has its grace time when the script is gone', async () => {
    const script = `#!/bin/sh
sh -c 'trap "sleep 0.5; echo given back; exit 0" TERM; echo took; while :; do sleep 0.1; done'
echo "not reached"
`;
    const container = await begin(engine(), script);
    const output = follow(engine(), container);
    const log = async (): Promise<string> => {
      const mine = new AbortController();
      let text = '';
      const options = { fromByte: 0, signal: mine.signal, exited: new Promise(() => undefined) };
      for await (const piece of engine().follow(container, options)) if ((text += String(piece)) !== '') break;
      mine.abort();
      return text;
    };
    await waitFor(async () => (await log()).includes('took'), { what: 'the tool has begun' });
    const beganMs = performance.now();
    await engine().stop(container.name, 20_000);

    expect(await output).toMatch(/^took\n(?:Terminated\n)?given back\n$/);
    expect(performance.now() - beganMs).toBeLessThan(15_000);
    expect((await found(engine(), container.name)).state).toBe('exited');
    await engine().remove(container.name);
  }, 60_000);

  test('H7 what a script leaves running ends with it, and a removal takes everything', async () => {
    const mark = `mark-${randomUUID()}`;
    const { name, exitCode } = await run(
      engine(),
      `#!/bin/sh\nsetsid sh -c 'while :; do sleep 1; done # ${mark}' & mkdir -p "$H_REPO/a/b"; chmod 500 "$H_REPO/a"; echo ok\n`,
    );

    expect(exitCode).toBe(0);
    expect(processesWith(mark)).toEqual([]);
    await engine().remove(name);
    expect(readdirSync(root)).not.toContain(name);
    await engine().remove(name);
    expect(await engine().listRemains()).not.toContain(name);
  }, 30_000);

  test('H7 a tree that is deeper than a path may be long, with names and modes of any kind, is removed too', async () => {
    const script = `#!/bin/sh
set -e
cd "$H_ARCHIVE"; : >"$(printf 'm\\374nch\\nen')"; mkdir shut; : >shut/file; chmod 000 shut
for top in "$H_ARCHIVE" "$H_REPO"; do
  cd "$top"; i=0
  while [ $i -lt 300 ]; do mkdir ddddddddddddddddddd; cd -P ddddddddddddddddddd 2>/dev/null || break; i=$((i + 1)); done
done
[ $i -gt 220 ] && echo deep
`;
    const { name, output } = await run(engine(), script);
    await engine().remove(name);

    expect(output).toContain('deep');
    expect(readdirSync(root)).not.toContain(name);
  }, 60_000);

  test('H7 one that runs is removed as well', async () => {
    const mark = `mark-${randomUUID()}`;
    const container = await begin(engine(), `#!/bin/sh\n: ${mark}\nsh -c 'while :; do sleep 1; done # ${mark}'\n`);
    await waitFor(() => processesWith(`# ${mark}`).length > 0, { what: 'it runs' });
    expect(await engine().listRemains()).toContain(container.name);
    await engine().remove(container.name);

    expect(processesWith(mark)).toEqual([]);
    expect(await engine().listRemains()).not.toContain(container.name);
  }, 30_000);

  test('R3 H6 plain files alone are artifacts, whatever they are called; all else is named with the reason', async () => {
    const script = `#!/bin/sh
cd "$H_ARCHIVE" && mkdir -p a/b && printf 12345 >"a/b/it's \\"odd\\" \\$x ü" && : >empty && printf 'two
' >'two
lines' && ln -s /etc/passwd link && ln -s /etc folder && mkfifo pipe
: >"$(printf 'm\\374n')" && deep=$(printf 'd/%.0s' $(seq 131)) && mkdir -p "$deep"
`;
    const { name } = await run(engine(), script);
    const { files, left } = await archived(engine(), name);
    rmSync(join(root, name, 'archive'), { recursive: true });
    const gone = await archived(engine(), name);
    await engine().remove(name);

    expect(gone).toEqual({ files: [], left: [['/', NO_ARCHIVE]] });
    expect(left).toEqual([
      [expect.stringMatching(/^(d\/){129}|^(d\/){90}.*…$/), KINDS_LEFT_OUT.deep],
      ['folder', KINDS_LEFT_OUT.link],
      ['link', KINDS_LEFT_OUT.link],
      ['m\\xfcn', 'its name is not UTF-8'],
      ['pipe', KINDS_LEFT_OUT.pipe],
    ]);

    expect(files).toEqual([
      ['a/b/it\'s "odd" $x ü', 5, '12345'],
      ['empty', 0, ''],
      ['two\nlines', 4, 'two\n'],
    ]);
  }, 30_000);

  test('H6 files pass both ways through the spool of a run: in pieces from any byte, whole or not at all, none through a link', async () => {
    const name = nameOf();
    const here = engine();
    const script = `#!/bin/sh
cd "$SLIPWAY_SPOOL/out" && printf 0123456789 >file && ln -s /etc/passwd link && mkfifo pipe && : >draft.new && mkdir folder
until [ -e "$SLIPWAY_SPOOL/in/go" ]; do sleep 0.1; done
cat "$SLIPWAY_SPOOL/in/bytes" | wc -c; slipway; touch "$SLIPWAY_SPOOL/in/mine" 2>/dev/null || echo "no place of its own"
cd "$SLIPWAY_SPOOL/out" && echo over >end.new && mv end.new end
`;
    const runDir = await here.makeRunDir(name, script, '#!/bin/sh\necho "the program of $0" | sed "s,of .*/,of ,"\n');
    const none = { env: {}, privileged: false, capAdd: [], capDrop: [], resources: {}, labels: {} };
    await here.create({ ...none, name, image: TEST_IMAGE, runDir, hasSpool: true });
    await here.start(name);
    const of = async (side: string): Promise<string[]> =>
      (await engine().spooled(name)).filter((one) => one.side === side).map((one) => `${one.name} ${one.sizeBytes}`);
    await waitFor(async () => existsSync(join(root, name, 'out', 'folder')), { what: 'it has written' });
    const taken = async (file: string, from: number): Promise<string> => {
      const pieces: Buffer[] = [];
      for await (const piece of engine().take(name, file, from)) pieces.push(piece);
      return Buffer.concat(pieces).toString();
    };
    const bytes = randomBytes(3_000_001);
    const shown: SpoolFile[][] = [];
    const watching = (async () => {
      for await (const files of engine().watchSpool(name, { signal: never() })) shown.push(files);
    })();
    const mine = new AbortController();
    const given = (async () => {
      for await (const _ of engine().watchSpool(name, { signal: mine.signal })) mine.abort(new Error('given up'));
    })();

    await expect(given).rejects.toThrow(/given up|aborted/);
    expect(await of('out')).toEqual(['file 10']);
    expect([await taken('file', 0), await taken('file', 7), await taken('file', 10)]).toEqual([
      '0123456789',
      '789',
      '',
    ]);
    await expect(taken('link', 0)).rejects.toMatchObject({ name: expect.stringMatching(/Error/) as string });
    expect(await engine().put(name, 'bytes', bytes)).toBe(bytes.length);
    expect(await engine().put(name, 'bytes', bytes.subarray(7))).toBe(bytes.length);
    expect(readFileSync(join(root, name, 'in', 'bytes')).equals(bytes)).toBe(true);
    expect(await of('in')).toEqual([`bytes ${bytes.length}`]);
    await engine().put(name, 'go', Buffer.alloc(0));
    let last: SpoolFile[] = [];
    for await (last of engine().watchSpool(name, { until: 'end', signal: never() }));
    expect(last).toEqual(await engine().spooled(name));
    expect(last.map((one) => one.name)).toContain('end');
    const refused = DOCKER.includes(kind) ? 'no place of its own\n' : '';
    expect(await follow(engine(), await found(engine(), name))).toBe(
      `${bytes.length}\nthe program of slipway\n${refused}`,
    );
    await engine().discard(name, 'f');
    await engine().discard(name, 'byt');
    expect([existsSync(join(root, name, 'out', 'file')), existsSync(join(root, name, 'out', 'folder'))]).toEqual([
      false,
      // A folder may become a link while it is walked: it stays until the run is removed.
      true,
    ]);
    expect(await of('in')).toContain('go 0');
    expect(await of('in')).not.toContain(`bytes ${bytes.length}`);
    await engine().remove(name);
    await watching;
    expect(await engine().spooled(name)).toEqual([]);
    expect(shown[0]).toEqual([{ side: 'out', name: 'file', sizeBytes: 10 }]);
    expect(shown.at(-1)).not.toEqual(shown[0]);
    expect(readdirSync(root)).not.toContain(name);
  }, 60_000);

  test('H10 terminals open in what a run left, several at once, each with its size, its keys and its exit code', async () => {
    const mark = `mark-${randomUUID()}`;
    const { name } = await run(engine(), '#!/bin/sh\necho left >left; exit 3\n', {
      env: { TRICKY: `it's "odd"`, MARK: mark },
    });
    const wish = { term: 'xterm', cols: 101, rows: 31 };
    const screenOf = async (terminal: Terminal): Promise<string> => {
      const pieces: Buffer[] = [];
      for await (const piece of terminal.output) pieces.push(piece);
      return Buffer.concat(pieces).toString().replaceAll('\r', '');
    };
    const command = ['sh', '-c', 'stty size; cat left; echo "$TRICKY"; read line; echo "read: $line"; exit 9'];
    const two = await Promise.all([1, 2].map(() => engine().openTerminal(name, { ...wish, command })));
    for (const [at, terminal] of two.entries()) await terminal.write(Buffer.from(`keys ${at}\r`));
    const shown = await Promise.all(two.map(screenOf));
    const codes = await Promise.all(two.map(({ ended }) => ended));
    const lasting = await engine().openTerminal(name, {
      ...wish,
      command: ['sh', '-c', `while :; do sleep 1; done # ${mark}`],
    });
    await waitFor(() => processesWith(`# ${mark}`).length > 0, { what: 'it runs' });
    if (!kind.includes('container')) {
      lasting.close();
      await waitFor(() => processesWith(`# ${mark}`).length === 0, { what: 'it ended with its terminal' });
    }
    // As a worker leaves it that is killed before a terminal has its container.
    const unused = `${name}_shell-0a`;
    if (DOCKER.includes(kind)) execFileSync('docker', ['tag', TEST_IMAGE, `slipway-held:${unused}`]);
    const remains = (await engine().listRemains()).filter((one) => one.startsWith(name));
    await Promise.all(remains.map((one) => engine().remove(one)));

    for (const [at, screen] of shown.entries()) {
      expect(screen).toContain(`31 101\n`);
      expect(screen).toContain('left\n');
      expect(screen).toContain(`it's "odd"\n`);
      expect(screen).toContain(`read: keys ${at}\n`);
    }
    expect(codes).toEqual([9, 9]);
    expect(remains.includes(unused)).toBe(DOCKER.includes(kind));
    expect(processesWith(`# ${mark}`)).toEqual([]);
    await waitFor(async () => (await imagesWith(`MARK=${mark}`)).length === 0, { what: 'no image of it is left' });
    expect((await engine().listRemains()).filter((one) => one.startsWith(name))).toEqual([]);
    lasting.close();
  }, 60_000);

  test('a script whose program is not there was not begun, and one that fails with the same code was', async () => {
    const scripts = ['#!/no/such/program\n', '#!/no/such/sh\n', '#!/bin/sh\necho "env: x/script: No such"; exit 127\n'];
    const seen = [];
    for (const script of scripts) {
      const { name, exitCode, isUnbegun, output } = await run(engine(), script);
      await engine().remove(name);
      seen.push([exitCode, isUnbegun]);
      expect(output).toMatch(/No such|not found/);
      expect(output).not.toMatch(/slipway (?:has|cannot)/);
    }

    expect(seen).toEqual([
      [127, true],
      [127, true],
      [127, false],
    ]);
  }, 30_000);

  test('what was never made is not there', async () => {
    const name = nameOf();

    expect(await engine().find(name)).toBeUndefined();
    await expect(engine().start(name)).rejects.toMatchObject({ reason: 'no-such-container' });
    await engine().stop(name, 1_000);
    await engine().remove(name);
    const files = [];
    for await (const file of engine().archivedFiles(name)) files.push(file);
    expect(files).toEqual([{ kind: 'not-stored', path: '/', why: expect.stringContaining('deleted') }]);
  }, 30_000);
});

describe.each(DOCKER)('%s', (kind) => {
  const engine = (): Engine => KINDS[kind]!();
  const ORDER = '#!/bin/sh\necho 1; echo 2 >&2; echo 3; echo 4 >&2; echo "$0" "$#"';
  const WRITTEN = '1\n2\n3\n4\n/slipway/script 0\n';

  test('R1 an entrypoint that does not run what it is given is known, whatever its exit code', async () => {
    const quiet = await run(engine(), ORDER, { entrypoint: '/bin/true' });
    const loud = await run(engine(), ORDER, { entrypoint: '/bin/ls' });
    const { beginning } = await found(engine(), quiet.name);
    for (const { name } of [quiet, loud]) await engine().remove(name);

    expect([quiet.exitCode, quiet.output, quiet.facts]).toEqual([0, '', ['unbegun']]);
    expect([loud.exitCode, loud.output, loud.facts]).toEqual([0, '/slipway/begin\n', ['unbegun']]);
    expect(beginning).toEqual({ entrypoint: ['/bin/true'] });
  }, 30_000);

  test('R2 an entrypoint that is a shell or runs what it is given, and a script that names none, keep the order as well', async () => {
    const seen = [
      await run(engine(), ORDER, { entrypoint: '/bin/sh' }),
      await run(engine(), ORDER, { entrypoint: '/usr/bin/env' }),
      await run(engine(), ORDER.replace('#!/bin/sh\n', '')),
      await run(engine(), '#!/bin/awk -f\nBEGIN { print 1; fflush(); print 2 >"/dev/stderr"; fflush(); print 3 }\n'),
    ];
    for (const { name } of seen) await engine().remove(name);

    expect(seen.map(({ facts }) => facts)).toEqual([['begun'], ['begun'], ['begun'], ['begun']]);
    expect(seen.map(({ output }) => output)).toEqual([WRITTEN, WRITTEN, WRITTEN, '1\n2\n3\n']);
  }, 30_000);

  test('R2 an entrypoint that reads the script itself is given the script, and nobody says that it was not begun', async () => {
    const { name, output, facts } = await run(engine(), '#!/bin/cat\necho 1\n', { entrypoint: '/bin/cat' });
    await engine().remove(name);

    expect([output, facts]).toEqual(['#!/bin/cat\necho 1\n', []]);
  }, 30_000);
});

describe.each(BARE)('%s', (kind) => {
  const engine = (): Engine => KINDS[kind]!();

  test('H4 once a host has seen a newer token, an older one can start, stop and clean up nothing', async () => {
    const name = nameOf();
    const [old, young] = [engine().under(7), engine().under(8)];
    await make(old, { name, script: '#!/bin/sh\nwhile :; do sleep 0.1; done\n' });
    await young.start(name);
    await old.find(name);
    const refused = { reason: 'fenced' };

    await expect(old.start(name)).rejects.toMatchObject(refused);
    await expect(old.stop(name, 0)).rejects.toMatchObject(refused);
    await expect(old.remove(name)).rejects.toMatchObject(refused);
    await expect(old.makeRunDir(name, 'other')).rejects.toMatchObject(refused);
    expect((await found(young, name)).state).toBe('running');
    await young.stop(name, 0);
    await young.remove(name);
  }, 30_000);

  test('B4 a runner that was killed: what lives on is followed, and its end is recorded as lost', async () => {
    const container = await begin(
      engine(),
      '#!/bin/sh\necho on; while [ ! -e "$H_ARCHIVE/go" ]; do sleep 0.1; done; echo off\n',
    );
    const [runner = ''] = readFileSync(join(root, container.name, 'pid'), 'utf8').split(' ');
    process.kill(Number(runner), 'SIGKILL');
    expect((await found(engine(), container.name)).state).toBe('running');
    execFileSync('touch', [join(root, container.name, 'archive', 'go')]);
    const exit = await wait(engine(), container);

    expect(exit).toMatchObject({ exitCode: 255, isUnwatched: true });
    expect(await follow(engine(), container)).toBe('on\noff\n');
    await engine().remove(container.name);
  }, 40_000);

  test('H1 a probe says what machine it is, and names what keeps runs from working there', async () => {
    const shell = kind === 'the machine itself' ? new LocalShell() : new SshHost('box', sshd.reach(), sshd.privateKey);
    if (shell instanceof SshHost) hosts.push(shell);
    const { machine, freeDiskBytes } = await new BareEngine(shell, join(dir, 'probed')).probe();

    expect(machine.os).toBe('linux');
    expect(machine.arch).toMatch(/^[a-z0-9]+$/);
    expect(machine.cpus).toBeGreaterThan(0);
    expect(machine.memoryBytes).toBeGreaterThan(1024 ** 2);
    expect(freeDiskBytes).toBeGreaterThan(0);
    await expect(new BareEngine(shell, '/proc/none').probe()).rejects.toMatchObject({ reason: 'engine-unavailable' });
  }, 30_000);
});

test('H6 a link that a run puts in place of a file while it is read never leads to a file of another run', async () => {
  const place = join(dir, 'raced');
  const folders = new BareEngine(new LocalShell(), place);
  const [name, other] = [nameOf(), nameOf()];
  await folders.makeRunDir(name, '', '#!/bin/sh\n');
  await folders.makeRunDir(other, '');
  writeFileSync(join(place, other, 'secrets', 'key'), 'of another run');
  writeFileSync(join(place, name, 'out', 'plain'), 'its own');
  const swap = `while :; do cp plain a; mv -f a file; ln -s ../../${other}/secrets/key b; mv -f b file; done`;
  const swapping = spawn('sh', ['-c', swap], { cwd: join(place, name, 'out'), stdio: 'ignore' });
  const seen = new Set<string>();
  for (let reads = 0; reads < 200; reads += 1) {
    const pieces: Buffer[] = [];
    try {
      for await (const piece of folders.take(name, 'file', 0)) pieces.push(piece);
      seen.add(Buffer.concat(pieces).toString());
    } catch (error) {
      seen.add((error as EngineError).reason);
    }
  }
  swapping.kill('SIGKILL');

  expect(seen).toContain('refused');
  expect(seen).not.toContain('of another run');
}, 60_000);

test('R1 a large environment reaches the engine, and stands in no URL on the way', async () => {
  const proxy = await HoldingProxy.open({ socketPath: DOCKER_SOCKET }, async () => undefined);
  const engine = new DockerEngine(new Dockerode({ host: '127.0.0.1', port: proxy.port }), root);
  const values = Object.fromEntries(['A', 'B', 'C'].map((key) => [key, '€'.repeat(42_000)]));
  const script = '#!/bin/sh\nfor value in "$A" "$B" "$C"; do printf "$value" | wc -c; done\n';
  const { name, exitCode, output } = await run(engine, script, { env: { ...values, TOKEN: 's3cr3t' } });
  await engine.remove(name);
  await proxy.close();

  expect([exitCode, output]).toEqual([0, '126000\n'.repeat(3)]);
  expect(proxy.passed).toContain(`POST /containers/create?name=${name}`);
  expect(proxy.passed.filter((call) => call.includes('s3cr3t'))).toEqual([]);
}, 60_000);

describe('docker, by hand', () => {
  const engine = KINDS['docker']!();
  const LONG = '#!/bin/sh\necho began; while [ ! -e /archive/go ]; do sleep 0.1; done; exit "$CODE"\n';
  const go = (name: string): void => void execFileSync('touch', [join(root, name, 'archive', 'go')]);

  test("B10 a container that somebody removes, or whose shim is killed, is lost: its exit code is not the script's", async () => {
    const [removed, shimless] = [await begin(engine, LONG), await begin(engine, LONG)];
    const ends = [removed, shimless].map((container) => wait(engine, container).catch((error: EngineError) => error));
    execFileSync('docker', ['rm', '-f', removed.id]);
    const shims = processesWith(shimless.id).filter((line) => line.includes('containerd-shim'));
    for (const shim of shims) process.kill(Number.parseInt(shim, 10), 'SIGKILL');

    expect(await Promise.all(ends)).toMatchObject([{ reason: 'no-such-container' }, { reason: 'no-such-container' }]);
    for (const { name } of [removed, shimless]) await engine.remove(name);
  }, 30_000);

  test('B10 a script that kills itself, or exits like one that was, has its own exit code', async () => {
    const seen = [];
    for (const script of ['#!/bin/sh\nkill -9 $$\n', '#!/bin/sh\nexit 137\n', '#!/bin/sh\nexit 255\n']) {
      const { name, exitCode } = await run(engine, script);
      await engine.remove(name);
      seen.push(exitCode);
    }

    expect(seen).toEqual([137, 137, 255]);
  }, 30_000);

  test('H7 a container that somebody gave another name is followed, listed and removed as before', async () => {
    const { name, ...container } = await begin(engine, LONG, {
      env: { CODE: '3' },
      labels: { 'dev.slipway.run-id': 'x' },
    });
    const end = wait(engine, { name, ...container });
    execFileSync('docker', ['rename', container.id, `mine-${name}`]);
    go(name);

    expect((await end).exitCode).toBe(3);
    expect((await found(KINDS['docker']!(), name)).state).toBe('exited');
    expect(await engine.listRemains()).toContain(name);
    await engine.remove(name);
    expect(await engine.listRemains()).not.toContain(name);
    await expect(new Dockerode().getContainer(container.id).inspect()).rejects.toMatchObject({ statusCode: 404 });
  }, 30_000);

  test('R1 a process of a script that the kernel killed for its memory is known, whatever the script says then', async () => {
    // The kernel takes those first that ask for it, and not the script's own shell.
    const greedy = 'echo 1000 >/proc/self/oom_score_adj; head -c 200000000 /dev/zero | tail -c 190000000 >/dev/null';
    const script = `#!/bin/sh\nsh -c "${greedy}"; exit "$CODE"\n`;
    const seen = [];
    for (const CODE of ['2', '0']) {
      const container = await begin(engine, script, { env: { CODE }, resources: { memoryBytes: 32 * 1024 * 1024 } });
      const { exitCode, outOfMemory } = await wait(engine, container);
      await engine.remove(container.name);
      seen.push([exitCode, outOfMemory]);
    }

    expect(seen).toEqual([
      [2, true],
      [0, true],
    ]);
  }, 60_000);
});

test('R1 a container has 4,096 processes at most when its file does not say how many', async () => {
  const name = nameOf();
  await make(KINDS['docker']!(), { name, script: '' });
  const { HostConfig: host } = await new Dockerode().getContainer(name).inspect();
  await KINDS['docker']!().remove(name);

  expect(host.PidsLimit).toBe(4_096);
});

describe('a host over SSH', () => {
  test('R2 H6 the link is cut again and again: no byte is lost or doubled, and its end is heard', async () => {
    const engine = overSsh();
    const container = await begin(
      engine,
      '#!/bin/sh\ni=0; while [ $i -lt 400 ]; do echo "line $i"; i=$((i+1)); sleep 0.01; done; exit 3\n',
    );
    const output = follow(engine, container);
    const exit = wait(engine, container);
    for (let times = 0; times < 3; times += 1) {
      await new Promise((done) => setTimeout(done, 700));
      link.cut();
      await new Promise((done) => setTimeout(done, 200));
      link.mend();
    }

    expect(await output).toBe(Array.from({ length: 400 }, (_, at) => `line ${at}\n`).join(''));
    expect((await exit).exitCode).toBe(3);
    await engine.remove(container.name);
  }, 60_000);

  test('H1 one that shows another key is not believed, and one that does not know the worker says so', async () => {
    const other = `SHA256:${'A'.repeat(43)}`;
    const stranger = new SshHost('box', sshd.reach({ hostKeys: [other] }), sshd.privateKey);
    const unknown = new SshHost('box', sshd.reach({ user: 'nobody-of-this-name' }), sshd.privateKey);
    const away = new SshHost('box', sshd.reach({ port: 1 }), sshd.privateKey);

    await expect(stranger.open(['true'])).rejects.toThrow(
      `shows host key ${sshd.hostKey}, which is none of those listed`,
    );
    await expect(unknown.open(['true'])).rejects.toThrow('does not take the key of this worker');
    await expect(away.open(['true'])).rejects.toThrow(/127\.0\.0\.1:1 is not reached: /);
  }, 30_000);

  test('B4 an exit code that comes together with all that a command said is heard', async () => {
    const late = await CuttableLink.open(sshd.port, 200);
    const host = new SshHost('box', sshd.reach({ port: late.port.at }), sshd.privateKey);
    hosts.push(host);
    const { output, ended } = await host.open(['sh', '-c', 'echo said; exit 7']);
    const said = [];
    for await (const piece of output) said.push(String(piece));
    const { code } = await ended;
    await late.close();

    expect([said.join(''), code]).toEqual(['said\n', 7]);
  }, 30_000);

  test('H1 a command that is let go, or not read to its end, is over, and its session is free', async () => {
    const host = new SshHost('box', sshd.reach(), sshd.privateKey);
    hosts.push(host);
    const chatty = ['sh', '-c', 'while echo more; do sleep 0.1; done'];
    for (let times = 0; times < 12; times += 1) {
      const mine = new AbortController();
      const letGo = await host.open(chatty, { signal: mine.signal });
      const unread = await host.open(chatty);
      for await (const piece of unread.output) if (piece.length > 0) break;
      mine.abort();
      await Promise.allSettled([letGo.ended, unread.ended]);
    }
  }, 30_000);

  test('H1 as many commands as runs need at once, over the sessions that a server allows', async () => {
    const host = new SshHost('box', sshd.reach(), sshd.privateKey);
    hosts.push(host);
    const codes = await Promise.all(
      Array.from({ length: 40 }, async (_, at) => {
        const { output, ended } = await host.open(['sh', '-c', `sleep 0.3; exit ${at}`]);
        for await (const piece of output) throw new Error(String(piece));
        return (await ended).code;
      }),
    );

    expect(codes).toEqual(Array.from({ length: 40 }, (_, at) => at));
  }, 30_000);
});
