// Proves that several clusters with several workers share a load, and that no run fails while one of them is drained and taken
// up again and another loses all its workers at once. Real processes through the gateway; one engine serves all workers.
// SLIPWAY_LOAD=all: 3 clusters of 3 workers and 500 runs; else a small part of it.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { sql } from 'kysely';
import { makeClusterKey } from '../adapters/cluster-keys';
import { embeddedUrl } from '../adapters/embedded-database';
import { openStore, type Database } from '../adapters/store/connect';
import type { Build } from '../domain/schemas/api';
import type { Cluster } from '../domain/schemas/clusters';
import { House, oneRun } from './setup/house';
import { waitFor } from './setup/wait-for';

const IS_WHOLE = process.env['SLIPWAY_LOAD'] === 'all';
const SIZE = IS_WHOLE ? { workers: 3, slots: 4, builds: 5, runs: 100 } : { workers: 1, slots: 2, builds: 3, runs: 20 };
const WEIGHTS = { red: 50, green: 30, blue: 20 };
const LIMIT_MS = IS_WHOLE ? 1_200_000 : 240_000;

let house: House;
let db: Database;
beforeAll(async () => {
  house = await House.open({ gateway: true, without: ['worker'], slots: SIZE.slots });
  db = openStore(embeddedUrl(join(house.dir, 'run')), 2);
  await house.operated('PATCH', '/v1/clusters/local', { active: false });
  for (const [cluster, weight] of Object.entries(WEIGHTS)) {
    const { publicKey, privateKey } = await makeClusterKey();
    await house.register(cluster, publicKey, { weight });
    for (let at = 1; at <= SIZE.workers; at += 1) {
      const host = `${cluster}-${at}`;
      const own = { SLIPWAY_HOST: host, SLIPWAY_WORKER_DIR: join(house.dir, host), SLIPWAY_CLUSTER_KEY: privateKey };
      house.add(host, 'worker', { SLIPWAY_CLUSTER: cluster, ...own });
      await house.start(host);
    }
  }
}, 300_000);
afterAll(async () => {
  await db?.destroy();
  await house?.stop();
}, 120_000);

const read = (number: number): Promise<Build> => house.build('load', number);
const show = (cluster: string): Promise<Cluster> => house.call('GET', `/v1/clusters/${cluster}`);
const workersOf = (cluster: string): string[] =>
  Array.from({ length: SIZE.workers }, (_, at) => `${cluster}-${at + 1}`);

/** Waits until this share of all runs is over. */
async function untilDone(numbers: number[], share: number): Promise<void> {
  await waitFor(
    async () => {
      const counts = (await Promise.all(numbers.map(read))).map(({ counts }) => counts);
      const done = counts.reduce((sum, { total, queued, running }) => sum + total - queued - running, 0);
      return done >= share * SIZE.builds * SIZE.runs;
    },
    { what: `${share * 100} % of the runs are over`, timeoutMs: LIMIT_MS, intervalMs: 500 },
  );
}

test(
  'C2 C4 C6 C7 every run of a load over three clusters passes while one is drained and one loses its workers; nothing is left',
  async () => {
    const values = Array.from({ length: SIZE.runs }, (_, at) => `'${at}'`).join(', ');
    const definition = oneRun('#!/bin/sh\necho started\nsleep 0.5')
      .replace('name: work', "name: 'work-{n}'")
      .replace('        script: work', `        script: work\n        matrix: { axes: { n: [${values}] } }`);
    await house.project('load', definition);
    const began = Date.now();
    const numbers: number[] = [];
    for (let build = 0; build < SIZE.builds; build += 1) numbers.push((await house.trigger('load')).number);
    const placed = new Map<string, number>();
    let total = 0;
    for (const number of numbers) {
      for (const { cluster } of (await read(number)).runs) {
        placed.set(cluster, (placed.get(cluster) ?? 0) + 1);
        total += 1;
      }
    }
    expect(total).toBe(SIZE.builds * SIZE.runs);
    for (const [cluster, weight] of Object.entries(WEIGHTS)) {
      expect(Math.abs((placed.get(cluster) ?? 0) / total - weight / 100)).toBeLessThan(IS_WHOLE ? 0.04 : 0.15);
    }

    await untilDone(numbers, 0.1);
    await house.operated('POST', '/v1/clusters/green/drain', { reason: 'new disks' });
    await waitFor(async () => (await show('green')).status === 'drained', {
      what: 'green is drained',
      timeoutMs: 120_000,
      intervalMs: 200,
    });
    expect((await show('green')).runs.running).toBe(0);
    await house.operated('POST', '/v1/clusters/green/undrain');
    await untilDone(numbers, 0.5);
    await Promise.all(workersOf('blue').map((name) => house.kill9(name)));
    await untilDone(numbers, 1);
    const seconds = (Date.now() - began) / 1_000;

    const before = await show('blue');
    expect(before.workers.connected).toBe(0);
    // Its containers live on; back again, it removes what nobody needs.
    await Promise.all(workersOf('blue').map((name) => house.start(name)));
    const builds = await Promise.all(numbers.map(read));
    const ends = new Map<string, number>();
    let attempts = 0;
    for (const { number, runs } of builds) {
      for (const { name } of runs) {
        const run = await house.run('load', number, name);
        expect([name, run.outcome]).toEqual([name, 'passed']);
        expect(run.attempts.slice(0, -1).every(({ cause }) => cause === 'host-lost')).toBe(true);
        expect(run.host?.split('-')[0]).toBe(run.cluster);
        expect(await house.logOf('load', number, name)).toBe('started\n');
        ends.set(run.cluster, (ends.get(run.cluster) ?? 0) + 1);
        attempts += run.attempts.length;
      }
    }
    process.stdout.write(
      `load: ${total} runs in ${seconds.toFixed(1)} s, ${(total / seconds).toFixed(1)} a second; ` +
        `placed ${say(placed)}, ended ${say(ends)}; ${attempts - total} attempts lost with their host\n`,
    );
    await expectNothingLeft();
  },
  LIMIT_MS,
);

const say = (counts: Map<string, number>): string =>
  Object.keys(WEIGHTS)
    .map((cluster) => `${cluster} ${counts.get(cluster) ?? 0}`)
    .join(', ');

/** Leases and containers; the sweeps of the workers have to come round once. */
async function expectNothingLeft(): Promise<void> {
  const label = 'label=dev.slipway.project=load';
  await waitFor(
    async () => {
      const { rows } = await sql<{ live: number }>`
        select count(*)::int as live from leases where state in ('granted', 'active', 'releasing')`.execute(db);
      const containers = execFileSync('docker', ['ps', '-aq', '--filter', label], { encoding: 'utf8' });
      if (rows[0]?.live === 0 && containers === '') return true;
      throw new Error(`${rows[0]?.live} leases, containers ${containers}`);
    },
    { what: 'nothing is left', timeoutMs: 90_000, intervalMs: 1_000 },
  );
}
