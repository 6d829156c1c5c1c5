// Proves what a worker with a good key of cluster A can do to cluster B, through the gateway and at the API itself: nothing.
// Real processes and Docker; the work of B that is attacked goes on to its end. Attacks by gRPC are in gateway.test.ts,
// bytes that hide a request in another in gateway-http.test.ts.
import { randomUUID } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { importJWK, SignJWT, UnsecuredJWT, type JWTPayload, type KeyLike } from 'jose';
import { sql } from 'kysely';
import { makeClusterKey, makeTokenSigner } from '../adapters/cluster-keys';
import { embeddedUrl } from '../adapters/embedded-database';
import { openStore, type Database } from '../adapters/store/connect';
import { containerName } from '../domain/names';
import { AuditPage, type AuditEntry, type Cluster } from '../domain/schemas/clusters';
import type { Build, ErrorAnswer } from '../domain/schemas/api';
import { House, oneRun } from './setup/house';
import { waitFor } from './setup/wait-for';

jest.setTimeout(120_000);

const ME = randomUUID();
let house: House;
let db: Database;
let evil: Awaited<ReturnType<typeof makeClusterKey>>;
let sign: () => Promise<string>;
/** All that the worker of B itself knows. */
let victim: { runId: string; token: number; worker: string; queued: string };

beforeAll(async () => {
  house = await House.open({ gateway: true });
  db = openStore(embeddedUrl(join(house.dir, 'run')), 2);
  evil = await makeClusterKey();
  await house.register('evil', evil.publicKey, { weight: 0 });
  sign = makeTokenSigner(evil.privateKey, { cluster: 'evil', worker: ME });
  expect((await attack(house.url, 'POST', '/v1/worker/hello', { json: hello() })).status).toBe(200);
  victim = await beginVictim();
}, 180_000);
afterAll(async () => {
  await db?.destroy();
  await house?.stop();
}, 60_000);

const hello = (more: object = {}) => ({
  worker: ME,
  cluster: 'evil',
  host: 'evil-host',
  labels: [],
  slots: 1,
  version: '0.1.0',
  ...more,
});

/** One run of B that lasts until it is told, and one that waits for a host that does not exist. */
async function beginVictim() {
  const script =
    'echo started >> /archive/starts; n=0; until [ -e /archive/go ]; do n=$((n+1)); echo $n; sleep 1; done';
  await house.project('victim', oneRun(`#!/bin/sh\n${script}`, 'cluster: local\n'));
  await house.trigger('victim');
  await house.runIn('running', 'victim', 1, 'work');
  const waits = oneRun('#!/bin/sh', 'cluster: local\n');
  await house.project(
    'queued',
    waits.replace('        script: work', "        script: work\n        host-tag: 'nowhere'"),
  );
  await house.trigger('queued');
  const { rows } = await sql<{ id: string; token: number; worker: string }>`
    select r.id, l.token, h.worker from runs r join builds b on b.id = r.build_id
      left join leases l on l.run_id = r.id left join hosts h on h.id = l.host
    where b.project in ('victim', 'queued') order by b.project desc`.execute(db);
  const [running, queued] = rows;
  return { runId: running!.id, queued: queued!.id, token: running!.token, worker: running!.worker };
}

interface Attack {
  json?: unknown;
  body?: string;
  contentType?: string;
  /** Default: a good one of this worker. */
  token?: string;
}

async function attack(at: string, method: string, ...[path, what = {}]: [path: string, what?: Attack]) {
  const { json, body = json === undefined ? undefined : JSON.stringify(json), token = await sign() } = what;
  const contentType = what.contentType ?? (what.body === undefined ? 'application/json' : 'application/octet-stream');
  const isTyped = body !== undefined || method === 'POST';
  const headers = { authorization: `Bearer ${token}`, ...(isTyped ? { 'content-type': contentType } : {}) };
  return fetch(at + path, { method, headers, ...(body === undefined ? {} : { body }) });
}

/** Status and code of a refusal; of anything else the body. */
async function tell(response: Response): Promise<string> {
  const text = await response.text();
  if (response.ok) return `${response.status} ${text}`;
  return `${response.status} ${(JSON.parse(text) as ErrorAnswer).type.replace('urn:slipway:problem:', '')}`;
}

async function auditOf(): Promise<AuditEntry[]> {
  const { entries } = AuditPage.parse(await house.operated('GET', '/v1/audit?limit=1000'));
  return entries.filter(({ action }) => action === 'worker.refused');
}

/** Rows of B that an attack could change. */
async function rowsOfB(): Promise<string> {
  const { rows } = await sql`
    select r.name, r.state, r.attempt, r.cluster, a.state as attempt_state, a.outcome, a.container_id, a.image_digest, l.token, l.state as lease,
      (select count(*) from attempts where run_id = r.id) as attempts, (select count(*) from artifacts where run_id = r.id) as artifacts
    from runs r left join attempts a on a.run_id = r.id left join leases l on l.run_id = r.id
    where r.id in (${victim.runId}::uuid, ${victim.queued}::uuid) order by r.id`.execute(db);
  return JSON.stringify(rows);
}

const WAYS: [way: string, at: () => string][] = [
  ['through the gateway', () => house.gatewayUrl],
  ['at the API itself', () => house.url],
];

describe.each(WAYS)('%s', (way, at) => {
  const isGateway = way.includes('gateway');

  test('C3 no lease of a run of B is granted, whether it runs, waits or is made up, and none in the name of its worker', async () => {
    const before = await rowsOfB();
    for (const runId of [victim.runId, victim.queued, randomUUID()]) {
      for (const attempt of [1, 2]) {
        const ask = { runId, attempt, worker: ME };
        expect(await tell(await attack(at(), 'POST', '/v1/worker/lease', { json: ask }))).toBe('403 foreign-attempt');
        const lie = await attack(at(), 'POST', '/v1/worker/lease', { json: { ...ask, worker: victim.worker } });
        expect(await tell(lie)).toBe('403 foreign-worker');
      }
    }
    expect(await rowsOfB()).toBe(before);
    expect((await auditOf()).map(({ detail }) => detail).join('\n')).toContain('foreign-attempt');
  });

  test.each(['the true token', 'a guessed token'])(
    'C3 with %s the attempt of B hears nothing from A',
    async (which) => {
      const before = await rowsOfB();
      const tokens = which === 'the true token' ? [victim.token] : [1, victim.token + 1, Number.MAX_SAFE_INTEGER];
      for (const token of tokens) {
        const path = `/v1/worker/attempts/${victim.runId}/1`;
        const say = async (call: string, what: Attack, method = 'POST'): Promise<string> =>
          tell(await attack(at(), method, `${path}/${call}${call.includes('?') ? '&' : '?'}token=${token}`, what));
        const progress = { state: 'collecting', containerId: 'mine', imageDigest: 'mine' };
        const result = { cause: 'ok', message: '', exitCode: 0 };
        expect(await say('progress', { json: progress })).toBe('403 foreign-attempt');
        expect(await say('commit', { json: { commit: '1'.repeat(40) } })).toBe('403 foreign-attempt');
        expect(await say('log?offset=0', { body: 'lies\n' })).toBe('403 foreign-attempt');
        expect(await say('log?offset=1000000', { body: 'lies\n' })).toBe('403 foreign-attempt');
        expect(await say('artifacts?path=starts', { body: 'lies\n' }, 'PUT')).toBe('403 foreign-attempt');
        expect(await say('result', { json: result })).toBe('403 foreign-attempt');
        expect(await say('release', {})).toBe('403 foreign-attempt');
      }
      expect(await rowsOfB()).toBe(before);
    },
  );

  test('C3 it learns of no orphan of B, frees no slot of B, and does not say hello for B', async () => {
    const before = await rowsOfB();
    const found = [{ runId: victim.runId, attempt: 1 }];
    const mine = await attack(at(), 'POST', '/v1/worker/orphans', { json: { worker: ME, found } });
    expect(await tell(mine)).toBe('200 {"orphans":[]}');
    const lie = await attack(at(), 'POST', '/v1/worker/orphans', { json: { worker: victim.worker, found: [] } });
    expect(await tell(lie)).toBe('403 foreign-worker');
    for (const more of [{ cluster: 'local' }, { worker: victim.worker }, { cluster: 'local', worker: victim.worker }]) {
      const lies = hello({ ...more, host: 'test-host', slots: 1_000 });
      expect(await tell(await attack(at(), 'POST', '/v1/worker/hello', { json: lies }))).toBe('403 foreign-worker');
    }
    expect(await rowsOfB()).toBe(before);
    const { fleet } = await house.call<Cluster>('GET', '/v1/clusters/local');
    expect(fleet.map(({ id, slots }) => [id, slots])).toEqual([[victim.worker, 4]]);
  });

  test('C3 what is for operators and people is not for workers', async () => {
    const stranger = randomUUID();
    const operators: [method: string, path: string, json?: unknown][] = [
      ['POST', `/v1/clusters/local/workers/${ME}/enlist`],
      ['POST', `/v1/clusters/local/workers/${victim.worker}/dismiss`],
      ['POST', `/v1/clusters/local/keys/${house.key.publicKey.kid}/revoke`],
      ['POST', '/v1/clusters/local/keys', evil.publicKey],
      ['POST', '/v1/clusters/local/cancel'],
      ['POST', '/v1/clusters/local/drain', { reason: 'evil' }],
      ['PATCH', '/v1/clusters/local', { active: false }],
      ['DELETE', '/v1/clusters/local'],
      ['POST', '/v1/clusters', { name: `evil-${stranger.slice(0, 8)}` }],
      ['POST', '/v1/tokens', { name: 'evil', role: 'admin' }],
      ['GET', '/v1/audit'],
    ];
    for (const [method, path, json] of operators) {
      const refused = isGateway ? '403 method-not-allowed' : '401 no-token';
      expect([path, await tell(await attack(at(), method, path, { json }))]).toEqual([path, refused]);
    }
    if (!isGateway) return;
    for (const [method, path] of [
      ['GET', '/v1/projects'],
      ['GET', '/v1/projects/victim/builds/1/runs/work/log'],
      ['POST', '/v1/projects/victim/builds'],
      ['POST', '/v1/projects/victim/builds/1/cancel'],
      ['GET', '/'],
      ['GET', '/v1/health'],
      ['GET', '/v1/worker/hello'],
      ['DELETE', '/v1/worker/hello'],
    ] as const) {
      expect([path, await tell(await attack(at(), method, path))]).toEqual([path, '403 method-not-allowed']);
    }
  });

  test('C3 what cannot be read is refused as such, and never as a fault of the server', async () => {
    const faults = house.wholeLog('api').match(/"level":50/g)?.length ?? 0;
    const path = (attempt: string, token: string): string =>
      `/v1/worker/attempts/${victim.runId}/${attempt}/release?token=${token}`;
    const says = async (target: string, what: Attack): Promise<string> =>
      tell(await attack(at(), 'POST', target, what));
    const json = 'application/json';
    expect(await says('/v1/worker/hello', { body: '{"worker":', contentType: json })).toBe('400 malformed-request');
    expect(await says('/v1/worker/hello', { body: '[[['.repeat(1_000), contentType: json })).toBe(
      '400 malformed-request',
    );
    expect(await says('/v1/worker/hello', { body: '{}', contentType: 'text/plain' })).toBe('415 not-json');
    for (const more of [{ slots: 1e9 }, { host: 'a\u0000b' }, { labels: ['\u0000'] }, { host: '' }, { more: 1 }]) {
      expect(await says('/v1/worker/hello', { json: hello(more) })).toBe('400 malformed-request');
    }
    for (const [attempt, token] of [
      ['99999999999', '1'],
      ['1', '-1'],
      ['1', '1e400'],
      ['0', '1'],
      ['1', ''],
    ] as const) {
      expect([attempt, token, await says(path(attempt, token), {})]).toEqual([attempt, token, '400 malformed-request']);
    }
    const ask = { runId: victim.runId, attempt: 2 ** 31, worker: ME };
    expect(await says('/v1/worker/lease', { json: ask })).toBe('400 malformed-request');
    const found = [{ runId: victim.runId, attempt: 2 ** 40 }];
    expect(await says('/v1/worker/orphans', { json: { worker: ME, found } })).toBe('400 malformed-request');
    expect(house.wholeLog('api').match(/"level":50/g)?.length ?? 0).toBe(faults);
  });

  test('C3 a body that is too large is cut off, and the server stays as large as it was', async () => {
    const huge = 'x'.repeat(6 << 20);
    const log = `/v1/worker/attempts/${victim.runId}/1/log?token=${victim.token}&offset=0`;
    // A sender that is cut off while it sends may see the end of the connection first.
    const cut = (sent: Promise<Response>): Promise<string> => sent.then(tell, () => 'cut');
    // Who may not append is refused before the size of the body matters.
    expect(['403 foreign-attempt', 'cut']).toContain(await cut(attack(at(), 'POST', log, { body: huge })));
    const json = { ...hello(), labels: [huge] };
    expect(['413 too-large', 'cut']).toContain(await cut(attack(at(), 'POST', '/v1/worker/hello', { json })));
    const artifact = `/v1/worker/attempts/${victim.runId}/1/artifacts?token=${victim.token}&path=x`;
    expect(['403 foreign-attempt', 'cut']).toContain(await cut(attack(at(), 'PUT', artifact, { body: huge })));
  });

  test('C3 a token that is expired, unsigned, of another key, for another audience or too long counts for nothing', async () => {
    const now = Math.floor(Date.now() / 1000);
    const { kid, ...jwk } = JSON.parse(evil.privateKey) as { kid: string; x: string; kty: string };
    const key = (await importJWK(jwk, 'EdDSA')) as KeyLike;
    const claims = { iss: 'cluster:evil', sub: ME, aud: 'slipway', iat: now, exp: now + 300 };
    const signed = (more: JWTPayload, header: object = {}): Promise<string> =>
      new SignJWT({ ...claims, ...more }).setProtectedHeader({ alg: 'EdDSA', kid, ...header }).sign(key);
    const other = await makeClusterKey();
    const asEvil = JSON.stringify({ ...(JSON.parse(other.privateKey) as object), kid });
    const withPublicKey = new SignJWT(claims).setProtectedHeader({ alg: 'HS256', kid });
    const tokens: [code: string, token: string][] = [
      ['token-expired', await signed({ iat: now - 400, exp: now - 100 })],
      ['lives-too-long', await signed({ exp: now + 86_400 })],
      ['not-yet-valid', await signed({ iat: now + 200, exp: now + 400 })],
      ['wrong-audience', await signed({ aud: 'temporal' })],
      ['unknown-key', await signed({ iss: 'cluster:local', sub: victim.worker })],
      ['unknown-key', await signed({}, { kid: house.key.publicKey.kid })],
      ['unknown-key', await signed({ iss: 'cluster:never-heard-of' })],
      ['malformed-token', await signed({ iss: 'cluster:../local' })],
      ['malformed-token', await signed({ sub: `${ME}' or 1=1` })],
      ['bad-signature', await makeTokenSigner(asEvil, { cluster: 'evil', worker: ME })()],
      ['wrong-algorithm', new UnsecuredJWT(claims).encode()],
      ['wrong-algorithm', await withPublicKey.sign(Buffer.from(jwk.x, 'base64url'))],
      ['malformed-token', 'x'.repeat(4_000)],
      ['no-token', '§§§'],
    ];
    for (const [code, token] of tokens) {
      const answer = await attack(at(), 'POST', '/v1/worker/orphans', { json: { worker: ME, found: [] }, token });
      expect([code, await tell(answer)]).toEqual([code, `401 ${code}`]);
    }
  });

  test('C3 a key that was revoked counts for nothing within a second or two', async () => {
    const second = await makeClusterKey();
    await house.operated('POST', '/v1/clusters/evil/keys', second.publicKey);
    const token = await makeTokenSigner(second.privateKey, { cluster: 'evil', worker: ME })();
    const say = async (): Promise<string> =>
      tell(await attack(at(), 'POST', '/v1/worker/orphans', { json: { worker: ME, found: [] }, token }));
    await waitFor(async () => (await say()).startsWith('200'), { what: 'the key counts', timeoutMs: 10_000 });

    await house.operated('POST', `/v1/clusters/evil/keys/${second.publicKey.kid}/revoke`);

    await waitFor(async () => (await say()) === '401 key-revoked', { what: 'it is refused', timeoutMs: 10_000 });
  });

  test('C3 a flood of refused calls leaves a few records', async () => {
    const before = (await auditOf()).length;
    const began = Date.now();
    for (let round = 0; round < 10; round += 1) {
      const ask = { json: { runId: victim.queued, attempt: 1, worker: ME } };
      const calls = Array.from({ length: 40 }, () => attack(at(), 'POST', '/v1/worker/lease', ask).then(tell));
      expect(new Set(await Promise.all(calls))).toEqual(new Set(['403 foreign-attempt']));
    }
    const seconds = (Date.now() - began) / 1_000;
    const kept = await auditOf();
    expect(kept.length - before).toBeLessThanOrEqual(seconds + 5);
    expect(kept.length - before).toBeGreaterThan(0);
  });
});

test('C3 thousands of connections that say nothing, or begin and never end, do not keep B from its work, nor fill the memory', async () => {
  const rssOf = (name: string): number =>
    Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${house.pid(name)}/status`, 'utf8'))?.[1]) / 1_024;
  const before = rssOf('gateway');
  const logBefore = (await house.logOf('victim', 1, 'work')).length;
  const port = Number(new URL(house.gatewayUrl).port);
  const sockets: Socket[] = [];
  let closed = 0;
  const words = ['', 'PRI * HTTP/2.0\r\n', 'POST /v1/worker/hello HTTP/1.1\r\nx: ', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'];
  for (let n = 0; n < 4_000; n += 1) {
    const socket = connect(port, '127.0.0.1', () => socket.write(words[n % words.length]!));
    // One that does not read would not see that it was closed.
    socket.resume().on('error', () => undefined);
    socket.on('close', () => (closed += 1));
    sockets.push(socket);
    if (n % 200 === 199) await new Promise((done) => setTimeout(done, 50));
  }

  let most = rssOf('gateway');
  const good = await attack(house.gatewayUrl, 'POST', '/v1/worker/orphans', { json: { worker: ME, found: [] } });
  expect(good.status).toBe(200);
  await waitFor(async () => (await house.logOf('victim', 1, 'work')).length > logBefore + 10, {
    what: 'B works on',
    timeoutMs: 30_000,
  });
  const areClosed = (): boolean => {
    most = Math.max(most, rssOf('gateway'));
    return closed >= sockets.length;
  };
  await waitFor(areClosed, { what: 'all are closed', timeoutMs: 90_000, intervalMs: 500 });
  const grown = most - before;
  process.stdout.write(
    `4,000 silent connections: the gateway grew by ${Math.round(grown)} MiB at most from ${Math.round(before)}\n`,
  );
  expect(grown).toBeLessThan(150);
});

test('B of all this the work of B knows nothing: one attempt, one start, its own log and artifacts, and it passes', async () => {
  writeFileSync(join(house.dir, 'worker', 'runs', containerName(victim.runId, 1), 'archive', 'go'), '');

  expect((await house.finished('victim', 1)).status).toBe('passed');

  const run = await house.run('victim', 1, 'work');
  expect(run.attempts.map(({ cause, containerId }) => [cause, containerId !== 'mine'])).toEqual([['ok', true]]);
  const lines = (await house.logOf('victim', 1, 'work')).trimEnd().split('\n');
  expect(lines).toEqual(lines.map((_line, at) => `${at + 1}`));
  expect(run.artifacts.map(({ path }) => path).toSorted()).toEqual(['go', 'starts']);
  const starts = await house.request('GET', run.artifacts.find(({ path }) => path === 'starts')!.url);
  expect(await starts.text()).toBe('started\n');
  expect((await house.call<Build>('GET', '/v1/projects/queued/builds/1')).runs[0]).toMatchObject({ state: 'queued' });
  const { rows } = await sql<{ count: string }>`select count(*) from audit`.execute(db);
  expect(Number(rows[0]!.count)).toBeLessThan(400);
});
