// Proves that a slot never has two holders: 1,000 runs over 50 hosts, granted by three API processes at once, while
// supervisors displace each other and repeat themselves. Real API processes, real PostgreSQL; the workers speak their HTTP.
import { randomUUID } from 'node:crypto';
import { Client } from 'pg';
import { makeTokenSigner } from '../adapters/cluster-keys';
import { WorkerApi } from '../adapters/worker-api';
import type { LeaseList, LeaseSummary } from '../domain/schemas/hosts';
import type { z } from 'zod';
import { House, oneRun } from './setup/house';
import { startPostgres, type TestPostgres } from './setup/postgres';

const HOSTS = 50;
const RUNS = 1_000;
const SLOTS = 2;

let postgres: TestPostgres;
let house: House;
let store: Client;
beforeAll(async () => {
  postgres = await startPostgres();
  const databaseUrl = await postgres.createDatabase();
  house = await House.open({ databaseUrl, apis: 3, without: ['worker', 'orchestrator'] });
  store = new Client({ connectionString: databaseUrl });
  await store.connect();
}, 120_000);
afterAll(async () => {
  await store?.end();
  await house?.stop();
  await postgres?.stop();
}, 60_000);

/** Three doors to one worker: each call goes through another API process. */
function workerAt(at: number) {
  const id = randomUUID();
  const sign = makeTokenSigner(house.key.privateKey, { cluster: 'local', worker: id });
  const apis = house.apiUrls.map((url) => new WorkerApi(url, sign, () => undefined));
  let calls = at;
  const api = (): WorkerApi => apis[(calls += 1) % apis.length]!;
  const hello = { worker: id, cluster: 'local', host: `host-${at}`, labels: [], slots: SLOTS, version: '1' };
  return { id, api, greet: () => api().hello(hello) };
}
type ScaleWorker = ReturnType<typeof workerAt>;

/**
 * Carries a run to its end from its host; twice in three a second supervisor takes over in between.
 * @returns `done`, `waiting`, or the id of the worker whose host it got
 */
async function carry(worker: ScaleWorker, runId: string, chance: number): Promise<string> {
  const ask = { runId, attempt: 1, worker: worker.id };
  const first = await worker.api().lease(ask);
  if (first.kind === 'elsewhere') return first.queue.slice(-36);
  if (first.kind !== 'granted') return 'waiting';
  let holder = { runId, attempt: 1, token: first.token };
  if (chance % 3 !== 0) {
    const second = await worker.api().lease(ask);
    if (second.kind !== 'granted') throw new Error(`its own lease was answered with ${second.kind}`);
    expect(second.token).toBeGreaterThan(first.token);
    const late = worker.api().attempt(holder).progress({ state: 'preparing', starting: true });
    await expect(late).rejects.toMatchObject({ reason: 'fenced' });
    holder = { ...holder, token: second.token };
  }
  const attempt = worker.api().attempt(holder);
  await attempt.progress({ state: 'preparing', starting: true });
  await attempt.result({ cause: 'ok', message: '', exitCode: 0 });
  // An answer that was lost is asked for again.
  await Promise.all([1, 2].map(() => worker.api().attempt(holder).release()));
  await expect(worker.api().attempt(holder).progress({ state: 'running' })).rejects.toMatchObject({ reason: 'fenced' });
  return 'done';
}

test('H4 H11 1,000 leases over 50 hosts by three API processes: no slot ever has two holders, and every one is on record', async () => {
  const values = Array.from({ length: RUNS }, (_, at) => `'${at}'`).join(', ');
  const definition = oneRun('#!/bin/sh')
    .replace('name: work', "name: 'work-{n}'")
    .replace('        script: work', `        script: work\n        matrix: { axes: { n: [${values}] } }`);
  await house.project('many', definition);
  await house.trigger('many');
  const { rows } = await store.query<{ id: string }>('select id from runs');
  const workers = Array.from({ length: HOSTS }, (_, at) => workerAt(at));
  const byId = new Map<string, ScaleWorker>(workers.map((worker) => [worker.id, worker]));
  await Promise.all(workers.map((worker) => worker.greet()));
  const greeting = setInterval(
    () => void Promise.all(workers.map((worker) => worker.greet())).catch(() => undefined),
    5_000,
  );
  const queue = rows.map(({ id }, at) => ({ id, at, worker: workers[at % HOSTS]! }));
  let done = 0;
  const serve = async (): Promise<void> => {
    for (let job = queue.shift(); job; job = queue.shift()) {
      const answer = await carry(job.worker, job.id, job.at);
      if (answer === 'done') done += 1;
      else queue.push({ ...job, worker: byId.get(answer) ?? job.worker });
    }
  };
  await Promise.all(Array.from({ length: 24 }, serve));
  clearInterval(greeting);
  const { leases } = await house.call<z.infer<typeof LeaseList>>('GET', '/v1/leases?all=true&limit=1000');

  expect(done).toBe(RUNS);
  expect(leases).toHaveLength(RUNS);
  expect(leases.every(({ state }) => state === 'released')).toBe(true);
  const slots = new Map<string, LeaseSummary[]>();
  for (const lease of leases) {
    const slot = `${lease.host}#${lease.slot}`;
    slots.set(slot, [...(slots.get(slot) ?? []), lease]);
  }
  expect(slots.size).toBeLessThanOrEqual(HOSTS * SLOTS);
  for (const held of slots.values()) {
    const inTime = [...held].sort((a, b) => a.history[0]!.token - b.history[0]!.token);
    inTime.slice(1).forEach((lease, at) => {
      const before = inTime[at]!;
      expect(lease.grantedAt >= before.endedAt!).toBe(true);
      expect(lease.history[0]!.token).toBeGreaterThan(before.token);
    });
  }
  for (const { history, worker } of leases) {
    expect(history.map(({ token }) => token)).toEqual(history.map(({ token }) => token).sort((a, b) => a - b));
    expect(history.at(-1)?.state).toBe('released');
    expect(worker).not.toBeNull();
  }
}, 300_000);
