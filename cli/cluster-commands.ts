// Owns the verbs, options and help of `slipway cluster`, `slipway token` and `slipway audit`.
// Called by main.ts; what they do is in clusters.ts.
import type { Command } from 'commander';
import * as clusters from './clusters';
import { collect, SERVER, type Finish, type MakeClient, type Server } from './command-parts';
import { terminal } from './context';
import * as releases from './releases';

export function addClusterCommands(program: Command, client: MakeClient, finish: Finish): void {
  const cluster = program.command('cluster').description('register clusters, their keys and their workers');
  addRegistry(cluster, client, finish);
  addAccess(cluster, client, finish);
  addMaintenance(cluster, client, finish);
  addReleases({ program, cluster }, client, finish);
  addTokens(program, client, finish);
}

function withFields(command: Command): Command {
  return command
    .option('--description <text>', 'what it is')
    .option('--maintainer <whom>', 'whom to ask')
    .option('--specialised', 'takes only runs that name it or need its labels')
    .option('--weight <n>', 'share among default clusters, 0 to 100; 0: only runs that name it')
    .option('--organisation <name>', 'serves its projects alone; may be repeated', collect)
    .option('--owner <organisation>', 'its admins manage the cluster too')
    .option('--allow-privileged', 'runs may ask for privileged containers')
    .option('--no-allow-privileged', 'they may not')
    .option('--max-cpus <n>', 'CPU cores that one run may ask for, or none')
    .option('--max-memory <bytes>', 'bytes that one run may ask for, or none')
    .option('--max-artifacts <bytes>', 'bytes of artifacts that one run may store, or none')
    .option('--max-slots-per-project <n>', 'slots that one project may hold at once, or none')
    .option('--enlist', 'workers with a key of the cluster count at once')
    .option('--no-enlist', 'an admin enlists them one by one')
    .option(...SERVER);
}

function addRegistry(cluster: Command, client: MakeClient, finish: Finish): void {
  withFields(cluster.command('create').description('register a cluster and make the key of its workers'))
    .argument('<name>', 'a-z 0-9 . _ -')
    .option('--out <file>', 'where the private key goes; default: <name>.key')
    .action(async (name: string, { out, ...options }: clusters.ClusterOptions & Server & { out?: string }) => {
      finish(await clusters.createCluster(client(options), name, { options, out, output: terminal }));
    });
  withFields(cluster.command('edit').description('change a cluster'))
    .argument('<name>')
    .option('--default', 'takes any run by its weight')
    .option('--active', 'gets new runs')
    .option('--no-active', 'gets none')
    .action(async (name: string, options: clusters.ClusterOptions & Server) => {
      finish(await clusters.editCluster(client(options), name, { options, output: terminal }));
    });
  cluster
    .command('list')
    .description('list clusters with their fleet and their work')
    .option('--json', 'print as JSON')
    .option(...SERVER)
    .action(async ({ json, ...options }: Server & { json?: boolean }) => {
      finish(await clusters.listClusters(client(options), { json, output: terminal }));
    });
  cluster
    .command('show')
    .description('show a cluster, its keys and its workers')
    .argument('<name>')
    .option('--json', 'print as JSON')
    .option(...SERVER)
    .action(async (name: string, { json, ...options }: Server & { json?: boolean }) => {
      finish(await clusters.showCluster(client(options), name, { json, output: terminal }));
    });
  cluster
    .command('delete')
    .description('take a cluster out of the registry; refused while it has work')
    .argument('<name>')
    .option(...SERVER)
    .action(async (name: string, options: Server) => {
      finish(await clusters.deleteCluster(client(options), name, terminal));
    });
}

function addMaintenance(cluster: Command, client: MakeClient, finish: Finish): void {
  cluster
    .command('drain')
    .description('take a cluster down: what runs finishes, what waits moves where it may')
    .argument('<name>')
    .option('--reason <text>', 'why; people who wait read it')
    .option('--deadline <time>', 'cancel what still runs then, e.g. 30m or 2h; default: it may finish')
    .option('--dry-run', 'only say what would finish, move and wait')
    .option(...SERVER)
    .action(async (name: string, options: clusters.DrainOptions & Server) => {
      finish(await clusters.drainCluster(client(options), name, { options, output: terminal }));
    });
  cluster
    .command('undrain')
    .description('take a cluster up again')
    .argument('<name>')
    .option(...SERVER)
    .action(async (name: string, options: Server) => {
      finish(await clusters.undrainCluster(client(options), name, terminal));
    });
  cluster
    .command('cancel')
    .description('cancel all that runs in a cluster')
    .argument('<name>')
    .option(...SERVER)
    .action(async (name: string, options: Server) => {
      finish(await clusters.cancelCluster(client(options), name, terminal));
    });
}

function addAccess(cluster: Command, client: MakeClient, finish: Finish): void {
  cluster
    .command('key')
    .description('make one more key for the workers of a cluster')
    .argument('<name>')
    .option('--out <file>', 'where the private key goes; default: <name>.key')
    .option(...SERVER)
    .action(async (name: string, { out, ...options }: Server & { out?: string }) => {
      finish(await clusters.addKey(client(options), name, { out, output: terminal }));
    });
  cluster
    .command('join')
    .description('make sure that there is a cluster, and a key of it in a file; may be repeated')
    .argument('<name>')
    .option('--out <file>', 'where the private key is or goes; default: <name>.key')
    .option('--enlist', 'workers with a key of the cluster count at once')
    .option(...SERVER)
    .action(async (name: string, { out, enlist, ...options }: Server & { out?: string; enlist?: boolean }) => {
      finish(await clusters.join(client(options), name, { out, enlist, output: terminal }));
    });
  cluster
    .command('revoke-key')
    .description('cut off at once whoever holds a key')
    .argument('<name>')
    .argument('<key>', 'its name, see: slipway cluster show')
    .option(...SERVER)
    .action(async (name: string, kid: string, options: Server) => {
      finish(await clusters.revokeKey(client(options), name, { kid, output: terminal }));
    });
  const verbs = {
    enlist: { what: 'let a worker take work of its cluster', carryOut: clusters.enlist },
    dismiss: { what: 'let a worker take no more work, and hear nothing more from it', carryOut: clusters.dismiss },
  };
  for (const [verb, { what, carryOut }] of Object.entries(verbs)) {
    cluster
      .command(verb)
      .description(what)
      .argument('<name>')
      .argument('<worker>', verb === 'enlist' ? 'its id, or all who wait for it' : 'its id')
      .option(...SERVER)
      .action(async (name: string, id: string, options: Server) => {
        finish(await carryOut(client(options), name, { id, output: terminal }));
      });
  }
}

function addTokens(program: Command, client: MakeClient, finish: Finish): void {
  const token = program.command('token').description('tokens of operators');
  token
    .command('create')
    .description('make a token; it is printed once')
    .argument('<name>', 'whose it is')
    .option('--organisation <name>', 'for an admin of this organisation; default: of the server')
    .option('--days <n>', 'how long it is valid; default: 90')
    .option(...SERVER)
    .action(async (name: string, { days, ...options }: Server & { organisation?: string; days?: string }) => {
      const { organisation } = options;
      finish(
        await clusters.createToken(client(options), name, {
          options: { organisation, expires: days },
          output: terminal,
        }),
      );
    });
  token
    .command('list')
    .description('list tokens')
    .option(...SERVER)
    .action(async (options: Server) => finish(await clusters.listTokens(client(options), terminal)));
  token
    .command('revoke')
    .description('make a token count for nothing')
    .argument('<id>', 'see: slipway token list')
    .option(...SERVER)
    .action(async (id: string, options: Server) => finish(await clusters.revokeToken(client(options), id, terminal)));
  program
    .command('audit')
    .description('what operators did, and who was refused; newest first')
    .option('--limit <n>', 'at most so many', '50')
    .option(...SERVER)
    .action(async ({ limit, ...options }: Server & { limit: string }) => {
      finish(await clusters.audit(client(options), { limit, output: terminal }));
    });
}

function addReleases(
  { program, cluster }: { program: Command; cluster: Command },
  client: MakeClient,
  finish: Finish,
): void {
  cluster
    .command('upgrade')
    .description('let workers that trust its maker upgrade themselves to a release: canaries first, then the others')
    .argument('<name>')
    .argument('[archive]', 'made by npm pack, signed by `slipway release sign`')
    .option('--signature <file>', 'default: <archive>.jws')
    .option('--canaries <n>', 'workers that take it first', '1')
    .option('--hold <time>', 'how long every canary must have run it, e.g. 10m', '10m')
    .option('--stop', 'offer no release any more; workers keep what they run')
    .option(...SERVER)
    .action(async (name: string, archive: string | undefined, options: releases.UpgradeOptions & Server) => {
      finish(await releases.upgrade(client(options), name, { archive, options, output: terminal }));
    });
  const release = program.command('release').description('sign releases that workers upgrade themselves to');
  release
    .command('key')
    .description('make the key of a maker of releases; prints its public part')
    .option('--out <file>', 'where the private key goes', 'release.key')
    .action(async ({ out }: { out: string }) => finish(await releases.makeKey({ out, output: terminal })));
  release
    .command('sign')
    .description('sign an archive made by npm pack')
    .argument('<archive>')
    .requiredOption('--key <file>', 'private key, as `slipway release key` makes it')
    .option('--out <file>', 'where the signature goes; default: <archive>.jws')
    .action(async (archive: string, options: { key: string; out?: string }) => {
      finish(await releases.sign(archive, { ...options, output: terminal }));
    });
}
