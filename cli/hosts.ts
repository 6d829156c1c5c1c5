// Owns `slipway host …` and `slipway lease …`: the hosts of clusters, and who holds what.
// Called by host-commands.ts; each verb is one call of the API, and prints what the API answers.
import type { CreateHost, EditHost, HostSummary, LeaseSummary, ListedReach } from '../domain/schemas/hosts';
import { withoutUndefined } from '../domain/without-undefined';
import type { Client } from './client';
import { numberOf } from './clusters';
import { CommandError, EXIT, type Output } from './context';
import { paint, table } from './print';

export interface HostPlace {
  cluster: string;
  host: string;
}

export interface HostOptions {
  ssh?: string;
  dockerSsh?: string;
  dockerTls?: string;
  socket?: string;
  helper?: string;
  hostKey?: string[];
  dir?: string;
  shell?: string;
  labels?: string;
  slots?: string;
}

/** `user@address` or `user@address:port`; an IPv6 address stands in brackets. The user is left out for an engine by TLS. */
function readPlace(option: string, text: string): { user?: string; address: string; port?: number } {
  const [, user, bracketed, plain, port] =
    /^(?:([^@\s]+)@)?(?:\[([^\]]+)\]|([^:\s]+))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const address = bracketed ?? plain;
  if (address === undefined || (user === undefined) !== (option === '--docker-tls')) {
    const form = option === '--docker-tls' ? 'address' : 'user@address';
    throw new CommandError(`${option} ${text}: write it as ${form} or ${form}:port`, EXIT.usage);
  }
  return { user, address, port: port === undefined ? undefined : Number(port) };
}

/** How the host is reached, as far as the options say; undefined: they do not. What is left out is the server's to fill in. */
function readReach({ ssh, dockerSsh, dockerTls, hostKey: hostKeys, ...same }: HostOptions): object | undefined {
  const ways = [
    ['ssh', '--ssh', ssh],
    ['docker-ssh', '--docker-ssh', dockerSsh],
    ['docker-tls', '--docker-tls', dockerTls],
  ] as const;
  const given = ways.filter(([, , text]) => text !== undefined);
  if (given.length > 1)
    throw new CommandError(`name one of ${given.map(([, option]) => option).join(', ')}`, EXIT.usage);
  const { dir, shell, socket, helper } = same;
  const way = given.map(([kind, option, text]) => ({ kind, ...readPlace(option, text ?? '') }))[0];
  const said = withoutUndefined({ ...way, hostKeys, dir, shell, socket, helper });
  return Object.keys(said).length === 0 ? undefined : said;
}

const labelsOf = (text: string): string[] =>
  text
    .split(',')
    .map((label) => label.trim())
    .filter((label) => label !== '');

export async function createHost(
  client: Client,
  { cluster, host }: HostPlace,
  { options, output }: { options: HostOptions; output: Output },
): Promise<number> {
  const reach = readReach(options) as ListedReach | undefined;
  const isLacking = reach?.kind === undefined || (reach.kind !== 'docker-tls' && reach.hostKeys === undefined);
  if (isLacking) {
    const detail =
      'name --ssh or --docker-ssh user@address, and --host-key SHA256:… (see: ssh-keyscan ADDRESS | ssh-keygen -lf -), or --docker-tls address';
    throw new CommandError(detail, EXIT.usage);
  }
  const wanted = { name: host, reach, ...fieldsOf(options) } as CreateHost;
  output.out(describe(await client.createHost(cluster, wanted)));
  output.err(`\nA worker of cluster ${cluster} that has the key for it (SLIPWAY_SSH_KEY_FILE) serves it from now on.`);
  return EXIT.passed;
}

const fieldsOf = ({ labels, slots }: HostOptions): EditHost =>
  withoutUndefined({
    labels: labels === undefined ? undefined : labelsOf(labels),
    slots: slots === undefined ? undefined : numberOf('--slots', slots),
  });

/** What is left out stays as it is. */
export async function editHost(
  client: Client,
  place: HostPlace,
  { options, output }: { options: HostOptions; output: Output },
): Promise<number> {
  const changed = readReach(options);
  const changes = fieldsOf(options);
  if (changed) {
    const { reach } = await client.host(place);
    if (!reach) throw new CommandError(`host ${place.host} is the machine of a worker; it has no address to change`);
    // Of another kind nothing stays as it was.
    const isSameKind = !('kind' in changed) || changed.kind === reach.kind;
    changes.reach = { ...(isSameKind ? reach : {}), ...changed } as ListedReach;
  }
  if (Object.keys(changes).length === 0) {
    throw new CommandError('nothing to change; name what with an option, see: slipway host edit --help', EXIT.usage);
  }
  output.out(describe(await client.editHost(place, changes)));
  return EXIT.passed;
}

export async function listHosts(
  client: Client,
  { cluster, json, output }: { cluster?: string; json?: boolean; output: Output },
): Promise<number> {
  const hosts = await client.hosts(cluster);
  if (json) output.out(JSON.stringify({ hosts }, null, 2));
  else if (hosts.length === 0) output.out('no hosts yet; start a worker, or list one with: slipway host create');
  else output.out(table(hosts.map(rowOf)));
  return EXIT.passed;
}

function rowOf(host: HostSummary): string[] {
  const { cluster, name, state, engine, reach, machine, slots, busySlots, labels, why } = host;
  return [
    paint('bold', `${cluster}/${name}`),
    state,
    `${engine === 'docker' ? 'containers' : 'processes'}${reach && 'hostKeys' in reach ? ' over SSH' : ''}`,
    [machine.os, machine.arch].filter((fact) => fact !== null).join(' ') || '-',
    `${busySlots}/${slots} slots`,
    labels.join(',') || '-',
    why ?? '',
  ];
}

export async function showHost(
  client: Client,
  place: HostPlace,
  { json, output }: { json?: boolean; output: Output },
): Promise<number> {
  const host = await client.host(place);
  output.out(json ? JSON.stringify(host, null, 2) : describe(host));
  return EXIT.passed;
}

function describe(host: HostSummary): string {
  const { reach, machine, made } = host;
  const facts: [string, string][] = [
    ['state', host.why === null ? host.state : `${host.state}: ${host.why}`],
    ['runs are', host.engine === 'docker' ? 'containers' : 'processes, without containers'],
    ['labels', host.labels.join(', ') || '-'],
    ['system', [machine.os, machine.arch].filter((fact) => fact !== null).join(' ') || 'not known yet'],
    [
      'size',
      `${machine.cpus ?? '?'} cores, ${machine.memoryBytes === null ? '?' : Math.floor(machine.memoryBytes / 1024 ** 2)} MiB`,
    ],
    ['slots', `${host.busySlots} of ${host.slots} leased`],
    ['worker', host.worker ?? 'none serves it now'],
    ['last seen', host.lastSeenAt ?? 'never'],
  ];
  if (made) {
    facts.push([
      'made by',
      `blueprint ${made.blueprint}, ${made.since}, as ${made.resource ?? 'what is not known yet'}`,
    ]);
    facts.push(['used', `${made.uses} times, for ${made.cost.toFixed(2)}`]);
  }
  if (reach?.kind === 'container') facts.push(['reached in', `container ${reach.container}`]);
  if (reach?.kind === 'docker-tls') facts.push(['reached by', `TLS, ${reach.address}, port ${reach.port}`]);
  if (reach && 'hostKeys' in reach) {
    facts.push(['reached by', `ssh ${reach.user}@${reach.address}, port ${reach.port}`]);
    facts.push(['host keys', reach.hostKeys.join(', ')]);
  }
  if (reach) facts.push(['runs lie in', reach.dir]);
  if (reach && 'shell' in reach) facts.push(['shell', reach.shell]);
  if (reach && 'helper' in reach) facts.push(['helper', reach.helper]);
  const rows = facts.map(([what, is]) => [paint('gray', what), is]);
  return `${paint('bold', `${host.cluster}/${host.name}`)}\n${table(rows)}`;
}

export async function removeHost(client: Client, place: HostPlace, output: Output): Promise<number> {
  await client.removeHost(place);
  output.out(`host ${place.host} of cluster ${place.cluster} is not used any more`);
  return EXIT.passed;
}

export async function drainHost(
  client: Client,
  place: HostPlace,
  { reason, output }: { reason?: string; output: Output },
): Promise<number> {
  if (reason === undefined) throw new CommandError('say why with --reason TEXT: people who wait read it', EXIT.usage);
  const { state } = await client.drainHost(place, reason);
  output.out(`host ${place.host}: ${state}`);
  return EXIT.passed;
}

export async function undrainHost(client: Client, place: HostPlace, output: Output): Promise<number> {
  const { state } = await client.undrainHost(place);
  output.out(`host ${place.host}: ${state}`);
  return EXIT.passed;
}

export interface LeaseOptions {
  cluster?: string;
  host?: string;
  all?: boolean;
  limit?: string;
  json?: boolean;
}

export async function listLeases(client: Client, options: LeaseOptions, output: Output): Promise<number> {
  const { cluster, host, all, limit } = options;
  const wish = { cluster, host, limit, all: all ? 'true' : undefined };
  const leases = await client.leases(withoutUndefined(wish) as Record<string, string>);
  if (options.json) output.out(JSON.stringify({ leases }, null, 2));
  else if (leases.length === 0) output.out(all ? 'no leases on record' : 'no lease is under way now; see also: --all');
  else output.out(table(leases.map(leaseRow)));
  return EXIT.passed;
}

function leaseRow(lease: LeaseSummary): string[] {
  return [
    `${lease.token}`,
    `${lease.cluster}/${lease.host}#${lease.slot}`,
    lease.state,
    `${lease.project}/${lease.build}/${lease.run}, attempt ${lease.attempt}${lease.name === null ? '' : `, as ${lease.name}`}`,
    `since ${lease.grantedAt}`,
    lease.endedAt === null ? `until ${lease.deadlineAt} at the latest` : `ended ${lease.endedAt}`,
    lease.why ?? '',
  ];
}
