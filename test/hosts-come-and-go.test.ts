// Proves that runs find the host they ask for, say why they wait, and move when a host or a container is lost.
// Real Temporal, real Docker; two workers with hosts of their own.
import { execFileSync } from 'node:child_process';
import type { Run } from '../domain/schemas/api';
import type { HostSummary } from '../domain/schemas/hosts';
import { HoldingProxy } from './setup/holding-proxy';
import { DOCKER_SOCKET, House, oneRun, tagged } from './setup/house';
import { PrivateEngine } from './setup/private-engine';
import { waitFor } from './setup/wait-for';

let house: House;
beforeAll(async () => {
  house = await House.open({
    slots: 2,
    without: ['worker'],
    env: { SLIPWAY_HEARTBEAT_TIMEOUT_MS: '6000', SLIPWAY_REATTACH_GRACE_MS: '20000' },
  });
  // All are of this machine's architecture, so a tag that is one would match them all.
  for (const name of ['amd64-1', 'arm64-1', 'board-1']) {
    const env = {
      SLIPWAY_HOST: name,
      SLIPWAY_LABELS: `${name.split('-')[0]},linux`,
      SLIPWAY_WORKER_DIR: `${house.dir}/${name}`,
    };
    house.add(name, 'worker', env);
  }
  await house.start('amd64-1');
  await house.start('arm64-1');
}, 120_000);
afterAll(async () => house?.stop(), 60_000);

const attemptsOf = (run: Run) => run.attempts.map(({ number, cause, host }) => ({ number, cause, host }));

/** Ends well on its second attempt only: the first one waits for what happens to it. */
const UNTIL_LOST = '#!/bin/sh\necho "on $H_WORKER"\n[ $H_WORKER = arm64-1 ] && exit 0\nwhile true; do sleep 0.1; done';

test('P2 a run with a host-tag runs on the host that has it, whichever worker took the task', async () => {
  const definition = `timeout: 5
triggers:
  - name: main
    runs:
      - name: on-{loop}
        container: ${oneRun('true').match(/container: (.+)/)?.[1]}
        script: work
        loop-on: [{ param: host-tag, values: ['ARM*', 'amd64-?', '*-1', 'a?m64-[0-9]'] }]
scripts:
  work: "#!/bin/sh\\necho $H_WORKER\\n"
`;
  await house.project('tags', definition);
  const { number } = await house.trigger('tags');
  await house.finished('tags', number);

  expect(await house.logOf('tags', number, 'on-ARM*')).toBe('arm64-1\n');
  expect(await house.logOf('tags', number, 'on-amd64-?')).toBe('amd64-1\n');
  expect(await house.logOf('tags', number, 'on-*-1')).toMatch(/^a(rm|md)64-1\n$/);
  expect(await house.logOf('tags', number, 'on-a?m64-[0-9]')).toBe('arm64-1\n');
}, 60_000);

test('a run that no host matches says so, names the hosts there are, and starts when one comes that does', async () => {
  await house.project('board', tagged('board', '#!/bin/sh\necho "on $H_WORKER"'));
  const { number } = await house.trigger('board');
  const waiting = await waitFor(async () => (await house.run('board', number, 'work')).waiting?.includes('matches'), {
    what: 'the reason is shown',
  }).then(() => house.run('board', number, 'work'));
  await house.start('board-1');
  const build = await house.finished('board', number);
  await house.terminate('board-1');

  expect(waiting.waiting).toEqual(
    expect.stringMatching(
      /^no host matches host-tag "board"; nearest: amd64-1 \(amd64, linux.*\) lacks board; arm64-1 /,
    ),
  );
  expect(build.status).toBe('passed');
  expect((await house.run('board', number, 'work')).host).toBe('board-1');
}, 60_000);

test('B10 a container that vanished while its worker was dead is an error of ours: the run gets a new attempt', async () => {
  const script = '#!/bin/sh\necho begun >> /archive/x\nsleep 600';
  await house.project('vanished', tagged('amd64-1', script));
  const { number } = await house.trigger('vanished');
  const first = await house.runIn('running', 'vanished', number, 'work');
  // While nobody watches: a worker that comes back must not start the script again within the same attempt.
  await house.kill9('amd64-1');
  execFileSync('docker', ['rm', '-f', first.attempts[0]?.containerId ?? '']);
  await house.start('amd64-1');
  const second = await waitFor(
    async () => {
      const run = await house.run('vanished', number, 'work');
      if (run.attempt !== 2 || run.state !== 'running') throw new Error(JSON.stringify(run));
      return run;
    },
    { what: 'a second attempt runs', timeoutMs: 60_000 },
  );
  await house.call('POST', `/v1/projects/vanished/builds/${number}/cancel`);
  await house.finished('vanished', number);

  expect(second.attempts[0]).toMatchObject({
    outcome: 'errored',
    cause: 'container-lost',
    message: 'its container is gone from the engine',
  });
  expect(second.attempts[1]?.containerId).not.toBe(first.attempts[0]?.containerId);
}, 150_000);

test('B6 worker and container are gone for good: attempt 1 is host-lost, attempt 2 passes on another host', async () => {
  await house.project('lost', tagged('*64', UNTIL_LOST));
  // The slots of the other host are taken until the first attempt runs, so that it runs on the host that will be lost.
  await house.project('taken', tagged('arm64', '#!/bin/sh\nwhile true; do sleep 0.1; done'));
  for (const at of [1, 2]) {
    await house.trigger('taken');
    await house.runIn('running', 'taken', at, 'work');
  }
  const { number } = await house.trigger('lost');
  const first = await house.runIn('running', 'lost', number, 'work');
  for (const at of [1, 2]) await house.call('POST', `/v1/projects/taken/builds/${at}/cancel`);

  await house.kill9('amd64-1');
  execFileSync('docker', ['rm', '-f', first.attempts[0]?.containerId ?? '']);
  const build = await house.finished('lost', number, 120_000);
  const run = await house.run('lost', number, 'work');

  expect(build.status).toBe('passed');
  expect(attemptsOf(run)).toEqual([
    { number: 1, cause: 'host-lost', host: 'amd64-1' },
    { number: 2, cause: 'ok', host: 'arm64-1' },
  ]);
  expect(await house.logOf('lost', number, 'work')).toBe('on arm64-1\n');
}, 180_000);

describe('a worker whose engine', () => {
  let link: HoldingProxy;
  let isHung = false;
  beforeAll(async () => {
    link = await HoldingProxy.open({ socketPath: DOCKER_SOCKET }, async () => (isHung ? 'before' : undefined));
    house.add('lonely-1', 'worker', {
      SLIPWAY_HOST: 'lonely-1',
      SLIPWAY_LABELS: 'lonely',
      SLIPWAY_WORKER_DIR: `${house.dir}/lonely-1`,
      DOCKER_HOST: `tcp://127.0.0.1:${link.port}`,
    });
    await house.start('lonely-1');
  }, 60_000);
  afterAll(() => link?.close());

  const hostIs = (state: string): Promise<HostSummary> =>
    waitFor(
      async () => {
        const found = await house.call<HostSummary>('GET', '/v1/clusters/local/hosts/lonely-1');
        if (found.state !== state) throw new Error(`${found.state}: ${found.why}`);
        return found;
      },
      { what: `the host is ${state}`, timeoutMs: 30_000 },
    );

  const GONE = { why: /does not answer: .*(ECONNRE|hang up)/, spoil: () => link.cut(), mend: () => link.mend() };
  const HUNG = {
    why: /does not answer: nothing came within 6 s$/,
    spoil: () => (isHung = true),
    mend: () => {
      isHung = false;
      link.release('cut');
    },
  };

  test.each([
    ['is gone', GONE],
    ['hangs', HUNG],
  ])(
    'H11 %s takes no run at all, says why, and takes runs again when it is back',
    async (how, { why, spoil, mend }) => {
      await hostIs('ready');
      spoil();
      const refusing = await hostIs('refusing');
      const project = how.replace(' ', '-');
      await house.project(project, tagged('lonely', '#!/bin/sh\ntrue'));
      const { number } = await house.trigger(project);
      const waiting = await waitFor(async () => (await house.run(project, number, 'work')).waiting, {
        what: 'it says why it waits',
      });
      mend();
      const build = await house.finished(project, number);

      expect(refusing.why).toMatch(why);
      expect(waiting).toContain('lonely-1 (the Docker engine does not answer');
      expect(build.status).toBe('passed');
      expect((await house.run(project, number, 'work')).attempts).toHaveLength(1);
    },
    90_000,
  );
});

describe('an engine that answers and can start nothing', () => {
  let engine: PrivateEngine;
  beforeAll(async () => {
    engine = await PrivateEngine.open();
    house.add('frail-1', 'worker', {
      SLIPWAY_HOST: 'frail-1',
      SLIPWAY_LABELS: 'frail',
      SLIPWAY_WORKER_DIR: `${house.dir}/frail-1`,
      DOCKER_HOST: `unix://${engine.socket}`,
    });
    await house.start('frail-1');
  }, 120_000);
  afterAll(() => engine?.stop(), 60_000);

  const frail = () => house.call<HostSummary>('GET', '/v1/clusters/local/hosts/frail-1');

  test('H11 its runs wait, say why, and are taken by themselves within 20 s of its repair, at the cost of no attempt', async () => {
    await house.project('frail', tagged('frail', '#!/bin/sh\ntrue'));
    await waitFor(async () => (await frail()).state === 'ready', { what: 'its worker is there' });
    engine.breakRuntime();
    const numbers = [(await house.trigger('frail')).number, (await house.trigger('frail')).number];
    const broken = await waitFor(
      async () => {
        const host = await frail();
        return host.state === 'quarantined' && host.busySlots === 0 && host;
      },
      { what: 'the host is left alone', timeoutMs: 60_000 },
    );
    const waiting = await Promise.all(
      numbers.map(async (number) => (await house.run('frail', number, 'work')).waiting),
    );
    engine.repairRuntime();
    await waitFor(async () => (await frail()).state === 'ready', { what: 'it has proven itself', timeoutMs: 20_000 });
    const builds = await Promise.all(numbers.map((number) => house.finished('frail', number)));

    expect(broken).toMatchObject({
      faults: expect.any(Number),
      why: expect.stringMatching(/^left alone until it has/),
    });
    for (const said of waiting) expect(said).toContain('frail-1 (left alone until it has proven that it works: ');
    for (const { status } of builds) expect(status).toBe('passed');
    for (const number of numbers) {
      expect(attemptsOf(await house.run('frail', number, 'work'))).toEqual([
        { number: 1, cause: 'ok', host: 'frail-1' },
      ]);
    }
    expect(await engine.containers()).toEqual([]);
  }, 180_000);
});
