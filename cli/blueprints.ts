// Owns `slipway blueprint …`: what hosts clusters make on demand. Each verb is one call of the API.
// Called by main.ts.
import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { parseDocument } from 'yaml';
import type { Blueprint } from '../domain/schemas/blueprints';
import { SERVER, type Finish, type MakeClient, type Server } from './command-parts';
import { CommandError, EXIT, terminal } from './context';
import { paint, table } from './print';

export function addBlueprintCommands(program: Command, client: MakeClient, finish: Finish): void {
  const blueprint = program.command('blueprint').description('let a cluster make hosts on demand, and end them again');
  ofBlueprint(blueprint.command('put').description('make a blueprint from a file, or change it for the hosts to come'))
    .argument('<file>', 'YAML or JSON; see docs/hosts.md')
    .action(async (...[cluster, name, file, options]: [string, string, string, Server]) => {
      const wanted = await readDocument(file);
      terminal.out(describe(await client(options).putBlueprint({ cluster, name }, wanted)));
      finish(EXIT.passed);
    });
  blueprint
    .command('list')
    .description('list blueprints, with the hosts that each has now')
    .option('--cluster <name>', 'of this cluster alone')
    .option('--json', 'print as JSON')
    .option(...SERVER)
    .action(async (options: { cluster?: string; json?: boolean } & Server) => {
      const blueprints = await client(options).blueprints(options.cluster);
      if (options.json) terminal.out(JSON.stringify({ blueprints }, null, 2));
      else if (blueprints.length === 0) terminal.out('no blueprints yet; make one with: slipway blueprint put');
      else terminal.out(table(blueprints.map(rowOf)));
      finish(EXIT.passed);
    });
  ofBlueprint(blueprint.command('show').description('show a blueprint'))
    .option('--json', 'print as JSON')
    .action(async (cluster: string, name: string, options: { json?: boolean } & Server) => {
      const found = await client(options).blueprint({ cluster, name });
      terminal.out(options.json ? JSON.stringify(found, null, 2) : describe(found));
      finish(EXIT.passed);
    });
  ofBlueprint(
    blueprint.command('remove').description('make no more hosts; those that there are end once they are idle'),
  ).action(async (cluster: string, name: string, options: Server) => {
    await client(options).removeBlueprint({ cluster, name });
    terminal.out(`blueprint ${name} of cluster ${cluster} makes no more hosts`);
    finish(EXIT.passed);
  });
}

/** A verb of one blueprint. */
function ofBlueprint(command: Command): Command {
  return command
    .argument('<cluster>')
    .argument('<blueprint>', 'A-Z a-z 0-9 . _ -')
    .option(...SERVER);
}

async function readDocument(file: string): Promise<unknown> {
  const text = await readFile(file, 'utf8').catch((error: unknown) => {
    throw new CommandError(`cannot read ${file}: ${(error as Error).message}`, EXIT.usage);
  });
  const document = parseDocument(text);
  const [problem] = document.errors;
  if (problem) throw new CommandError(`${file}: ${problem.message}`, EXIT.usage);
  const wanted = document.toJS() as unknown;
  if (wanted === null)
    throw new CommandError(`${file} is empty; docs/hosts.md shows what a blueprint says`, EXIT.usage);
  return wanted;
}

function rowOf(blueprint: Blueprint): string[] {
  const { cluster, name, make, hosts, most, costPerHourNow, restingUntil, fault } = blueprint;
  return [
    paint('bold', `${cluster}/${name}`),
    make.kind,
    sayHosts(hosts, most),
    `${costPerHourNow.toFixed(2)} an hour now`,
    restingUntil === null ? '' : `rests until ${restingUntil}: ${fault}`,
  ];
}

function sayHosts({ starting, ready, ending }: Blueprint['hosts'], most: number): string {
  return `${ready} ready, ${starting} starting, ${ending} ending, of ${most} at most`;
}

function describe(blueprint: Blueprint): string {
  const { cluster, name, make, labels, slots, hosts, most, minReady, maxUses, maxAgeSeconds } = blueprint;
  const { kind, ...rest } = make;
  const facts: [string, string][] = [
    [
      'makes',
      `${kind}: ${Object.entries(rest)
        .map(([key, value]) => `${key} ${String(value)}`)
        .join(', ')}`,
    ],
    ['labels', [...labels, name].join(', ')],
    ['slots', `${slots} on each host`],
    ['hosts', sayHosts(hosts, most)],
    ['kept ready', `${minReady}; others end after ${blueprint.idleSeconds} s without a run`],
    ['each takes', maxUses === null ? 'any number of runs' : `${maxUses} runs at most`],
    [
      'each lives',
      maxAgeSeconds === null ? 'as long as it is used' : `${maxAgeSeconds} s, and until its runs are done`,
    ],
    ['costs', `${blueprint.costPerHour} an hour each, ${blueprint.costPerHourNow.toFixed(2)} now`],
  ];
  if (blueprint.fault !== null) facts.push(['went wrong', `${blueprint.fault} (${blueprint.faults} in a row)`]);
  if (blueprint.restingUntil !== null) facts.push(['rests until', blueprint.restingUntil]);
  return `${paint('bold', `${cluster}/${name}`)}\n${table(facts.map(([what, is]) => [paint('gray', what), is]))}`;
}
