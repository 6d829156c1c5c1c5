// Owns `slipway key`: a pair of keys for a cluster, the public one registered with the gateway of this data folder.
// Called by main.ts.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { addClusterKey } from '../adapters/cluster-keys';
import { readSettings } from '../adapters/settings';
import { CommandError, EXIT, type Output } from './context';

const NAME = /^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$/;

/** The private key is written to a file that nobody else may read, never over one that is there. */
export async function key(cluster: string, { out }: { out?: string }, output: Output): Promise<number> {
  if (!NAME.test(cluster)) throw new CommandError(`cluster ${cluster}: use a-z 0-9 . _ -`, EXIT.usage);
  const { dataDir, SLIPWAY_CLUSTER_KEYS: dir = join(dataDir, 'cluster-keys') } = readSettings();
  const file = out ?? `${cluster}.key`;
  // Before the public part counts for anything.
  reserve(file);
  const { kid, privateKey } = await addClusterKey(dir, cluster);
  writeFileSync(file, `${privateKey}\n`);
  output.out(
    `key ${kid} of cluster ${cluster}: private part in ${file}, public part in ${join(dir, `${cluster}.json`)}`,
  );
  output.err(
    `Bring the private part to the workers (SLIPWAY_CLUSTER_KEY_FILE=${file}); take the key out of the other file to revoke it.`,
  );
  return EXIT.passed;
}

function reserve(file: string): void {
  try {
    writeFileSync(file, '', { flag: 'wx', mode: 0o600 });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new CommandError(code === 'EEXIST' ? `${file} is there already; name another with --out` : message);
  }
}
