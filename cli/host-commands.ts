// Owns the verbs, options and help of `slipway host` and `slipway lease`.
// Called by main.ts; what they do is in hosts.ts.
import type { Command } from 'commander';
import { collect, SERVER, type Finish, type MakeClient, type Server } from './command-parts';
import { terminal } from './context';
import * as hosts from './hosts';

const placeOf = (cluster: string, host: string): hosts.HostPlace => ({ cluster, host });

export function addHostCommands(program: Command, client: MakeClient, finish: Finish): void {
  const host = program.command('host').description('list machines for the runs of a cluster, and take them out of use');
  addRegistry(host, client, finish);
  addMaintenance(host, client, finish);
  program
    .command('lease')
    .description('who holds which slot of a host, and what became of it')
    .command('list')
    .description('list leases under way, newest first')
    .option('--cluster <name>', 'of this cluster alone')
    .option('--host <name>', 'of this host alone')
    .option('--all', 'those that have ended as well')
    .option('--limit <n>', 'at most so many; default: 100')
    .option('--json', 'print as JSON, with the history of each')
    .option(...SERVER)
    .action(async (options: hosts.LeaseOptions & Server) => {
      finish(await hosts.listLeases(client(options), options, terminal));
    });
}

function withFields(command: Command): Command {
  return command
    .option('--ssh <user@address>', 'its worker reaches it over SSH; a port may follow after :')
    .option('--docker-ssh <user@address>', 'the same, for the Docker engine there')
    .option('--docker-tls <address>', 'its worker reaches the Docker engine there by TLS; a port may follow after :')
    .option('--host-key <fingerprint>', 'SHA256:… of its host key; may be repeated', collect)
    .option('--labels <a,b>', 'what runs may ask for by host-tag')
    .option('--slots <n>', 'runs at once; default: 1')
    .option('--dir <path>', 'folder of the runs there; default: /var/tmp/slipway, of an engine /var/lib/slipway')
    .option('--socket <path>', 'of the Docker engine there; default: /var/run/docker.sock')
    .option('--helper <image>', 'of the container by which that folder is reached; default: alpine/git:latest')
    .option('--shell <path>', 'a POSIX shell there; default: /bin/sh');
}

/** A verb of one host. */
function ofHost(command: Command): Command {
  return command
    .argument('<cluster>')
    .argument('<host>', 'A-Z a-z 0-9 . _ -')
    .option(...SERVER);
}

function addRegistry(host: Command, client: MakeClient, finish: Finish): void {
  withFields(
    ofHost(host.command('create').description('list a host that is reached over SSH, or a Docker engine')),
  ).action(async (cluster: string, name: string, options: hosts.HostOptions & Server) => {
    finish(await hosts.createHost(client(options), placeOf(cluster, name), { options, output: terminal }));
  });
  withFields(ofHost(host.command('edit').description('change a listed host'))).action(
    async (cluster: string, name: string, options: hosts.HostOptions & Server) => {
      finish(await hosts.editHost(client(options), placeOf(cluster, name), { options, output: terminal }));
    },
  );
  host
    .command('list')
    .description('list hosts')
    .option('--cluster <name>', 'of this cluster alone')
    .option('--json', 'print as JSON')
    .option(...SERVER)
    .action(async (options: { cluster?: string; json?: boolean } & Server) => {
      finish(await hosts.listHosts(client(options), { ...options, output: terminal }));
    });
  ofHost(host.command('show').description('show a host'))
    .option('--json', 'print as JSON')
    .action(async (cluster: string, name: string, options: { json?: boolean } & Server) => {
      finish(await hosts.showHost(client(options), placeOf(cluster, name), { json: options.json, output: terminal }));
    });
  ofHost(
    host
      .command('remove')
      .description('list a host no longer, or end one that a blueprint made; refused while it has runs'),
  ).action(async (cluster: string, name: string, options: Server) => {
    finish(await hosts.removeHost(client(options), placeOf(cluster, name), terminal));
  });
}

function addMaintenance(host: Command, client: MakeClient, finish: Finish): void {
  ofHost(host.command('drain').description('give a host no new runs; what runs there finishes'))
    .option('--reason <text>', 'why; people who wait read it')
    .action(async (cluster: string, name: string, options: { reason?: string } & Server) => {
      const how = { reason: options.reason, output: terminal };
      finish(await hosts.drainHost(client(options), placeOf(cluster, name), how));
    });
  ofHost(host.command('undrain').description('give a host runs again')).action(
    async (cluster: string, name: string, options: Server) => {
      finish(await hosts.undrainHost(client(options), placeOf(cluster, name), terminal));
    },
  );
}
