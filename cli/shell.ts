// Owns `slipway shell`: a shell in what a run left where it is held, else in a new container on this machine, made like it.
// Called by main.ts. Uses the docker program, which knows terminals; parameters go through its environment.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Run } from '../domain/schemas/api';
import type { Client } from './client';
import { heldShell } from './held-shell';
import { CommandError, EXIT, requireRunPlace, type Output } from './context';

/** @param command what to run in place of a shell @returns its exit code */
export async function shell(
  client: Client,
  place: string,
  { command, output }: { command: readonly string[]; output: Output },
): Promise<number> {
  const at = await requireRunPlace(client, place);
  const run = await client.run(at.project, at.number, at.run);
  if (run.heldUntil !== null) {
    if (command.length === 0)
      output.err(`${place} is held on host ${run.host} until ${run.heldUntil}; exit leaves it so`);
    return heldShell(client, at, { command, output });
  }
  const dir = mkdtempSync(join(tmpdir(), 'slipway-shell-'));
  try {
    for (const part of ['repo', 'archive', 'secrets']) mkdirSync(join(dir, part), { mode: 0o777 });
    writeFileSync(join(dir, 'script'), run.spec.script, { mode: 0o755 });
    const image = imageOf(run);
    if (command.length === 0)
      output.err(`${image}: the script of ${place} is /slipway/script; exit ends the container`);
    const env = {
      ...process.env,
      ...run.spec.env,
      CI: 'true',
      H_PROJECT: run.project,
      H_BUILD: String(run.build),
      H_RUN: run.name,
    };
    const args = [...optionsOf(run, dir), image, ...(command.length === 0 ? ['/bin/sh'] : command)];
    const ended = spawnSync('docker', args, { env, stdio: 'inherit' });
    if (ended.error) throw new CommandError(`cannot run docker: ${ended.error.message}; install Docker's command line`);
    return ended.status ?? EXIT.couldNotRun;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** The one that the newest attempt ran, where this machine can have it; else what the plan names. */
function imageOf(run: Run): string {
  const recorded = run.attempts.findLast((attempt) => attempt.imageDigest !== null)?.imageDigest;
  if (!recorded) return run.spec.container;
  if (!recorded.startsWith('sha256:')) return recorded;
  const isHere = spawnSync('docker', ['image', 'inspect', recorded], { stdio: 'ignore' }).status === 0;
  return isHere ? recorded : run.spec.container;
}

function optionsOf({ spec }: Run, dir: string): string[] {
  const names = [...Object.keys(spec.env), 'CI', 'H_PROJECT', 'H_BUILD', 'H_RUN'];
  const mount = (part: string, target: string): string[] => ['--volume', `${join(dir, part)}:${target}`];
  return [
    'run',
    '--rm',
    '--init',
    ...(process.stdin.isTTY ? ['--interactive', '--tty'] : ['--interactive']),
    ...names.flatMap((name) => ['--env', name]),
    ...(spec.containerUser === undefined ? [] : ['--user', spec.containerUser]),
    ...(spec.privileged ? ['--privileged'] : []),
    ...spec.capAdd.flatMap((capability) => ['--cap-add', capability]),
    ...spec.capDrop.flatMap((capability) => ['--cap-drop', capability]),
    ...mount('script', '/slipway/script:ro'),
    ...mount('repo', '/repo'),
    ...mount('archive', '/archive'),
    ...mount('secrets', '/secrets:ro'),
    '--workdir',
    '/repo',
    '--entrypoint',
    '',
  ];
}
