// Proves that the workflow code of now carries on what older code began: histories of every kind of build, recorded from real
// ones, replay. SLIPWAY_RECORD=1 records those that are missing, of a kind that was added; one that is there is never recorded
// anew, since builds under way have histories like it.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Worker } from '@temporalio/worker';
import { House, TEST_IMAGE } from './setup/house';

const TOP = resolve(__dirname, '..');
const HISTORIES = join(__dirname, 'histories');
const isRecording = process.env.SLIPWAY_RECORD === '1';

const file = (runs: string, more = ''): string => `timeout: 5
${more}triggers:
  - name: main
    runs:
${runs.replace(/^/gm, '      ')}
scripts:
  ok: "#!/bin/sh\\nsleep 0.2\\n"
  bad: "#!/bin/sh\\nexit 3\\n"
  slow: "#!/bin/sh\\nexec sleep 8\\n"
  slow-bad: "#!/bin/sh\\nsleep 10\\nexit 3\\n"
  forever: "#!/bin/sh\\nexec sleep 600\\n"
`;
const run = (name: string, script: string, more = ''): string =>
  `- { name: ${name}, container: '${TEST_IMAGE}', script: ${script}${more} }`;

/** Every kind of build, and what happens to it while it runs. */
const KINDS: Record<string, { definition: string; meanwhile?: (house: House, name: string) => Promise<void> }> = {
  'passed-matrix': {
    definition: file(
      `${run('cell', 'ok', ', matrix: { axes: { a: [x, y, z] }, max-parallel: 2 }')}\n${run('join', 'ok', ', needs: [cell]')}`,
    ),
  },
  'failed-with-skips': {
    definition: file(
      [
        run('bad', 'bad'),
        run('skipped', 'ok', ', needs: [bad]'),
        run('always', 'ok', ', needs: [skipped], needs-on: always'),
      ].join('\n'),
    ),
  },
  'fail-fast': { definition: file(run('cell', 'bad', ', matrix: { axes: { a: [x, y, z] }, fail-fast: true }')) },
  retried: { definition: file(run('bad', 'bad', ', retry: { failure: 1 }')) },
  'build-cancelled': {
    definition: file(`${run('forever', 'forever')}\n${run('after', 'ok', ', needs: [forever]')}`),
    meanwhile: async (house, name) => {
      await house.runIn('running', name, 1, 'forever');
      await house.call('POST', `/v1/projects/${name}/builds/1/cancel`);
    },
  },
  'run-cancelled': {
    definition: file(`${run('forever', 'forever')}\n${run('other', 'ok')}`),
    meanwhile: async (house, name) => {
      await house.runIn('running', name, 1, 'forever');
      await house.call('POST', `/v1/projects/${name}/builds/1/runs/forever/cancel`);
    },
  },
  'waiting-timeout': { definition: file(run('board', 'ok', ", host-tag: 'none', timeouts: { waiting: 0.05 }")) },
  'build-timeout': { definition: file(run('forever', 'forever'), 'timeouts: { build: 0.1 }\n') },
  'worker-stopped': {
    definition: file(run('slow', 'slow')),
    meanwhile: async (house, name) => {
      await house.runIn('running', name, 1, 'slow');
      await house.terminate('worker');
      await house.start('worker');
    },
  },
  'worker-killed': {
    definition: file(run('slow', 'slow')),
    meanwhile: async (house, name) => {
      await house.runIn('running', name, 1, 'slow');
      await house.kill9('worker');
      await house.start('worker');
    },
  },
  // Its records are activities of the server; those of the others that have any are local.
  'worker-killed-with-two-runs': {
    definition: file([run('slow', 'slow'), run('bad', 'slow-bad'), run('skipped', 'ok', ', needs: [bad]')].join('\n')),
    meanwhile: async (house, name) => {
      await house.runIn('running', name, 1, 'slow');
      await house.runIn('running', name, 1, 'bad');
      await house.kill9('worker');
      await house.start('worker');
    },
  },
  'host-lost': {
    definition: file(run('slow', 'slow')),
    meanwhile: async (house, name) => {
      const { attempts } = await house.runIn('running', name, 1, 'slow');
      await house.kill9('worker');
      execFileSync('docker', ['rm', '-f', attempts[0]?.containerId ?? '']);
      house.add('second', 'worker', { SLIPWAY_HOST: 'second', SLIPWAY_WORKER_DIR: join(house.dir, 'second') });
      await house.start('second');
    },
  },
};

async function recordMissing(): Promise<void> {
  const house = await House.open({
    env: { SLIPWAY_HEARTBEAT_TIMEOUT_MS: '4000', SLIPWAY_REATTACH_GRACE_MS: '4000', SLIPWAY_STOP_GRACE_MS: '500' },
  });
  try {
    for (const [name, { definition, meanwhile }] of Object.entries(KINDS)) {
      if (existsSync(join(HISTORIES, `${name}.json`))) continue;
      await house.project(name, definition);
      await house.trigger(name);
      await meanwhile?.(house, name);
      await house.finished(name, 1);
      record(house, name, `build/${name}/1`);
    }
    // Made of a build of above: both are there, or both are recorded.
    if (existsSync(join(HISTORIES, 'rerun.json'))) return;
    await house.call('POST', '/v1/projects/failed-with-skips/builds/1/rerun', { runs: 'failed' });
    await house.finished('failed-with-skips', 1);
    record(house, 'rerun', 'build/failed-with-skips/1/rerun-1');
  } finally {
    await house.stop();
  }
}

function record(house: House, name: string, workflowId: string): void {
  const args = ['workflow', 'show', '--workflow-id', workflowId, '--address', house.temporal.address, '-o', 'json'];
  const text = execFileSync(process.env.SLIPWAY_TEMPORAL_CLI ?? 'temporal', args, { encoding: 'utf8' });
  // Who ran it says nothing to a replay.
  const plain = text.replaceAll(/("identity": )"[^"]*"/g, '$1"recorded"').replaceAll(/"\d+@[^"]*"/g, '"recorded"');
  writeFileSync(join(HISTORIES, `${name}.json`), plain);
}

if (isRecording) test('the histories that are missing are recorded', recordMissing, 600_000);
else describe('recorded histories', replayAll);

function replayAll(): void {
  const recorded = readdirSync(HISTORIES).filter((name) => name.endsWith('.json'));

  test('B11 every kind of build has one', () => {
    expect(recorded.sort()).toEqual([...Object.keys(KINDS), 'rerun'].map((name) => `${name}.json`).sort());
  });

  test.each(recorded)(
    'B11 the history of %s replays on the workflow code of now',
    async (name) => {
      const history: unknown = JSON.parse(readFileSync(join(HISTORIES, name), 'utf8'));
      const workflowBundle = { codePath: join(TOP, 'dist', 'workflow-bundle.js') };

      await Worker.runReplayHistory({ workflowBundle }, history, `build/${name}/1`);
    },
    60_000,
  );
}
