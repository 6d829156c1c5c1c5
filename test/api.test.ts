// Proves the HTTP API: triggers, numbers, refusals, logs, live logs, artifacts, readiness, and what a killed process keeps.
// Three real API processes on one embedded database and a real Temporal; the worker is this test, by the worker's own API.
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { createServer, request as httpRequest, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { Client, Connection } from '@temporalio/client';
import { importJWK, SignJWT, type JWK } from 'jose';
import type { z } from 'zod';
import type { ApiContext } from '../api/context';
import { makeLimits } from '../api/limits';
import { Troubles } from '../api/troubles';
import { makeApp } from '../api/server';
import { embeddedUrl } from '../adapters/embedded-database';
import { openStore, type Database } from '../adapters/store/connect';
import { makeClusterKey, makeTokenSigner } from '../adapters/cluster-keys';
import { WorkerApi, WorkerApiError, type AttemptApi } from '../adapters/worker-api';
import { buildWorkflowId } from '../domain/names';
import * as shapes from '../domain/schemas/api';
import { HostList } from '../domain/schemas/hosts';
import { freePort } from './setup/free-port';
import { ADMIN_TOKEN, House, oneRun } from './setup/house';
import { followLog, nothingYet } from './setup/log-events';
import { waitFor } from './setup/wait-for';

const DEFINITION = oneRun('true');
const range = (count: number): number[] => Array.from({ length: count }, (_, at) => at + 1);
const sha = (bytes: Uint8Array): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

let house: House;
let db: Database;
let temporal: Client;
beforeAll(async () => {
  house = await House.open({ apis: 3, without: ['worker', 'orchestrator'] });
  db = openStore(embeddedUrl(join(house.dir, 'run')), 1);
  const connection = Connection.lazy({ address: house.temporal.address });
  temporal = new Client({ connection });
}, 120_000);
afterAll(async () => {
  await db?.destroy();
  await temporal?.connection.close();
  await house?.stop();
}, 60_000);

const apiUrl = (at: number): string => house.apiUrls[at % house.apiUrls.length]!;
/** The same path on another copy of the API. */
const on = (at: number, url: string): string => url.replace(house.url, apiUrl(at));

let count = 0;
/** A project of its own for a test. */
async function newProject(definition = DEFINITION): Promise<string> {
  const name = `project-${++count}`;
  await house.project(name, definition);
  return name;
}

const postBuild = (project: string, more: { url?: string; body?: object; headers?: Record<string, string> } = {}) =>
  house.request('POST', `${more.url ?? house.url}/v1/projects/${project}/builds`, more.body ?? {}, more.headers);

const isStarted = (project: string, number: number): Promise<boolean> =>
  temporal.workflow
    .getHandle(buildWorkflowId(project, number))
    .describe()
    .then((workflow) => workflow.type === 'build');

const worker = { id: randomUUID(), host: 'stand-in', cluster: 'local', labels: [], slots: 100, version: '1' };
/** A token of the stand-in, as a worker signs it. */
const sign = (): Promise<string> => makeTokenSigner(house.key.privateKey, { cluster: 'local', worker: worker.id })();
const workerApi = (at = 0): WorkerApi => new WorkerApi(apiUrl(at), sign, () => undefined);
const apiOf = (id: string): WorkerApi => {
  const signer = makeTokenSigner(house.key.privateKey, { cluster: 'local', worker: id });
  return new WorkerApi(house.url, signer, () => undefined);
};

async function runIdOf(project: string, number: number): Promise<string> {
  const run = await db
    .selectFrom('runs')
    .innerJoin('builds', 'builds.id', 'runs.build_id')
    .select('runs.id')
    .where('project', '=', project)
    .where('number', '=', number)
    .executeTakeFirstOrThrow();
  return run.id;
}

interface Held {
  attempt: AttemptApi;
  path: string;
  token: number;
  run: shapes.Run;
}

/** Triggers a build, and takes its only run as a worker does. */
async function takeRun(project: string): Promise<Held> {
  const { number } = await house.trigger(project);
  const runId = await runIdOf(project, number);
  const { id, ...host } = worker;
  await workerApi().hello({ worker: id, ...host });
  const lease = await workerApi().lease({ runId, attempt: 1, worker: id });
  if (lease.kind !== 'granted') throw new Error(lease.kind);
  const run = await house.run(project, number, 'work');
  const attempt = workerApi().attempt({ runId, attempt: 1, token: lease.token });
  return { attempt, path: `/v1/worker/attempts/${runId}/1`, token: lease.token, run };
}

async function finish({ attempt }: Held): Promise<void> {
  await attempt.result({ cause: 'ok', message: '', exitCode: 0 });
  await attempt.release();
}

/** Checks that an answer is a refusal as promised: RFC 9457, no stack trace. */
async function expectRefusal(response: Response, status: number, code: string): Promise<shapes.ErrorAnswer> {
  const text = await response.text();
  expect({ status: response.status, text }).toEqual({ status, text: expect.any(String) });
  expect(response.headers.get('content-type')).toMatch(/^application\/problem\+json/);
  expect(text).not.toMatch(/node_modules|\.[jt]s:\d|at Object|at async/);
  const answer = shapes.ErrorAnswer.parse(JSON.parse(text));
  expect(answer).toMatchObject({ status, type: `urn:slipway:problem:${code}` });
  expect(answer.detail.length).toBeGreaterThan(10);
  return answer;
}

describe('a trigger', () => {
  test('B1 is answered by 201 with the number and all URLs, and they answer before any host is there', async () => {
    const project = await newProject();

    const response = await postBuild(project, { body: { reason: 'why', params: { A: 'b' } } });

    expect(response.status).toBe(201);
    const summary = shapes.BuildSummary.parse(await response.json());
    expect(summary).toMatchObject({ project, number: 1, status: 'queued', reason: 'why', params: { A: 'b' } });
    expect(response.headers.get('location')).toBe(summary.urls.self);
    const build = shapes.Build.parse(await house.call('GET', summary.urls.self));
    const run = build.runs[0]!;
    expect(run.waiting).toMatch(/no worker of cluster local is connected/);
    for (const url of [...Object.values(run.urls), summary.urls.page]) {
      const answer = await house.request('GET', url, undefined, { accept: 'text/html, */*' });
      expect({ url, status: answer.status }).toEqual({ url, status: 200 });
    }
    expect(await house.logOf(project, 1, 'work')).toBe('');
    const { runs: _, ...rest } = build;
    expect(rest).toEqual(summary);
  });

  test('B13 a URL names neither process nor worker nor cluster: every copy of the API mints and answers the same', async () => {
    const project = await newProject();
    const made = await Promise.all(
      range(3).map(async (at) => (await (await postBuild(project, { url: apiUrl(at) })).json()) as shapes.BuildSummary),
    );
    for (const [at, build] of made.entries()) {
      expect(build.urls.self).toBe(`${house.url}/v1/projects/${project}/builds/${build.number}`);
      expect(await house.call('GET', on(at + 1, build.urls.self))).toEqual(await house.call('GET', build.urls.self));
    }
  });

  test('B1 with the same Idempotency-Key 60 times over three processes there is one build, and every answer names it', async () => {
    const project = await newProject();
    const headers = { 'idempotency-key': 'delivery-1' };

    const answers = await Promise.all(range(60).map((at) => postBuild(project, { url: apiUrl(at), headers })));

    const numbers = await Promise.all(answers.map(async (one) => ((await one.json()) as shapes.BuildSummary).number));
    expect(new Set(numbers)).toEqual(new Set([1]));
    const times = (status: number): number => answers.filter((one) => one.status === status).length;
    expect([times(201), times(200)]).toEqual([1, 59]);
    await expectRefusal(await postBuild(project, { headers, body: { reason: 'other' } }), 422, 'key-reused');
    await expectRefusal(
      await postBuild(project, { headers: { 'idempotency-key': 'x'.repeat(256) } }),
      400,
      'malformed-request',
    );
    expect((await house.trigger(project)).number).toBe(2);
  });

  test('B1 on an address of its own is taken there alone: the main address refuses it and answers all else', async () => {
    const project = await newProject();
    const [main, hidden] = [await freePort(), await freePort()].map((port) => `127.0.0.1:${port}`);
    house.add('apart', 'api', { SLIPWAY_LISTEN: main!, SLIPWAY_TRIGGER_LISTEN: hidden! });
    await house.start('apart');

    await expectRefusal(await postBuild(project, { url: `http://${main}` }), 404, 'unknown-route');
    const taken = await postBuild(project, { url: `http://${hidden}` });
    const { urls, number } = (await taken.json()) as shapes.BuildSummary;

    expect([taken.status, number]).toEqual([201, 1]);
    expect((await house.request('GET', urls.self.replace(house.url, `http://${main}`))).status).toBe(200);
    await expectRefusal(await house.request('GET', `http://${hidden}/v1/projects/${project}`), 404, 'unknown-route');
    expect((await house.request('GET', `http://${hidden}/healthz`)).status).toBe(200);
    await house.terminate('apart');
  });

  test('P2 the plan of a build has the digest that the same definition was promised beforehand', async () => {
    const project = await newProject();
    const body = { params: { A: 'b' }, priority: 2 };
    const { places, ...promised } = shapes.PlanPreview.parse(
      await house.call('POST', `/v1/projects/${project}/plan`, body),
    );
    const build = await house.trigger(project, body);
    const frozen = shapes.PlanAnswer.parse(await house.call('GET', `/v1/projects/${project}/builds/1/plan`));

    expect(frozen).toEqual(promised);
    expect(places).toEqual([expect.objectContaining({ cluster: 'local' })]);
    expect(build.planDigest).toBe(promised.digest);
    expect(frozen.plan.runs.map((run) => run.priority)).toEqual([2]);
    expect((await house.trigger(project)).planDigest).not.toBe(promised.digest);
  });

  test('B3 500 at once over three processes are numbered exactly 1 to 500', async () => {
    const project = await newProject();
    const numbers: number[] = [];
    const waiting = range(500);
    const client = async (): Promise<void> => {
      for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
        const response = await postBuild(project, { url: apiUrl(at) });
        expect(response.status).toBe(201);
        numbers.push(((await response.json()) as shapes.BuildSummary).number);
      }
    };

    await Promise.all(range(60).map(client));

    expect(numbers.sort((a, b) => a - b)).toEqual(range(500));
    const listed: number[] = [];
    let next: string | null = `/v1/projects/${project}/builds?limit=200`;
    while (next) {
      const page: z.infer<typeof shapes.BuildList> = shapes.BuildList.parse(await house.call('GET', next));
      listed.push(...page.builds.map((build) => build.number));
      next = page.next;
    }
    expect(listed).toEqual(range(500).reverse());
  }, 120_000);
});

describe('the commit of a build', () => {
  const url = 'https://git.example.org/app.git';
  const definition = `repository: { url: '${url}', ref: main }\n${DEFINITION}`;
  const [first, second] = ['1'.repeat(40), '2'.repeat(40)];

  test('B14 is what its first run found, on every copy of the API, and is said with the lease and shown', async () => {
    const project = await newProject(definition);
    const held = await takeRun(project);
    const { attempt, run } = held;
    const kept = await attempt.freeze(first);
    const again = await fetch(`${apiUrl(1)}${held.path}/commit?token=${held.token}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${await sign()}`, 'content-type': 'application/json' },
      body: JSON.stringify({ commit: second }),
    });
    const runId = await runIdOf(project, run.build);
    const lease = await workerApi(2).lease({ runId, attempt: 1, worker: worker.id });
    const build = shapes.Build.parse(await house.call('GET', `/v1/projects/${project}/builds/${run.build}`));

    expect([run.commit, run.spec.checkout?.ref]).toEqual([null, 'main']);
    expect([kept, await again.json()]).toEqual([first, { commit: first }]);
    expect(lease).toMatchObject({ spec: { checkout: { url, ref: first }, env: { GIT_REF: 'main' } } });
    expect(build.commits).toEqual([{ url, ref: 'main', commit: first }]);
    expect(build.runs.map(({ commit }) => commit)).toEqual([first]);
    await expect(attempt.freeze('main')).rejects.toMatchObject({ reason: 'refused' });
  });

  test('B14 of a caller is there with the answer, and one that cannot be obeyed is refused before a number is used', async () => {
    const project = await newProject(definition);
    const refused = await postBuild(project, { body: { params: { GIT_SHA: 'main' } } });
    const secret = await postBuild(project, { body: { params: { GIT_URL: 'https://me:s3cr3t@example.org/x' } } });
    const taken = await postBuild(project, { body: { params: { GIT_SHA: second, GIT_URL: 'git@example.org:fork' } } });

    expect((await expectRefusal(refused, 422, 'no-plan')).detail).toMatch(/^GIT_SHA: write the whole id of a commit/);
    expect(JSON.stringify(await expectRefusal(secret, 422, 'no-plan'))).not.toContain('s3cr3t');
    const summary = shapes.BuildSummary.parse(await taken.json());
    const commits = [{ url: 'git@example.org:fork', ref: second, commit: second }];
    expect(summary).toMatchObject({ number: 1, commits });
    expect(await house.call('GET', summary.urls.self)).toMatchObject({ commits, runs: [{ commit: second }] });
  });

  test('B14 is what a worker found itself, where the server is of a version that freezes nothing', async () => {
    const server = createServer((_request, response) => {
      const problem = {
        type: 'urn:slipway:problem:unknown-route',
        title: '',
        status: 404,
        detail: 'not part of the API',
      };
      response.writeHead(404, { 'content-type': 'application/problem+json' }).end(JSON.stringify(problem));
    });
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    const { port } = server.address() as AddressInfo;
    const api = new WorkerApi(`http://127.0.0.1:${port}`, sign, () => undefined);
    const kept = await api.attempt({ runId: randomUUID(), attempt: 1, token: 1 }).freeze(first);
    server.close();
    server.closeAllConnections();

    expect(kept).toBe(first);
  });
});

describe('a project', () => {
  test('is made, listed with its newest build, replaced, and its earlier builds keep their plan', async () => {
    const project = await newProject();
    const first = await house.trigger(project);
    const longer = oneRun('echo other', '');

    const replaced = shapes.Project.parse(await house.call('PUT', `/v1/projects/${project}`, { definition: longer }));
    const second = await house.trigger(project);

    expect(replaced).toMatchObject({ definition: longer, triggers: ['main'], lastBuild: { number: 1 } });
    const { projects } = shapes.ProjectList.parse(await house.call('GET', '/v1/projects'));
    expect(projects.find((one) => one.name === project)).toMatchObject({ lastBuild: { number: 2 } });
    const plan = await house.call<shapes.PlanAnswer>('GET', `/v1/projects/${project}/builds/1/plan`);
    expect(plan.digest).toBe(first.planDigest);
    expect(second.planDigest).not.toBe(first.planDigest);
    await expectRefusal(
      await house.request('POST', '/v1/projects', { name: project, definition: DEFINITION }),
      409,
      'name-taken',
    );
  });

  test('P1 with mistakes in its file is refused with every problem and its line, and nothing is stored', async () => {
    const definition = DEFINITION.replace('script: work', 'script: wrok').replace('timeout: 10', 'timeout: never');
    const lines = definition.split('\n');

    for (const [path, body] of [
      ['/v1/projects', { name: 'refused', definition }],
      ['/v1/validate', { definition }],
    ] as const) {
      const { problems } = await expectRefusal(await house.request('POST', path, body), 422, 'invalid-definition');
      expect(problems?.map((one) => lines[one.line! - 1]?.trim())).toEqual(
        expect.arrayContaining([expect.stringMatching(/^timeout: never|script: wrok$/)]),
      );
      expect(problems?.every((one) => one.line! > 0 && one.column! > 0)).toBe(true);
    }
    await expectRefusal(await house.request('GET', '/v1/projects/refused'), 404, 'not-found');
  });

  test('whose run asks for a privileged container is refused by the policy of the cluster, and no number is used', async () => {
    const project = await newProject(DEFINITION.replace('script: work', 'script: work\n        privileged: true'));

    const { detail } = await expectRefusal(await postBuild(project), 403, 'policy');

    expect(detail).toContain('run work asks for a privileged container, which cluster local does not allow');
    await house.call('PUT', `/v1/projects/${project}`, { definition: DEFINITION });
    expect((await house.trigger(project)).number).toBe(1);
  });
});

describe('a refusal', () => {
  const post = (path: string, body: object) => () => house.request('POST', path, body);
  const get = (path: string) => () => house.request('GET', path);
  const raw = (path: string, body: string, type: string) => () =>
    fetch(house.url + path, { method: 'POST', body, headers: { 'content-type': type } });
  const builds = '/v1/projects/refusals/builds';
  beforeAll(() => house.project('refusals', DEFINITION));

  test.each<[string, () => Promise<Response>, number, string]>([
    ['an unknown project', get('/v1/projects/nothing'), 404, 'not-found'],
    ['a trigger of an unknown project', post('/v1/projects/nothing/builds', {}), 404, 'not-found'],
    ['builds of an unknown project', get('/v1/projects/nothing/builds'), 404, 'not-found'],
    ['an unknown build', get(`${builds}/7`), 404, 'not-found'],
    ['a build that is no number', get(`${builds}/x'--`), 404, 'not-found'],
    ['a number beyond all numbers', get(`${builds}/99999999999999999999`), 404, 'not-found'],
    ['an unknown run', get(`${builds}/1/runs/none`), 404, 'not-found'],
    ['an unknown log', get(`${builds}/7/runs/work/log`), 404, 'not-found'],
    ['an unknown live log', get(`${builds}/7/runs/work/log/events`), 404, 'not-found'],
    ['a cancel of an unknown build', post(`${builds}/7/cancel`, {}), 404, 'not-found'],
    ['an unknown route', get('/v1/nothing'), 404, 'unknown-route'],
    ['an unknown method', () => house.request('DELETE', '/v1/projects/refusals'), 404, 'unknown-route'],
    ['a path that cannot be decoded', get('/v1/projects/%zz'), 400, 'malformed-request'],
    ['a malformed page', get(`${builds}?limit=0`), 400, 'malformed-request'],
    ['an unknown field', post(builds, { parameters: {} }), 400, 'malformed-request'],
    ['a parameter that is no text', post(builds, { params: { A: 1 } }), 400, 'malformed-request'],
    ['a priority beyond the last', post(builds, { priority: 6 }), 400, 'malformed-request'],
    ['a body that is a list', post(builds, []), 400, 'malformed-request'],
    [
      'a project name with a slash',
      post('/v1/projects', { name: 'a/b', definition: DEFINITION }),
      400,
      'malformed-request',
    ],
    ['a body that is no JSON', raw(builds, '{', 'application/json'), 400, 'malformed-request'],
    ['a body in another format', raw(builds, 'reason=x', 'application/x-www-form-urlencoded'), 415, 'not-json'],
    ['a POST that does not say that it is JSON', () => fetch(house.url + builds, { method: 'POST' }), 415, 'not-json'],
    ['an unknown trigger', post(builds, { trigger: 'other' }), 422, 'no-plan'],
    ['a body of 3 MiB', post('/v1/validate', { definition: 'x'.repeat(3 * 1024 ** 2) }), 413, 'too-large'],
    ['a file of 1.5 MiB', post('/v1/validate', { definition: '#'.repeat(1.5 * 1024 ** 2) }), 422, 'invalid-definition'],
    ['a file that is no YAML', post('/v1/validate', { definition: 'a: [' }), 422, 'invalid-definition'],
    ['a worker without a token', post('/v1/worker/hello', {}), 401, 'no-token'],
    ['a worker route without a token', get('/v1/worker/none'), 401, 'no-token'],
  ])('of %s is a problem with a status, a code and a sentence', async (_what, ask, ...[status, code]) => {
    await expectRefusal(await ask(), status, code);
  });

  test('of a text that cannot be kept names the field, wherever it is', async () => {
    for (const [path, body] of [
      ['reason', '{"reason": "x\\u0000y"}'],
      ['params.a\\ud800', '{"params": {"a\\ud800": "b"}}'],
      ['params.A', '{"params": {"A": "\\udfff"}}'],
      ['x.0.1', '{"x": [["", "\\u0000"]]}'],
    ] as const) {
      const answer = await expectRefusal(await raw(builds, body, 'application/json')(), 400, 'malformed-request');
      expect(answer.problems).toMatchObject([{ code: 'not-text', path }]);
    }
    const pair = raw(builds, '{"reason": "\\ud83d\\udea2 and \\\\u0000"}', 'application/json');
    expect(await (await pair()).json()).toMatchObject({ reason: '🚢 and \\u0000' });
  });

  test('no door gives NUL, half a character or a number beyond all columns to the store: every route answers below 500', async () => {
    const { number } = await house.trigger('refusals');
    const own = { project: 'refusals', number: String(number), run: 'work', cluster: 'local', path: 'x' };
    const odd = ['%00', 'a%00b', '%ED%A0%80', '99999999999', '9007199254740993', '-1', '1e400', '%F0%9F%9A%A2'];
    const seen: string[] = [];
    const ask = async (method: string, path: string, body?: string): Promise<void> => {
      const headers = { 'content-type': 'application/json', authorization: `Bearer ${await tokenFor(path)}` };
      const response = await fetch(house.url + path, {
        method,
        headers,
        body,
        signal: AbortSignal.timeout(5_000),
      }).catch(
        // A stream or a long wait has taken the request.
        () => undefined,
      );
      if (response && response.status >= 500) seen.push(`${method} ${path} ${body ?? ''}: ${response.status}`);
      await response?.body?.cancel();
    };
    const fill = (path: string, values: Record<string, string>, otherwise: string): string =>
      path.replace(/[:*](\w+)/g, (_, name: string) => values[name] ?? otherwise);
    const queries = ['before', 'attempt', 'offset', 'limit', 'from', 'token', 'host', 'cluster', 'beside', 'subject'];
    for (const { method, path } of routesOf(makeApp(emptyContext()))) {
      const isChange = method !== 'GET';
      for (const value of odd) {
        await ask(method, fill(path, {}, value), isChange ? '{}' : undefined);
        const query = queries.map((name) => `${name}=${value}`).join('&');
        await ask(method, `${fill(path, own, randomUUID())}?${query}`, isChange ? '{}' : undefined);
      }
      if (isChange) for (const body of BODIES) await ask(method, fill(path, own, randomUUID()), body);
    }

    expect(seen).toEqual([]);
  }, 240_000);

  /** Every text field that a body may have, and every number. */
  const FIELDS = [
    'reason',
    'name',
    'message',
    'definition',
    'trigger',
    'host',
    'description',
    'worker',
    'bytes',
    'organisation',
  ];
  const NUMBERS = ['minutes', 'priority', 'hold', 'at', 'exitCode', 'slots', 'attempt', 'weight', 'cols', 'move'];
  const BODIES = [
    ...['\\u0000', '\\ud800'].map((text) => `{${FIELDS.map((name) => `"${name}": "${text}"`).join(', ')}}`),
    ...['99999999999', '9007199254740993', '1e400', '-1', '0.5'].map(
      (number) =>
        `{"reason": "r", "cause": "ok", "message": "", "bytes": "", "runs": "all", ${NUMBERS.map((name) => `"${name}": ${number}`).join(', ')}}`,
    ),
    `{"cause": "ok", "message": "", "exitCode": 1099511627776}`,
    `{"at": 9007199254740991, "bytes": "AA=="}`,
    `{"minutes": 99999999999}`,
  ];

  const tokenFor = (path: string): Promise<string> =>
    path.startsWith('/v1/worker/') ? sign() : Promise.resolve(ADMIN_TOKEN);

  /** Only its routes are looked at, so what they would work with is left out. */
  const emptyContext = () =>
    ({ limits: makeLimits(), troubles: new Troubles(async () => undefined) }) as unknown as ApiContext;

  interface Layer {
    route?: { path: string; methods: Record<string, boolean> };
    handle: { stack?: Layer[] };
  }

  /** Every method and path that the API answers, but the events of a log, which are a stream. */
  function routesOf(app: { router: { stack: unknown[] } }): { method: string; path: string }[] {
    const walk = (layers: Layer[]): { method: string; path: string }[] =>
      layers.flatMap(({ route, handle }) => {
        if (!route) return walk(handle.stack ?? []);
        if (typeof route.path !== 'string') return [];
        return Object.keys(route.methods).map((method) => ({ method: method.toUpperCase(), path: route.path }));
      });
    // Express gives no type to its own layers.
    const routes = walk(app.router.stack as Layer[]);
    expect(routes.length).toBeGreaterThan(50);
    return routes.filter(
      ({ path }) => !path.endsWith('/log/events') && !path.endsWith('/input') && !path.endsWith('/output'),
    );
  }

  test('of an unknown field names the field', async () => {
    const answer = await expectRefusal(await post(builds, { parameters: {} })(), 400, 'malformed-request');

    expect(JSON.stringify(answer.problems)).toContain('parameters');
  });
});

describe('a worker', () => {
  test('C3 with a key that is not of its cluster is refused everything, and changes nothing', async () => {
    const held = await takeRun(await newProject());
    const { privateKey } = await makeClusterKey();
    const token = await makeTokenSigner(privateKey, { cluster: 'local', worker: worker.id })();
    const headers = { authorization: `Bearer ${token}` };
    const { id, ...host } = worker;

    for (const [path, body] of [
      ['/v1/worker/hello', { worker: id, ...host }],
      ['/v1/worker/lease', { runId: randomUUID(), attempt: 1, worker: id }],
      [`${held.path}/release?token=${held.token}`, {}],
    ] as const) {
      await expectRefusal(await house.request('POST', path, body, headers), 401, 'unknown-key');
    }
    await held.attempt.progress({ state: 'running' });
  });

  test('C8 whose clock is wrong is refused, and its host and the run that waits for it say so', async () => {
    const { publicKey, privateKey } = await makeClusterKey();
    await house.register('clocks', publicKey, { weight: 0 });
    const id = randomUUID();
    const hello = { ...worker, id: undefined, worker: id, cluster: 'clocks', host: 'late' };
    const tell = (token: string) =>
      house.request('POST', '/v1/worker/hello', hello, { authorization: `Bearer ${token}` });
    const host = async () =>
      HostList.parse(await house.call('GET', '/v1/hosts')).hosts.find(({ name }) => name === 'late');
    const project = await newProject(oneRun('true', 'cluster: clocks\n'));
    expect((await tell(await makeTokenSigner(privateKey, { cluster: 'clocks', worker: id })())).status).toBe(200);
    await house.trigger(project);
    expect(await host()).toMatchObject({ state: 'ready', why: null });

    const iat = Math.floor(Date.now() / 1000) - 3_600;
    const claims = { iss: 'cluster:clocks', sub: id, aud: 'slipway', iat, exp: iat + 300 };
    const late = await new SignJWT(claims)
      .setProtectedHeader({ alg: 'EdDSA', kid: publicKey.kid })
      .sign(await importJWK(JSON.parse(privateKey) as JWK, 'EdDSA'));
    await expectRefusal(await tell(late), 401, 'token-expired');

    const why = /is refused: the token has expired; check the clocks .* \(signed 60 min ago by the server's clock\)/;
    const refusing = { state: 'refusing', why: expect.stringMatching(why) as string };
    await waitFor(async () => (await host())?.state === 'refusing', { what: 'it is noted' });
    expect(await host()).toMatchObject(refusing);
    expect((await house.run(project, 1, 'work')).waiting).toMatch(why);
  });

  test('O6 that may not append is refused before its bytes are read, and leaves nothing behind', async () => {
    const headers = { authorization: `Bearer ${await sign()}`, 'content-length': '4000000' };
    const path = `/v1/worker/attempts/${randomUUID()}/1/log?token=1&offset=0`;
    const append = httpRequest(`${house.url}${path}`, { method: 'POST', headers });
    append.on('error', () => undefined);
    append.write('the first bytes');

    const [answer] = (await once(append, 'response')) as [IncomingMessage];

    append.destroy();
    expect(answer.statusCode).toBe(403);
    expect(existsSync(join(house.dir, 'blobs', 'logs', path.split('/')[4]!))).toBe(false);
  });

  test('that names the host of another living worker is refused and told what to do', async () => {
    await takeRun(await newProject());
    const { id: _, ...host } = worker;
    const other = randomUUID();

    await expect(apiOf(other).hello({ worker: other, ...host })).rejects.toThrow('give this one a name of its own');
  });

  test('is shown with its slots, and a run it holds shows its host and state', async () => {
    const held = await takeRun(await newProject());
    await held.attempt.progress({
      state: 'running',
      starting: true,
      containerId: 'c0ffee',
      startedAt: new Date(0).toISOString(),
    });

    const { workers: all } = shapes.WorkerList.parse(await house.call('GET', '/v1/workers'));
    const workers = all.filter(({ cluster }) => cluster === 'local');
    const run = shapes.Run.parse(await house.call('GET', held.run.urls.self));

    expect(workers).toMatchObject([{ id: worker.id, host: 'stand-in', slots: 100, connected: true }]);
    expect(workers[0]!.busySlots).toBeGreaterThan(0);
    expect(run).toMatchObject({
      state: 'running',
      host: 'stand-in',
      waiting: null,
      attempts: [{ containerId: 'c0ffee' }],
    });
  });

  test('B6 that was fenced is told so by 409, and stops', async () => {
    const held = await takeRun(await newProject());
    await finish(held);

    await expect(held.attempt.appendLog(0, Buffer.from('late'))).rejects.toMatchObject({ reason: 'fenced' });
    await expect(held.attempt.progress({ state: 'running' })).rejects.toBeInstanceOf(WorkerApiError);
    expect(await house.run(held.run.project, 1, 'work')).toMatchObject({ status: 'passed', logBytes: 0 });
  });

  test('B7 a cancel is answered at once, is shown as cancelling until the worker has ended it, and can be repeated', async () => {
    const held = await takeRun(await newProject());
    const url = `/v1/projects/${held.run.project}/builds/1`;
    const statuses = async () => {
      const build = await house.build(held.run.project, 1);
      return [build.status, build.runs[0]!.status];
    };

    expect((await house.request('POST', `${url}/cancel`)).status).toBe(202);
    expect((await house.request('POST', `${url}/runs/work/cancel`, {})).status).toBe(202);
    expect(await statuses()).toEqual(['cancelling', 'cancelling']);
    await held.attempt.result({ cause: 'cancel-requested', message: '', exitCode: null });
    expect(await statuses()).toEqual(['cancelling', 'cancelled']);
    expect((await house.request('POST', `${url}/runs/work/cancel`)).status).toBe(200);
  });
});

describe('a log', () => {
  const TEXT = 'one\ntwo ✓\nthree\n';
  const bytes = Buffer.from(TEXT);
  let held: Held;
  let url: string;
  beforeAll(async () => {
    held = await takeRun(await newProject());
    url = held.run.urls.log;
    await held.attempt.appendLog(0, bytes.subarray(0, 9));
    await held.attempt.appendLog(9, bytes.subarray(9));
  });
  const read = async (query: string, headers: Record<string, string> = {}) => {
    const response = await house.request('GET', url + query, undefined, headers);
    return { status: response.status, headers: response.headers, body: Buffer.from(await response.arrayBuffer()) };
  };

  test.each<[string, number, number]>([
    ['', 0, bytes.length],
    ['?offset=4', 4, bytes.length],
    ['?offset=4&limit=7', 4, 11],
    ['?limit=2', 0, 2],
    ['?offset=-5', bytes.length - 5, bytes.length],
    ['?offset=-5&limit=2', bytes.length - 5, bytes.length - 3],
    ['?offset=-5000', 0, bytes.length],
    ['?offset=5000', bytes.length, bytes.length],
    ['?attempt=1', 0, bytes.length],
  ])('R2 %j gives bytes %i to %i, and says how long the log is and whether it is complete', async (query, from, to) => {
    const { status, headers, body } = await read(query);

    expect([status, String(body)]).toEqual([200, String(bytes.subarray(from, to))]);
    expect(headers.get('slipway-log-bytes')).toBe(String(bytes.length));
    expect(headers.get('slipway-log-complete')).toBe('false');
    expect(headers.get('content-type')).toBe('text/plain; charset=utf-8');
  });

  test.each<[string, number, number]>([
    ['bytes=4-8', 4, 9],
    ['bytes=8-10', 8, 11],
    ['bytes=10-', 10, bytes.length],
    ['bytes=-3', bytes.length - 3, bytes.length],
    ['bytes=0-99999', 0, bytes.length],
  ])('R2 Range: %s gives 206 with bytes %i to %i', async (value, from, to) => {
    const { status, headers, body } = await read('', { range: value });

    expect([status, String(body)]).toEqual([206, String(bytes.subarray(from, to))]);
    expect(headers.get('content-range')).toBe(`bytes ${from}-${to - 1}/${bytes.length}`);
  });

  test('R2 a range outside the log is 416 with its length; a unit that is not bytes is ignored', async () => {
    const outside = await house.request('GET', url, undefined, { range: 'bytes=500-' });
    expect(outside.headers.get('content-range')).toBe(`bytes */${bytes.length}`);
    await expectRefusal(outside, 416, 'range');

    expect(await read('', { range: 'lines=1-2' })).toMatchObject({ status: 200, body: bytes });
  });

  test('R2 HEAD gives the length alone; an attempt that was not made is 404; a malformed offset is 400', async () => {
    const head = await house.request('HEAD', url);
    expect([head.status, head.headers.get('content-length'), await head.text()]).toEqual([
      200,
      String(bytes.length),
      '',
    ]);
    await expectRefusal(await house.request('GET', `${url}?attempt=2`), 404, 'not-found');
    await expectRefusal(await house.request('GET', `${url}?offset=x`), 400, 'malformed-request');
    await expectRefusal(await house.request('GET', `${url}/events?offset=-1`), 400, 'malformed-request');
  });

  test('R2 an append in the wrong place is answered with the right one; an empty one and an odd content type do no harm', async () => {
    const append = async (offset: number, body: string, type: string) => {
      const headers = { authorization: `Bearer ${await sign()}`, 'content-type': type };
      const target = `${house.url}${held.path}/log?token=${held.token}&offset=${offset}`;
      const response = await fetch(target, { method: 'POST', body, headers });
      return [response.status, await response.json()];
    };
    const end = bytes.length;

    expect(await append(0, 'again', 'application/octet-stream')).toEqual([200, { bytes: end }]);
    expect(await append(end, '', 'application/octet-stream')).toEqual([200, { bytes: end }]);
    expect(await append(end, '{"a": 1}\n', 'application/json')).toEqual([200, { bytes: end + 9 }]);
    expect(String((await read(`?offset=${end}`)).body)).toBe('{"a": 1}\n');
  });

  test('R2 a live log begins before there is a host, sends each byte once with its offset, and ends with the verdict', async () => {
    const project = await newProject();
    const path = `${apiUrl(1)}/v1/projects/${project}/builds/1/runs/work/log`;
    const followed = nothingYet();
    const held = await takeRunWhileFollowed(project, () => followLog(path, followed));
    const parts = [randomBytes(100), randomBytes(120_000), Buffer.from('\n\r\n\0end')];
    let at = 0;
    for (const part of parts) {
      at = await held.attempt.appendLog(at, part);
      await waitFor(() => followed.bytes.length === at, { what: `${at} bytes are seen live` });
    }
    await finish(held);
    await held.following;

    expect(followed.bytes.equals(Buffer.concat(parts))).toBe(true);
    expect(followed.end).toEqual({ bytes: at, status: 'passed', attempt: 1 });
  });

  /** The follower is there before the run is taken. */
  async function takeRunWhileFollowed(project: string, follow: () => Promise<void>) {
    await house.trigger(project);
    const following = follow();
    const { id, ...host } = worker;
    await workerApi().hello({ worker: id, ...host });
    const runId = await runIdOf(project, 1);
    const lease = await workerApi().lease({ runId, attempt: 1, worker: id });
    if (lease.kind !== 'granted') throw new Error(lease.kind);
    const attempt = workerApi().attempt({ runId, attempt: 1, token: lease.token });
    return { attempt, following, path: '', token: lease.token, run: await house.run(project, 1, 'work') };
  }

  test('R2 a live log resumes behind the last byte that was seen, on whichever copy of the API', async () => {
    const held = await takeRun(await newProject());
    const whole = randomBytes(200_000);
    await held.attempt.appendLog(0, whole);
    await finish(held);

    for (const [copy, from] of [0, 1, 48 * 1024, 150_001, 200_000].entries()) {
      const followed = { ...nothingYet(), bytes: whole.subarray(0, from), lastId: String(from) };
      await followLog(on(copy, held.run.urls.log), followed);

      expect(followed.bytes.equals(whole)).toBe(true);
      expect(followed.end).toMatchObject({ bytes: whole.length, status: 'passed' });
    }
  });

  test('R2 the API that a reader is connected to is killed: on the next copy it misses no byte and sees none twice', async () => {
    const held = await takeRun(await newProject());
    const parts = range(30).map((at) => Buffer.from(`part ${at} ${'x'.repeat(at * 100)}\n`));
    const followed = nothingYet();
    let copy = 1;
    const reading = (async () => {
      // As a browser does: comes back with the last id, here to the next copy.
      while (!followed.end) await followLog(on(copy, held.run.urls.log), followed).catch(() => (copy = 2));
    })();
    let at = 0;
    for (const [index, part] of parts.entries()) {
      at = await held.attempt.appendLog(at, part);
      if (index !== 14) continue;
      await waitFor(() => followed.bytes.length > 0, { what: 'the reader has seen something' });
      await house.kill9('api-2');
    }
    await finish(held);
    await reading;

    expect(copy).toBe(2);
    expect(String(followed.bytes)).toBe(String(Buffer.concat(parts)));
    await house.start('api-2');
  });
});

describe('an artifact', () => {
  const small = Buffer.from('<script>alert(1)</script>');
  const large = randomBytes(3_000_000);
  const ODD = 'a b/ü ✓/100%.bin';
  let held: Held;
  const put = (path: string, body: Buffer) =>
    held.attempt.putArtifact({ kind: 'file', path, sizeBytes: body.length, open: () => Readable.from([body]) });
  const list = async (): Promise<shapes.Artifact[]> =>
    shapes.ArtifactList.parse(await house.call('GET', held.run.urls.artifacts)).artifacts;
  beforeAll(async () => {
    held = await takeRun(await newProject());
    await put('page.html', small);
    await put(ODD, large);
    await put('empty', Buffer.alloc(0));
  });

  test('R3 is listed with path, size, digest and type, and its URL gives the same bytes, whatever its name', async () => {
    const artifacts = await list();

    expect(artifacts.map((one) => [one.path, one.sizeBytes, one.digest, one.contentType])).toEqual(
      expect.arrayContaining([
        [ODD, large.length, sha(large), 'application/octet-stream'],
        ['page.html', small.length, sha(small), 'text/html'],
        ['empty', 0, sha(Buffer.alloc(0)), 'application/octet-stream'],
      ]),
    );
    for (const artifact of artifacts) {
      const body = Buffer.from(await (await house.request('GET', artifact.url)).arrayBuffer());
      expect([artifact.path, sha(body)]).toEqual([artifact.path, artifact.digest]);
    }
  });

  test('R3 one that is too large is refused with the number, one that is not what was said leaves nothing, and all that is stored is told', async () => {
    const send = async (query: string, body: string) =>
      fetch(`${house.url}${held.path}/artifacts?token=${held.token}&${query}`, {
        method: 'PUT',
        body,
        headers: { authorization: `Bearer ${await sign()}`, 'content-type': 'application/octet-stream' },
      });
    const stored = (await list()).map(({ path, sizeBytes, digest }) => ({ path, sizeBytes, digest }));

    const refused = await expectRefusal(await send('path=huge&size=3000000000', 'x'), 413, 'too-large');
    expect(refused.detail).toContain('3000000000 bytes, and one file may have 2147483648');
    for (const body of ['x', 'xxx']) await expectRefusal(await send('path=odd&size=2', body), 400, 'malformed-request');
    await expectRefusal(await send(`path=${'l'.repeat(1025)}&size=1`, 'x'), 400, 'malformed-request');
    expect((await held.attempt.collecting())?.stored).toEqual(stored);
  });

  test('R3 is read by range, and not again while it is unchanged', async () => {
    const { url } = (await list()).find((one) => one.path === ODD)!;
    const part = await house.request('GET', url, undefined, { range: 'bytes=2000000-2000009' });
    const outside = await house.request('GET', url, undefined, { range: 'bytes=3000000-' });
    const etag = part.headers.get('etag')!;

    expect(part.status).toBe(206);
    expect(part.headers.get('content-range')).toBe('bytes 2000000-2000009/3000000');
    expect(Buffer.from(await part.arrayBuffer()).equals(large.subarray(2_000_000, 2_000_010))).toBe(true);
    await expectRefusal(outside, 416, 'range');
    expect(etag).toBe(`"${sha(large)}"`);
    const unchanged = await house.request('GET', url, undefined, {
      'if-none-match': etag,
      'cache-control': 'max-age=0',
    });
    expect([unchanged.status, await unchanged.text()]).toEqual([304, '']);
  });

  test('R3 that is a page cannot act as a page of ours', async () => {
    const { url } = (await list()).find((one) => one.path === 'page.html')!;
    const { headers } = await house.request('GET', url);

    expect(headers.get('content-security-policy')).toMatch(/^sandbox;.*default-src 'none'/);
    expect(headers.get('x-content-type-options')).toBe('nosniff');
  });

  test.each(['../up', 'a/../../up', '/etc/passwd', 'a//b', './a', 'a/..', '', 'a\0b'])(
    'R3 the path %j is refused',
    async (path) => {
      await expect(put(path, small)).rejects.toMatchObject({ reason: 'refused' });
      expect((await list()).map((one) => one.path)).not.toContain(path);
    },
  );

  test.each(['..%2F..%2F..%2Fdatabase.log', '%2Fetc%2Fpasswd', 'none', 'page.html/below'])(
    'R3 nothing is found under %s',
    async (path) => {
      await expectRefusal(await house.request('GET', `${held.run.urls.artifacts}/${path}`), 404, 'not-found');
    },
  );

  test('R3 of any content type is stored byte for byte, and the same path again replaces it', async () => {
    const target = `${house.url}${held.path}/artifacts?token=${held.token}&path=report.json`;
    const send = async (body: string) =>
      fetch(target, {
        method: 'PUT',
        body,
        headers: { authorization: `Bearer ${await sign()}`, 'content-type': 'application/json' },
      });
    await send('{"first": true}');

    expect(await (await send('{ "second" : 2 }')).json()).toMatchObject({ sizeBytes: 16 });

    const [report, ...more] = (await list()).filter((one) => one.path === 'report.json');
    expect(more).toEqual([]);
    expect(await (await house.request('GET', report!.url)).text()).toBe('{ "second" : 2 }');
    const blobs = readdirSync(join(house.dir, 'blobs', 'artifacts', held.path.split('/')[4]!, '1'));
    expect(blobs).toHaveLength((await list()).length);
  });

  test('R3 whose upload breaks off is not there', async () => {
    const headers = { authorization: `Bearer ${await sign()}`, 'content-length': '1000' };
    await new Promise<void>((done) => {
      const path = `${held.path}/artifacts?token=${held.token}&path=broken`;
      const upload = httpRequest(`${house.url}${path}`, { method: 'PUT', headers });
      upload.on('error', () => done());
      upload.write('half of it', () => upload.destroy(new Error('cut')));
    });

    await put('after', small);

    expect((await list()).map((one) => one.path)).not.toContain('broken');
  });
});

describe('when something dies', () => {
  test('B2 the API is killed the moment it has answered 201: every build exists and its workflow is started', async () => {
    const project = await newProject();
    const copies = ['api', 'api-2', 'api-3'];
    const accepted: number[] = [];
    await house.start('orchestrator');
    for (let round = 0; round < 7; round += 1) {
      await Promise.all(
        copies.map(async (name, at) => {
          const response = await waitFor(() => postBuild(project, { url: apiUrl(at) }), { what: `${name} answers` });
          house.signal(name, 'SIGKILL');
          expect(response.status).toBe(201);
          accepted.push(Number(response.headers.get('location')?.split('/').at(-1)));
          await house.kill9(name);
        }),
      );
      await Promise.all(copies.map((name) => house.start(name)));
    }

    const { builds } = await house.call<z.infer<typeof shapes.BuildList>>('GET', `/v1/projects/${project}/builds`);
    expect(accepted).toHaveLength(21);
    expect(builds.map((build) => build.number)).toEqual(expect.arrayContaining(accepted));
    for (const number of accepted) {
      await waitFor(() => isStarted(project, number), { what: `the workflow of build ${number}`, timeoutMs: 30_000 });
    }
  }, 180_000);

  test('O4 B2 Temporal is away: alive and not ready, triggers are accepted all the same and start when it is back', async () => {
    const project = await newProject();
    await house.temporal.kill9();

    const ready = await waitFor(
      async () => {
        const response = await house.request('GET', '/readyz');
        return response.status === 503 && shapes.Ready.parse(await response.json());
      },
      { what: 'the API says that it is not ready' },
    );
    const health = await house.request('GET', '/healthz');
    const trigger = await postBuild(project);

    expect(ready).toMatchObject({ ready: false, checks: { store: 'ok' } });
    expect(ready.checks['temporal']).not.toBe('ok');
    expect([health.status, trigger.status]).toEqual([200, 201]);
    await house.temporal.restart();
    await waitFor(async () => (await house.request('GET', '/readyz')).status === 200, {
      what: 'ready again',
      timeoutMs: 30_000,
    });
    await waitFor(() => isStarted(project, 1), { what: 'the workflow of the build', timeoutMs: 60_000 });
  }, 120_000);

  test('O4 the database is away: alive and not ready, requests are told to come again, and all is there afterwards', async () => {
    const project = await newProject();
    await house.trigger(project);
    await house.kill9('database');

    const ready = await house.request('GET', '/readyz');
    const health = await house.request('GET', '/healthz');
    const read = await house.request('GET', `/v1/projects/${project}`);
    const trigger = await postBuild(project);

    expect([ready.status, health.status]).toEqual([503, 200]);
    expect(shapes.Ready.parse(await ready.json())).toMatchObject({ ready: false, checks: { temporal: 'ok' } });
    expect(read.headers.get('retry-after')).toBe('1');
    await expectRefusal(read, 503, 'store-away');
    await expectRefusal(trigger, 503, 'store-away');
    await house.start('database');
    await waitFor(async () => (await house.request('GET', '/readyz')).status === 200, { what: 'ready again' });
    expect((await house.trigger(project)).number).toBe(2);
  }, 120_000);
});
