// Proves what a newcomer sees: `npm start` on a fresh copy of the sources, twice, with installs, example and Ctrl-C.
// Real npm, real Temporal CLI, real Docker.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import type { BuildList } from '../domain/schemas/api';
import type { z } from 'zod';
import { freePort } from './setup/free-port';
import { waitFor } from './setup/wait-for';

const ROOT = resolve(__dirname, '..');

/** What a clone of this state of the sources would hold. */
function copySources(to: string): void {
  const args = ['ls-files', '-z', '--cached', '--others', '--exclude-standard'];
  const files = execFileSync('git', args, { cwd: ROOT, encoding: 'utf8' }).split('\0');
  for (const file of files) {
    if (file === '' || !existsSync(join(ROOT, file))) continue;
    mkdirSync(dirname(join(to, file)), { recursive: true });
    cpSync(join(ROOT, file), join(to, file));
  }
}

const clone = mkdtempSync(join(tmpdir(), 'slipway-clone-'));
const env: NodeJS.ProcessEnv = { ...process.env, NODE_OPTIONS: '', NO_COLOR: '1' };
let url = '';

beforeAll(async () => {
  copySources(clone);
  const [port, gateway, temporal, ui] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
  url = `http://127.0.0.1:${port}`;
  Object.assign(env, {
    SLIPWAY_LISTEN: `127.0.0.1:${port}`,
    SLIPWAY_GATEWAY_LISTEN: `127.0.0.1:${gateway}`,
    SLIPWAY_TEMPORAL_PORT: String(temporal),
    SLIPWAY_TEMPORAL_UI_PORT: String(ui),
  });
});
afterAll(() => rmSync(clone, { recursive: true, force: true }));

/** Runs `npm start` until `Slipway is up`, then does `meanwhile`, then Ctrl-C. */
async function npmStart(meanwhile: (output: string) => Promise<void>): Promise<string> {
  const child = spawn('npm', ['start'], { cwd: clone, env, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  let output = '';
  child.stdout.on('data', (data: Buffer) => (output += data.toString()));
  child.stderr.on('data', (data: Buffer) => (output += data.toString()));
  const ended = once(child, 'close');
  try {
    await waitFor(() => output.includes('Ctrl-C stops.') || child.exitCode !== null, {
      what: 'Slipway is up',
      timeoutMs: 400_000,
      intervalMs: 100,
    }).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${output}`);
    });
    await meanwhile(output);
  } finally {
    if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGINT');
  }
  await ended;
  return output;
}

/** After Ctrl-C: it said so, nobody listens any more, and no process is remembered as running. */
async function expectNothingLeft(output: string): Promise<void> {
  expect(output).toContain('stopping (SIGINT)');
  await expect(fetch(url)).rejects.toThrow();
  expect(readdirSync(join(clone, '.slipway', 'run')).filter((name) => name.endsWith('.pid'))).toEqual([]);
}

const builds = async (): Promise<z.infer<typeof BuildList>> =>
  (await (await fetch(`${url}/v1/projects/hello/builds`)).json()) as z.infer<typeof BuildList>;

test('S1 npm start on a fresh copy installs, starts everything, runs the example green and prints where to look', async () => {
  const first = await npmStart(async (output) => {
    const [build] = (await builds()).builds;

    expect(build).toMatchObject({ number: 1, status: 'passed', counts: { total: 4, passed: 4 } });
    expect(output).toContain(build!.urls.page);
    expect(output).toContain(build!.urls.trace);
    // With a browser's headers: the answer is the page and not JSON, and the trace's server answers too.
    const page = await fetch(build!.urls.page, { headers: { accept: 'text/html' } });
    expect([page.status, page.headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8']);
    expect((await fetch(build!.urls.trace)).status).toBe(200);
  });

  expect(first).toMatch(/greet-world-plain +\| +hello, world!/);
  expect(first).toContain('hello #1 passed: 4 of 4 runs passed');
  await expectNothingLeft(first);
}, 600_000);

test('S1 a second npm start installs nothing, and the first build is still there', async () => {
  const second = await npmStart(async () => {
    expect((await builds()).builds.map((build) => [build.number, build.status])).toEqual([
      [2, 'passed'],
      [1, 'passed'],
    ]);
  });

  expect(second).not.toMatch(/installing|build program/);
  await expectNothingLeft(second);
}, 300_000);

test('S1 npx slipway works in the folder', () => {
  // npx knows folders that it has seen, and runs what lies there as it is, e.g. after another clone to the same place.
  expect(statSync(join(clone, 'dist', 'cli', 'main.js')).mode & 0o111).toBe(0o111);
  const output = execFileSync('npx', ['slipway', 'plan', 'examples/hello'], { cwd: clone, env, encoding: 'utf8' });

  expect(output).toContain('trigger main: 4 runs');
}, 120_000);
