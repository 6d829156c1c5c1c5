// Owns `slipway shell`: a shell in what a run left where it is held, else in a new container on this machine, made like it.
// Called by main.ts. Uses the docker program, which knows terminals. What the author of a run wrote reaches that program as
// values for the container alone: never as its own environment, and never as an option.
import { spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
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
  { command, isPrivileged = false, output }: { command: readonly string[]; isPrivileged?: boolean; output: Output },
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
    if (isMorePrivileged(run) && !isPrivileged)
      output.err('the run has privileges of its host, which this container has not; --privileged gives them to it');
    const args = [
      ...optionsOf(run, { dir, isPrivileged }),
      '--',
      image,
      ...(command.length === 0 ? ['/bin/sh'] : command),
    ];
    return runDocker(args, { variables: variablesOf(run), dir });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

const isMorePrivileged = ({ spec }: Run): boolean => spec.privileged || spec.capAdd.length > 0;

const variablesOf = ({ spec, project, build, name }: Run): Record<string, string> => ({
  ...spec.env,
  CI: 'true',
  H_PROJECT: project,
  H_BUILD: String(build),
  H_RUN: name,
});

/** Longer lines than this are not read from a file of variables, characters. */
const LINE = 16_000;

/** @returns its exit code */
function runDocker(
  [verb = '', ...args]: readonly string[],
  { variables, dir }: { variables: Record<string, string>; dir: string },
): number {
  const isLine = ([name, value]: [string, string]): boolean =>
    /^[A-Za-z_]\w*$/.test(name) && !/[\r\n]/.test(value) && value.length < LINE;
  const all = Object.entries(variables);
  const others = all.filter((variable) => !isLine(variable)).flatMap(([name, value]) => ['--env', `${name}=${value}`]);
  const file = join(dir, 'variables');
  const handle = openSync(file, 'wx+', 0o600);
  try {
    // Gone from the disk before docker begins, so that nothing is left of it whatever ends this process.
    rmSync(file);
    const text = all.filter(isLine).map(([name, value]) => `${name}=${value}\n`);
    writeSync(handle, text.join(''), 0);
    const stdio = ['inherit', 'inherit', 'inherit', handle] as const;
    const ended = spawnSync('docker', [verb, '--env-file', '/dev/fd/3', ...others, ...args], {
      env: process.env,
      stdio: [...stdio],
    });
    if (ended.error) throw new CommandError(`cannot run docker: ${ended.error.message}; install Docker's command line`);
    return ended.status ?? EXIT.couldNotRun;
  } finally {
    closeSync(handle);
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

function optionsOf({ spec }: Run, { dir, isPrivileged }: { dir: string; isPrivileged: boolean }): string[] {
  const mount = (part: string, target: string): string[] => ['--volume', `${join(dir, part)}:${target}`];
  return [
    'run',
    '--rm',
    '--init',
    ...(process.stdin.isTTY ? ['--interactive', '--tty'] : ['--interactive']),
    ...(spec.containerUser === undefined ? [] : ['--user', spec.containerUser]),
    ...(spec.privileged && isPrivileged ? ['--privileged'] : []),
    ...(isPrivileged ? spec.capAdd.flatMap((capability) => ['--cap-add', capability]) : []),
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
