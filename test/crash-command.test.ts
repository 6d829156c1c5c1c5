// Proves `slipway crash`: a person kills parts of a whole installation in mid-build, is told the truth, and the build goes on.
// Real `slipway up` with real Temporal and real Docker, in a folder of its own.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Build, Run } from '../domain/schemas/api';
import { freePort } from './setup/free-port';
import { ensureTestImage, oneRun } from './setup/house';
import { waitFor } from './setup/wait-for';

const MAIN = resolve(__dirname, '..', 'dist', 'cli', 'main.js');
const dir = mkdtempSync(join(tmpdir(), 'slipway-crash-'));
const env: NodeJS.ProcessEnv = { ...process.env, NODE_OPTIONS: '', NO_COLOR: '1' };
let url = '';
let up: ChildProcess;

beforeAll(async () => {
  await ensureTestImage();
  const [port, gateway, temporal, ui] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
  url = `http://127.0.0.1:${port}`;
  Object.assign(env, {
    SLIPWAY_LISTEN: `127.0.0.1:${port}`,
    SLIPWAY_GATEWAY_LISTEN: `127.0.0.1:${gateway}`,
    SLIPWAY_TEMPORAL_PORT: String(temporal),
    SLIPWAY_TEMPORAL_UI_PORT: String(ui),
    SLIPWAY_DATA_DIR: dir,
    PATH: `${resolve(process.env.SLIPWAY_TEMPORAL_CLI ?? '', '..')}:${process.env.PATH}`,
  });
  writeFileSync(
    join(dir, 'slipway.yml'),
    oneRun('#!/bin/sh\necho started >> /archive/starts\nfor i in $(seq 1 500); do echo "line $i"; sleep 0.1; done'),
  );
  up = spawn(process.execPath, [MAIN, 'up'], { cwd: dir, env, stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  up.stderr?.on('data', (data: Buffer) => (said += data.toString()));
  await waitFor(() => said.includes('Ctrl-C stops.'), { what: 'Slipway is up', timeoutMs: 120_000 }).catch(
    (error: unknown) => {
      throw new Error(`${String(error)}\n${said}`);
    },
  );
}, 180_000);
afterAll(async () => {
  if (up?.exitCode === null) {
    const gone = once(up, 'exit');
    up.kill('SIGINT');
    await gone;
  }
  rmSync(dir, { recursive: true, force: true });
}, 60_000);

async function slipway(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
  const child = spawn(process.execPath, [MAIN, ...args], { cwd: dir, env });
  const ended = { code: null as number | null, out: '', err: '' };
  child.stdout.on('data', (data: Buffer) => (ended.out += data.toString()));
  child.stderr.on('data', (data: Buffer) => (ended.err += data.toString()));
  [ended.code] = (await once(child, 'close')) as [number | null];
  return ended;
}

const read = async <T>(path: string): Promise<T> => (await (await fetch(url + path)).json()) as T;

test('B4 B5 crash worker, api, gateway and then all: it names what it killed and what is back, and the run goes on in its container', async () => {
  const build = slipway('run', '.', '--project', 'watched', '--json');
  const run = (): Promise<Run> => read('/v1/projects/watched/builds/1/runs/work');
  const before = await waitFor(
    async () => {
      const now = await run();
      return now.logBytes > 0 && now;
    },
    { what: 'the run is under way', timeoutMs: 60_000 },
  );

  const worker = await slipway('crash', 'worker');
  const api = await slipway('crash', 'api');
  const gateway = await slipway('crash', 'gateway');
  const all = await slipway('crash', 'all');
  const ended = await build;
  const after = await run();

  for (const { code, err } of [worker, api, gateway, all]) {
    expect(code).toBe(0);
    expect(err).toContain(`under way  watched/1/work  ${before.urls.page}`);
    expect(err).toMatch(
      /goes on +watched\/1\/work {2}running: same attempt 1, same container [0-9a-f]{12}, log \d+ -> \d+ bytes/,
    );
  }
  expect(worker.err).toMatch(/killed +worker \(pid \d+, SIGKILL\)\nstarted +worker again \(pid \d+\) after \d+\.\d s/);
  expect(all.err.match(/^killed /gm)).toHaveLength(6);
  expect({ code: ended.code, status: (JSON.parse(ended.out) as Build).status }).toEqual({ code: 0, status: 'passed' });
  expect(after.attempts.map((attempt) => attempt.containerId)).toEqual([before.attempts[0]?.containerId]);
  expect(await (await fetch(after.urls.log)).text()).toBe(
    Array.from({ length: 500 }, (_, at) => `line ${at + 1}\n`).join(''),
  );
  expect(await (await fetch(`${after.urls.artifacts}/starts`)).text()).toBe('started\n');
}, 180_000);

test('what cannot be killed is refused in words that name what can', async () => {
  const unknown = await slipway('crash', 'moon');
  const engine = await slipway('crash', 'engine');

  expect(unknown).toMatchObject({
    code: 64,
    err: 'slipway: no part "moon" is running here; choose one of: api, database, gateway, orchestrator, temporal, worker, any, all\n',
  });
  expect(engine.code).toBe(64);
  expect(engine.err).toContain('belongs to the machine');
});
