// Proves `slipway doctor`: it names what is missing with the command that mends it, and never shows a stack.
import { execFile } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { startOf } from '../adapters/pid-lock';
import { readSettings } from '../adapters/settings';
import { renderDoctor, runDoctor, type Check, type DoctorReport } from '../cli/doctor';
import { freePort } from './setup/free-port';

let dir: string;
let env: NodeJS.ProcessEnv;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'slipway-doctor-'));
  env = {
    PATH: process.env.PATH,
    HOME: dir,
    SLIPWAY_DATA_DIR: join(dir, 'data'),
    SLIPWAY_LISTEN: `127.0.0.1:${await freePort()}`,
    SLIPWAY_GATEWAY_LISTEN: `127.0.0.1:${await freePort()}`,
    SLIPWAY_TEMPORAL_PORT: String(await freePort()),
    SLIPWAY_TEMPORAL_UI_PORT: String(await freePort()),
  };
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

const look = (sockets?: string[]): Promise<DoctorReport> =>
  runDoctor({ settings: readSettings(env), env, sockets, root: join(__dirname, '..') });
const find = (report: DoctorReport, name: string): Check | undefined =>
  report.checks.find((check) => check.name === name);

/** A `temporal` that says what it is told. */
function fakeTemporal(says: string): string {
  mkdirSync(join(dir, 'bin'), { recursive: true });
  writeFileSync(join(dir, 'bin', 'temporal'), `#!/bin/sh\necho '${says}'\n`);
  chmodSync(join(dir, 'bin', 'temporal'), 0o755);
  return `${join(dir, 'bin')}:${process.env.PATH}`;
}

function slipway(args: string[], more: NodeJS.ProcessEnv): Promise<{ code: number; out: string; err: string }> {
  const main = join(__dirname, '..', 'dist', 'cli', 'main.js');
  return new Promise((done) => {
    execFile(process.execPath, [main, ...args], { env: { ...env, ...more } }, (error, out, err) => {
      done({ code: error ? Number(error.code) : 0, out, err });
    });
  });
}

it('S4 with Docker stopped it names it, gives the command, and exits 2 without a stack', async () => {
  const { code, out, err } = await slipway(['doctor'], { DOCKER_HOST: `unix://${dir}/none.sock` });
  expect(code).toBe(2);
  expect(out).toMatch(
    /^missing {2}Docker engine: nothing answers at DOCKER_HOST=unix:\S+none\.sock {2}→ {2}start that engine/m,
  );
  expect(out + err).not.toMatch(/^\s+at /m);
  expect(err).toBe('');
});

it('S4 a Docker engine that is installed but not running comes with the command that starts it', async () => {
  mkdirSync(join(dir, 'bin'));
  writeFileSync(join(dir, 'bin', 'dockerd'), '#!/bin/sh\n', { mode: 0o755 });
  env.PATH = join(dir, 'bin');
  const report = await look([join(dir, 'none.sock')]);
  expect(find(report, 'Docker engine')).toMatchObject({ state: 'missing', detail: 'it is installed but not running' });
  expect(find(report, 'Docker engine')?.fix).toMatch(/systemctl start docker|dockerd --live-restore/);
  expect(report.exitCode).toBe(2);
});

it('S4 with everything there every line is ok and the exit code is 0', async () => {
  const cli = process.env.SLIPWAY_TEMPORAL_CLI;
  if (cli) env.PATH = `${dirname(cli)}:${env.PATH}`;
  else env.PATH = fakeTemporal('temporal version 1.9.1 (Server 1.32.0, UI 2.54.1)');
  const report = await look();
  expect(report.checks.filter((check) => check.state === 'missing')).toEqual([]);
  expect(report.exitCode).toBe(0);
  expect(renderDoctor(report).at(-1)).toBe('All that is needed is here.');
});

it('prints the same as JSON', async () => {
  const { code, out } = await slipway(['doctor', '--json'], { DOCKER_HOST: `unix://${dir}/none.sock` });
  const report = JSON.parse(out) as DoctorReport;
  expect([code, report.exitCode]).toEqual([2, 2]);
  expect(find(report, 'Docker engine')).toMatchObject({
    state: 'missing',
    fix: expect.stringContaining('DOCKER_HOST'),
  });
});

it('a Temporal CLI that is too old is named with the version that is needed', async () => {
  env.PATH = fakeTemporal('temporal version 1.4.0 (Server 1.28.0, UI 2.39.0)');
  const check = find(await look(), 'Temporal CLI');
  expect(check).toMatchObject({
    state: 'missing',
    detail: expect.stringContaining('server 1.28.0; 1.32.0 or newer is needed'),
  });
  expect(check?.fix).toContain('npm start');
});

it('a Temporal server that was named and does not answer is missing, and no CLI is asked for', async () => {
  env.TEMPORAL_ADDRESS = `127.0.0.1:${await freePort()}`;
  const { out } = await slipway(['doctor', '--json'], {});
  const report = JSON.parse(out) as DoctorReport;
  expect(find(report, 'Temporal')).toMatchObject({
    state: 'missing',
    detail: `no answer at TEMPORAL_ADDRESS=${env.TEMPORAL_ADDRESS}`,
  });
  expect(find(report, 'Temporal CLI')).toBeUndefined();
});

describe('a port that is in use', () => {
  let server: Server;
  let port: number;

  beforeEach(async () => {
    server = createServer();
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    port = (server.address() as AddressInfo).port;
    env.SLIPWAY_LISTEN = `127.0.0.1:${port}`;
  });

  afterEach(() => void server.close());

  it('by another program comes with the setting that changes it', async () => {
    const fix = `SLIPWAY_LISTEN=127.0.0.1:${port + 10} npm start`;
    expect(find(await look(), `port ${port}`)).toEqual({
      name: `port ${port}`,
      state: 'missing',
      detail: 'used by another program',
      fix,
    });
  });

  it('by the Slipway of this folder is as it should be', async () => {
    mkdirSync(join(dir, 'data', 'run'), { recursive: true });
    writeFileSync(join(dir, 'data', 'run', 'supervisor.lock'), `${process.pid} ${startOf(process.pid)}\n`);
    const detail = `used by the Slipway that runs here (process ${process.pid})`;
    expect(find(await look(), `port ${port}`)).toEqual({ name: `port ${port}`, state: 'ok', detail });
  });
});

it('a data folder on a full disk is missing, with what to do', async () => {
  // A file system without a byte to spare.
  env.SLIPWAY_DATA_DIR = '/proc/self';
  expect(find(await look(), 'data folder')).toMatchObject({
    state: 'missing',
    fix: expect.stringContaining('SLIPWAY_DATA_DIR'),
  });
});

it('S4 without bubblewrap, or where it may not do its work, it says with whose rights checkouts run', async () => {
  const bin = join(dir, 'bin');
  mkdirSync(bin, { recursive: true });
  env.PATH = bin;
  expect(find(await look(), 'checkouts')).toEqual({
    name: 'checkouts',
    state: 'note',
    detail: 'no bubblewrap (bwrap), so git runs with the rights of the worker, and each path is checked',
    fix: 'sudo apt-get install -y bubblewrap',
  });
  const say = (text: string): void => writeFileSync(join(bin, 'bwrap'), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  say('echo "bwrap: No permissions to create new namespace" >&2; exit 1');
  expect(find(await look(), 'checkouts')).toMatchObject({
    state: 'note',
    detail: expect.stringContaining('(bwrap: No permissions to create new namespace)'),
  });
  say('exit 0');
  expect(find(await look(), 'checkouts')).toMatchObject({ state: 'ok' });
});
