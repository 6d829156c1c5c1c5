// Owns `slipway crash`: kills a part of the installation on this machine in the middle of whatever it does, and shows that
// the builds go on. For people who want to see the promise kept.
// Called by main.ts. The supervisor of `slipway up` starts again what is killed here.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { findSupervisor } from '../workers/supervisor';
import { livingProcessIn, signalIfAlive } from '../workers/leftovers';
import type { Run } from '../domain/schemas/api';
import { ClientError, type Client } from './client';
import { CommandError, EXIT, type Output } from './context';
import { paint, paintStatus } from './print';

const LOOK_MS = 200;
const BACK_LIMIT_MS = 60_000;
const GROW_LIMIT_MS = 60_000;

/** @param part name of a process of `slipway up`, `any` or `all` @param runDir folder of its pid files */
export async function crash(
  client: Client,
  part: string,
  { runDir, output }: { runDir: string; output: Output },
): Promise<number> {
  if (part === 'engine') throw new CommandError(ENGINE, EXIT.usage);
  if (findSupervisor(runDir) === undefined) throw new CommandError('nothing is up here; start it with: slipway up');
  const living = partsIn(runDir);
  const chosen = choose(part, [...living.keys()]);
  const before = await runsUnderWay(client);
  if (before.length === 0) {
    output.err('no run is under way; to have one to watch: slipway run examples/voyage   (in another terminal)');
  }
  for (const run of before) output.err(`under way  ${placeOf(run)}  ${run.urls.page}`);
  const killedAtMs = Date.now();
  for (const name of chosen) {
    const pid = living.get(name) ?? 0;
    signalIfAlive(-pid, 'SIGKILL');
    output.err(`${paint('red', 'killed')}     ${name} (pid ${pid}, SIGKILL)`);
  }
  await Promise.all(chosen.map((name) => untilBack({ runDir, output, killedAtMs }, name, living.get(name) ?? 0)));
  for (const run of before) await showThatItGoesOn(client, run, output);
  return EXIT.passed;
}

const ENGINE =
  'the Docker engine belongs to the machine, so Slipway does not kill it; restart it yourself (systemctl restart docker) ' +
  'and watch: runs go on where the engine keeps containers alive (live-restore)';

/** Processes of the installation that live now, by name. */
function partsIn(runDir: string): Map<string, number> {
  const files = readdirSync(runDir)
    .filter((file) => file.endsWith('.pid'))
    .sort();
  return new Map(
    files.flatMap((file): [string, number][] => {
      const pid = livingProcessIn(join(runDir, file));
      return pid === undefined ? [] : [[file.slice(0, -'.pid'.length), pid]];
    }),
  );
}

function choose(part: string, names: readonly string[]): readonly string[] {
  if (part === 'all') return names;
  if (part === 'any') return names.slice(Math.floor(Math.random() * names.length)).slice(0, 1);
  if (names.includes(part)) return [part];
  throw new CommandError(`no part "${part}" is running here; choose one of: ${names.join(', ')}, any, all`, EXIT.usage);
}

async function runsUnderWay(client: Client): Promise<Run[]> {
  const found: Run[] = [];
  for (const project of await client.projects()) {
    for (const build of await client.builds(project.name, 20)) {
      if (build.state === 'finished') continue;
      const { runs } = await client.build(build.project, build.number);
      const running = runs.filter((run) => !['queued', 'finished'].includes(run.state));
      found.push(...(await Promise.all(running.map((run) => client.run(build.project, build.number, run.name)))));
    }
  }
  return found;
}

interface Killed {
  runDir: string;
  output: Output;
  killedAtMs: number;
}

async function untilBack({ runDir, output, killedAtMs }: Killed, name: string, before: number): Promise<void> {
  for (;;) {
    const pid = partsIn(runDir).get(name);
    if (pid !== undefined && pid !== before) {
      const seconds = ((Date.now() - killedAtMs) / 1000).toFixed(1);
      return output.err(`${paint('green', 'started')}    ${name} again (pid ${pid}) after ${seconds} s`);
    }
    if (Date.now() - killedAtMs > BACK_LIMIT_MS) {
      throw new CommandError(`${name} did not come back within ${BACK_LIMIT_MS / 1000} s; see the end of its log`);
    }
    await sleep(LOOK_MS);
  }
}

/** Waits until the run has said more than before, or has ended, and says what became of it. */
async function showThatItGoesOn(client: Client, before: Run, output: Output): Promise<void> {
  const until = Date.now() + GROW_LIMIT_MS;
  for (;;) {
    const now = await client.run(before.project, before.build, before.name).catch(waitForServer);
    const hasMoved = now && (now.logBytes > before.logBytes || now.attempt > before.attempt);
    if (now && (hasMoved || now.state === 'finished' || Date.now() > until)) {
      return output.err(`${paint('green', 'goes on')}    ${sayHow(before, now)}`);
    }
    await sleep(LOOK_MS);
  }
}

function sayHow(before: Run, now: Run): string {
  const [was, is] = [before.attempts.at(-1), now.attempts.at(-1)];
  const isSame = is?.number === was?.number && is?.containerId === was?.containerId;
  const container = is?.containerId ? `container ${is.containerId.slice(0, 12)}` : 'no container yet';
  const where = isSame ? `same attempt ${is?.number ?? 0}, same ${container}` : `attempt ${now.attempt}, ${container}`;
  return `${placeOf(now)}  ${paintStatus(now.status)}: ${where}, log ${before.logBytes} -> ${now.logBytes} bytes`;
}

const placeOf = (run: Run): string => `${run.project}/${run.build}/${run.name}`;

function waitForServer(error: unknown): undefined {
  if (error instanceof ClientError && (error.answer === undefined || error.answer.status >= 500)) return undefined;
  throw error;
}
