// Owns what each command is given: where to write, which server, and the exit codes.
// Made by main.ts; tests hand in their own.
import type { Client } from './client';
import { basename, resolve } from 'node:path';
import { readFileSync, statSync } from 'node:fs';
import { visible } from './print';

/** 0 passed, 1 failed, 2 could not run, 64 the command line itself is wrong. */
export const EXIT = { passed: 0, failed: 1, couldNotRun: 2, usage: 64 } as const;

/** The command cannot go on; the message says why and what to do. */
export class CommandError extends Error {
  constructor(
    message: string,
    readonly exitCode: number = EXIT.couldNotRun,
  ) {
    super(message);
  }
}

export interface Output {
  /** Results: what a script reads. */
  out(text: string): void;
  /** Everything else. */
  err(text: string): void;
}

/** The one way to the terminal; the log of a run alone goes there as it is (`slipway log`, `slipway shell`). */
export const terminal: Output = {
  out: (text) => void process.stdout.write(`${visible(text)}\n`),
  err: (text) => void process.stderr.write(`${visible(text)}\n`),
};

const FILE_NAMES = ['slipway.yml', 'slipway.yaml', '.slipway.yml'];

/** Reads a project file, or the one in a folder. @throws CommandError */
export function readDefinition(path: string): { file: string; definition: string; defaultProject: string } {
  const full = resolve(path);
  const isFolder = statSync(full, { throwIfNoEntry: false })?.isDirectory() ?? false;
  const candidates = isFolder ? FILE_NAMES.map((name) => `${path.replace(/\/+$/, '')}/${name}`) : [path];
  for (const file of candidates) {
    try {
      const definition = readFileSync(file, 'utf8');
      return { file, definition, defaultProject: nameOf(isFolder ? full : resolve(full, '..')) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
        throw new CommandError(`cannot read ${file}: ${(error as Error).message}`);
      }
    }
  }
  const what = isFolder ? `${path} has no ${FILE_NAMES.join(', ')}` : `${path} does not exist`;
  throw new CommandError(`${what}; name a project file or a folder that has one`);
}

function nameOf(folder: string): string {
  const name = basename(folder)
    .toLowerCase()
    .replace(/[^a-z0-9._-]+/g, '-')
    .replace(/^[._-]+|[._-]+$/g, '')
    .slice(0, 64);
  return name || 'project';
}

/** `K=V` pairs. @throws CommandError */
export function readParams(pairs: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf('=');
      if (at < 1) throw new CommandError(`-p ${pair}: write a parameter as NAME=VALUE`, EXIT.usage);
      return [pair.slice(0, at), pair.slice(at + 1)];
    }),
  );
}

/** `project/number` or `project/number/run`. @throws CommandError */
export function readPlace(text: string): { project: string; number: number; run?: string } {
  const found = /^([^/]+)\/(\d+)(?:\/(.+))?$/.exec(text);
  if (!found) throw new CommandError(`${text}: write it as PROJECT/NUMBER or PROJECT/NUMBER/RUN`, EXIT.usage);
  const [, project = '', number = '', run] = found;
  return { project, number: Number(number), ...(run === undefined ? {} : { run }) };
}

/** `project/number/run`; the run may be left out when there is one only. @throws CommandError */
export async function requireRunPlace(
  client: Pick<Client, 'build'>,
  text: string,
): Promise<{ project: string; number: number; run: string }> {
  const place = readPlace(text);
  return { ...place, run: place.run ?? (await onlyRun(client, place)) };
}

async function onlyRun(client: Pick<Client, 'build'>, place: { project: string; number: number }): Promise<string> {
  const { runs } = await client.build(place.project, place.number);
  const [first] = runs;
  if (runs.length === 1 && first) return first.name;
  const names = runs.slice(0, 10).map((run) => run.name);
  throw new CommandError(
    `build ${place.project}/${place.number} has ${runs.length} runs; name one: ${names.join(', ')}${runs.length > 10 ? ', …' : ''}`,
    EXIT.usage,
  );
}
