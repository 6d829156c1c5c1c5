// Proves that what a script asks of its other hosts is done once, however many believe that they supervise it. Real shells
// and real processes; the two supervisors are ours, so that they are at it at the same time for sure.
import { randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HOLDER_PROGRAM, SLIPWAY_PROGRAM } from '../activities/beside-program';
import { besideEnv, HostsBeside, type HostBeside } from '../activities/hosts-beside';
import { BareEngine } from '../adapters/bare-engine';
import { LocalShell } from '../adapters/local-shell';
import { containerName } from '../domain/names';

const dir = mkdtempSync(join(tmpdir(), 'slipway-relay-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const none = { image: '', privileged: false, capAdd: [], capDrop: [], resources: {}, labels: {}, hasSpool: true };

interface Done {
  exitCode: number;
  log: string;
}

/** Runs a script that has a host `board` beside its own. @param atOnce supervisors that are there at the same time */
async function runBeside(script: string, atOnce = 1): Promise<Done> {
  const runId = randomUUID();
  const [engine, far] = [
    new BareEngine(new LocalShell(), join(dir, 'own')),
    new BareEngine(new LocalShell(), join(dir, 'far')),
  ];
  const board: HostBeside = { name: 'board', host: 'board-1', address: null, engine: far, direct: far };
  const make = async (_: HostBeside, name: string): Promise<void> => {
    const runDir = await far.makeRunDir(name, HOLDER_PROGRAM, SLIPWAY_PROGRAM);
    await far.create({ ...none, name, runDir, env: {} });
  };
  const over = new AbortController();
  const supervisor = (): HostsBeside =>
    new HostsBeside(
      [board],
      { runId, attempt: 1, detach: new AbortController().signal },
      { release: async () => undefined },
    );
  const name = containerName(runId, 1);
  await supervisor().begin(make, over.signal);
  const runDir = await engine.makeRunDir(name, `#!/bin/sh\nexec 2>&1\n${script}`, SLIPWAY_PROGRAM);
  await engine.create({ ...none, name, runDir, env: besideEnv([board]) });
  await engine.start(name);
  const serving = Array.from({ length: atOnce }, () => supervisor().serve({ engine, name }, over.signal));
  const container = await engine.find(name);
  const { exitCode } = await engine.wait(container!, { signal: over.signal, onRestart: () => undefined });
  over.abort();
  await Promise.all(serving);
  const log = readFileSync(join(runDir, 'log'), 'utf8');
  await engine.remove(name);
  await far.remove(containerName(runId, 1, 'board'));
  expect([await engine.listRemains(), await far.listRemains()]).toEqual([[], []]);
  return { exitCode, log };
}

test('B4 B5 H9 two supervisors at once, as when one is believed dead: each command and each copy is done once, its output whole', async () => {
  const script = `
i=0
while [ $i -lt 25 ]; do
  i=$((i+1)); echo "file $i" >file
  slipway copy file board:file
  slipway on board -- sh -c 'cat file >>all; cat file' || exit
done
slipway on board -- cat all
`;
  const { exitCode, log } = await runBeside(script, 2);

  const files = Array.from({ length: 25 }, (_, at) => `file ${at + 1}\n`).join('');
  expect([exitCode, log]).toEqual([0, files + files]);
}, 180_000);

test.each([1, 2])(
  'H9 a command on another host ends when whoever waits for it is told to, as by timeout: by TERM, and by KILL when it does not listen (supervisors: %s)',
  async (supervisors) => {
    // Seen nowhere else.
    const seconds = `${process.pid}0${supervisors}.25`;
    const script = `
await() { until grep -q "$1" "$2"; do sleep 0.05; done; }
slipway on board -- sh -c 'trap "echo told; exit 9" TERM; echo begun; while :; do sleep 0.1; done' >listens 2>/dev/null &
listens=$!
slipway on board -- sh -c 'trap "" TERM; echo begun; sleep ${seconds}' >deaf &
deaf=$!
: >>listens; : >>deaf
await begun listens; await begun deaf
kill -TERM $listens $deaf
wait $listens; echo "listens $?"; cat listens
timeout 1 slipway on board -- sleep ${seconds} 2>/dev/null; echo "timeout $?"
wait $deaf; echo "deaf $?"
slipway on board -- sh -c 'cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\\0" " " | grep -c "slee[p] ${seconds}"'
`;
    const { log } = await runBeside(script, supervisors);

    expect(log).toBe('listens 9\nbegun\ntold\ntimeout 124\ndeaf 137\n0\n');
  },
  60_000,
);
