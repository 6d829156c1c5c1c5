// Proves how a Docker engine and the first image are found and made: on the real engine, and on one that misbehaves.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { connectDocker, ensureDockerEngine, findDockerEngine } from '../adapters/docker-setup';
import { startDockerd } from '../adapters/dockerd';
import { SetupError } from '../adapters/setup-error';
import {
  ensureStarterImage,
  isStatic,
  lookForStaticBusybox,
  makeStarterImage,
  tryStarterImage,
} from '../adapters/starter-image';
import { HoldingProxy } from './setup/holding-proxy';
import { DOCKER_SOCKET } from './setup/house';

let dir: string;
let said: string[];
const announce = (line: string): void => void said.push(line);

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'slipway-docker-'));
  said = [];
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

describe('the engine', () => {
  it('S1 that runs is used, and nothing is started', async () => {
    const found = await ensureDockerEngine({ announce, logFile: join(dir, 'dockerd.log') });
    expect(found).toMatchObject({
      kind: 'running',
      version: expect.any(String),
      apiVersion: expect.stringMatching(/^1\.\d+$/),
    });
    expect(found.stop).toBeUndefined();
    expect(said).toEqual([]);
  });

  it('named by DOCKER_HOST that does not answer is an error, and no other is started in its place', async () => {
    const env = { ...process.env, DOCKER_HOST: `unix://${join(dir, 'none.sock')}` };
    const refused = await ensureDockerEngine({ announce, logFile: join(dir, 'x.log'), env }).catch(
      (error: unknown) => error,
    );
    expect(refused).toBeInstanceOf(SetupError);
    expect((refused as Error).message).toMatch(
      /^Docker engine stopped: nothing answers at DOCKER_HOST=.*Try: start that engine/,
    );
    expect(said).toEqual([]);
  });

  it('named by DOCKER_HOST as an address is asked there', async () => {
    const server = createServer((_, answer) => answer.end(JSON.stringify({ Version: '99.0', ApiVersion: '1.99' })));
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    const DOCKER_HOST = `tcp://127.0.0.1:${(server.address() as { port: number }).port}`;
    expect(await findDockerEngine({ DOCKER_HOST })).toEqual({
      kind: 'running',
      socket: DOCKER_HOST,
      version: '99.0',
      apiVersion: '1.99',
    });
    await new Promise((done) => server.close(done));
  });

  it('that hangs is told from one that is not running, with what restarts it', async () => {
    const link = await HoldingProxy.open({ socketPath: DOCKER_SOCKET }, async () => 'before');
    const DOCKER_HOST = `tcp://127.0.0.1:${link.port}`;
    const found = await findDockerEngine({ DOCKER_HOST });
    const place = { announce, logFile: join(dir, 'dockerd.log'), env: { DOCKER_HOST } };
    const refused = await ensureDockerEngine(place).catch((error: unknown) => error);
    await link.close();

    expect(found).toEqual({
      kind: 'hung',
      detail: `the engine at ${DOCKER_HOST} takes questions and does not answer within 5 s`,
      fix: 'restart that engine',
    });
    expect(String(refused)).toContain('Docker engine hung: the engine at');
    expect(said).toEqual([]);
  });

  it('that cannot be started ends in the end of its log and what to do', async () => {
    const place = {
      program: '/bin/sh',
      args: ['-c', 'echo "failed to mount cgroup"; exit 1'],
      socket: join(dir, 'none.sock'),
      pidFiles: [],
      logFile: join(dir, 'logs', 'dockerd.log'),
      startLimitMs: 10_000,
      stopLimitMs: 1_000,
    };
    const error: unknown = await startDockerd(place).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(SetupError);
    expect((error as Error).message).toMatch(
      /could not be started \(it ended with exit code 1\).*\nfailed to mount cgroup\n.*DOCKER_HOST/s,
    );
  });
});

describe('the starter image', () => {
  const runs = process.pid;
  const docker = async () => {
    const found = await findDockerEngine();
    if (found.kind !== 'running') throw new Error(`no Docker engine: ${found.detail}`);
    return connectDocker(found.socket);
  };

  it('S4 made from the machine’s own busybox runs scripts, without any network', async () => {
    const engine = await docker();
    const name = `slipway-test/busybox:${runs}`;
    await makeStarterImage(engine, announce, name);
    try {
      let out = '';
      const into = new Writable({ write: (chunk: Buffer, _, done) => ((out += chunk.toString()), done()) });
      const check = 'id -un; stat -c %a /tmp; seq 3 | sort -r | head -1; /usr/bin/env echo env; ls -d /root /var/tmp';
      await engine.run(name, ['sh', '-c', check], into, { HostConfig: { AutoRemove: true, NetworkMode: 'none' } });
      expect(out.trim().split(/\s+/)).toEqual(['root', '1777', '3', 'env', '/root', '/var/tmp']);
      const { Config } = await engine.getImage(name).inspect();
      expect(Config.Labels).toEqual({ 'dev.slipway.made': 'local' });
      expect(Config.Cmd).toEqual(['sh']);
    } finally {
      await engine.getImage(name).remove({ force: true });
    }
  });

  it('S4 an engine that hangs while it starts a container is told of in a while, and is left without that container', async () => {
    const engine = await docker();
    await ensureStarterImage(engine, { announce });
    const link = await HoldingProxy.open({ socketPath: DOCKER_SOCKET }, async ({ path }) =>
      path.endsWith('/start') ? 'before' : undefined,
    );
    try {
      const problem = await tryStarterImage(connectDocker(`tcp://127.0.0.1:${link.port}`), 1_000);
      expect(problem).toBe('a container of busybox:stable had not run to its end after 1 s');
      const removed = link.passed.map((call) => /^DELETE \/containers\/(\w+)/.exec(call)?.[1]).find(Boolean);
      await expect(engine.getContainer(removed ?? '').inspect()).rejects.toMatchObject({ statusCode: 404 });
    } finally {
      await link.close();
    }
  });

  it('only a static busybox is taken', async () => {
    const busybox = await lookForStaticBusybox();
    expect(busybox).toBeDefined();
    expect(isStatic(readFileSync(busybox ?? ''))).toBe(true);
    expect(isStatic(readFileSync(process.execPath).subarray(0, 4096))).toBe(false);
    expect(isStatic(Buffer.from('#!/bin/sh\n'.repeat(10)))).toBe(false);
    expect(isStatic(Buffer.alloc(0))).toBe(false);
  });

  describe('on an engine whose registry misbehaves', () => {
    let server: Server;
    let imported: number;
    let onPull: (answer: ServerResponse) => void;

    beforeEach(async () => {
      imported = 0;
      server = createServer((request: IncomingMessage, answer) => {
        const url = request.url ?? '';
        if (url.includes('fromSrc=-')) {
          request
            .on('data', (data: Buffer) => (imported += data.length))
            .on('end', () => answer.end('{"status":"sha256:0"}\n'));
        } else if (url.includes('fromImage=busybox')) {
          onPull(answer);
        } else {
          answer.writeHead(404).end('{"message":"no such image"}');
        }
      });
      await new Promise<void>((done) => server.listen(join(dir, 'fake.sock'), done));
    });

    afterEach(async () => {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    });

    it('S4 a registry that stays silent costs its deadline only', async () => {
      onPull = () => undefined;
      await ensureStarterImage(connectDocker(join(dir, 'fake.sock')), { announce, pullSilenceMs: 100 });
      expect(said[0]).toBe('pulling image busybox:stable');
      expect(said[1]).toMatch(
        /cannot be pulled \(the registry was silent for 0\.1 s\); making it from this machine's own busybox/,
      );
      expect(imported).toBeGreaterThan(500_000);
    });

    it('S4 a registry that goes silent half-way too', async () => {
      onPull = (answer) => void answer.write('{"status":"Pulling from library/busybox"}\n');
      await ensureStarterImage(connectDocker(join(dir, 'fake.sock')), { announce, pullSilenceMs: 100 });
      expect(said[1]).toContain('silent for 0.1 s');
      expect(imported).toBeGreaterThan(500_000);
    });

    it('S4 a registry that refuses is quoted in its own words', async () => {
      onPull = (answer) => void answer.writeHead(500).end('{"message":"lookup registry: no such host"}');
      await ensureStarterImage(connectDocker(join(dir, 'fake.sock')), { announce });
      expect(said[1]).toContain('cannot be pulled (lookup registry: no such host)');
    });
  });
});
