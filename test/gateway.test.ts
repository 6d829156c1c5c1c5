import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { get as httpsGet } from 'node:https';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { activityInfo, Context, heartbeat } from '@temporalio/activity';
import { Client, Connection, type WorkflowHandle } from '@temporalio/client';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { SignJWT, UnsecuredJWT } from 'jose';
import { clusterQueue, workerQueue } from '../domain/names';
import { Identities } from '../adapters/worker-identity';
import type { WorkerRefusal } from '../adapters/worker-refusal';
import { TEST_TLS } from './setup/certificate';
import {
  codeOf,
  makeKey,
  RawCaller,
  seenWithin,
  servicePath,
  signToken,
  TestGateway,
  type Method,
  type TestKey,
  type TokenChanges,
} from './setup/gateway';
import { freePort } from './setup/free-port';
import type { OneActivity } from './setup/gateway-workflows';
import { startTemporal, type TestTemporal } from './setup/temporal';
import { waitFor } from './setup/wait-for';

jest.setTimeout(180_000);

let temporal: TestTemporal;
let client: Client;
let gateway: TestGateway;
let a: TestKey;
let b: TestKey;
const closers: (() => Promise<unknown> | void)[] = [];
const ORCHESTRATOR = 'orchestrator-of-test';

beforeAll(async () => {
  Runtime.install({ logger: new DefaultLogger('ERROR'), shutdownSignals: [] });
  const [server, bundle] = await Promise.all([
    startTemporal(),
    bundleWorkflowCode({
      workflowsPath: join(__dirname, 'setup', 'gateway-workflows.ts'),
      logger: new DefaultLogger('ERROR'),
    }),
  ]);
  temporal = server;
  client = new Client({ connection: await Connection.connect({ address: temporal.address }) });
  [a, b] = await Promise.all([makeKey('a'), makeKey('b')]);
  gateway = await TestGateway.open({ temporal: temporal.address, keys: [a, b] });
  await runWorker({ address: temporal.address, queue: ORCHESTRATOR, workflowBundle: bundle });
  await runWorker({ ...(await throughGateway(b, B1)), queue: clusterQueue('b') });
  closers.push(() => client.connection.close());
});

afterAll(async () => {
  for (const close of closers.reverse()) await close();
  await gateway?.close();
  await temporal?.stop();
});

const A1 = randomUUID();
const B1 = randomUUID();

/** What activities tell the test, and the test tells them. */
const seen = { started: 0, release: new Map<string, () => void>() };

const activities = {
  noop: () => Promise.resolve('done'),
  attemptWhenReleased: async (name = '') => {
    await new Promise<void>((done) => seen.release.set(name, done));
    return activityInfo().attempt;
  },
  waitForCancel: async (name = '') => {
    seen.release.set(name, () => undefined);
    await Context.current().cancelled;
  },
  beatOften: async (name = '') => {
    const released = new Promise<true>((done) => seen.release.set(name, () => done(true)));
    for (let beat = 1; ; beat += 1) {
      heartbeat(beat);
      if (await Promise.race([released, Context.current().sleep(100)])) return 'beaten';
    }
  },
};

interface WorkerPlace {
  address: string;
  authorization?: string;
  queue: string;
  workflowBundle?: { code: string };
}

async function throughGateway(key: TestKey, worker: string): Promise<{ address: string; authorization: string }> {
  return { address: gateway.address, authorization: `Bearer ${await signToken(key, worker)}` };
}

async function runWorker({ address, authorization, queue, workflowBundle }: WorkerPlace): Promise<() => Promise<void>> {
  const connection = await NativeConnection.connect({ address, metadata: authorization ? { authorization } : {} });
  const worker = await Worker.create({
    connection,
    taskQueue: queue,
    maxHeartbeatThrottleInterval: '200ms',
    shutdownForceTime: '5s',
    ...(workflowBundle ? { workflowBundle } : { activities }),
  });
  const running = worker.run();
  const stop = async (): Promise<void> => {
    if (worker.getState() === 'RUNNING') worker.shutdown();
    await running;
    await connection.close();
  };
  closers.push(stop);
  return stop;
}

async function start(input: OneActivity): Promise<WorkflowHandle> {
  return client.workflow.start('oneActivity', { taskQueue: ORCHESTRATOR, workflowId: randomUUID(), args: [input] });
}

describe('an unmodified worker through the gateway', () => {
  beforeAll(async () => {
    await runWorker({ ...(await throughGateway(a, A1)), queue: clusterQueue('a') });
    await runWorker({ ...(await throughGateway(a, A1)), queue: workerQueue('a', A1) });
  });

  it('C3 does the work of its cluster and of its own queue', async () => {
    for (const queue of [clusterQueue('a'), workerQueue('a', A1), clusterQueue('b')]) {
      await expect((await start({ queue, name: 'noop' })).result()).resolves.toBe('done');
    }
    expect(gateway.refusals).toEqual([]);
  });

  it('C3 hears of a cancel without any heartbeat', async () => {
    const name = randomUUID();
    const handle = await start({ queue: clusterQueue('a'), name: 'waitForCancel', argument: name });
    await seenWithin('the activity has begun', () => seen.release.has(name));
    await handle.cancel();
    await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
  });

  it('C3 has its heartbeats heard', async () => {
    const name = randomUUID();
    const handle = await start({
      queue: clusterQueue('a'),
      name: 'beatOften',
      argument: name,
      heartbeatTimeoutMs: 5_000,
    });
    const beats = await seenWithin('heartbeats in Temporal', async () => {
      const { raw } = await handle.describe();
      const text = String(Buffer.from(raw.pendingActivities?.[0]?.heartbeatDetails?.payloads?.[0]?.data ?? []));
      return Number(text) > 3 && Number(text);
    });
    expect(beats).toBeGreaterThan(3);
    seen.release.get(name)!();
    await expect(handle.result()).resolves.toBe('beaten');
  });

  it('C3 goes on with its task when the gateway is killed and started again', async () => {
    const name = randomUUID();
    const handle = await start({ queue: clusterQueue('a'), name: 'attemptWhenReleased', argument: name });
    await seenWithin('the activity has begun', () => seen.release.has(name));
    await gateway.kill9();
    seen.release.get(name)!();
    await gateway.start();
    await expect(handle.result()).resolves.toBe(1);
  });
});

/** A caller with the good token of a worker that nobody else is. */
async function rawCaller(key: TestKey, worker = randomUUID(), changes: TokenChanges = {}): Promise<RawCaller> {
  const caller = new RawCaller(gateway.address, `Bearer ${await signToken(key, worker, changes)}`);
  closers.push(() => caller.close());
  return caller;
}

/** Starts an activity on a queue and takes it. */
async function takeTask(caller: RawCaller, queue: string, more: object = {}) {
  const handle = await start({ queue, name: 'taken' });
  const { taskToken } = await caller.call('PollActivityTaskQueue', { taskQueue: { name: queue }, ...more });
  expect(taskToken.length).toBeGreaterThan(16);
  return { handle, taskToken };
}

async function expectRefusal(call: Promise<unknown>, code: string, record: { reason: string; cluster?: string }) {
  const before = gateway.refusals.length;
  await expect(codeOf(call)).resolves.toBe(code);
  const refusal = await seenWithin(`${record.reason} in the audit`, () =>
    gateway.refusals.slice(before).find(({ reason }) => reason === record.reason),
  );
  expect(refusal.identity?.cluster).toBe(record.cluster);
  expect(refusal.peer).toMatch(/^127\.0\.0\.1:\d+$/);
}

describe('what goes away', () => {
  it('C3 a worker that hangs up takes no task with it', async () => {
    const quiet = await TestGateway.open({ temporal: temporal.address, keys: [b] });
    closers.push(() => quiet.close());
    const worker = randomUUID();
    const token = `Bearer ${await signToken(b, worker)}`;
    const [gone, next] = [new RawCaller(quiet.address, token), new RawCaller(quiet.address, token)];
    const queue = workerQueue('b', worker);
    const isOpen = async (count: number): Promise<boolean> => (await quiet.weigh()).openCalls === count;
    const hangUp = gone.poll(queue);
    await seenWithin('the poll is open', () => isOpen(1));
    hangUp();
    await seenWithin('the poll is over', () => isOpen(0));
    const { handle, taskToken } = await takeTask(next, queue);
    await next.call('RespondActivityTaskCompleted', { taskToken });
    await handle.result();
    for (const caller of [gone, next]) caller.close();
  });

  it('C3 workers are told that Temporal is away, and find it when it is back', async () => {
    const port = await freePort();
    const early = await TestGateway.open({ temporal: `127.0.0.1:${port}`, keys: [b] });
    closers.push(() => early.close());
    const caller = new RawCaller(early.address, `Bearer ${await signToken(b, randomUUID())}`);
    await expect(codeOf(caller.call('GetSystemInfo', {}))).resolves.toBe('UNAVAILABLE');
    const link = createServer((near) => near.pipe(connect(Number(temporal.address.split(':')[1]))).pipe(near));
    link.listen(port, '127.0.0.1');
    await seenWithin('Temporal is back', async () => (await codeOf(caller.call('GetSystemInfo', {}))) === 'OK');
    caller.close();
    await early.close();
    link.close();
  });
});

describe('a hostile worker with a good key of its cluster', () => {
  let hostile: RawCaller;
  const WORKER = randomUUID();

  beforeAll(async () => {
    hostile = await rawCaller(a, WORKER);
  });

  it.each([
    ['the queue of another cluster', clusterQueue('b')],
    ['the own queue of a worker of another cluster', workerQueue('b', B1)],
    ['the own queue of another worker of its cluster', workerQueue('a', A1)],
    ['the queue of workflows', ORCHESTRATOR],
    ['no queue', ''],
    ['a queue whose name breaks in the middle of a sign', `${'x'.repeat(199)}\u{1f6a2}`],
    ['a queue whose name is no text', '\r\n\0\u{1f6a2}'],
  ])('C3 polls %s in vain', async (_, name) => {
    const poll = hostile.call('PollActivityTaskQueue', { taskQueue: { name } });
    await expectRefusal(poll, 'PERMISSION_DENIED', { reason: 'queue-not-allowed', cluster: 'a' });
  });

  it('C3 polls its own queue as a sticky one in vain', async () => {
    const taskQueue = { name: clusterQueue('a'), kind: 2, normalName: clusterQueue('b') };
    const poll = hostile.call('PollActivityTaskQueue', { taskQueue });
    await expectRefusal(poll, 'PERMISSION_DENIED', { reason: 'queue-not-allowed', cluster: 'a' });
  });

  it('C3 hides a second queue behind the one that is checked in vain', async () => {
    // Two fields of one number: some readers take the last, others mix them.
    const twice = Buffer.concat([
      Buffer.from([0x0a, 7]),
      Buffer.from('default'),
      ...[clusterQueue('a'), clusterQueue('b')].map((name) =>
        Buffer.concat([Buffer.from([0x12, name.length + 2, 0x0a, name.length]), Buffer.from(name)]),
      ),
    ]);
    const poll = hostile.send(servicePath('PollActivityTaskQueue'), twice);
    await expectRefusal(poll, 'PERMISSION_DENIED', { reason: 'queue-not-allowed', cluster: 'a' });
  });

  const execution = { workflowId: 'any' };
  it.each<[Method, object]>([
    ['StartWorkflowExecution', { workflowId: 'mine', workflowType: { name: 'oneActivity' } }],
    ['SignalWorkflowExecution', { workflowExecution: execution, signalName: 'go' }],
    ['TerminateWorkflowExecution', { workflowExecution: execution }],
    ['GetWorkflowExecutionHistory', { execution }],
    ['ListWorkflowExecutions', {}],
    ['PollWorkflowTaskQueue', { taskQueue: { name: clusterQueue('a') } }],
    ['ListNamespaces', {}],
  ])('C3 calls %s in vain', async (method, message) => {
    const call = hostile.call(method, message);
    await expectRefusal(call, 'PERMISSION_DENIED', { reason: 'method-not-allowed', cluster: 'a' });
  });

  it('C3 calls the methods of operators, and some that do not exist, in vain', async () => {
    const operator = hostile.send('/temporal.api.operatorservice.v1.OperatorService/ListClusters', Buffer.alloc(0));
    await expectRefusal(operator, 'PERMISSION_DENIED', { reason: 'method-not-allowed', cluster: 'a' });
    await expect(codeOf(hostile.send(servicePath('Everything'), Buffer.alloc(0)))).resolves.toBe('UNIMPLEMENTED');
  });

  it.each<[Method, object]>([
    ['DescribeNamespace', {}],
    ['PollActivityTaskQueue', { taskQueue: { name: clusterQueue('a') } }],
    ['PollNexusTaskQueue', { taskQueue: { name: `temporal-sys/worker-commands/other/${WORKER}` } }],
    ['RespondActivityTaskCompleted', { taskToken: Buffer.alloc(40) }],
    ['RecordWorkerHeartbeat', {}],
    ['ShutdownWorker', {}],
  ])('C3 names another namespace in %s in vain', async (method, message) => {
    const call = hostile.call(method, { ...message, namespace: 'other' });
    await expectRefusal(call, 'PERMISSION_DENIED', { reason: 'namespace-not-allowed', cluster: 'a' });
  });

  it('C3 learns nothing of the namespace but what an SDK must know', async () => {
    const byId = hostile.call('DescribeNamespace', { id: randomUUID() });
    await expectRefusal(byId, 'PERMISSION_DENIED', { reason: 'namespace-not-allowed', cluster: 'a' });
    const { namespaceInfo, config, replicationConfig } = await hostile.call('DescribeNamespace', {});
    expect(namespaceInfo).toMatchObject({ name: 'default', capabilities: { workerHeartbeats: true } });
    expect(namespaceInfo).toMatchObject({ id: '', description: '', ownerEmail: '', data: {} });
    expect([config, replicationConfig]).toEqual([null, null]);
  });

  it.each([
    'temporal-sys/worker-commands/default/not-a-key',
    `temporal-sys/worker-commands/default/../${WORKER}`,
    clusterQueue('b'),
  ])('C3 polls %s for commands in vain', async (name) => {
    const poll = hostile.call('PollNexusTaskQueue', { taskQueue: { name } });
    await expectRefusal(poll, 'PERMISSION_DENIED', { reason: 'queue-not-allowed', cluster: 'a' });
  });

  it('C3 reports as a worker of other queues in vain', async () => {
    const workerHeartbeat = { workerInstanceKey: randomUUID(), taskQueue: clusterQueue('b') };
    for (const call of [
      () => hostile.call('RecordWorkerHeartbeat', { workerHeartbeat: [workerHeartbeat] }),
      () => hostile.call('ShutdownWorker', { workerHeartbeat }),
      () => hostile.call('ShutdownWorker', { taskQueue: clusterQueue('b'), workerInstanceKey: randomUUID() }),
    ]) {
      await expectRefusal(call(), 'PERMISSION_DENIED', { reason: 'foreign-heartbeat', cluster: 'a' });
    }
  });
});

describe('a task', () => {
  /** The task of a worker of b, and what others make of its token. */
  async function taskOfB() {
    const worker = randomUUID();
    const owner = await rawCaller(b, worker);
    return { owner, worker, ...(await takeTask(owner, workerQueue('b', worker))) };
  }

  const REPORTS = [
    'RecordActivityTaskHeartbeat',
    'RespondActivityTaskCompleted',
    'RespondActivityTaskFailed',
    'RespondActivityTaskCanceled',
  ] as const;

  it('C3 is reported by the worker that took it, and by no other, whatever is done to its token', async () => {
    const { owner, worker, handle, taskToken } = await taskOfB();
    const tampered = Buffer.from(taskToken);
    tampered[3]! ^= 1;
    const strangers: [string, RawCaller, Uint8Array][] = [
      ['a', await rawCaller(a), taskToken],
      ['a', await rawCaller(a, worker), taskToken],
      ['b', await rawCaller(b), taskToken],
      ['b', owner, taskToken.subarray(0, -16)],
      ['b', owner, tampered],
      ['b', owner, Buffer.concat([taskToken, taskToken.subarray(-16)])],
      ['b', owner, Buffer.alloc(8)],
      ['b', owner, Buffer.alloc(0)],
    ];
    for (const [cluster, caller, token] of strangers) {
      for (const method of REPORTS) {
        const call = caller.call(method, { taskToken: token });
        await expectRefusal(call, 'PERMISSION_DENIED', { reason: 'foreign-token', cluster });
      }
    }
    await owner.call('RecordActivityTaskHeartbeat', { taskToken });
    await owner.call('RespondActivityTaskCompleted', { taskToken });
    await expect(handle.result()).resolves.toBeUndefined();
    await expect(codeOf(owner.call('RespondActivityTaskCompleted', { taskToken }))).resolves.toBe('NOT_FOUND');
  });

  it('C3 has its cancel pushed to the worker that took it, and to nobody who names the same queue', async () => {
    const key = randomUUID();
    const commands = { name: `temporal-sys/worker-commands/default/${key}`, kind: 3 };
    const worker = randomUUID();
    const owner = await rawCaller(b, worker);
    const spies = [await rawCaller(a), await rawCaller(b), await rawCaller(a, worker)];
    const ofSpies = spies.map((spy) => spy.call('PollNexusTaskQueue', { taskQueue: commands }, 5_000));
    const spied = Promise.all(
      ofSpies.map((poll) =>
        poll.then(
          ({ taskToken }) => taskToken.length,
          () => 0,
        ),
      ),
    );
    const ofOwner = owner.call('PollNexusTaskQueue', { taskQueue: commands });
    const { handle, taskToken } = await takeTask(owner, workerQueue('b', worker), {
      workerControlTaskQueue: commands.name,
      workerInstanceKey: randomUUID(),
    });
    await handle.cancel();
    const { taskToken: commandToken, request } = await ofOwner;
    const told = Buffer.from(request?.startOperation?.payload?.data ?? []);
    expect(told.includes(Buffer.from(taskToken))).toBe(true);
    for (const spy of spies) {
      const answer = spy.call('RespondNexusTaskCompleted', { taskToken: commandToken, response: {} });
      await expect(codeOf(answer)).resolves.toBe('PERMISSION_DENIED');
    }
    const sync = { startOperation: { syncSuccess: {} } };
    await owner.call('RespondNexusTaskCompleted', { taskToken: commandToken, response: sync });
    await owner.call('RespondActivityTaskCanceled', { taskToken });
    await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
    await expect(spied).resolves.toEqual([0, 0, 0]);
  });
});

describe('a token', () => {
  const keys = {} as Record<'good' | 'second' | 'revoked' | 'expired' | 'ofOther', TestKey>;
  const past = new Date(Date.now() - 1_000);
  let identities: Identities;
  let reads = 0;

  beforeAll(async () => {
    keys.good = await makeKey('c');
    keys.second = await makeKey('c', { expiresAt: new Date(Date.now() + 3_600_000) });
    keys.revoked = await makeKey('c', { revokedAt: past });
    keys.expired = await makeKey('c', { expiresAt: past });
    keys.ofOther = await makeKey('d');
    const keysOf = (cluster: string): Promise<TestKey[]> => {
      reads += 1;
      return Promise.resolve(Object.values(keys).filter((key) => key.cluster === cluster));
    };
    identities = new Identities({
      accessOf: async (cluster) => ({ keys: await keysOf(cluster), enlisted: { has: () => true } }),
    });
  });

  const now = Math.floor(Date.now() / 1000);
  const WORKER = randomUUID();
  const identify = async (key: TestKey, changes?: TokenChanges, worker = WORKER) =>
    identities.identify(`Bearer ${await signToken(key, worker, changes)}`);
  const reasonOf = (asked: Promise<unknown>): Promise<string> =>
    asked.then(
      () => 'taken',
      (refusal: WorkerRefusal) => refusal.reason,
    );

  it('C3 says which worker of which cluster calls, by any good key of the cluster', async () => {
    for (const key of [keys.good, keys.second]) {
      await expect(identify(key)).resolves.toEqual({ cluster: 'c', worker: WORKER, keyId: key.kid });
    }
  });

  it.each<[string, keyof typeof keys, TokenChanges]>([
    ['key-revoked', 'revoked', {}],
    ['key-expired', 'expired', {}],
    ['token-expired', 'good', { claims: { iat: now - 400, exp: now - 100 } }],
    ['not-yet-valid', 'good', { claims: { iat: now + 120, exp: now + 300 } }],
    ['not-yet-valid', 'good', { claims: { nbf: now + 120 } }],
    ['lives-too-long', 'good', { claims: { exp: now + 3_600 } }],
    ['wrong-audience', 'good', { claims: { aud: 'another' } }],
    ['unknown-key', 'good', { header: { kid: 'never-heard-of' } }],
    ['unknown-key', 'good', { header: { kid: undefined } }],
    ['unknown-key', 'ofOther', { claims: { iss: 'cluster:c' } }],
    ['unknown-key', 'good', { claims: { iss: 'cluster:d' } }],
    ['unknown-key', 'good', { claims: { iss: 'cluster:nobody' } }],
    ['malformed-token', 'good', { claims: { iss: 'c' } }],
    ['malformed-token', 'good', { claims: { iss: 'cluster:../c' } }],
    ['malformed-token', 'good', { claims: { iss: { toString: 1 } as unknown as string } }],
    ['malformed-token', 'good', { claims: { sub: 'worker' } }],
    ['malformed-token', 'good', { claims: { exp: undefined } }],
    ['malformed-token', 'good', { claims: { iat: undefined } }],
    ['malformed-token', 'good', { claims: { iat: now + 20, exp: now + 10 } }],
  ])('C3 is refused as %s (key %s, %j)', async (reason, key, changes) => {
    await expect(reasonOf(identify(keys[key], changes))).resolves.toBe(reason);
  });

  it('C3 is refused when it is signed with another key than it names', async () => {
    await expect(reasonOf(identify(keys.good, { header: { kid: keys.second.kid } }))).resolves.toBe('bad-signature');
    const claims = { iss: 'cluster:c' };
    const header = { kid: keys.good.kid };
    await expect(reasonOf(identify(keys.ofOther, { claims, header }))).resolves.toBe('bad-signature');
  });

  it('C3 is refused when it is not signed, or with the public key as a shared secret, or cut, or changed', async () => {
    const claims = { iss: 'cluster:c', sub: WORKER, aud: 'slipway', iat: now, exp: now + 300 };
    const good = await signToken(keys.good, WORKER);
    const [header, body, signature] = good.split('.');
    const otherBody = Buffer.from(JSON.stringify({ ...claims, sub: randomUUID() })).toString('base64url');
    const none = Buffer.from(JSON.stringify({ alg: 'none', kid: keys.good.kid })).toString('base64url');
    const shared = await new SignJWT(claims)
      .setProtectedHeader({ alg: 'HS256', kid: keys.good.kid })
      .sign(Buffer.from(keys.good.jwk.x!, 'base64url'));
    for (const [token, reason] of [
      [new UnsecuredJWT(claims).encode(), 'wrong-algorithm'],
      [`${none}.${body}.`, 'wrong-algorithm'],
      [`${none}.${body}.${signature}`, 'wrong-algorithm'],
      [shared, 'wrong-algorithm'],
      [`${header}.${otherBody}.${signature}`, 'bad-signature'],
      [`${header}.${body}.`, 'bad-signature'],
      [`${header}.${body}`, 'malformed-token'],
      [`${header}.${body}.${signature}.`, 'malformed-token'],
      ['a'.repeat(3_000), 'malformed-token'],
      ['', 'no-token'],
      ['{}', 'no-token'],
    ] as const) {
      await expect(reasonOf(identities.identify(`Bearer ${token}`))).resolves.toBe(reason);
    }
    await expect(reasonOf(identities.identify(undefined))).resolves.toBe('no-token');
    await expect(reasonOf(identities.identify(`Basic ${good}`))).resolves.toBe('no-token');
  });

  it('C3 asks for the keys of a cluster about once a second, however many calls there are', async () => {
    const token = `Bearer ${await signToken(keys.good, WORKER)}`;
    await identities.identify(token);
    const [from, before] = [Date.now(), reads];
    for (let call = 0; call < 2_000; call += 1) await identities.identify(token);
    expect(reads - before).toBeLessThanOrEqual(1 + (Date.now() - from) / 1_000);
  });

  it('C3 goes on being taken while the keys cannot be read, if its key was good before', async () => {
    let isAway = false;
    const keysOf = (): Promise<TestKey[]> =>
      isAway ? Promise.reject(new Error('away')) : Promise.resolve([keys.good]);
    const patient = new Identities({ accessOf: async () => ({ keys: await keysOf(), enlisted: { has: () => true } }) });
    const who = await patient.identify(`Bearer ${await signToken(keys.good, WORKER)}`);
    isAway = true;
    await expect(patient.recheck(who, { now: true })).resolves.toBeUndefined();
    const stranger = patient.recheck({ ...who, cluster: 'd' });
    await expect(reasonOf(stranger)).resolves.toBe('keys-unavailable');
  });

  it('C3 is refused at the door of the gateway, on record', async () => {
    const anonymous = new RawCaller(gateway.address, undefined);
    const late = await rawCaller(a, WORKER, { claims: { iat: now - 500, exp: now - 200 } });
    const poll = { taskQueue: { name: clusterQueue('a') } };
    await expectRefusal(anonymous.call('PollActivityTaskQueue', poll), 'UNAUTHENTICATED', { reason: 'no-token' });
    anonymous.close();
    // Its clock may be right again soon, so an SDK has to go on trying; it gives up over UNAUTHENTICATED.
    const record = { reason: 'token-expired', cluster: 'a' };
    await expectRefusal(late.call('PollActivityTaskQueue', poll), 'UNAVAILABLE', record);
    await expectRefusal(late.call('StartWorkflowExecution', {}), 'UNAVAILABLE', record);
  });

  it('C3 of a key that is revoked ends open polls and is refused, within two seconds', async () => {
    const key = await makeKey('e');
    gateway.setKeys([a, b, key]);
    const caller = await rawCaller(key);
    await caller.call('GetSystemInfo', {});
    const poll = codeOf(caller.call('PollActivityTaskQueue', { taskQueue: { name: clusterQueue('e') } }, 60_000));
    await seenWithin('the poll is open', async () => (await gateway.weigh()).openCalls > 0);
    const from = Date.now();
    gateway.setKeys([a, b, { ...key, revokedAt: new Date() }]);
    await expect(poll).resolves.toBe('UNAUTHENTICATED');
    expect(Date.now() - from).toBeLessThan(4_000);
    await expectRefusal(caller.call('GetSystemInfo', {}), 'UNAUTHENTICATED', { reason: 'key-revoked' });
  });
});

describe('the port of the gateway', () => {
  it('C3 is shared by gRPC and HTTP, whatever the pieces that the first bytes come in', async () => {
    const answer = await fetch(`http://${gateway.address}/v1/some/path`, { method: 'POST', body: 'x'.repeat(300_000) });
    await expect(answer.text()).resolves.toBe('POST /v1/some/path');
    const socket = connect(gateway.port, '127.0.0.1').setNoDelay(true).setEncoding('latin1');
    let told = '';
    socket.on('data', (text: string) => (told += text));
    for (const character of 'PUT /slowly HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n') {
      await new Promise((done) => socket.write(character, done));
    }
    await seenWithin('the answer', () => told.includes('PUT /slowly'));
    socket.destroy();
  });

  it('C3 serves both halves under TLS', async () => {
    const secure = await TestGateway.open({ temporal: temporal.address, keys: [b], tls: TEST_TLS });
    closers.push(() => secure.close());
    const caller = new RawCaller(secure.address, `Bearer ${await signToken(b, randomUUID())}`, TEST_TLS);
    const { namespaceInfo } = await caller.call('DescribeNamespace', {});
    expect(namespaceInfo?.name).toBe('default');
    caller.close();
    const text = await new Promise((done, fail) => {
      const request = httpsGet(
        `https://${secure.address}/v1/x`,
        { ca: TEST_TLS.ca, servername: 'localhost' },
        (answer) => answer.setEncoding('utf8').on('data', done),
      );
      request.on('error', fail);
    });
    expect(text).toBe('GET /v1/x');
    const plain = connect(secure.port, '127.0.0.1');
    plain.write('GET / HTTP/1.1\r\n\r\n');
    await once(plain, 'close');
  });

  it('C3 closes who says nothing, or only how it will speak', async () => {
    const limits = { silentMs: 300, unprovenMs: 600 };
    const strict = await TestGateway.open({ temporal: temporal.address, keys: [b], limits });
    closers.push(() => strict.close());
    const good = new RawCaller(strict.address, `Bearer ${await signToken(b, randomUUID())}`);
    await good.call('GetSystemInfo', {});
    const begun = [connect(strict.port), connect(strict.port), connect(strict.port)];
    begun[1]!.write('PRI * HTT');
    begun[2]!.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    await Promise.all(begun.map((socket) => once(socket.resume(), 'close')));
    // Who was closed may know it before the gateway has counted it.
    await waitFor(async () => (await strict.weigh()).connections === 1, { what: 'only the good one is left' });
    await good.call('GetSystemInfo', {});
    good.close();
  });
});

describe('a flood', () => {
  /** b works on while it lasts. */
  async function expectBToWork(): Promise<void> {
    await expect((await start({ queue: clusterQueue('b'), name: 'noop' })).result()).resolves.toBe('done');
  }

  const MIB = 1 << 20;

  it('C3 of messages that are too large, or no messages, is refused, and the gateway stays as it was', async () => {
    const hostile = await rawCaller(a);
    const path = servicePath('RespondActivityTaskCompleted');
    await expectRefusal(hostile.send(path, Buffer.alloc(5 * MIB)), 'RESOURCE_EXHAUSTED', {
      reason: 'request-unread',
      cluster: 'a',
    });
    for (const bytes of [
      Buffer.from('0aff', 'hex'),
      Buffer.from('ffffffffffffffffffffffff', 'hex'),
      Buffer.from('no protobuf'),
      randomBytes(1_000).fill(0x0a, 0, 1),
      Buffer.concat(Array.from({ length: 500 }, () => Buffer.from('1a0b', 'hex'))),
    ]) {
      const sent = hostile.send(path, bytes);
      await expect(codeOf(sent)).resolves.toMatch(/INVALID_ARGUMENT|PERMISSION_DENIED/);
    }
    await expectRefusal(hostile.send(path, Buffer.from('0aff', 'hex')), 'INVALID_ARGUMENT', {
      reason: 'malformed',
      cluster: 'a',
    });
    await expectBToWork();
    expect(gateway.faults).toEqual([]);
  });

  it('C3 of frames that no HTTP/2 peer would send ends their connection and no other', async () => {
    const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    const frames = [
      'ffffff0000000000000000',
      '00000401000000000100000000',
      '000008060000000001',
      '00000501ff7fffffff0000',
    ];
    const sockets = frames.map((frame) => {
      const socket = connect(gateway.port, '127.0.0.1').on('error', () => undefined);
      socket.write(Buffer.concat([preface, Buffer.from(frame, 'hex'), randomBytes(70_000)]));
      return once(socket.resume(), 'close');
    });
    await Promise.all(sockets);
    await expectBToWork();
  });

  it('C3 of large requests takes a bounded amount of memory', async () => {
    const before = await gateway.weigh();
    // Two million empty payloads: small on the wire, large when they are read.
    const body = Buffer.concat([Buffer.from('1280808002', 'hex'), Buffer.alloc(4 * MIB, '0a00', 'hex')]);
    const hostile = await Promise.all(Array.from({ length: 8 }, () => rawCaller(a)));
    const path = servicePath('RespondActivityTaskCompleted');
    const sent = hostile.flatMap((caller) => Array.from({ length: 20 }, () => codeOf(caller.send(path, body, 60_000))));
    let [highest, slowestMs] = [0, 0];
    const over = Promise.all(sent).then(() => true);
    for (let isOver = false; !isOver;) {
      const from = Date.now();
      isOver = await Promise.race([over, expectBToWork().then(() => false)]);
      if (!isOver) slowestMs = Math.max(slowestMs, Date.now() - from);
      highest = Math.max(highest, (await gateway.weigh()).rssBytes);
    }
    expect(highest).toBeLessThan(before.rssBytes + 400 * MIB);
    expect(slowestMs).toBeLessThan(20_000);
  });

  it('C3 of long polls uses up the calls of its own cluster alone', async () => {
    const small = await TestGateway.open({
      temporal: temporal.address,
      keys: [a, b],
      limits: { grpcCalls: 20 },
    });
    closers.push(() => small.close());
    const poll = { taskQueue: { name: clusterQueue('a') } };
    const hostile = new RawCaller(small.address, `Bearer ${await signToken(a, randomUUID())}`);
    const codes = Array.from({ length: 60 }, () => codeOf(hostile.call('PollActivityTaskQueue', poll, 3_000)));
    const good = new RawCaller(small.address, `Bearer ${await signToken(b, randomUUID())}`);
    await good.call('GetSystemInfo', {});
    const refused = (await Promise.all(codes)).filter((code) => code === 'RESOURCE_EXHAUSTED');
    expect(refused).toHaveLength(40);
    expect(small.refused('too-many-calls')).toHaveLength(40);
    hostile.close();
    good.close();
  });

  it('C3 of 2,000 connections that do nothing leaves workers and memory alone', async () => {
    const before = await gateway.weigh();
    const preface = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
    const idle = Array.from({ length: 2_000 }, (_, at) => {
      const socket = connect(gateway.port, '127.0.0.1').on('error', () => undefined);
      if (at % 2 === 0) socket.write(preface);
      return socket;
    });
    closers.push(() => idle.forEach((socket) => socket.destroy()));
    await Promise.all(idle.map((socket) => once(socket, 'connect')));
    const during = await seenWithin('all are connected', async () => {
      const weight = await gateway.weigh();
      return weight.connections >= 2_000 ? weight : undefined;
    });
    await expectBToWork();
    const fresh = await rawCaller(b);
    await fresh.call('GetSystemInfo', {});
    expect(during.rssBytes).toBeLessThan(before.rssBytes + 200 * MIB);
    await seenWithin('the silent ones are closed', async () => (await gateway.weigh()).connections < 1_100);
    for (const socket of idle) socket.destroy();
    await expectBToWork();
  });

  it('C3 of more connections than there is room for lets workers in that say who they are', async () => {
    const small = await TestGateway.open({
      temporal: temporal.address,
      keys: [a, b],
      limits: { maxConnections: 50, maxConnectionsPerCluster: 20 },
    });
    closers.push(() => small.close());
    const token = `Bearer ${await signToken(b, randomUUID())}`;
    const early = new RawCaller(small.address, token);
    await early.call('GetSystemInfo', {});
    const idle = Array.from({ length: 200 }, () => connect(small.port, '127.0.0.1').on('error', () => undefined));
    const hostile = await Promise.all(
      Array.from(
        { length: 60 },
        async () => new RawCaller(small.address, `Bearer ${await signToken(a, randomUUID())}`),
      ),
    );
    await Promise.all(hostile.map((caller) => codeOf(caller.call('GetSystemInfo', {}))));
    const late = new RawCaller(small.address, token);
    await late.call('GetSystemInfo', {});
    await early.call('GetSystemInfo', {});
    expect((await small.weigh()).connections).toBeLessThanOrEqual(50);
    for (const socket of idle) socket.destroy();
    for (const caller of [...hostile, early, late]) caller.close();
  });
});
