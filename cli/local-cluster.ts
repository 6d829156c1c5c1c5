// Owns the secrets of one machine's Slipway in its data folder, and how a machine joins a cluster with a key of its own.
// Called by `slipway up`, by `slipway cluster join` and, for what is there, by the other commands.
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { makeClusterKey, publicPartOf } from '../adapters/cluster-keys';
import { makeWorkerKey, publicLineOf } from '../adapters/ssh-keys';
import type { Client } from './client';

const LOCAL = 'local';

export const adminTokenFile = (dataDir: string): string => join(dataDir, 'admin-token');
export const gatewaySecretFile = (dataDir: string): string => join(dataDir, 'gateway-secret');
export const clusterKeyFile = (dataDir: string, cluster: string): string =>
  join(dataDir, 'cluster-keys', `${cluster}.key`);

/** Made once, for nobody else to read. */
export function ensureSecret(path: string): string {
  return ensureFile(path, randomBytes(32).toString('hex'));
}

function ensureFile(path: string, text: string): string {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  try {
    writeFileSync(path, text, { flag: 'wx', mode: 0o600 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  return readFileSync(path, 'utf8').trim();
}

/** Private key of this machine's worker for hosts that its cluster lists or makes. @returns its file; `.pub` beside it is for them */
export function ensureSshKey(dataDir: string): string {
  const file = join(dataDir, 'ssh-key');
  const key = ensureFile(file, makeWorkerKey());
  ensureFile(`${file}.pub`, publicLineOf(key));
  return file;
}

/** For the worker of this machine: whoever can read the key of this folder may serve it. @returns the key's file */
export async function joinLocalCluster(client: Client, dataDir: string): Promise<string> {
  const file = clusterKeyFile(dataDir, LOCAL);
  await joinCluster(client, LOCAL, { file, enlist: true });
  return file;
}

/**
 * Makes a key unless the file has one, and registers it, and the cluster, where that has not been done: as an operator
 * would by hand, and it may be repeated. @returns whether anything was registered now
 */
export async function joinCluster(
  client: Client,
  name: string,
  { file, enlist = false }: { file: string; enlist?: boolean },
): Promise<{ kid: string; isNew: boolean }> {
  const key = existsSync(file)
    ? readFileSync(file, 'utf8').trim()
    : ensureFile(file, (await makeClusterKey()).privateKey);
  const publicKey = publicPartOf(key);
  const { kid } = publicKey;
  const known = (await client.clusters()).some((cluster) => cluster.name === name);
  if (!known) await client.createCluster({ name });
  const { keys } = await client.cluster(name);
  if (keys.some((one) => one.kid === kid)) return { kid, isNew: false };
  await client.addKey(name, publicKey);
  if (enlist) await client.editCluster(name, { enlistAutomatically: true });
  return { kid, isNew: true };
}
