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

test('B4 B5 H9 two supervisors at once, as when one is believed dead: each command and each copy is done once, its output whole', async () => {
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
  const script = `#!/bin/sh
exec 2>&1
i=0
while [ $i -lt 25 ]; do
  i=$((i+1)); echo "file $i" >file
  slipway copy file board:file
  slipway on board -- sh -c 'cat file >>all; cat file' || exit
done
slipway on board -- cat all
`;
  await supervisor().begin(make, over.signal);
  const runDir = await engine.makeRunDir(name, script, SLIPWAY_PROGRAM);
  await engine.create({ ...none, name, runDir, env: besideEnv([board]) });
  await engine.start(name);
  const serving = [1, 2].map(() => supervisor().serve({ engine, name }, over.signal));
  const container = await engine.find(name);
  const { exitCode } = await engine.wait(container!, { signal: over.signal, onRestart: () => undefined });
  over.abort();
  await Promise.all(serving);
  const log = readFileSync(join(runDir, 'log'), 'utf8');
  await engine.remove(name);
  await far.remove(containerName(runId, 1, 'board'));

  const files = Array.from({ length: 25 }, (_, at) => `file ${at + 1}\n`).join('');
  expect([exitCode, log]).toEqual([0, files + files]);
  expect([await engine.listRemains(), await far.listRemains()]).toEqual([[], []]);
}, 180_000);
