#!/usr/bin/env node
// Owns the `slipway` command: its verbs, options, help and exit codes. Every message that leaves it is a sentence.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { LockedError } from '../adapters/pid-lock';
import { readSettings, SettingsError } from '../adapters/settings';
import { SetupError } from '../adapters/setup-error';
import { version } from '../package.json';
import { Client, ClientError } from './client';
import {
  builds,
  cancel,
  log,
  plan,
  hold,
  rerun,
  run,
  validate,
  type PlanOptions,
  type RerunOptions,
  type RunOptions,
} from './commands';
import { CommandError, terminal, EXIT } from './context';
import { oneLine } from './print';
import { addClusterCommands } from './cluster-commands';
import { addBlueprintCommands } from './blueprints';
import { addHostCommands } from './host-commands';
import { crash } from './crash';
import { doctor } from './doctor';
import { folderToken } from './folder-token';
import { clusterKeyFile } from './local-cluster';
import { shell } from './shell';
import { up } from './up';

const collect = (value: string, all: string[]): string[] => [...all, value];
const readPriority = (text: string): number => {
  if (!/^[1-5]$/.test(text)) throw new InvalidArgumentError('Use 1 (first) to 5 (last).');
  return Number(text);
};
const readMinutes = (text: string): number => {
  const minutes = /^\d{1,4}$/.test(text) ? Number(text) : 0;
  if (minutes < 1 || minutes > 1440) throw new InvalidArgumentError('Use 1 to 1440 minutes.');
  return minutes;
};
const client = (options: { server?: string }): Client => {
  const settings = readSettings();
  const server = options.server ?? settings.SLIPWAY_SERVER ?? settings.baseUrl;
  return new Client(server.replace(/\/+$/, ''), settings.SLIPWAY_TOKEN ?? folderToken(server, settings));
};
const finish = (code: number): void => {
  process.exitCode = code;
};

const program = new Command('slipway')
  .description('A CI build orchestrator on Temporal. Kill anything, and the build goes on.')
  .version(version)
  .exitOverride()
  .configureHelp({ showGlobalOptions: true });

program
  .command('up')
  .description('start a whole Slipway on this machine and keep it alive; state lies in .slipway/')
  .option('--example', 'run examples/hello once it is up')
  .action(async (options: { example?: boolean }) => {
    const code = await up({ example: options.example ?? false, output: terminal });
    process.exit(code);
  });

program
  .command('run')
  .description('plan, build and follow a project; the exit code is the verdict: 0 passed, 1 failed, 2 could not run')
  .argument('<path>', 'project file, or a folder with slipway.yml')
  .option('--project <name>', 'name of the project; default: that of the folder')
  .option('--trigger <name>', 'trigger in the file; default: the first')
  .option('-p, --param <NAME=VALUE>', 'parameter, may be repeated', collect, [])
  .option('--cluster <name>', 'cluster that takes all its runs; default: placed by the server')
  .option('--priority <n>', 'of all runs, 1 (first) to 5 (last); default: as in the file', readPriority)
  .option('--hold <minutes>', 'keep the hosts of runs that fail, 1 to 1440; default: as in the file', readMinutes)
  .option('--reason <text>', 'shown with the build')
  .option('--json', 'print the finished build as JSON and nothing else')
  .option('--server <url>', 'address of the API')
  .action(async (path: string, options: RunOptions & { server?: string }) => {
    finish(await run(client(options), path, { options, output: terminal }));
  });

program
  .command('plan')
  .description('print the runs of a project file without starting anything; needs no server')
  .argument('<path>', 'project file, or a folder with slipway.yml')
  .option('--trigger <name>', 'trigger in the file; default: the first')
  .option('-p, --param <NAME=VALUE>', 'parameter, may be repeated', collect, [])
  .option('--priority <n>', 'of all runs, 1 (first) to 5 (last); default: as in the file', readPriority)
  .option('--json', 'print digest and plan as JSON')
  .action((path: string, options: PlanOptions) => finish(plan(path, options, terminal)));

program
  .command('validate')
  .description('print every problem of a project file with its line and column; exit code 1 if there is one')
  .argument('<path>', 'project file, or a folder with slipway.yml')
  .action((path: string) => finish(validate(path, terminal)));

program
  .command('builds')
  .description('list builds, newest first')
  .argument('[project]', 'only of this project')
  .option('--limit <n>', 'at most so many', '20')
  .option('--json', 'print as JSON')
  .option('--server <url>', 'address of the API')
  .action(async (project: string | undefined, options: { json?: boolean; limit: string; server?: string }) => {
    finish(await builds(client(options), project, { options, output: terminal }));
  });

program
  .command('log')
  .description('print the log of a run, byte for byte')
  .argument('<place>', 'PROJECT/NUMBER/RUN; the run may be left out when there is one only')
  .option('-f, --follow', 'go on until the run ends')
  .option('--attempt <n>', 'of this attempt; default: the newest', Number)
  .option('--server <url>', 'address of the API')
  .action(async (place: string, options: { follow?: boolean; attempt?: number; server?: string }) => {
    finish(await log(client(options), place, { options, output: terminal }));
  });

program
  .command('cancel')
  .description('cancel a build or one of its runs')
  .argument('<place>', 'PROJECT/NUMBER or PROJECT/NUMBER/RUN')
  .option('--server <url>', 'address of the API')
  .action(async (place: string, options: { server?: string }) => {
    finish(await cancel(client(options), place, terminal));
  });

program
  .command('rerun')
  .description('run a finished build again, or one run of it, as further attempts; exits with the verdict')
  .argument('<place>', 'PROJECT/NUMBER or PROJECT/NUMBER/RUN; runs that need it are run again as well')
  .option('--failed', 'only what did not pass')
  .option('--hold <minutes>', 'keep the hosts of runs that fail, 1 to 1440; default: as in the file', readMinutes)
  .option('--json', 'print the finished build as JSON and nothing else')
  .option('--server <url>', 'address of the API')
  .action(async (place: string, options: RerunOptions & { server?: string }) => {
    finish(await rerun(client(options), place, { options, output: terminal }));
  });

program
  .command('hold')
  .description('keep what a failed run left on its hosts for longer, or give them back; for runs that are held already')
  .argument('<place>', 'PROJECT/NUMBER/RUN; the run may be left out when there is one only')
  .option('--minutes <n>', 'from now on, 1 to 1440', readMinutes, 60)
  .option('--end', 'give the hosts back now')
  .option('--server <url>', 'address of the API')
  .action(async (place: string, options: { minutes: number; end?: boolean; server?: string }) => {
    finish(await hold(client(options), place, { options, output: terminal }));
  });

program
  .command('shell')
  .description(
    'open a shell in what a run left, where it is held; else in a new container here, made like that of the run',
  )
  .argument('<place>', 'PROJECT/NUMBER/RUN; the run may be left out when there is one only')
  .argument('[command...]', 'run this in place of a shell; put -- before it')
  .option('--privileged', 'give a container here the privileges on this machine that the run had on its host')
  .option('--server <url>', 'address of the API')
  .action(async (place: string, command: string[], options: { server?: string; privileged?: boolean }) => {
    const isPrivileged = options.privileged ?? false;
    finish(await shell(client(options), place, { command, isPrivileged, output: terminal }));
  });

program
  .command('crash')
  .description('kill a part of the Slipway on this machine, and watch the builds go on')
  .argument('<part>', 'api, orchestrator, gateway, worker, temporal, database, any or all')
  .option('--server <url>', 'address of the API')
  .action(async (part: string, options: { server?: string }) => {
    const runDir = join(readSettings().dataDir, 'run');
    finish(await crash(client(options), part, { runDir, output: terminal }));
  });

program
  .command('worker')
  .description('serve a cluster with this machine, and with the listed hosts that its key opens')
  .option('--cluster <name>', 'cluster to serve', 'local')
  .option('--slots <n>', 'runs at once; default: twice the cores')
  .option('--name <host>', 'name of this host; default: that of the machine')
  .option('--labels <a,b>', 'labels of this host')
  .option('--engine <kind>', 'docker; shell: runs are processes, without containers; none: listed hosts alone')
  .option('--ssh-key <file>', 'private key for the listed hosts of the cluster; default: it serves none')
  .option('--key <file>', 'private key of the cluster; default: that of the data folder')
  .option(
    '--server <url>',
    'address of the gateway, or of the API with TEMPORAL_ADDRESS set; default: the gateway here',
  )
  .option('--drain', 'when it is told to stop, finish what runs first; once more lets go at once')
  .action(({ drain, ...options }: Record<string, string | undefined> & { drain?: boolean }) => {
    startWorker({ ...options, onStop: drain ? 'drain' : undefined });
  });

addClusterCommands(program, client, finish);
addHostCommands(program, client, finish);
addBlueprintCommands(program, client, finish);

program
  .command('doctor')
  .description('say what this machine lacks, and the command that mends it')
  .option('--json', 'print as JSON')
  .action(async (options: { json?: boolean }) => finish(await doctor(options, terminal)));

/** The worker reads its settings from the environment; options are another way to give them. */
function startWorker(options: Record<string, string | undefined>): void {
  const names = {
    cluster: 'SLIPWAY_CLUSTER',
    slots: 'SLIPWAY_SLOTS',
    name: 'SLIPWAY_HOST',
    labels: 'SLIPWAY_LABELS',
    server: 'SLIPWAY_SERVER',
    key: 'SLIPWAY_CLUSTER_KEY_FILE',
    engine: 'SLIPWAY_ENGINE',
    sshKey: 'SLIPWAY_SSH_KEY_FILE',
    onStop: 'SLIPWAY_ON_STOP',
  };
  for (const [option, name] of Object.entries(names))
    if (options[option] !== undefined) process.env[name] = options[option];
  const { dataDir, SLIPWAY_CLUSTER: cluster, SLIPWAY_CLUSTER_KEY } = readSettings();
  const key = clusterKeyFile(dataDir, cluster);
  if (SLIPWAY_CLUSTER_KEY === undefined && existsSync(key)) process.env['SLIPWAY_CLUSTER_KEY_FILE'] = key;
  // Beside the worker of `slipway up` in the same folder, this one is another host with an id of its own.
  process.env['SLIPWAY_WORKER_DIR'] ??= join(dataDir, 'workers', readSettings().SLIPWAY_HOST);
  // Loading it starts it: it is a process of its own everywhere else.
  require('../workers/cluster');
}

/** What any command may end with, in words and with its exit code. */
function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.passed : EXIT.usage;
  if (error instanceof ClientError) {
    terminal.err(`slipway: ${oneLine(error.message)}`);
    for (const { path, message } of error.answer?.problems ?? []) terminal.err(oneLine(`  ${path}: ${message}`));
    return EXIT.couldNotRun;
  }
  if (error instanceof CommandError) {
    terminal.err(`slipway: ${error.message}`);
    return error.exitCode;
  }
  const isForUsers = error instanceof SettingsError || error instanceof LockedError || error instanceof SetupError;
  terminal.err(`slipway: ${(error as Error).message}`);
  if (!isForUsers && process.env['SLIPWAY_LOG_LEVEL'] === 'debug') terminal.err((error as Error).stack ?? '');
  return EXIT.couldNotRun;
}

program.parseAsync().catch((error: unknown) => {
  process.exit(report(error));
});
