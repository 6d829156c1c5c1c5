// Proves the registry of clusters as operators use it: one call registers, fleets say hello and are enlisted, tokens and
// owners are checked, and everything done or refused is on record. Real API, database and Temporal; no engine is needed.
import { randomUUID } from 'node:crypto';
import { makeClusterKey, makeTokenSigner } from '../adapters/cluster-keys';
import { AuditPage, Cluster, ClusterList, NewToken } from '../domain/schemas/clusters';
import { Client } from '../cli/client';
import { dismiss } from '../cli/clusters';
import { ADMIN_TOKEN, House, oneRun } from './setup/house';
import type { Build, ErrorAnswer, PlanPreview, Run } from '../domain/schemas/api';

let house: House;
beforeAll(async () => {
  house = await House.open({ without: ['worker'] });
}, 120_000);
afterAll(async () => house?.stop(), 60_000);

const as = (token: string, method: string, ...[path, body]: [path: string, body?: unknown]): Promise<Response> =>
  house.request(method, path, body, { authorization: `Bearer ${token}` });

async function expectRefusal(response: Response, status: number, code: string): Promise<ErrorAnswer> {
  const answer = (await response.json()) as ErrorAnswer;
  expect([response.status, answer.type]).toEqual([status, `urn:slipway:problem:${code}`]);
  return answer;
}

let count = 0;
const newName = (): string => `cluster-${++count}`;

async function newCluster(fields: object = {}) {
  const name = newName();
  const { publicKey, privateKey } = await makeClusterKey();
  await house.operated('POST', '/v1/clusters', { name, keys: [publicKey], ...fields });
  return { name, kid: publicKey.kid, privateKey };
}
const read = async (name: string): Promise<Cluster> => Cluster.parse(await house.call('GET', `/v1/clusters/${name}`));

/** A worker that says what one says, with the key of a cluster. */
function workerOf(cluster: { name: string; privateKey: string }, id: string = randomUUID()) {
  const sign = makeTokenSigner(cluster.privateKey, { cluster: cluster.name, worker: id });
  const call = async (path: string, body: unknown): Promise<Response> => as(await sign(), 'POST', path, body);
  const hello = (more: object = {}): Promise<Response> =>
    call('/v1/worker/hello', {
      worker: id,
      cluster: cluster.name,
      host: `host-${id.slice(0, 8)}`,
      labels: [],
      slots: 4,
      version: '0.0.1',
      ...more,
    });
  return { id, call, hello };
}

async function newToken(organisation?: string): Promise<string> {
  const body = organisation === undefined ? { role: 'admin' } : { role: 'org-admin', organisation };
  return NewToken.parse(await house.operated('POST', '/v1/tokens', { name: `of ${organisation}`, ...body })).token;
}
const auditOf = async (subject: string) =>
  AuditPage.parse(await house.operated('GET', `/v1/audit?subject=${encodeURIComponent(subject)}`)).entries;

describe('a cluster', () => {
  test('C1 is registered by one call with all its fields, and shown with its queue, its key and no workers', async () => {
    const name = newName();
    const { publicKey } = await makeClusterKey();
    const fields = {
      description: 'boards in Lyon',
      maintainer: 'ops@example.org',
      kind: 'specialised',
      weight: 30,
      organisations: ['acme'],
      owner: 'acme',
      policy: { allowPrivileged: true, maxCpus: 8, maxMemoryBytes: 2 ** 33, maxSlotsPerProject: 3 },
      active: true,
      enlistAutomatically: true,
    };

    const response = await house.operate('POST', '/v1/clusters', { name, ...fields, keys: [publicKey] });

    expect(response.status).toBe(201);
    expect(response.headers.get('location')).toBe(`${house.url}/v1/clusters/${name}`);
    const made = Cluster.parse(await response.json());
    expect(made).toMatchObject({ name, ...fields, queue: `cluster.${name}`, status: 'active', fleet: [] });
    expect(made.keys).toMatchObject([{ kid: publicKey.kid, revokedAt: null, createdBy: 'the admin token' }]);
    const { clusters } = ClusterList.parse(await house.call('GET', '/v1/clusters'));
    expect(clusters.map((one) => one.name)).toContain(name);
  });

  test('C1 is edited field by field; the same name again is refused, and so is a specialised one for nobody', async () => {
    const { name } = await newCluster();

    await house.operated('PATCH', `/v1/clusters/${name}`, { weight: 0, policy: { maxCpus: 2 } });

    expect(await read(name)).toMatchObject({ weight: 0, policy: { maxCpus: 2, allowPrivileged: false } });
    await expectRefusal(await house.operate('POST', '/v1/clusters', { name }), 409, 'name-taken');
    const specialised = await house.operate('PATCH', `/v1/clusters/${name}`, { kind: 'specialised' });
    await expectRefusal(specialised, 422, 'no-organisations');
    await expectRefusal(await house.operate('POST', '/v1/clusters', { name: 'No Blanks' }), 400, 'malformed-request');
  });

  test('C1 is deleted unless it has work', async () => {
    const { name } = await newCluster();
    await house.project(`of-${name}`, oneRun('#!/bin/sh', `cluster: ${name}\n`));
    await house.trigger(`of-${name}`);

    const refused = await expectRefusal(await house.operate('DELETE', `/v1/clusters/${name}`), 409, 'has-work');
    expect(refused.detail).toContain('1 waiting');
    await house.call('POST', `/v1/projects/of-${name}/builds/1/cancel`);
    await house.finished(`of-${name}`, 1);

    expect((await house.operate('DELETE', `/v1/clusters/${name}`)).status).toBe(204);
    await expectRefusal(await house.request('GET', `/v1/clusters/${name}`), 404, 'not-found');
  });
});

describe('a fleet', () => {
  test('C2 registers by saying hello, gets nothing until it is enlisted, and is shown with slots, version and last seen', async () => {
    const cluster = await newCluster();
    const worker = workerOf(cluster);

    const first = await worker.hello({ load: 1.5, freeDiskBytes: 10_000 });

    expect(await first.json()).toMatchObject({ enlisted: false });
    expect(await read(cluster.name)).toMatchObject({ workers: { connected: 0, toEnlist: 1 }, slots: { total: 0 } });
    const ask = { runId: randomUUID(), attempt: 1, worker: worker.id };
    await expectRefusal(await worker.call('/v1/worker/lease', ask), 403, 'not-enlisted');

    await house.operated('POST', `/v1/clusters/${cluster.name}/workers/${worker.id}/enlist`);
    expect(await (await worker.hello({ load: 1.5, freeDiskBytes: 10_000 })).json()).toMatchObject({ enlisted: true });

    expect((await read(cluster.name)).fleet).toMatchObject([
      {
        id: worker.id,
        enlisted: true,
        connected: true,
        slots: 4,
        busySlots: 0,
        version: '0.0.1',
        isSameVersion: false,
        load: 1.5,
        freeDiskBytes: 10_000,
        notAccepting: null,
      },
    ]);
  });

  test('C2 of a cluster that enlists by itself counts at once; dismissed, a worker stays so', async () => {
    const cluster = await newCluster({ enlistAutomatically: true });
    const worker = workerOf(cluster);
    expect(await (await worker.hello()).json()).toMatchObject({ enlisted: true });

    await house.operated('POST', `/v1/clusters/${cluster.name}/workers/${worker.id}/dismiss`);

    expect(await (await worker.hello()).json()).toMatchObject({ enlisted: false });
  });

  test.each([
    ['by itself', true, 'or a new one'],
    ['by an admin', false, 'as another enlisted worker'],
  ])(
    'C2 C3 of a cluster that enlists %s: whoever dismisses a worker is told what its key still opens',
    async (...[, enlistAutomatically, how]) => {
      const cluster = await newCluster({ enlistAutomatically });
      const worker = workerOf(cluster);
      await worker.hello();
      const said = { out: [] as string[], err: [] as string[] };
      const output = { out: (text: string) => said.out.push(text), err: (text: string) => said.err.push(text) };
      const client = new Client(house.url, ADMIN_TOKEN);

      await dismiss(client, cluster.name, { id: worker.id, output });
      expect(said.out).toEqual([`worker ${worker.id} of cluster ${cluster.name} gets no work any more`]);
      expect(said.err.join('\n')).toContain(how);
      expect(said.err.at(-1)).toBe(`  slipway cluster revoke-key ${cluster.name} ${cluster.kid}`);

      await client.revokeKey(cluster.name, cluster.kid);
      said.err = [];
      await dismiss(client, cluster.name, { id: worker.id, output });
      expect(said.err).toEqual([]);
    },
  );

  test('C3 a worker speaks for itself and its own cluster alone, and what it tried is on record', async () => {
    const mine = await newCluster({ enlistAutomatically: true });
    const other = await newCluster({ enlistAutomatically: true });
    const worker = workerOf(mine);
    const victim = workerOf(other);
    await victim.hello();
    await worker.hello();

    await expectRefusal(await worker.hello({ cluster: other.name }), 403, 'foreign-worker');
    await expectRefusal(await worker.hello({ worker: victim.id }), 403, 'foreign-worker');
    const liar = makeTokenSigner(mine.privateKey, { cluster: other.name, worker: victim.id });
    const lie = await as(await liar(), 'POST', '/v1/worker/orphans', { worker: victim.id, found: [] });
    await expectRefusal(lie, 401, 'unknown-key');

    const reasons = (await auditOf(`cluster ${mine.name}`)).filter((one) => !one.allowed).map((one) => one.detail);
    expect(reasons).toContainEqual(expect.stringContaining('foreign-worker'));
  });

  test('C3 keys rotate with an overlap, and a revoked one counts for nothing within a second or two', async () => {
    const cluster = await newCluster({ enlistAutomatically: true });
    const next = await makeClusterKey();
    await house.operated('POST', `/v1/clusters/${cluster.name}/keys`, next.publicKey);
    const old = workerOf(cluster);
    const fresh = workerOf({ ...cluster, privateKey: next.privateKey });
    expect([(await old.hello()).status, (await fresh.hello()).status]).toEqual([200, 200]);

    await house.operated('POST', `/v1/clusters/${cluster.name}/keys/${cluster.kid}/revoke`);

    for (let tries = 0; (await old.hello()).status === 200; tries += 1) {
      expect(tries).toBeLessThan(100);
      await new Promise((done) => setTimeout(done, 100));
    }
    await expectRefusal(await old.hello(), 401, 'key-revoked');
    expect((await fresh.hello()).status).toBe(200);
  });
});

describe('an operator', () => {
  test('U5 needs a token that counts: none, a made-up, a revoked and an expired one are refused, on record', async () => {
    const name = newName();
    const create = (token: string) => as(token, 'POST', '/v1/clusters', { name });
    await expectRefusal(await house.request('POST', '/v1/clusters', { name }), 401, 'no-token');
    await expectRefusal(await create('slipway_madeup'), 401, 'no-token');
    const expiresAt = new Date(Date.now() - 1_000).toISOString();
    const expired = NewToken.parse(
      await house.operated('POST', '/v1/tokens', { name: 'old', role: 'admin', expiresAt }),
    );
    await expectRefusal(await create(expired.token), 401, 'no-token');
    const revoked = NewToken.parse(await house.operated('POST', '/v1/tokens', { name: 'gone', role: 'admin' }));
    await house.operated('POST', `/v1/tokens/${revoked.id}/revoke`);
    await expectRefusal(await create(revoked.token), 401, 'no-token');

    const tries = await auditOf(`cluster ${name}`);
    expect(tries.map(({ actor, allowed }) => [actor, allowed])).toEqual([
      ['token gone', false],
      ['token old', false],
      ['-', false],
      ['-', false],
    ]);
    expect((await create(await newToken())).status).toBe(201);
    expect((await auditOf(`cluster ${name}`))[0]).toMatchObject({ action: 'cluster.create', allowed: true });
  });

  test('U5 that is refused a hundred times a second leaves a few records of it, and how many are missing', async () => {
    const name = newName();
    const tries = await Promise.all(Array.from({ length: 120 }, () => house.request('POST', '/v1/clusters', { name })));
    expect(new Set(tries.map(({ status }) => status))).toEqual(new Set([401]));
    await new Promise((done) => setTimeout(done, 1_100));
    await house.request('POST', '/v1/clusters', { name });

    const kept = await auditOf(`cluster ${name}`);

    expect(kept.length).toBeLessThan(60);
    expect(kept[0]!.detail).toMatch(/; \d+ like it before were left out$/);
  });

  test('C10 an admin of an organisation brings its own cluster and cannot touch, take from or spy on others', async () => {
    const token = await newToken('acme');
    const own = { kind: 'specialised', owner: 'acme', organisations: ['acme'] };
    const { publicKey } = await makeClusterKey();
    const name = newName();
    expect((await as(token, 'POST', '/v1/clusters', { name, ...own, keys: [publicKey] })).status).toBe(201);
    expect((await as(token, 'PATCH', `/v1/clusters/${name}`, { description: 'ours' })).status).toBe(200);

    const other = await newCluster({ kind: 'specialised', owner: 'other', organisations: ['other'] });
    const shared = await newCluster();
    for (const cluster of [other, shared]) {
      const at = `/v1/clusters/${cluster.name}`;
      await expectRefusal(await as(token, 'PATCH', at, { weight: 1 }), 403, 'not-allowed');
      await expectRefusal(await as(token, 'DELETE', at), 403, 'not-allowed');
      await expectRefusal(await as(token, 'POST', `${at}/keys`, publicKey), 403, 'not-allowed');
      await expectRefusal(await as(token, 'POST', `${at}/drain`, { reason: 'x' }), 403, 'not-allowed');
      await expectRefusal(await as(token, 'POST', `${at}/keys/${cluster.kid}/revoke`), 403, 'not-allowed');
    }
    // It must not become one that draws the work of others.
    for (const fields of [{ kind: 'default' }, { organisations: ['acme', 'other'] }, { owner: 'other' }]) {
      await expectRefusal(await as(token, 'PATCH', `/v1/clusters/${name}`, fields), 403, 'not-allowed');
    }
    await expectRefusal(await as(token, 'GET', '/v1/audit'), 403, 'not-allowed');
    await expectRefusal(await as(token, 'POST', '/v1/tokens', { name: 'x', role: 'admin' }), 403, 'not-allowed');
    const definition = oneRun('#!/bin/sh');
    const steal = { name: `stolen-${name}`, definition, organisation: 'other' };
    await expectRefusal(await as(token, 'POST', '/v1/projects', steal), 403, 'not-allowed');
    expect((await read(name)).description).toBe('ours');
  });
});

describe('a run', () => {
  const project = async (definition: string, organisation?: string): Promise<string> => {
    const name = `placed-${++count}`;
    await house.operated('POST', '/v1/projects', { name, definition, organisation });
    return name;
  };
  const trigger = (name: string, body: object = {}): Promise<Response> =>
    house.request('POST', `/v1/projects/${name}/builds`, body);
  const runOf = async (name: string): Promise<Run> => house.run(name, 1, 'work');

  test('C4 goes where the run, else the trigger, else the file says, and the caller has the last word; with its reason', async () => {
    const [a, b, c, d] = [await newCluster(), await newCluster(), await newCluster(), await newCluster()];
    const inFile = oneRun('#!/bin/sh', `cluster: ${a.name}\n`);
    const inTrigger = inFile.replace('  - name: main', `  - name: main\n    cluster: ${b.name}`);
    const inRun = inTrigger.replace('        script: work', `        script: work\n        cluster: ${c.name}`);
    for (const [definition, cluster] of [
      [inFile, a.name],
      [inTrigger, b.name],
      [inRun, c.name],
    ] as const) {
      const name = await project(definition);
      await trigger(name);
      expect(await runOf(name)).toMatchObject({
        cluster,
        placement: { reason: 'the project file names it', pinned: true },
      });
    }
    const name = await project(inRun);
    await trigger(name, { cluster: d.name });
    expect(await runOf(name)).toMatchObject({ cluster: d.name, placement: { reason: 'the request names it' } });
  });

  test('C4 that names an unknown cluster is refused, naming it', async () => {
    const name = await project(oneRun('#!/bin/sh', 'cluster: nowhere\n'));

    const answer = await expectRefusal(await trigger(name), 422, 'unknown-cluster');

    expect(answer.detail).toContain('nowhere');
    expect((await house.request('GET', `/v1/projects/${name}/builds/1`)).status).toBe(404);
  });

  test('C5 that names a cluster of another organisation is refused, naming it; one of its own takes it', async () => {
    const cluster = await newCluster({ kind: 'specialised', organisations: ['acme'] });
    const definition = oneRun('#!/bin/sh', `cluster: ${cluster.name}\n`);
    for (const organisation of [undefined, 'other']) {
      const answer = await expectRefusal(await trigger(await project(definition, organisation)), 403, 'not-authorised');
      expect(answer.detail).toContain(cluster.name);
    }
    const name = await project(definition, 'acme');

    expect((await trigger(name)).status).toBe(201);

    expect(await runOf(name)).toMatchObject({ cluster: cluster.name });
  });

  test('C5 that waits in a cluster which stops serving its organisation says so, also when it is run again', async () => {
    const cluster = await newCluster({ kind: 'specialised', organisations: ['acme', 'other'] });
    const name = await project(oneRun('#!/bin/sh', `cluster: ${cluster.name}\n`), 'acme');
    await trigger(name);
    await house.operated('PATCH', `/v1/clusters/${cluster.name}`, { organisations: ['other'] });

    expect((await runOf(name)).waiting).toContain('does not serve projects of organisation acme');

    await house.call('POST', `/v1/projects/${name}/builds/1/cancel`);
    await house.finished(name, 1);
    await house.call('POST', `/v1/projects/${name}/builds/1/rerun`, { runs: 'all' });
    expect((await runOf(name)).waiting).toContain('does not serve projects of organisation acme');
  });

  test('C1 that asks for more than the policy of its cluster allows is refused', async () => {
    const cluster = await newCluster({ policy: { maxCpus: 2 } });
    const definition = oneRun('#!/bin/sh', `cluster: ${cluster.name}\n`);
    const tooMuch = definition.replace('        script: work', '        script: work\n        resources: { cpus: 3 }');
    const privileged = definition.replace('        script: work', '        script: work\n        privileged: true');

    expect((await expectRefusal(await trigger(await project(tooMuch)), 403, 'policy')).detail).toContain('3 CPU');
    await expectRefusal(await trigger(await project(privileged)), 403, 'policy');
  });

  test('C4 1,000 runs over two default clusters of weight 70 and 30 are shared within 4 %', async () => {
    const all = ClusterList.parse(await house.call('GET', '/v1/clusters')).clusters;
    for (const { name } of all) await house.operated('PATCH', `/v1/clusters/${name}`, { active: false });
    const [a, b] = [await newCluster({ weight: 70 }), await newCluster({ weight: 30 })];
    const values = Array.from({ length: 1_000 }, (_, at) => `'${at}'`).join(', ');
    const definition = oneRun('#!/bin/sh')
      .replace('name: work', "name: 'work-{n}'")
      .replace('        script: work', `        script: work\n        matrix: { axes: { n: [${values}] } }`);
    const name = await project(definition);

    const { places } = await house.call<PlanPreview>('POST', `/v1/projects/${name}/plan`, {});

    const share = places.filter((place) => place.cluster === a.name).length;
    expect(share).toBeGreaterThanOrEqual(660);
    expect(share).toBeLessThanOrEqual(740);
    expect(places.filter((place) => place.cluster === b.name)).toHaveLength(1_000 - share);
    expect(places[0]!.reason).toContain('weight 70');
    for (const { name, active } of all) await house.operated('PATCH', `/v1/clusters/${name}`, { active });
    for (const { name } of [a, b]) await house.operated('PATCH', `/v1/clusters/${name}`, { weight: 0 });
  });
});

describe('a drain', () => {
  test('C6 moves unpinned waiting runs, keeps pinned ones with the reason, and is over when it is taken back', async () => {
    const all = ClusterList.parse(await house.call('GET', '/v1/clusters')).clusters;
    for (const { name } of all) await house.operated('PATCH', `/v1/clusters/${name}`, { active: false });
    const from = await newCluster();
    const free = `free-${from.name}`;
    const pinned = `pinned-${from.name}`;
    await house.project(free, oneRun('#!/bin/sh'));
    await house.project(pinned, oneRun('#!/bin/sh', `cluster: ${from.name}\n`));
    await house.trigger(free);
    await house.trigger(pinned);
    const to = await newCluster();
    const at = `/v1/clusters/${from.name}`;

    expect(await house.call('GET', `${at}/drain`)).toEqual({
      running: [],
      moves: [{ run: `${free}/1/work`, to: to.name }],
      stays: [{ run: `${pinned}/1/work`, why: 'it names this cluster' }],
    });
    await house.operated('POST', `${at}/drain`, { reason: 'new disks' });

    const moved = await until(async () => {
      const run = await house.run(free, 1, 'work');
      return run.cluster === to.name && run;
    });
    expect(moved.placement.reason).toContain(`moved from ${from.name}, drained by the admin token: new disks`);
    expect(await read(from.name)).toMatchObject({ status: 'drained', drain: { reason: 'new disks' } });
    expect((await house.run(pinned, 1, 'work')).waiting).toContain('drained by the admin token: new disks');
    const build = await house.trigger(free);
    expect((await house.call<Build>('GET', build.urls.self)).runs[0]).toMatchObject({ cluster: to.name });

    await house.operated('POST', `${at}/undrain`);
    expect(await read(from.name)).toMatchObject({ status: 'active', drain: null });
    await house.operated('PATCH', `/v1/clusters/${to.name}`, { weight: 0 });
    await house.operated('PATCH', at, { weight: 0 });
    for (const { name, active } of all) await house.operated('PATCH', `/v1/clusters/${name}`, { active });
  });

  test('C6 of the last cluster makes builds wait, never fail; an only foreign private cluster is no way out', async () => {
    const all = ClusterList.parse(await house.call('GET', '/v1/clusters')).clusters;
    for (const { name } of all) await house.operated('PATCH', `/v1/clusters/${name}`, { active: false });
    const last = await newCluster();
    await newCluster({ kind: 'specialised', organisations: ['other'] });
    await house.operated('POST', `/v1/clusters/${last.name}/drain`, { reason: 'all down' });
    await house.project(`wait-${last.name}`, oneRun('#!/bin/sh'));

    expect((await house.request('POST', `/v1/projects/wait-${last.name}/builds`, {})).status).toBe(201);

    const run = await house.run(`wait-${last.name}`, 1, 'work');
    expect(run).toMatchObject({ state: 'queued' });
    expect(run.waiting).toContain('all down');
    // Runs that earlier tests left waiting may have moved here as well, so only this one is looked for.
    const { stays } = await house.call<{ stays: unknown[] }>('GET', `/v1/clusters/${last.name}/drain`);
    expect(stays).toContainEqual({ run: `wait-${last.name}/1/work`, why: 'no other cluster is open to it' });
  });
});

async function until<T>(look: () => Promise<T | false>): Promise<T> {
  for (let tries = 0; tries < 200; tries += 1) {
    const found = await look();
    if (found !== false) return found;
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error('not seen in 20 s');
}
