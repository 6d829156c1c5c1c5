// Owns `slipway release …` and `slipway cluster upgrade`: how a release of the worker is signed, and a cluster is pinned to it.
// Called by cluster-commands.ts. The private key stays with its maker: neither server nor worker ever sees it.
import { execFileSync } from 'node:child_process';
import { openAsBlob, readFileSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { digestFile, makeReleaseKey, readSigned, signRelease } from '../adapters/release-signature';
import type { Client } from './client';
import { describe, durationOf, numberOf, reserve } from './clusters';
import { CommandError, EXIT, type Output } from './context';

export async function makeKey({ out, output }: { out: string; output: Output }): Promise<number> {
  reserve(out);
  const { publicKey, privateKey } = await makeReleaseKey();
  writeFileSync(out, `${privateKey}\n`);
  output.out(publicKey);
  output.err(`The private key is in ${out}; keep it away from servers and workers. A worker trusts its releases with`);
  output.err(`  SLIPWAY_RELEASE_KEYS=${publicKey}`);
  return EXIT.passed;
}

/** @param options.out where the signature goes; default: beside the archive */
export async function sign(
  archive: string,
  { key, out = signatureOf(archive), output }: { key: string; out?: string; output: Output },
): Promise<number> {
  const version = readVersion(archive);
  const release = { version, ...(await digestFile(archive)) };
  const privateKey = readText(key, 'make one with: slipway release key');
  const signed = await signRelease(privateKey, release).catch(() => {
    throw new CommandError(`${key} holds no private key of a maker; make one with: slipway release key`);
  });
  writeFileSync(out, `${signed}\n`);
  output.out(`${basename(archive)} is signed as ${version}, ${release.digest}; the signature is in ${out}`);
  return EXIT.passed;
}

const signatureOf = (archive: string): string => `${archive}.jws`;

/** That of the package.json in its one top folder. @throws CommandError */
function readVersion(archive: string): string {
  const run = (...args: string[]): string =>
    execFileSync('tar', args, { encoding: 'utf8', maxBuffer: 2 ** 28, stdio: ['ignore', 'pipe', 'pipe'] });
  try {
    const manifest = run('-tzf', archive)
      .split('\n')
      .find((path) => /^(?:\.\/)?[^/]+\/package\.json$/.test(path));
    const { name, version } = JSON.parse(run('-xzOf', archive, manifest ?? 'package.json')) as Record<string, unknown>;
    if (name === 'slipway' && typeof version === 'string') return version;
  } catch (error) {
    const { stderr, message } = error as { stderr?: string; message: string };
    const [why = ''] = (stderr || message).trim().split('\n');
    throw new CommandError(`${archive} cannot be read (${why}); make it with: npm pack`);
  }
  throw new CommandError(`${archive} is no release of Slipway; make it with: npm pack`);
}

function readText(path: string, hint: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    throw new CommandError(`${path} cannot be read (${(error as Error).message}); ${hint}`);
  }
}

export interface UpgradeOptions {
  signature?: string;
  canaries: string;
  hold: string;
  stop?: boolean;
}

/** Pins a cluster to a release, or lets go of the one it is pinned to. */
export async function upgrade(
  client: Client,
  cluster: string,
  { archive, options, output }: { archive?: string; options: UpgradeOptions; output: Output },
): Promise<number> {
  const { stop, canaries, hold } = options;
  if ((archive === undefined) !== (stop ?? false)) {
    throw new CommandError('name the archive of a release, or --stop', EXIT.usage);
  }
  if (archive === undefined) {
    await client.unpinRelease(cluster);
    output.out(`cluster ${cluster} is pinned to no release; its workers keep what they run`);
    return EXIT.passed;
  }
  const signed = readText(
    options.signature ?? signatureOf(archive),
    `sign the archive with: slipway release sign ${archive}`,
  );
  readSigned(signed);
  const query = { signed, canaries: numberOf('--canaries', canaries), holdMs: durationOf('--hold', hold) };
  output.out(describe(await client.pinRelease(cluster, query, await openAsBlob(archive))));
  return EXIT.passed;
}
