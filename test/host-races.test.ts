// Proves that a host over SSH is given to the next run only when nothing of the one before is alive, and that nothing is left on
// it whatever dies at whatever moment. Real Temporal, real sshd, real SIGKILL; the races are those that others have lost.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { embeddedUrl } from '../adapters/embedded-database';
import { openStore, type Database } from '../adapters/store/connect';
import { CALLS, holdCalls } from './setup/crash-rig';
import { HoldingProxy } from './setup/holding-proxy';
import { House, tagged } from './setup/house';
import { SshServer } from './setup/sshd';
import { waitFor } from './setup/wait-for';

/** Of those that an attempt makes, the ones that it makes to the server wherever it runs. */
const BOUNDARIES = CALLS.filter((call) => !['create', 'start', 'wait', 'remove'].includes(call)).flatMap((call) => [
  `${call} before`,
  `${call} after`,
]);
const LINES = 40;

let house: House;
let sshd: SshServer;
let api: HoldingProxy;
let db: Database | undefined;
beforeAll(async () => {
  sshd = await SshServer.open();
  house = await House.open({
    without: ['worker'],
    env: {
      SLIPWAY_HEARTBEAT_TIMEOUT_MS: '6000',
      SLIPWAY_REATTACH_GRACE_MS: '20000',
      SLIPWAY_SSH_KEY: sshd.privateKey,
      SLIPWAY_ENGINE: 'none',
    },
  });
  db = openStore(embeddedUrl(join(house.dir, 'run')));
  api = await HoldingProxy.open(
    { host: '127.0.0.1', port: new URL(house.url).port },
    holdCalls(() => db),
  );
  house.add('first', 'worker', {
    SLIPWAY_HOST: 'first',
    SLIPWAY_WORKER_DIR: `${house.dir}/first`,
    SLIPWAY_SERVER: `http://127.0.0.1:${api.port}`,
  });
  house.add('second', 'worker', { SLIPWAY_HOST: 'second', SLIPWAY_WORKER_DIR: `${house.dir}/second` });
  await house.start('first');
}, 120_000);
afterAll(async () => {
  await db?.destroy();
  await house?.stop();
  await api?.close();
  await sshd?.stop();
}, 60_000);

const list = (name: string, slots: number): Promise<void> =>
  house.listHost({ name, labels: [name], slots, reach: sshd.reach() });
/** Commands of processes on the host that have a word in their environment or their arguments. */
const processesWith = (word: string): string[] =>
  readdirSync('/proc').flatMap((entry) => {
    if (!/^\d+$/.test(entry)) return [];
    const [args, env] = ['cmdline', 'environ'].map((file) => textOf(`/proc/${entry}/${file}`));
    return args?.includes(word) || env?.includes(word) ? [`${entry}: ${args?.replaceAll('\0', ' ')}`] : [];
  });
const textOf = (path: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
};
const foldersLeft = (): string[] => {
  const { dir } = sshd.reach();
  return existsSync(dir) ? readdirSync(dir).filter((name) => name.startsWith('slipway-')) : [];
};
const nothingIsLeft = () =>
  waitFor(
    async () => {
      const leases = await house.call<{ leases: unknown[] }>('GET', '/v1/leases');
      const left = { ...leases, folders: foldersLeft(), processes: processesWith('SLIPWAY_RUN=/slipway-') };
      if (Object.values(left).some((one) => one.length > 0)) throw new Error(JSON.stringify(left));
      return true;
    },
    { what: 'nothing is left', timeoutMs: 90_000, intervalMs: 500 },
  );

test('H7 the abort race: a run that is cancelled has no process any more when its host goes to the next one', async () => {
  await list('single', 1);
  // Deaf to TERM, and with a part that has left its session.
  const deaf = `#!/bin/sh
trap '' TERM
setsid sh -c 'trap "" TERM; while :; do sleep 0.1; done # deaf-part' &
echo begun
while :; do sleep 0.1; done`;
  await house.project('aborted', tagged('single', deaf));
  // What the next one sees when it begins.
  await house.project('next', tagged('single', `#!/bin/sh\nps -eo args | grep -c '[d]eaf-part'\ntrue`));
  await house.trigger('aborted');
  await house.runIn('running', 'aborted', 1, 'work');
  await waitFor(async () => (await house.logOf('aborted', 1, 'work')).includes('begun'), { what: 'it has begun' });
  await house.trigger('next');
  await house.call('POST', '/v1/projects/aborted/builds/1/cancel');
  await house.finished('next', 1, 90_000);

  expect((await house.run('aborted', 1, 'work')).outcome).toBe('cancelled');
  expect(await house.logOf('next', 1, 'work')).toBe('0\n');
  await nothingIsLeft();
}, 180_000);

test('H7 the sibling race: a run that fails takes nothing from those of its build that still run on their hosts', async () => {
  await list('pair', 2);
  const both = tagged(
    'pair',
    '#!/bin/sh\necho "$H_RUN"; [ "$H_RUN" = work ] && exit 1; sleep 6; ls "$H_REPO" && echo whole',
  );
  const more = `      - { name: sibling, container: unused, script: work, host-tag: pair }\nscripts:`;
  await house.project('siblings', both.replace('scripts:', more));
  await house.trigger('siblings');
  await house.runIn('finished', 'siblings', 1, 'work');
  const sibling = await house.run('siblings', 1, 'sibling');
  const build = await house.finished('siblings', 1, 60_000);
  const after = await house.run('siblings', 1, 'sibling');

  expect(['running', 'preparing']).toContain(sibling.state);
  expect(build.status).toBe('failed');
  expect(after).toMatchObject({ outcome: 'passed', attempt: 1 });
  expect(await house.logOf('siblings', 1, 'sibling')).toBe('sibling\nwhole\n');
  await nothingIsLeft();
}, 120_000);

test('H7 the pause race: a run whose worker stands still keeps its host, and its worker meets no dead lease afterwards', async () => {
  await list('paused', 1);
  await house.project('paused', tagged('paused', '#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8; do echo "$i"; sleep 0.5; done'));
  await house.trigger('paused');
  await house.runIn('running', 'paused', 1, 'work');
  house.signal('first', 'SIGSTOP');
  await new Promise((done) => setTimeout(done, 3_000));
  house.signal('first', 'SIGCONT');
  const build = await house.finished('paused', 1, 60_000);

  expect(build.status).toBe('passed');
  expect((await house.run('paused', 1, 'work')).attempts).toHaveLength(1);
  expect(await house.logOf('paused', 1, 'work')).toBe('1\n2\n3\n4\n5\n6\n7\n8\n');
  await nothingIsLeft();
}, 120_000);

test('H7 H9 a worker is killed at 16 points, before and after every call to the server, its runs with a host beside: another goes on, each script and each command there started once, nothing left on the hosts', async () => {
  await list('many', BOUNDARIES.length);
  await list('others', BOUNDARIES.length);
  const script = `#!/bin/sh
echo started >>"$H_ARCHIVE/starts"
i=0
while [ $i -lt ${LINES} ]; do i=$((i+1)); echo "line $i of $H_RUN"; done
slipway on other -- sh -c 'echo "$H_RUN on $H_HOST" >>told; cat told'`;
  const runs = BOUNDARIES.map(
    (name) => `      - { name: ${name}, container: unused, script: work, host-tag: many, hosts: { other: others } }`,
  );
  const definition = tagged('many', script).replace(/ {6}- name: work[\s\S]*?(?=scripts:)/, `${runs.join('\n')}\n`);
  await house.project('killed', definition);
  await house.trigger('killed');
  await waitFor(() => api.held === BOUNDARIES.length, {
    what: 'every run is held at its call',
    timeoutMs: 120_000,
  }).catch((error: unknown) => {
    throw new Error(`${String(error)}: ${api.held} are held`);
  });
  await house.kill9('first');
  api.release('cut');
  await house.start('second');
  const build = await house.finished('killed', 1, 180_000);

  expect(build.status).toBe('passed');
  const ends = await Promise.all(
    build.runs.map(async ({ name }) => {
      const { attempts, artifacts } = await house.run('killed', 1, name);
      const starts = await (await house.request('GET', artifacts[0]?.url ?? '')).text();
      return { name, causes: attempts.map(({ cause }) => cause), starts, log: await house.logOf('killed', 1, name) };
    }),
  );
  const log = (name: string): string =>
    `${Array.from({ length: LINES }, (_, at) => `line ${at + 1} of ${name}\n`).join('')}${name} on other\n`;
  expect(ends).toEqual(BOUNDARIES.map((name) => ({ name, causes: ['ok'], starts: 'started\n', log: log(name) })));
  await nothingIsLeft();
}, 420_000);
