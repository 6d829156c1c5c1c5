// Proves that every way a run can end has its own outcome, cause and sentence, and that artifacts come home in each.
// Real Temporal, real Docker.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { House, oneRun, TEST_IMAGE } from './setup/house';
import { waitFor } from './setup/wait-for';

let house: House;
beforeAll(async () => {
  house = await House.open({ env: { SLIPWAY_STOP_GRACE_MS: '500', SLIPWAY_SERVER_MIN_FREE_BYTES: '300000' } });
}, 120_000);
afterAll(async () => house?.stop(), 60_000);

async function buildOf(name: string, definition: string) {
  await house.project(name, definition);
  const { number } = await house.trigger(name);
  return house.finished(name, number);
}

async function endOf(name: string, definition: string) {
  await buildOf(name, definition);
  const { outcome, cause, message, exitCode, attempt } = await house.run(name, 1, 'work');
  return { outcome, cause, message, exitCode, attempt };
}

const ARCHIVE =
  'mkdir -p /archive/deep/er && head -c 300000 /dev/urandom > /archive/deep/er/data.bin && sha256sum /archive/deep/er/data.bin && echo text > /archive/a.txt';

describe('artifacts on each outcome', () => {
  const ENDINGS = [
    ['passed', ARCHIVE, 'passed'],
    ['failed', `${ARCHIVE}; exit 3`, 'failed'],
    ['timed-out', `${ARCHIVE}; sleep 600`, 'timed-out'],
    ['cancelled', `${ARCHIVE}; echo ready; sleep 600`, 'cancelled'],
  ] as const;

  test.each(ENDINGS)(
    'R3 a run that is %s leaves its artifacts with the digest that the run itself saw',
    async (name, script, outcome) => {
      const definition = oneRun(`#!/bin/sh\n${script}`).replace(
        'timeout: 10',
        `timeout: ${name === 'timed-out' ? '0.05' : '10'}`,
      );
      await house.project(name, definition);
      const { number } = await house.trigger(name);
      if (name === 'cancelled') {
        await waitFor(async () => (await house.logOf(name, number, 'work')).includes('ready'), {
          what: 'the script waits',
        });
        await house.call('POST', `/v1/projects/${name}/builds/${number}/cancel`);
      }
      await house.finished(name, number);
      const run = await house.run(name, number, 'work');
      const [text, data] = run.artifacts;
      const bytes = Buffer.from(await (await house.request('GET', data!.url)).arrayBuffer());
      const sha = createHash('sha256').update(bytes).digest('hex');

      expect(run.outcome).toBe(outcome);
      expect(run.artifacts.map((artifact) => artifact.path)).toEqual(['a.txt', 'deep/er/data.bin']);
      expect(data).toMatchObject({
        digest: `sha256:${sha}`,
        sizeBytes: 300_000,
        contentType: 'application/octet-stream',
      });
      expect(await house.logOf(name, number, 'work')).toContain(`${sha}  /archive/deep/er/data.bin`);
      expect(text).toMatchObject({ sizeBytes: 5, contentType: 'text/plain' });
    },
    60_000,
  );

  test('R3 links and special files in /archive are named with the reason and lead nowhere; the verdict is that of the script', async () => {
    const script =
      '#!/bin/sh\nln -s /etc/passwd /archive/link\nmkfifo /archive/pipe\nln -s /etc /archive/dir\necho real > /archive/real';
    await buildOf('links', oneRun(`${script}\nprintf x > "/archive/m$(printf '\\374')n"\nexit 3`));
    const run = await house.run('links', 1, 'work');

    expect(run.artifacts.map((artifact) => artifact.path)).toEqual(['real']);
    expect(run).toMatchObject({ outcome: 'failed', cause: 'exit-code', exitCode: 3 });
    expect(run.message).toBe(
      'exited with code 3; not stored of its artifacts: dir (it is a symbolic link), and 3 more',
    );
    expect(run.attempts[0]?.notStored).toMatchObject({
      count: 4,
      files: [{ path: 'dir' }, { path: 'link' }, { path: 'm\\xfcn', why: 'its name is not UTF-8' }, { path: 'pipe' }],
    });
  });
});

describe('causes', () => {
  test('B10 an exit code is a failure of the user, with its code, and is not tried again', async () => {
    expect(await endOf('exit-code', oneRun('#!/bin/sh\nexit 7'))).toEqual({
      outcome: 'failed',
      cause: 'exit-code',
      message: 'exited with code 7',
      exitCode: 7,
      attempt: 1,
    });
  });

  test('B9 a run past its own time limit is stopped and says so', async () => {
    const definition = oneRun('#!/bin/sh\nsleep 600').replace('timeout: 10', 'timeout: 0.02');

    expect(await endOf('timeout', definition)).toMatchObject({
      outcome: 'timed-out',
      cause: 'run-timeout',
      message: 'stopped after its time limit of 1.2 s',
    });
  });

  test('R1 a run that takes more than its memory is killed and says how much it had', async () => {
    const definition = oneRun('#!/bin/sh\nhead -c 200000000 /dev/zero | tail -c 190000000 > /dev/null').replace(
      'script: work',
      'script: work\n        resources: { memory: 32m }',
    );

    const end = await endOf('memory', definition);

    expect(end).toMatchObject({ outcome: 'failed', cause: 'out-of-memory' });
    expect(end.message).toContain('32 MiB');
  });

  test('an image that cannot be had is an error with the image and the reason, and is not tried again', async () => {
    const definition = oneRun('#!/bin/sh\ntrue').replace(TEST_IMAGE, '127.0.0.1:1/no/such:image');

    const end = await endOf('no-image', definition);

    expect(end).toMatchObject({ outcome: 'errored', cause: 'image-missing', exitCode: null, attempt: 1 });
    expect(end.message).toMatch(
      /image 127\.0\.0\.1:1\/no\/such:image is not on the host and cannot be pulled: .+; check its name/,
    );
  });

  test('a script whose interpreter the image lacks is no program, and the message says what to do', async () => {
    const end = await endOf('no-interpreter', oneRun('#!/no/such/interpreter\necho x'));

    expect(end).toMatchObject({ outcome: 'errored', cause: 'script-not-runnable', attempt: 1 });
    expect(end.message).toMatch(/cannot be executed in image .+begin it with a line like #!\/bin\/sh/);
  });

  test('R1 an entrypoint that runs no script does not pass, and the message says what to write', async () => {
    const definition = oneRun('#!/bin/sh\nexit 1').replace(
      'script: work',
      'script: work\n        container-entrypoint: /bin/true',
    );

    const end = await endOf('swallowed', definition);

    expect(end).toMatchObject({ outcome: 'errored', cause: 'script-not-runnable', exitCode: 0, attempt: 1 });
    expect(end.message).toMatch(/entrypoint \["\/bin\/true"\] .+ write container-entrypoint: ""/);
  });

  test('a script without a first line is run by the shell of the image', async () => {
    expect(await endOf('no-first-line', oneRun('echo "by $0"; exit 4'))).toMatchObject({
      cause: 'exit-code',
      exitCode: 4,
    });
  });

  test('a user that the image does not know is refused with the name', async () => {
    const definition = oneRun('#!/bin/sh\ntrue').replace(
      'script: work',
      'script: work\n        container-user: nobody-here',
    );

    const end = await endOf('no-user', definition);

    expect(end).toMatchObject({ outcome: 'errored', cause: 'script-not-runnable' });
    expect(end.message).toContain('nobody-here');
  });

  test('a script of its own that exits 127 is a failure, not an error of ours', async () => {
    expect(await endOf('own-127', oneRun('#!/bin/sh\nexit 127'))).toMatchObject({
      outcome: 'failed',
      cause: 'exit-code',
    });
  });
});

describe('a full disk', () => {
  const dir = mkdtempSync(join(tmpdir(), 'slipway-small-'));
  beforeAll(() => {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k,nr_inodes=40', 'tmpfs', dir]);
  });
  afterAll(() => {
    execFileSync('umount', [dir]);
    rmSync(dir, { recursive: true });
  });

  test('H11 B6 a run waits while the disk of its worker is full, says so, and passes once there is room, at the cost of no attempt', async () => {
    await house.kill9('worker');
    house.add('small', 'worker', { SLIPWAY_WORKER_DIR: dir, SLIPWAY_HOST: 'small-host', SLIPWAY_MIN_FREE_BYTES: '0' });
    await house.start('small');
    try {
      await house.project('full', oneRun(`#!/bin/sh\n# ${'x'.repeat(80_000)}\ntrue`));
      await house.trigger('full');
      await waitFor(async () => /no space left/i.test((await house.run('full', 1, 'work')).waiting ?? ''), {
        what: 'the run says why it waits',
        timeoutMs: 30_000,
      });
      execFileSync('mount', ['-o', 'remount,size=64m,nr_inodes=1000', dir]);
      const build = await house.finished('full', 1, 60_000);

      expect(build.runs[0]).toMatchObject({ outcome: 'passed', attempt: 1 });
    } finally {
      await house.terminate('small');
      await house.start('worker');
    }
  }, 150_000);

  test('O6 B10 while the disk of the server is full a script runs on, what it says waits, and new runs wait with the reason', async () => {
    const blobs = join(house.dir, 'blobs');
    const script = '#!/bin/sh\necho begun\nuntil [ -e /archive/go ]; do sleep 0.1; done\nseq 100\n';
    await house.project('full-server', oneRun(script));
    const running = await house.trigger('full-server');
    await waitFor(async () => (await house.logOf('full-server', running.number, 'work')).includes('begun'), {
      what: 'the script runs',
    });
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', blobs]);
    try {
      const [folder] = readdirSync(join(house.dir, 'worker', 'runs')).filter((name) => name.startsWith('slipway-'));
      const isKnown = async () => /disk is full/.test(JSON.stringify(await house.call('GET', '/readyz')));
      await waitFor(isKnown, { what: 'the server knows that its disk is full' });
      await house.project('full-waiting', oneRun('#!/bin/sh\ntrue'));
      const waiting = await house.trigger('full-waiting');
      await waitFor(
        async () => /disk is full/.test((await house.run('full-waiting', waiting.number, 'work')).waiting ?? ''),
        { what: 'the new run waits for room' },
      );
      writeFileSync(join(house.dir, 'worker', 'runs', folder!, 'archive', 'go'), 'x');
    } finally {
      execFileSync('umount', [blobs]);
    }
    const builds = await Promise.all([house.finished('full-server', 1), house.finished('full-waiting', 1)]);

    expect(builds.map((build) => build.runs[0])).toEqual([
      expect.objectContaining({ outcome: 'passed', attempt: 1 }),
      expect.objectContaining({ outcome: 'passed', attempt: 1 }),
    ]);
    expect((await house.run('full-server', 1, 'work')).artifacts).toHaveLength(1);
  }, 90_000);
});

describe('a matrix', () => {
  const matrix = (limits: string, script: string): string => `timeout: 10
triggers:
  - name: main
    runs:
      - name: cell
        container: '${TEST_IMAGE}'
        script: work
        matrix: { axes: { cell: [a, b, c, d, e, f] }, ${limits} }
      - { name: after, container: '${TEST_IMAGE}', script: quick, needs: [cell], needs-on: failure }
scripts:
  quick: "#!/bin/sh\\ntrue\\n"
  work: |
${script
  .split('\n')
  .map((line) => `    ${line}`)
  .join('\n')}
`;

  test('P3 fail-fast: the first red cell cancels the rest of its job, and a run that needs a failure starts', async () => {
    const build = await buildOf(
      'fail-fast',
      // Whichever four cells get the four slots first, one of them is red.
      matrix('fail-fast: true', '#!/bin/sh\ncase $cell in a|b|c) exit 1;; esac\nsleep 600'),
    );
    const cells = build.runs.filter((run) => run.job === 'cell');

    const red = cells.filter((run) => run.status === 'failed').map((run) => run.name);
    expect(red.length).toBeGreaterThan(0);
    expect(['cell-a', 'cell-b', 'cell-c']).toEqual(expect.arrayContaining(red));
    expect(cells.filter((run) => run.cause === 'fail-fast' && run.status === 'cancelled')).toHaveLength(6 - red.length);
    expect(build.runs.at(-1)).toMatchObject({ name: 'after', status: 'passed' });
    expect(build).toMatchObject({ status: 'failed', cause: 'exit-code' });
  }, 60_000);

  test('P3 max-parallel: never more cells at once than it says, although slots are free', async () => {
    await house.project('limited', matrix('max-parallel: 2', '#!/bin/sh\nsleep 0.5'));
    const { number } = await house.trigger('limited');
    let most = 0;
    const build = await waitFor(
      async () => {
        const now = await house.build('limited', number);
        most = Math.max(most, now.counts.running);
        return now.state === 'finished' && now;
      },
      { what: 'the build ends', timeoutMs: 60_000, intervalMs: 50 },
    );

    expect(most).toBe(2);
    expect(build.counts).toMatchObject({ passed: 6, skipped: 1 });
    expect(build.runs.at(-1)).toMatchObject({ name: 'after', cause: 'needs-not-met' });
  }, 90_000);
});
