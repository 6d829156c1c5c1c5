// Proves that a running build is not harmed by what happens around it without any process dying: a workflow that is reset,
// signals that mean nothing, a server without disk, clocks that jump. Real Temporal, real Docker, real gateway. Needs root.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { House, oneRun } from './setup/house';
import { MovedClock } from './setup/moved-clock';
import { openBuildWorkflows, poisonWorkflow, resetWorkflow } from './setup/open-workflows';
import { SmallDisk } from './setup/small-disk';

const LINES = 40;
const COUNTING = `#!/bin/sh
echo started >> /archive/starts
i=0
while [ $i -lt ${LINES} ]; do i=$((i+1)); echo "line $i"; sleep 0.5; done`;
const WHOLE_LOG = Array.from({ length: LINES }, (_, at) => `line ${at + 1}\n`).join('');
const HOUR_MS = 3_600_000;
/** Longer than the SDK of a worker puts up with refusals. */
const LONG_MS = 40_000;

let dir: string;
let house: House;
let disk: SmallDisk | undefined;
let clocks: { worker: MovedClock; servers: MovedClock };

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'slipway-faults-'));
  clocks = { worker: new MovedClock(dir, 'worker'), servers: new MovedClock(dir, 'servers') };
  house = await House.open({
    gateway: true,
    env: { ...clocks.servers.env, SLIPWAY_SERVER_MIN_FREE_BYTES: '0' },
    roleEnv: async (at) => {
      disk = new SmallDisk(join(at.dir, 'blobs'), 64 * 1024 * 1024);
      return { worker: clocks.worker.env };
    },
  });
  await house.project('faults', oneRun(COUNTING));
}, 120_000);
afterAll(async () => {
  disk?.unmount();
  await house?.stop();
  rmSync(dir, { recursive: true, force: true });
}, 60_000);

const onOpenBuilds = (harm: (address: string, workflow: string) => void): void => {
  const { address } = house.temporal;
  for (const workflow of openBuildWorkflows(address)) harm(address, workflow);
};

/** Each is over, and repaired, when it returns. */
const FAULTS: Record<string, () => Promise<void>> = {
  'a signal that means nothing': async () => onOpenBuilds(poisonWorkflow),
  'its workflow is reset': async () => onOpenBuilds(resetWorkflow),
  'the disk of the server is full for a while': async () => {
    disk?.fill();
    await sleep(10_000);
    disk?.free();
  },
  'the clock of its worker is an hour behind for a while': async () => {
    clocks.worker.moveTo(-HOUR_MS);
    await sleep(LONG_MS);
    clocks.worker.moveTo(0);
  },
  'the machine slept for ten minutes': async () => {
    for (const clock of Object.values(clocks)) clock.moveTo(HOUR_MS / 6);
  },
};

test.each(Object.keys(FAULTS))(
  'B4 B5 %s: a running build passes in its first attempt, and so does the next',
  async (fault) => {
    const { number, urls } = await house.trigger('faults');
    const before = await house.runIn('running', 'faults', number, 'work');

    await FAULTS[fault]!();
    const build = await house.finished('faults', number, 150_000);
    const after = await house.finished('faults', (await house.trigger('faults')).number, 120_000);

    expect(build).toMatchObject({ status: 'passed', urls });
    expect(after.status).toBe('passed');
    const run = await house.run('faults', number, 'work');
    expect(run.attempts.map(({ containerId }) => containerId)).toEqual([before.attempts[0]?.containerId]);
    expect(await house.logOf('faults', number, 'work')).toBe(WHOLE_LOG);
    expect(await (await house.request('GET', run.artifacts[0]!.url)).text()).toBe('started\n');
  },
  360_000,
);
