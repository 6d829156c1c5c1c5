// Proves what a run's container is, by asking the engine: image, user, capabilities, limits, mounts, environment.
// Real Temporal, real Docker.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Dockerode from 'dockerode';
import { DockerEngine } from '../adapters/docker-engine';
import { House, TEST_IMAGE } from './setup/house';
import { waitFor } from './setup/wait-for';

let house: House;
beforeAll(async () => {
  house = await House.open();
  await house.operated('PATCH', '/v1/clusters/local', { policy: { allowPrivileged: true } });
}, 120_000);
afterAll(async () => house?.stop(), 60_000);

const definition = (run: string): string => `timeout: 10
params: { FROM: project, OVER: project }
triggers:
  - name: main
    params: { OVER: trigger, $TRICKY: 'a "b" \`c\` $(d) ü' }
    runs:
      - name: work
        container: '${TEST_IMAGE}'
        script: work
${run}
scripts:
  work: |
    #!/bin/sh
    pwd; id -u; ls -ld /repo /archive /secrets /slipway/script; env | sort
    touch /secrets/x 2>&1; touch /slipway/script 2>&1; touch /repo/x /archive/x && echo writable
    while [ ! -e /archive/go ]; do sleep 0.1; done
`;

async function begin(project: string, run: string) {
  await house.project(project, definition(run).replace('$TRICKY', 'TRICKY'));
  const { number } = await house.call<{ number: number }>('POST', `/v1/projects/${project}/builds`, {
    params: { CALLER: 'me' },
  });
  await waitFor(async () => (await house.logOf(project, number, 'work')).includes('writable'), {
    what: 'the script waits',
  });
  const { attempts } = await house.run(project, number, 'work');
  const container = new Dockerode().getContainer(attempts[0]?.containerId ?? '');
  return { number, inspected: await container.inspect(), attempt: attempts[0]! };
}

async function end(project: string, number: number): Promise<string> {
  await house.call('POST', `/v1/projects/${project}/builds/${number}/cancel`);
  await house.finished(project, number);
  return house.logOf(project, number, 'work');
}

test('B4 a container that has ended is not run once more when it is started again', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'slipway-once-'));
  const engine = new DockerEngine(new Dockerode(), dir);
  const name = `slipway-once-${process.pid}`;
  const { signal } = new AbortController();
  try {
    const runDir = await engine.makeRunDir(name, '#!/bin/sh\necho started >> /archive/starts\n');
    const none = { env: {}, privileged: false, capAdd: [], capDrop: [], resources: {}, labels: {} };
    await engine.create({ ...none, name, image: TEST_IMAGE, runDir });
    for (const time of ['once', 'again']) {
      await engine.start(name);
      const container = await engine.find(name);
      if (!container) throw new Error(`the container is gone when started ${time}`);
      await engine.wait(container, { signal, onRestart: () => undefined });
    }

    expect(readFileSync(join(runDir, 'archive', 'starts'), 'utf8')).toBe('started\n');
  } finally {
    await engine.remove(name);
    rmSync(dir, { recursive: true });
  }
});

test('R1 what the file says of user, entrypoint, capabilities, privileges and limits is what the engine made', async () => {
  const { number, inspected } = await begin(
    'contract',
    `        container-user: '123:45'
        container-entrypoint: /bin/sh
        privileged: true
        cap-add: [NET_ADMIN]
        cap-drop: [MKNOD]
        resources: { cpus: 0.5, memory: 64m, pids: 50 }
`,
  );
  const { Config: config, HostConfig: host } = inspected;
  const image = await new Dockerode().getImage(TEST_IMAGE).inspect();
  await end('contract', number);

  expect(inspected.Image).toBe(image.Id);
  expect(config).toMatchObject({
    User: '123:45',
    Entrypoint: ['/bin/sh'],
    Cmd: ['/slipway/begin'],
    WorkingDir: '/repo',
  });
  expect(host).toMatchObject({
    Privileged: true,
    Init: true,
    NanoCpus: 500_000_000,
    Memory: 64 * 1024 * 1024,
    PidsLimit: 50,
  });
  expect(host.CapAdd?.map((cap: string) => cap.replace(/^CAP_/, ''))).toEqual(['NET_ADMIN']);
  expect(host.CapDrop?.map((cap: string) => cap.replace(/^CAP_/, ''))).toEqual(['MKNOD']);
}, 60_000);

test('R1 a plain run: /repo is the working directory, /repo and /archive take files of any user, /secrets and the script do not', async () => {
  const { number, inspected, attempt } = await begin('plain', '');
  const mounts = Object.fromEntries(inspected.Mounts.map((mount) => [mount.Destination, mount.RW]));
  const log = await end('plain', number);

  expect(mounts).toEqual({
    '/slipway/begin': false,
    '/slipway/script': false,
    '/repo': true,
    '/archive': true,
    '/secrets': false,
  });
  expect(inspected.HostConfig).toMatchObject({ Privileged: false, CapAdd: [] });
  expect(log).toMatch(/^\/repo\n0\n/);
  expect(log).toContain('writable\n');
  expect(log.match(/Read-only file system/g)).toHaveLength(2);
  expect(attempt.imageDigest).toMatch(/sha256:[0-9a-f]{64}$/);
}, 60_000);

test('P2 R1 the environment: project under trigger under caller, text kept byte for byte, and the documented H_ variables', async () => {
  const { number, inspected } = await begin('environment', '');
  const env = Object.fromEntries(
    inspected.Config.Env.map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]),
  );
  await end('environment', number);

  expect(env).toMatchObject({
    FROM: 'project',
    OVER: 'trigger',
    CALLER: 'me',
    TRICKY: 'a "b" `c` $(d) ü',
    CI: 'true',
    H_PROJECT: 'environment',
    H_BUILD: String(number),
    H_RUN: 'work',
    H_ATTEMPT: '1',
    H_RUN_URL: `${house.url}/projects/environment/builds/${number}/runs/work`,
    H_WORKER: 'test-host',
  });
}, 60_000);
