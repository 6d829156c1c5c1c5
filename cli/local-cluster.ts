// Owns the secrets of one machine's Slipway, and the cluster `local` that it serves itself: all in the data folder.
// Called by `slipway up` and, for what is there, by the other commands.
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { makeClusterKey, publicPartOf } from '../adapters/cluster-keys';
import type { Client } from './client';

const LOCAL = 'local';

export const adminTokenFile = (dataDir: string): string => join(dataDir, 'admin-token');
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

/** Registers the key of this machine's worker, as an operator would by hand. @returns its file */
export async function ensureLocalCluster(client: Client, dataDir: string): Promise<string> {
  const file = clusterKeyFile(dataDir, LOCAL);
  const key = existsSync(file)
    ? readFileSync(file, 'utf8').trim()
    : ensureFile(file, (await makeClusterKey()).privateKey);
  const publicKey = publicPartOf(key);
  const known = (await client.clusters()).some(({ name }) => name === LOCAL);
  if (!known) await client.createCluster({ name: LOCAL });
  const { keys } = await client.cluster(LOCAL);
  if (keys.some(({ kid }) => kid === publicKey.kid)) return file;
  await client.addKey(LOCAL, publicKey);
  // Whoever can read the key of this folder may serve it.
  await client.editCluster(LOCAL, { enlistAutomatically: true });
  return file;
}
