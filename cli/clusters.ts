// Owns `slipway cluster …`, `slipway token …` and `slipway audit`: what operators of clusters do.
// Called by main.ts; each verb is one call of the API, and prints what the API answers.
import { writeFileSync } from 'node:fs';
import { makeClusterKey } from '../adapters/cluster-keys';
import type * as shapes from '../domain/schemas/clusters';
import { withoutUndefined } from '../domain/without-undefined';
import type { Client } from './client';
import { CommandError, EXIT, type Output } from './context';
import { joinCluster } from './local-cluster';
import { paint, table } from './print';

export interface ClusterOptions {
  description?: string;
  maintainer?: string;
  specialised?: boolean;
  default?: boolean;
  weight?: string;
  organisation?: string[];
  owner?: string;
  allowPrivileged?: boolean;
  maxCpus?: string;
  maxMemory?: string;
  maxArtifacts?: string;
  maxSlotsPerProject?: string;
  active?: boolean;
  enlist?: boolean;
}

/** Registers a cluster and a first key for its workers: there is no other step. */
export async function createCluster(
  client: Client,
  name: string,
  { options, out, output }: { options: ClusterOptions; out?: string; output: Output },
): Promise<number> {
  const file = out ?? `${name}.key`;
  const cluster = await registerNewKey(file, (key) =>
    client.createCluster({ name, ...fieldsOf(options), keys: [key] }),
  );
  output.out(describe(cluster));
  output.err(`\nThe key of its workers is in ${file}. Start one where it is:`);
  output.err(`  slipway worker --cluster ${name} --key ${file} --server <URL of the gateway>`);
  return EXIT.passed;
}

/** One more key, so that workers can change over one by one. */
export async function addKey(
  client: Client,
  name: string,
  { out, output }: { out?: string; output: Output },
): Promise<number> {
  const file = out ?? `${name}.key`;
  const kid = await registerNewKey(file, async (key) => {
    await client.addKey(name, key);
    return key.kid;
  });
  output.out(`key ${kid} of cluster ${name} is in ${file}`);
  output.err(`Bring it to the workers; then: slipway cluster revoke-key ${name} <the old key>`);
  return EXIT.passed;
}

/** For set-ups that run again and again: what is there stays. */
export async function join(
  client: Client,
  name: string,
  { out: file = `${name}.key`, enlist, output }: { out?: string; enlist?: boolean; output: Output },
): Promise<number> {
  const { kid, isNew } = await joinCluster(client, name, { file, enlist });
  output.out(
    isNew ? `key ${kid} of cluster ${name} is in ${file}` : `cluster ${name} knows the key in ${file} already`,
  );
  return EXIT.passed;
}

/** Makes a pair: its public part is registered, and then the private one is in the file. @returns what the registration gave */
async function registerNewKey<T>(file: string, register: (key: shapes.PublicKey) => Promise<T>): Promise<T> {
  reserve(file);
  const { publicKey, privateKey } = await makeClusterKey();
  const registered = await register(publicKey);
  writeFileSync(file, `${privateKey}\n`);
  return registered;
}

/** Before the public part counts for anything: never over a file that is there, and for nobody else to read. */
export function reserve(file: string): void {
  try {
    writeFileSync(file, '', { flag: 'wx', mode: 0o600 });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new CommandError(code === 'EEXIST' ? `${file} is there already; name another with --out` : message);
  }
}

function fieldsOf(options: ClusterOptions): shapes.EditCluster {
  const policy = {
    allowPrivileged: options.allowPrivileged,
    maxCpus: limitOf('--max-cpus', options.maxCpus),
    maxMemoryBytes: limitOf('--max-memory', options.maxMemory),
    maxArtifactBytes: limitOf('--max-artifacts', options.maxArtifacts),
    maxSlotsPerProject: limitOf('--max-slots-per-project', options.maxSlotsPerProject),
  };
  const kind = options.specialised ? 'specialised' : options.default ? 'default' : undefined;
  return withoutUndefined({
    description: options.description,
    maintainer: options.maintainer,
    kind,
    weight: options.weight === undefined ? undefined : numberOf('--weight', options.weight),
    organisations: options.organisation,
    owner: options.owner,
    policy: Object.values(policy).some((value) => value !== undefined) ? withoutUndefined(policy) : undefined,
    active: options.active,
    enlistAutomatically: options.enlist,
  });
}

export function numberOf(option: string, text: string): number {
  const number = Number(text);
  if (text.trim() === '' || !Number.isFinite(number))
    throw new CommandError(`${option} ${text}: use a number`, EXIT.usage);
  return number;
}

const limitOf = (option: string, text: string | undefined): number | null | undefined =>
  text === undefined ? undefined : text === 'none' ? null : numberOf(option, text);

export async function editCluster(
  client: Client,
  name: string,
  { options, output }: { options: ClusterOptions; output: Output },
): Promise<number> {
  const fields = fieldsOf(options);
  if (Object.keys(fields).length === 0) {
    throw new CommandError('nothing to change; name what with an option, see: slipway cluster edit --help', EXIT.usage);
  }
  output.out(describe(await client.editCluster(name, fields)));
  return EXIT.passed;
}

export async function listClusters(
  client: Client,
  { json, output }: { json?: boolean; output: Output },
): Promise<number> {
  const clusters = await client.clusters();
  if (json) output.out(JSON.stringify({ clusters }, null, 2));
  else if (clusters.length === 0) output.out('no clusters yet; register one with: slipway cluster create NAME');
  else output.out(table(clusters.map(rowOf)));
  return EXIT.passed;
}

function rowOf(cluster: shapes.ClusterSummary): string[] {
  const { kind, weight, slots, workers, runs } = cluster;
  return [
    paint('bold', cluster.name),
    cluster.status,
    kind === 'default' ? `default, weight ${weight}` : kind,
    `${workers.connected} worker${workers.connected === 1 ? '' : 's'}${workers.toEnlist > 0 ? `, ${workers.toEnlist} to enlist` : ''}`,
    `${slots.busy}/${slots.total} slots`,
    `${runs.running} running, ${runs.waiting} waiting`,
    cluster.description,
  ];
}

export async function showCluster(
  client: Client,
  name: string,
  { json, output }: { json?: boolean; output: Output },
): Promise<number> {
  const cluster = await client.cluster(name);
  output.out(json ? JSON.stringify(cluster, null, 2) : describe(cluster));
  return EXIT.passed;
}

export function describe(cluster: shapes.Cluster): string {
  const { policy } = cluster;
  const facts: [string, string][] = [
    ['status', cluster.status],
    ['kind', cluster.kind === 'default' ? `default, weight ${cluster.weight}` : 'specialised'],
    ['organisations', cluster.organisations.join(', ') || 'all'],
    ['owner', cluster.owner ?? 'the server'],
    ['maintainer', cluster.maintainer || '-'],
    [
      'policy',
      [
        policy.allowPrivileged ? 'privileged containers allowed' : 'no privileged containers',
        `cores: ${policy.maxCpus ?? 'any'}`,
        `memory: ${policy.maxMemoryBytes ?? 'any'}`,
        `artifacts: ${policy.maxArtifactBytes ?? 'any'}`,
        `slots a project: ${policy.maxSlotsPerProject ?? 'any'}`,
      ].join('; '),
    ],
    ['enlists', cluster.enlistAutomatically ? 'by itself' : 'by an admin'],
    ['queue', cluster.queue],
    ['work', `${cluster.runs.running} running, ${cluster.runs.waiting} waiting`],
  ];
  if (cluster.drain)
    facts.push(['drained', `by ${cluster.drain.by} since ${cluster.drain.since}: ${cluster.drain.reason}`]);
  if (cluster.release) facts.push(['release', `${cluster.release.version}, ${cluster.release.state}`]);
  const head = `${paint('bold', cluster.name)}${cluster.description === '' ? '' : `  ${cluster.description}`}`;
  const fleet = cluster.fleet.map((worker) => [
    worker.id,
    worker.host ?? '-',
    worker.enlisted ? (worker.connected ? 'connected' : 'silent') : 'to be enlisted',
    `${worker.busySlots}/${worker.slots} slots`,
    `${worker.version}${worker.isSameVersion ? '' : ' (the server has another)'}`,
    `seen ${worker.lastSeenAt}`,
    [worker.notAccepting, worker.upgradeFailure && `cannot upgrade: ${worker.upgradeFailure}`]
      .filter((fact) => fact !== null)
      .join('; '),
  ]);
  const keys = cluster.keys.map((key) => [
    key.kid,
    key.revokedAt ? `revoked ${key.revokedAt}` : key.expiresAt ? `until ${key.expiresAt}` : 'valid',
    `made ${key.createdAt} by ${key.createdBy}`,
  ]);
  const parts = [`${head}\n${table(facts.map(([what, is]) => [paint('gray', what), is]))}`];
  parts.push(keys.length > 0 ? `keys\n${table(keys)}` : `no keys; make one with: slipway cluster key ${cluster.name}`);
  parts.push(fleet.length > 0 ? `workers\n${table(fleet)}` : 'no workers');
  return parts.join('\n\n');
}

export interface DrainOptions {
  reason?: string;
  deadline?: string;
  dryRun?: boolean;
}

/** Takes a cluster down for maintenance, or says what that would mean. */
export async function drainCluster(
  client: Client,
  name: string,
  { options, output }: { options: DrainOptions; output: Output },
): Promise<number> {
  const { reason, deadline, dryRun } = options;
  if (dryRun) {
    output.out(describeDrain(name, await client.drainPreview(name)));
    return EXIT.passed;
  }
  if (reason === undefined) throw new CommandError('say why with --reason TEXT: people who wait read it', EXIT.usage);
  const wish = deadline === undefined ? { reason } : { reason, deadline: fromNow(durationOf('--deadline', deadline)) };
  const { status } = await client.drain(name, wish);
  output.out(`cluster ${name}: ${status}`);
  return EXIT.passed;
}

function describeDrain(name: string, { running, moves, stays }: shapes.DrainPreview): string {
  const count = (number: number, what: string): string => `${number} run${number === 1 ? '' : 's'} ${what}`;
  const parts = [
    `${count(running.length, `would finish in ${name} first`)}${running.map((run) => `\n  ${run}`).join('')}`,
    `${count(moves.length, 'would move')}${moves.map(({ run, to }) => `\n  ${run} to ${to}`).join('')}`,
    `${count(stays.length, 'would wait')}${stays.map(({ run, why }) => `\n  ${run}: ${why}`).join('')}`,
  ];
  return parts.join('\n');
}

const UNITS = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

const fromNow = (ms: number): string => new Date(Date.now() + ms).toISOString();

/** `30m`, `2h` → ms. */
export function durationOf(option: string, text: string): number {
  const [, number, unit] = /^(\d+(?:\.\d+)?)([smhd])$/.exec(text) ?? [];
  if (number === undefined) throw new CommandError(`${option} ${text}: write it as 90s, 30m, 2h or 1d`, EXIT.usage);
  return Number(number) * UNITS[unit as keyof typeof UNITS];
}

export async function undrainCluster(client: Client, name: string, output: Output): Promise<number> {
  const { status } = await client.undrain(name);
  output.out(`cluster ${name}: ${status}`);
  return EXIT.passed;
}

/** Cancels all that runs in a cluster. */
export async function cancelCluster(client: Client, name: string, output: Output): Promise<number> {
  const { runs } = await client.cancelCluster(name);
  output.out(`cluster ${name}: ${runs.running} run${runs.running === 1 ? ' is' : 's are'} being cancelled`);
  return EXIT.passed;
}

/** @param id `all`: everyone who waits for it */
export async function enlist(
  client: Client,
  name: string,
  { id, output }: { id: string; output: Output },
): Promise<number> {
  const waiting =
    id === 'all' ? (await client.cluster(name)).fleet.filter((one) => !one.enlisted).map((one) => one.id) : [id];
  for (const worker of waiting) {
    await client.setEnlisted(name, worker, true);
    output.out(`worker ${worker} of cluster ${name} is enlisted`);
  }
  if (waiting.length === 0) output.out(`no worker of cluster ${name} waits to be enlisted`);
  return EXIT.passed;
}

export async function dismiss(
  client: Client,
  name: string,
  { id, output }: { id: string; output: Output },
): Promise<number> {
  const cluster = await client.setEnlisted(name, id, false);
  output.out(`worker ${id} of cluster ${name} gets no work any more`);
  for (const line of sayStillOpen(cluster)) output.err(line);
  return EXIT.passed;
}

/** A key is of the cluster and not of one worker, so dismissing a worker does not take from its holder what the key opens. */
function sayStillOpen({ name, keys, enlistAutomatically }: shapes.Cluster): string[] {
  const good = keys.filter(
    ({ revokedAt, expiresAt }) => !revokedAt && !(expiresAt && Date.parse(expiresAt) < Date.now()),
  );
  if (good.length === 0) return [];
  const how = enlistAutomatically
    ? `as another worker of cluster ${name}, or a new one: the cluster enlists by itself`
    : `as another enlisted worker of cluster ${name}`;
  return [
    `Whoever holds its key can still come back ${how}. If you do not trust them, take the key as well:`,
    `  slipway cluster key ${name}`,
    `Bring the new key to the other workers, then:`,
    ...good.map(({ kid }) => `  slipway cluster revoke-key ${name} ${kid}`),
  ];
}

export async function deleteCluster(client: Client, name: string, output: Output): Promise<number> {
  await client.deleteCluster(name);
  output.out(`cluster ${name} is deleted`);
  return EXIT.passed;
}

export async function revokeKey(
  client: Client,
  name: string,
  { kid, output }: { kid: string; output: Output },
): Promise<number> {
  await client.revokeKey(name, kid);
  output.out(`key ${kid} of cluster ${name} is revoked`);
  return EXIT.passed;
}

export interface TokenOptions {
  organisation?: string;
  expires?: string;
}

/** The token itself is the only line on standard output, so that a script can keep it. */
export async function createToken(
  client: Client,
  name: string,
  { options, output }: { options: TokenOptions; output: Output },
): Promise<number> {
  const { organisation, expires } = options;
  const made = await client.createToken({
    name,
    role: organisation === undefined ? 'admin' : 'org-admin',
    ...(organisation === undefined ? {} : { organisation }),
    ...(expires === undefined ? {} : { expiresAt: daysFromNow(expires) }),
  });
  output.out(made.token);
  output.err(
    `${made.role}${organisation ? ` of ${organisation}` : ''}, until ${made.expiresAt}; it is shown this once`,
  );
  return EXIT.passed;
}

function daysFromNow(text: string): string {
  const days = numberOf('--days', text);
  if (days <= 0) throw new CommandError(`--days ${text}: use more than 0`, EXIT.usage);
  return new Date(Date.now() + days * 86_400_000).toISOString();
}

export async function listTokens(client: Client, output: Output): Promise<number> {
  const tokens = await client.tokens();
  const rows = tokens.map((token) => [
    token.id,
    token.name,
    `${token.role}${token.organisation ? ` of ${token.organisation}` : ''}`,
    token.revokedAt ? `revoked ${token.revokedAt}` : `until ${token.expiresAt}`,
  ]);
  output.out(rows.length > 0 ? table(rows) : 'no tokens; make one with: slipway token create NAME');
  return EXIT.passed;
}

export async function revokeToken(client: Client, id: string, output: Output): Promise<number> {
  const token = await client.revokeToken(id);
  output.out(`token ${token.name} is revoked`);
  return EXIT.passed;
}

export async function audit(client: Client, { limit, output }: { limit: string; output: Output }): Promise<number> {
  const entries = await client.audit(numberOf('--limit', limit));
  const rows = entries.map((entry) => [
    entry.at,
    entry.allowed ? 'done' : paint('red', 'refused'),
    entry.action,
    entry.actor,
    entry.subject,
    entry.detail,
  ]);
  output.out(rows.length > 0 ? table(rows) : 'nothing is on record');
  return EXIT.passed;
}
