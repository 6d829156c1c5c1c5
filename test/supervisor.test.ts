// Proves that children are kept alive, stopped in order, and never left behind: real processes, real SIGKILL.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LockedError, startOf } from '../adapters/pid-lock';
import { endLeftovers, rememberChild } from '../workers/leftovers';
import { LIMITS, nextBackoffMs } from '../workers/supervised-child';
import { Supervisor, type ChildSpec, type SupervisorOptions } from '../workers/supervisor';
import { waitFor } from './setup/wait-for';

let dir: string;
let said: string[];
let opened: Supervisor[];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'slipway-supervisor-'));
  said = [];
  opened = [];
});

afterEach(async () => {
  for (const supervisor of opened) await supervisor.stop();
  rmSync(dir, { recursive: true, force: true });
});

const open = async (options: Partial<SupervisorOptions> = {}): Promise<Supervisor> => {
  const supervisor = await Supervisor.open({
    runDir: join(dir, 'run'),
    announce: (line) => said.push(line),
    backoffMs: 20,
    pollMs: 5,
    ...options,
  });
  opened.push(supervisor);
  return supervisor;
};

const shell = (name: string, script: string, more: Partial<ChildSpec> = {}): ChildSpec => ({
  name,
  command: '/bin/sh',
  args: ['-c', script],
  logFile: join(dir, `${name}.log`),
  ...more,
});

/** As another process loads it. */
const SUPERVISOR = JSON.stringify(join(__dirname, '..', 'dist', 'workers', 'supervisor.js'));

const isAlive = (pid: number): boolean => startOf(pid) !== undefined;
const pidOf = (supervisor: Supervisor, name: string): number => supervisor.pids()[name] ?? -1;
const read = (name: string): string => readFileSync(join(dir, name), 'utf8');

describe('back-off', () => {
  it('doubles up to its limit, and begins anew after a long life', () => {
    const waits: number[] = [];
    for (let wait = 0; waits.length < 8; waits.push(wait)) wait = nextBackoffMs(wait, 10, LIMITS);
    expect(waits).toEqual([200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    expect(nextBackoffMs(5_000, 30_000, LIMITS)).toBe(200);
    expect(nextBackoffMs(5_000, 29_999, LIMITS)).toBe(5_000);
  });

  it('C8 names the port that another program has taken from a child, and the setting of it', async () => {
    const thief = createServer();
    thief.listen(0, '127.0.0.1');
    await once(thief, 'listening');
    const { port } = thief.address() as AddressInfo;
    const supervisor = await open({ backoffMs: 10, backoffMaxMs: 10 });
    const ports = [{ host: '127.0.0.1', port, setting: 'SLIPWAY_LISTEN' }];
    await supervisor.start(shell('api', 'sleep 0.05; exit 1', { ports }));
    await waitFor(() => said.length > 0, { what: 'its end is told' });
    thief.close();
    const taken = `api ended (exit code 1); port ${port} is taken by another program; stop it, or set SLIPWAY_LISTEN; starting it again in 0.01 s`;
    const free = 'api ended (exit code 1); starting it again in 0.01 s';
    await waitFor(() => said.includes(free), { what: 'the port is free again' });

    expect(said[0]).toBe(taken);
  });

  it('slows a child down that dies again and again, and says so each time', async () => {
    const supervisor = await open({ backoffMs: 10, backoffMaxMs: 40 });
    await supervisor.start(shell('flaky', `echo up; exec sleep 0.05`));
    await waitFor(() => said.filter((line) => line.startsWith('flaky ended')).length >= 5, { what: 'five restarts' });
    const waits = said.flatMap(
      (line) => /^flaky ended \(exit code 0\); starting it again in ([\d.]+) s/.exec(line)?.[1] ?? [],
    );
    expect(waits.slice(0, 5)).toEqual(['0.01', '0.02', '0.04', '0.04', '0.04']);
  });
});

describe('a child', () => {
  it('is back after SIGKILL, under another process id', async () => {
    const supervisor = await open();
    await supervisor.start(shell('sleeper', 'exec sleep 60'));
    const before = pidOf(supervisor, 'sleeper');
    process.kill(before, 'SIGKILL');
    await waitFor(() => said.some((line) => line.startsWith('sleeper is back')), { what: 'the child again' });
    const after = pidOf(supervisor, 'sleeper');
    expect(after).not.toBe(before);
    expect([isAlive(before), isAlive(after)]).toEqual([false, true]);
    expect(said[0]).toBe('sleeper ended (SIGKILL); starting it again in 0.02 s');
  });

  it('is ready when its condition holds, not when it runs', async () => {
    const supervisor = await open();
    const flag = join(dir, 'flag');
    const spec = shell('slow', `sleep 0.2; touch ${flag}; exec sleep 60`, { readyWhen: async () => existsSync(flag) });
    await supervisor.start(spec);
    expect(existsSync(flag)).toBe(true);
    expect(supervisor.isUp()).toBe(true);
  });

  it('of ours is ready when it says so', async () => {
    const supervisor = await open();
    const code = `setTimeout(() => process.send('ready'), 50); setInterval(() => {}, 1000)`;
    const spec = {
      name: 'node',
      command: process.execPath,
      args: ['-e', code],
      logFile: join(dir, 'node.log'),
      isOurs: true,
    };
    const began = Date.now();
    await supervisor.start(spec);
    expect(Date.now() - began).toBeGreaterThanOrEqual(50);
  });

  it('that never starts is given up after its tries, with the end of its log', async () => {
    const supervisor = await open({ startTries: 2 });
    const spec = shell('broken', 'echo port 7233 is taken; exit 3', { readyWhen: async () => false });
    await expect(supervisor.start(spec)).rejects.toThrow(
      /^broken does not start: exit code 3\. The end of .*broken\.log:\nport 7233 is taken\nport 7233 is taken$/,
    );
    expect(supervisor.pids()).toEqual({});
  });

  it('that is never ready is given up at the deadline, and ended', async () => {
    const supervisor = await open({ readyTimeoutMs: 150 });
    let pid = 0;
    const spec = shell('mute', 'echo $$; exec sleep 60', {
      readyWhen: async () => {
        pid = pidOf(supervisor, 'mute');
        return false;
      },
    });
    await expect(supervisor.start(spec)).rejects.toThrow(/^mute is not ready after 0\.15 s/);
    expect(isAlive(pid)).toBe(false);
  });

  it('whose program does not exist is named', async () => {
    const supervisor = await open({ startTries: 1 });
    const spec = { ...shell('nothing', ''), command: '/no/such/program', isOurs: true };
    await expect(supervisor.start(spec)).rejects.toThrow(/nothing does not start: .*ENOENT/);
  });

  it('begins a new log file when the old one is too long', async () => {
    writeFileSync(join(dir, 'chatty.log'), '');
    truncateSync(join(dir, 'chatty.log'), 2_000);
    const supervisor = await open({ maxLogBytes: 1_000 });
    await supervisor.start(shell('chatty', 'echo new; exec sleep 60'));
    await waitFor(() => read('chatty.log') === 'new\n', { what: 'the new log' });
    expect(statSync(join(dir, 'chatty.log.1')).size).toBe(2_000);
  });
});

describe('stop', () => {
  it('ends the last one first, and leaves no process and no pid file', async () => {
    const supervisor = await open();
    const end = (name: string): string =>
      `trap 'echo ${name} >> ${dir}/order; exit 0' TERM; touch ${dir}/${name}; while :; do sleep 0.02; done`;
    for (const name of ['first', 'second', 'third']) {
      await supervisor.start(shell(name, end(name), { readyWhen: async () => existsSync(join(dir, name)) }));
    }
    const pids = Object.values(supervisor.pids());
    await supervisor.stop();
    expect(read('order').trim().split('\n')).toEqual(['third', 'second', 'first']);
    expect(pids.filter(isAlive)).toEqual([]);
    expect(existsSync(join(dir, 'run', 'first.pid'))).toBe(false);
    expect(said).toEqual([]);
  });

  it('kills what does not listen, and the processes that it has started', async () => {
    const supervisor = await open();
    const script = `trap '' TERM; sh -c 'trap "" TERM; echo $$ > ${dir}/grandchild; while :; do sleep 0.05; done' & wait; wait`;
    const readyWhen = async (): Promise<boolean> => read('grandchild') !== '';
    await supervisor.start(shell('deaf', script, { readyWhen, stopTimeoutMs: 100 }));
    const pids = [pidOf(supervisor, 'deaf'), Number(read('grandchild'))];
    expect(pids.map(isAlive)).toEqual([true, true]);
    await supervisor.stop();
    await waitFor(() => !pids.some(isAlive), { what: 'both gone' });
  });

  it('reaches a child that is waiting to be started again, and one that is not ready yet', async () => {
    const supervisor = await open({ backoffMs: 60_000, startTries: 5 });
    await supervisor.start(shell('dead', 'exec sleep 0.01'));
    await waitFor(() => said.length === 1, { what: 'the end of it' });
    const unready = supervisor.start(shell('unready', 'exec sleep 60', { readyWhen: async () => false }));
    const refused = expect(unready).rejects.toThrow('unready was stopped before it was ready');
    await supervisor.stop();
    await refused;
    await expect(supervisor.start(shell('late', 'true'))).rejects.toThrow('everything is being stopped');
    expect(supervisor.pids()).toEqual({});
  });
});

describe('a killed supervisor', () => {
  it('leaves nothing behind: the next start ends what is left, and only that', async () => {
    const runDir = join(dir, 'run');
    const left = spawn('/bin/sh', ['-c', 'trap "" TERM; while :; do sleep 0.05; done'], {
      detached: true,
      stdio: 'ignore',
    });
    const stranger = spawn('sleep', ['60'], { stdio: 'ignore' });
    const [leftPid, strangerPid] = [left.pid ?? 0, stranger.pid ?? 0];
    rememberChild(runDir, 'left', leftPid);
    // The number of a process that ended long ago, in use again by somebody else.
    writeFileSync(join(runDir, 'reused.pid'), `${strangerPid} 1\n`);
    writeFileSync(join(runDir, 'garbage.pid'), 'not a pid\n');
    try {
      await endLeftovers(runDir, 100, (line) => said.push(line));
      await waitFor(() => !isAlive(leftPid), { what: 'the leftover gone' });
      expect(isAlive(strangerPid)).toBe(true);
      expect(said).toEqual([`ending left (pid ${leftPid}), left over from a start that was killed`]);
      expect(['left', 'reused', 'garbage'].filter((name) => existsSync(join(runDir, `${name}.pid`)))).toEqual([]);
    } finally {
      stranger.kill('SIGKILL');
    }
  });

  it('takes its children with it, and the folder is free for the next', async () => {
    const ours = `process.on('disconnect', () => process.exit(0)); setInterval(() => {}, 1000); process.send('ready')`;
    const program = `
      const { Supervisor } = require(${SUPERVISOR});
      Supervisor.open({ runDir: ${JSON.stringify(join(dir, 'run'))}, announce: () => {} }).then(async (supervisor) => {
        const logFile = ${JSON.stringify(join(dir, 'a.log'))};
        await supervisor.start({ name: 'foreign', command: 'sleep', args: ['60'], logFile });
        await supervisor.start({ name: 'ours', command: process.execPath, args: ['-e', ${JSON.stringify(ours)}], isOurs: true, logFile });
        console.log(JSON.stringify(supervisor.pids()));
      });`;
    const owner = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
    const [line] = (await once(owner.stdout, 'data')) as [Buffer];
    const pids = Object.values(JSON.parse(line.toString()) as Record<string, number>);
    await expect(open()).rejects.toThrow(LockedError);
    expect(pids.map(isAlive)).toEqual([true, true]);
    owner.kill('SIGKILL');
    await once(owner, 'exit');
    await open();
    await waitFor(() => !pids.some(isAlive), { what: 'both children gone' });
  });
});

describe('a signal', () => {
  const PROGRAM = (stubborn: boolean): string => `
    const { Supervisor, stopOnSignal } = require(${SUPERVISOR});
    const announce = (line) => console.log(line);
    Supervisor.open({ runDir: ${JSON.stringify(join(dir, 'run'))}, announce }).then(async (supervisor) => {
      const code = stopOnSignal(supervisor, announce${stubborn ? ', 0' : ''});
      const flag = ${JSON.stringify(join(dir, 'flag'))};
      const script = ${stubborn} ? 'trap "" TERM; touch ' + flag + '; while :; do sleep 0.05; done' : 'touch ' + flag + '; exec sleep 60';
      await supervisor.start({ name: 'child', command: '/bin/sh', args: ['-c', script],
        readyWhen: async () => require('fs').existsSync(flag), logFile: ${JSON.stringify(join(dir, 'b.log'))} });
      console.log('child ' + supervisor.pids().child);
      process.exit(await code);
    });`;

  const run = async (stubborn: boolean) => {
    const owner = spawn(process.execPath, ['-e', PROGRAM(stubborn)], { stdio: ['ignore', 'pipe', 'inherit'] });
    let out = '';
    owner.stdout.on('data', (data: Buffer) => (out += data.toString()));
    const pid = await waitFor(() => /child (\d+)/.exec(out)?.[1], { what: 'the child' });
    return { owner, pid: Number(pid), out: () => out, exit: once(owner, 'exit') };
  };

  it('stops cleanly and once, also when a terminal and npm both pass it on', async () => {
    const { owner, pid, out, exit } = await run(false);
    owner.kill('SIGINT');
    owner.kill('SIGINT');
    expect(await exit).toEqual([0, null]);
    expect(isAlive(pid)).toBe(false);
    expect(out().match(/stopping \(SIGINT\)/g)).toHaveLength(1);
  });

  it('a second time kills what does not stop', async () => {
    const { owner, pid, out, exit } = await run(true);
    owner.kill('SIGINT');
    await waitFor(() => out().includes('stopping (SIGINT)'), { what: 'the answer to the first' });
    owner.kill('SIGINT');
    expect(await exit).toEqual([130, null]);
    await waitFor(() => !isAlive(pid), { what: 'the child gone' });
  });
});

it('keeps its pid files readable by their owner alone', () => {
  mkdirSync(join(dir, 'run'));
  rememberChild(join(dir, 'run'), 'self', process.pid);
  expect(read('run/self.pid')).toBe(`${process.pid} ${startOf(process.pid)}\n`);
  expect(statSync(join(dir, 'run', 'self.pid')).mode & 0o777).toBe(0o600);
});
