// Proves that several clusters with several workers share a load as it was placed: every run passes in its cluster, is started
// once, and leaves no lease and no container. Real processes through the gateway; one engine serves all workers.
// SLIPWAY_LOAD=all: 3 clusters of 3 workers and 500 runs; else a small part of it.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { sql } from 'kysely';
import { makeClusterKey } from '../adapters/cluster-keys';
import { embeddedUrl } from '../adapters/embedded-database';
import { openStore, type Database } from '../adapters/store/connect';
import type { Build } from '../domain/schemas/api';
import { House, oneRun } from './setup/house';
import { waitFor } from './setup/wait-for';

const IS_WHOLE = process.env['SLIPWAY_LOAD'] === 'all';
const SIZE = IS_WHOLE ? { workers: 3, slots: 4, builds: 5, runs: 100 } : { workers: 1, slots: 2, builds: 3, runs: 10 };
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

test(
  'C2 C4 every run of a load over three clusters passes where it was placed, is started once, and leaves nothing',
  async () => {
    const values = Array.from({ length: SIZE.runs }, (_, at) => `'${at}'`).join(', ');
    const definition = oneRun('#!/bin/sh\necho started')
      .replace('name: work', "name: 'work-{n}'")
      .replace('        script: work', `        script: work\n        matrix: { axes: { n: [${values}] } }`);
    await house.project('load', definition);
    const began = Date.now();
    const numbers: number[] = [];
    for (let build = 0; build < SIZE.builds; build += 1) numbers.push((await house.trigger('load')).number);
    const placed = new Map<string, string>();
    const read = (number: number): Promise<Build> => house.build('load', number);
    for (const number of numbers) {
      for (const run of (await read(number)).runs) placed.set(`${number}/${run.name}`, run.cluster);
    }
    expect(placed.size).toBe(SIZE.builds * SIZE.runs);

    for (const number of numbers) {
      await waitFor(async () => (await read(number)).state === 'finished', {
        what: `build ${number} is finished`,
        timeoutMs: LIMIT_MS,
        intervalMs: 1_000,
      });
    }

    const seconds = (Date.now() - began) / 1_000;
    const rate = (placed.size / seconds).toFixed(1);
    process.stdout.write(`load: ${placed.size} runs in ${seconds.toFixed(1)} s, ${rate} a second\n`);
    const byCluster = new Map<string, number>();
    for (const number of numbers) {
      for (const run of (await read(number)).runs) {
        expect([run.name, run.outcome, run.cluster]).toEqual([run.name, 'passed', placed.get(`${number}/${run.name}`)]);
        expect([run.attempt, run.host?.split('-')[0]]).toEqual([1, run.cluster]);
        expect(await house.logOf('load', number, run.name)).toBe('started\n');
        byCluster.set(run.cluster, (byCluster.get(run.cluster) ?? 0) + 1);
      }
    }
    for (const [cluster, weight] of Object.entries(WEIGHTS)) {
      expect(Math.abs((byCluster.get(cluster) ?? 0) / placed.size - weight / 100)).toBeLessThan(IS_WHOLE ? 0.04 : 0.15);
    }
    const { rows } = await sql<{ live: number; attempts: number }>`
      select (select count(*)::int from leases where state in ('granted', 'active', 'releasing')) as live,
        (select count(*)::int from attempts) as attempts`.execute(db);
    expect(rows).toEqual([{ live: 0, attempts: placed.size }]);
    const left = execFileSync('docker', ['ps', '-aq', '--filter', 'label=dev.slipway.project=load'], {
      encoding: 'utf8',
    });
    expect(left).toBe('');
  },
  LIMIT_MS,
);
