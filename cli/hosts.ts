// Owns `slipway host …` and `slipway lease …`: the hosts of clusters, and who holds what.
// Called by host-commands.ts; each verb is one call of the API, and prints what the API answers.
import type { CreateHost, EditHost, HostSummary, LeaseSummary, SshReach } from '../domain/schemas/hosts';
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
  hostKey?: string[];
  dir?: string;
  shell?: string;
  labels?: string;
  slots?: string;
}

/** `user@address` or `user@address:port`; an IPv6 address stands in brackets. */
function readSsh(text: string): Pick<SshReach, 'user' | 'address' | 'port'> {
  const [, user, bracketed, plain, port] = /^([^@\s]+)@(?:\[([^\]]+)\]|([^:\s]+))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const address = bracketed ?? plain;
  if (user === undefined || address === undefined) {
    throw new CommandError(`--ssh ${text}: write it as user@address or user@address:port`, EXIT.usage);
  }
  return { user, address, port: port === undefined ? 22 : Number(port) };
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
  const { ssh, hostKey: hostKeys, dir, shell } = options;
  if (ssh === undefined || hostKeys === undefined) {
    const detail = 'name --ssh user@address and --host-key SHA256:… (see: ssh-keyscan ADDRESS | ssh-keygen -lf -)';
    throw new CommandError(detail, EXIT.usage);
  }
  const reach = withoutUndefined({ kind: 'ssh' as const, ...readSsh(ssh), hostKeys, dir, shell }) as SshReach;
  const wanted = withoutUndefined({ name: host, reach, ...fieldsOf(options) }) as CreateHost;
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
  const { ssh, hostKey: hostKeys, dir, shell } = options;
  const changed = withoutUndefined({ ...(ssh === undefined ? {} : readSsh(ssh)), hostKeys, dir, shell });
  const changes = fieldsOf(options);
  if (Object.keys(changed).length > 0) {
    const { reach } = await client.host(place);
    if (reach?.kind !== 'ssh') throw new CommandError(`host ${place.host} has no address that could be changed`);
    changes.reach = { ...reach, ...(changed as Partial<SshReach>) };
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
    engine === 'docker' ? 'containers' : reach?.kind === 'ssh' ? 'over SSH' : 'no containers',
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
  if (reach?.kind === 'ssh') {
    facts.push(['reached by', `ssh ${reach.user}@${reach.address}, port ${reach.port}`]);
    facts.push(['host keys', reach.hostKeys.join(', ')]);
  }
  if (reach) facts.push(['runs lie in', reach.dir], ['shell', reach.shell]);
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
  else if (leases.length === 0) output.out(all ? 'no leases on record' : 'no lease is held now; see also: --all');
  else output.out(table(leases.map(leaseRow)));
  return EXIT.passed;
}

function leaseRow(lease: LeaseSummary): string[] {
  return [
    `${lease.token}`,
    `${lease.cluster}/${lease.host}#${lease.slot}`,
    lease.state,
    `${lease.project}/${lease.build}/${lease.run}, attempt ${lease.attempt}`,
    `since ${lease.grantedAt}`,
    lease.endedAt === null ? `until ${lease.deadlineAt} at the latest` : `ended ${lease.endedAt}`,
    lease.why ?? '',
  ];
}
