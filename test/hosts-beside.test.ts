// Proves that one run has several hosts at the same time, all of them or none: its script uses the others by name, whoever
// supervises it, gives them back early, and nothing of it is left on any of them. Real Temporal, real sshd, real Docker.
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { helperName } from '../adapters/remote-docker';
import { execFileSync } from 'node:child_process';
import type { Run } from '../domain/schemas/api';
import type { LeaseSummary } from '../domain/schemas/hosts';
import { DOCKER_SOCKET, House, TEST_IMAGE } from './setup/house';
import { SshServer } from './setup/sshd';
import { waitFor } from './setup/wait-for';

let house: House;
let sshd: SshServer;
const helped = { dir: '', helper: TEST_IMAGE };
beforeAll(async () => {
  sshd = await SshServer.open();
  house = await House.open({
    without: ['worker'],
    slots: 8,
    env: {
      SLIPWAY_HEARTBEAT_TIMEOUT_MS: '6000',
      SLIPWAY_REATTACH_GRACE_MS: '20000',
      SLIPWAY_SSH_KEY: sshd.privateKey,
      SLIPWAY_AGE_STEP_MS: '15000',
    },
  });
  helped.dir = join(house.dir, 'far');
  for (const name of ['first', 'second']) {
    house.add(name, 'worker', { SLIPWAY_HOST: name, SLIPWAY_WORKER_DIR: `${house.dir}/${name}` });
  }
  await house.start('first');
  await list('board-1', ['board', 'windows']);
  await list('board-2', ['board', 'mac']);
  await list('server-1', ['server']);
  await house.listHost({
    name: 'far-1',
    labels: ['far'],
    reach: { ...sshd.reach(), shell: undefined, kind: 'docker-ssh', socket: DOCKER_SOCKET, ...helped },
  });
}, 120_000);
afterAll(async () => {
  await house?.stop();
  await sshd?.stop();
  execFileSync('docker', ['rm', '-f', helperName(helped)]);
}, 60_000);

const list = (name: string, labels: string[]): Promise<void> =>
  house.listHost({ name, labels, reach: sshd.reach({ dir: join(sshd.dir, name) }) });

/** One run with other hosts. @param hosts as the file has them @param more further keys of the run, each with its comma */
function beside(hosts: string, script: string, more = ''): string {
  return `timeout: 5
triggers:
  - name: main
    runs:
      - { name: work, container: ${TEST_IMAGE}, script: work, hosts: ${hosts}${more} }
scripts:
  work: |
${script
  .trim()
  .split('\n')
  .map((line) => `    ${line}`)
  .join('\n')}
`;
}

async function outcome(project: string, definition: string): Promise<{ run: Run; log: string }> {
  await house.project(project, definition);
  const { number } = await house.trigger(project);
  await house.finished(project, number, 60_000);
  return { run: await house.run(project, number, 'work'), log: await house.logOf(project, number, 'work') };
}
const leases = async (query: string): Promise<LeaseSummary[]> =>
  (await house.call<{ leases: LeaseSummary[] }>('GET', `/v1/leases${query}`)).leases;
const foldersLeft = (): string[] =>
  ['board-1', 'board-2', 'server-1'].flatMap((name) =>
    readdirSync(join(sshd.dir, name)).filter((folder) => folder.startsWith('slipway-')),
  );
const nothingIsLeft = () =>
  waitFor(
    async () => {
      const left = { leases: await leases(''), folders: foldersLeft(), containers: await house.containers() };
      if (Object.values(left).some((one) => one.length > 0)) throw new Error(JSON.stringify(left));
      return true;
    },
    { what: 'nothing is left', timeoutMs: 120_000, intervalMs: 500 },
  );

test('H9 a script runs commands on its other hosts by their names, and has their output, their errors and their exit codes', async () => {
  const { run, log } = await outcome(
    'commands',
    beside(
      '{ board: board, peer: far }',
      `
#!/bin/sh
exec 2>&1
echo "hosts: $H_HOSTS at $H_ADDRESS_BOARD"
slipway on board -- sh -c 'echo "$H_HOST of $H_RUN on $H_WORKER"; pwd >&2; exit 7' 2>/tmp/errors
echo "code $?, errors $(sed 's,.*/slipway-.*-board/,…/,' /tmp/errors)"
slipway on peer -- sh -c 'echo "$H_HOST on $H_WORKER in $(pwd)"'
slipway on board -- printf '%s|' "it's" 'two
lines' '' '$HOME \\"x\\"' ; echo
slipway on board -- sh -c 'echo one >kept'; slipway on board -- cat kept
timeout 1 slipway on peer -- sleep 1000 2>/dev/null; echo "code $?"
slipway on nobody -- true; echo "code $?"
slipway fly; echo "code $?"
`,
    ),
  );

  expect(run.message).toBe('');
  expect(log).toBe(`hosts: board peer at 127.0.0.1
board of work on board-1
code 7, errors …/repo
peer on far-1 in /repo
it's|two
lines||$HOME \\"x\\"|
one
code 143
slipway: this run has no host nobody; it has: board peer
code 2
slipway: use: slipway on HOST -- COMMAND ..., slipway copy [HOST:]PATH [HOST:]PATH, slipway release HOST ...
code 2
`);
  await nothingIsLeft();
}, 180_000);

test('H6 H9 files and trees are copied to another host and back, byte for byte, with their modes and their links', async () => {
  const { run, log } = await outcome(
    'copies',
    beside(
      '{ board: board, peer: far }',
      `
#!/bin/sh -e
exec 2>&1
mkdir -p "tree/a b/c"; echo x >"tree/a b/c/it's"; : >tree/empty; ln -s "a b" tree/link; echo 'echo run' >tree/run; chmod 755 tree/run
dd if=/dev/urandom of=big bs=1000003 count=11 2>/dev/null
slipway copy tree board:
slipway copy tree board:deep/er/other
slipway copy big board:copied-big
slipway on board -- sh -c 'cat "tree/a b/c/it'"'"'s"; test -h tree/link; tree/run; ls deep/er/other | tr "\\n" " "'
slipway copy board:deep/er/other back
slipway copy board:tree/. here
slipway copy board:copied-big .
slipway on board -- sh -c 'wc -c <copied-big'
cmp big copied-big
diff -r tree back && diff -r tree here && echo same
slipway copy tree peer:sent; slipway on peer -- sent/run; slipway copy peer:sent round; diff -r tree round && echo round
slipway copy nothing board: || echo "code $?"
slipway copy board:nothing . || echo "code $?"
slipway copy big copied || echo "code $?"
`,
    ),
  );

  expect(log).toBe(`x
run
a b empty link run 11000033
same
run
round
slipway: no file or folder ./nothing on this host
code 1
slipway: no file or folder ./nothing on board
code 1
slipway: neither big nor copied begins with a host of this run; it has: board peer
code 2
`);
  expect(run.outcome).toBe('passed');
  await nothingIsLeft();
}, 180_000);

test('H9 a host is given back as soon as the script says so, and the next run has it while the first goes on', async () => {
  const script = (more: string): string => `
#!/bin/sh
exec 2>&1
slipway on board -- sh -c 'sleep 1000 & echo "$H_RUN $H_BUILD"'
${more}
`;
  await house.project(
    'early',
    beside(
      '{ board: board-1 }',
      script(
        'slipway release board; echo "given back: $?"; slipway on board -- true; echo "code $?"; while [ ! -e /repo/over ]; do sleep 0.2; done',
      ),
    ),
  );
  await house.project('later', beside('{ board: board-1 }', script('')));
  await house.trigger('early');
  await waitFor(async () => (await house.logOf('early', 1, 'work')).includes('code 2'), {
    what: 'it was given back',
    timeoutMs: 60_000,
  });
  const held = await leases('?host=board-1');
  await house.trigger('later');
  const later = await house.finished('later', 1, 60_000);
  const early = await house.run('early', 1, 'work');
  await house.call('POST', '/v1/projects/early/builds/1/cancel');
  await house.finished('early', 1, 60_000);

  expect(held).toEqual([]);
  expect(later.status).toBe('passed');
  expect(early.state).toBe('running');
  expect(await house.logOf('early', 1, 'work')).toBe(`work 1
given back: 0
slipway: host board was given back already
code 2
`);
  await nothingIsLeft();
}, 180_000);

test('H9 a board and a server: eight builds that want both of them in either order, and four that want one, all pass, none waits for ever', async () => {
  const script = `
#!/bin/sh
for host in $H_HOSTS; do slipway on $host -- sh -c 'mkdir /tmp/held-by-a-test-'$H_ADDRESS_NOBODY'$H_WORKER && sleep 1 && rmdir /tmp/held-by-a-test-$H_WORKER' || exit 9; done
`;
  const gangs = Array.from({ length: 8 }, (_, at) => `gang-${at}`);
  const singles = Array.from({ length: 4 }, (_, at) => `single-${at}`);
  for (const [at, name] of gangs.entries()) {
    const hosts = at % 2 === 0 ? '{ board: board-1, server: server }' : '{ server: server, board: board-1 }';
    await house.project(name, beside(hosts, script));
  }
  for (const [at, name] of singles.entries()) {
    await house.project(name, beside(at % 2 === 0 ? '{ one: board-1 }' : '{ one: server }', script));
  }
  await Promise.all([...gangs, ...singles].map((name) => house.trigger(name)));
  const builds = await Promise.all([...gangs, ...singles].map((name) => house.finished(name, 1, 240_000)));

  expect(builds.map(({ status }) => status)).toEqual(builds.map(() => 'passed'));
  await nothingIsLeft();
  const all = await leases('?all=true&limit=1000');
  for (const host of ['board-1', 'server-1']) {
    const held = all.filter((one) => one.host === host).map((one) => [one.grantedAt, one.endedAt ?? ''] as const);
    held.sort(([a], [b]) => a.localeCompare(b));
    for (const [at, [granted]] of held.entries()) expect(at === 0 || granted >= held[at - 1]![1]).toBe(true);
  }
  // Both in one moment, or none.
  for (const name of gangs) {
    const granted = all.filter(({ project, name: called }) => project === name && called !== null);
    expect(new Set(granted.map((one) => one.grantedAt)).size).toBe(1);
  }
}, 400_000);

test('H9 the worker that supervises is killed in the middle of a command and of a copy: another goes on, nothing runs twice, no byte is missing', async () => {
  const script = `
#!/bin/sh
set -e
slipway on board -- sh -c 'echo started >>starts; i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo "line $i"; sleep 0.1; done'
dd if=/dev/zero of=big bs=1M count=64 2>/dev/null; echo end >>big
slipway copy big board:big
slipway on board -- sh -c 'wc -c <big; tail -c 4 big; wc -l <starts'
slipway release board
`;
  await house.project('killed', beside('{ board: board }', script, `, host-tag: server`));
  await house.start('second');
  await house.trigger('killed');
  const log = (): Promise<string> => house.logOf('killed', 1, 'work');
  let killed = 0;
  for (const mark of ['line 20\n', 'line 100\n']) {
    await waitFor(async () => (await log()).includes(mark), {
      what: `its log has ${mark}`,
      timeoutMs: 60_000,
      intervalMs: 50,
    });
    const name = await supervisor();
    await house.kill9(name);
    await house.start(name);
    killed += 1;
  }
  const build = await house.finished('killed', 1, 120_000);
  const { attempts } = await house.run('killed', 1, 'work');

  expect(killed).toBe(2);
  expect(build.status).toBe('passed');
  expect(attempts).toHaveLength(1);
  const lines = Array.from({ length: 100 }, (_, at) => `line ${at + 1}\n`).join('');
  expect(await log()).toBe(`${lines}${64 * 1024 * 1024 + 4}\nend\n1\n`);
  await nothingIsLeft();
}, 300_000);

test('B4 H9 every part is killed while a script works on another host: its commands and copies go on, each once, in their order', async () => {
  const over = join(sshd.dir, 'all-were-killed');
  const script = `
#!/bin/sh
exec 2>&1
i=0
while [ "$last" != last ]; do
  i=$((i+1)); echo "file $i" >file
  slipway copy file board:file || exit
  last=$(slipway on board -- sh -c 'cat file >>all; echo >>all; if [ -e ${over} ]; then echo last; fi') || exit
  echo "did $i"
done
slipway on board -- cat all
`;
  await house.project('all-killed', beside('{ board: board }', script, `, host-tag: server`));
  await house.trigger('all-killed');
  const done = async (): Promise<number> => (await house.logOf('all-killed', 1, 'work')).split('did ').length - 1;
  const parts = ['supervisor', 'api', 'supervisor', 'orchestrator', 'supervisor', 'database', 'Temporal', 'supervisor'];
  for (const part of parts) {
    const before = await done();
    await waitFor(async () => (await done()) > before, {
      what: `it goes on before the ${part} is killed`,
      timeoutMs: 90_000,
    });
    // Anywhere in a command or a copy.
    await sleep(Math.random() * 1_500);
    if (part === 'Temporal') {
      await house.temporal.kill9();
      await sleep(2_000);
      await house.temporal.restart();
      continue;
    }
    const name = part === 'supervisor' ? await supervisor() : part;
    await house.kill9(name);
    await sleep(1_000);
    await house.start(name);
  }
  writeFileSync(over, '');
  const build = await house.finished('all-killed', 1, 120_000);
  const { attempts, message } = await house.run('all-killed', 1, 'work');
  const log = await house.logOf('all-killed', 1, 'work');

  expect([message, build.status, attempts.length]).toEqual(['', 'passed', 1]);
  const rounds = Array.from({ length: await done() }, (_, at) => at + 1);
  const said = rounds.map((at) => `did ${at}\n`).join('');
  expect(log).toBe(said + rounds.map((at) => `file ${at}\n\n`).join(''));
  await nothingIsLeft();
}, 400_000);

/** The member that holds the lease of a run's own host now. */
async function supervisor(): Promise<string> {
  const [lease] = (await leases('?host=server-1')).filter(({ name }) => name === null);
  const { workers } = await house.call<{ workers: { id: string; host: string }[] }>('GET', '/v1/workers');
  return workers.find(({ id }) => id === lease?.worker)?.host ?? '';
}

test('H9 a host beside that is lost ends the attempt with its name, and the next attempt has all hosts anew', async () => {
  const script = `
#!/bin/sh
echo "attempt $H_ATTEMPT"
[ "$H_ATTEMPT" -gt 1 ] || sleep 1000
slipway on board -- echo ok
`;
  await house.project('lost', beside('{ board: far }', script));
  await house.trigger('lost');
  await waitFor(async () => (await house.logOf('lost', 1, 'work')).includes('attempt 1'), {
    what: 'it runs',
    timeoutMs: 60_000,
  });
  const holder = (await house.containers()).find(({ name }) => name.endsWith('-board'));
  execFileSync('docker', ['kill', holder?.name ?? '']);
  const build = await house.finished('lost', 1, 120_000);
  const { attempts } = await house.run('lost', 1, 'work');

  expect(build.status).toBe('passed');
  expect(attempts.map(({ cause }) => cause)).toEqual(['beside-lost', 'ok']);
  expect(attempts[0]?.message).toBe('host board (far-1): what served the run there is gone');
  await nothingIsLeft();
}, 240_000);

test('C8 H9 a run that cannot have all its hosts says which one keeps it waiting', async () => {
  await house.project('wanting', beside('{ board: board, gpu: gpu }', '#!/bin/sh\ntrue'));
  await house.trigger('wanting');
  const said = await waitFor(
    async () =>
      (await house.run('wanting', 1, 'work')).waiting?.includes('gpu') &&
      (await house.run('wanting', 1, 'work')).waiting,
    {
      what: 'it says so',
      timeoutMs: 10_000,
    },
  );
  await list('gpu-1', ['gpu']);
  const build = await house.finished('wanting', 1, 60_000);

  expect(said).toMatch(/^it needs 3 hosts at once; for gpu: no host matches host-tag "gpu"; nearest: /);
  expect(build.status).toBe('passed');
}, 120_000);

test('H9 one build runs on several platforms, each run where its label is', async () => {
  const definition = `timeout: 5
triggers:
  - name: main
    runs:
      - name: on
        container: unused
        script: work
        matrix: { axes: { host-tag: [windows, mac, 'server,linux'] } }
scripts:
  work: |
    #!/bin/sh
    echo "$H_WORKER"
`;
  await house.project('platforms', definition);
  await house.trigger('platforms');
  const build = await house.finished('platforms', 1, 60_000);

  expect(build.status).toBe('passed');
  expect(build.runs.map(({ name, host }) => `${name} ${host}`)).toEqual([
    'on-windows board-1',
    'on-mac board-2',
    'on-server,linux server-1',
  ]);
}, 120_000);
