// Owns the set-up that every script needs first: a Node that is new enough, the dependencies of the lock file, a build.
// Called by start.mjs, test.mjs and build.mjs. Uses nothing but Node itself, because nothing else may be there yet.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
const OLDEST_NODE = [20, 19];

/** Something is missing that the user has to bring; printed without a stack, exit code 2. */
export class SetupError extends Error {}

/** Prints one line of progress. */
export function say(line) {
  process.stdout.write(`slipway: ${line}\n`);
}

/** Runs `script` and turns a SetupError into its message and exit code 2. */
export async function runScript(script) {
  try {
    await script();
  } catch (error) {
    // Errors of the adapters are written for users too; anything else is a fault of ours and keeps its stack.
    const isForUsers = error instanceof SetupError || error?.isForUsers === true;
    process.stderr.write(`slipway: ${isForUsers ? error.message : (error?.stack ?? error)}\n`);
    process.exitCode = isForUsers ? 2 : 1;
  }
}

/** Runs a step as a process of its own with our terminal; says how long it took. */
export function runStep(what, [command, ...args], env = process.env) {
  const began = performance.now();
  const ended = spawnSync(command, args, { cwd: ROOT, env, stdio: 'inherit' });
  if (ended.signal) process.exit(130);
  if (ended.error) throw new SetupError(`${what}: cannot run ${command}: ${ended.error.message}`);
  if (ended.status !== 0) throw new SetupError(`${what}: failed (exit ${ended.status}); the lines above say why`);
  say(`${what}: done in ${((performance.now() - began) / 1000).toFixed(1)} s`);
}

/** @throws SetupError when this Node is too old */
export function ensureNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major > OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor >= OLDEST_NODE[1])) return;
  throw new SetupError(
    `Node ${process.versions.node} is too old: ${OLDEST_NODE.join('.')} or newer is needed (https://nodejs.org/en/download)`,
  );
}

/** Installs the dependencies of package-lock.json unless exactly they are there already. */
export function ensureDependencies() {
  if (areDependenciesInstalled()) return;
  say('dependencies: installing what package-lock.json names, without install scripts (about a minute)');
  // Not `npm ci`: that refuses a lock file which lacks the optional parts of a platform nobody here could resolve.
  const args = ['install', '--no-save', '--ignore-scripts', '--no-audit', '--no-fund'];
  const npm = process.env.npm_execpath;
  // Started by npm, its own program is at hand; by hand, npm is the one on PATH.
  if (npm?.endsWith('.js')) runStep('dependencies', [process.execPath, npm, ...args]);
  else runStep('dependencies', ['npm', ...args]);
}

/**
 * npm writes its own record of node_modules last, so an install that was cut short has none.
 * @public a test asks it in a process of its own
 */
export function areDependenciesInstalled(root = ROOT) {
  const record = join(root, 'node_modules', '.package-lock.json');
  if (!existsSync(record)) return false;
  const wanted = packagesOf(join(root, 'package-lock.json'));
  const found = packagesOf(record);
  return Object.entries(wanted).every(([path, { version, optional, peer, link }]) => {
    if (path === '' || link) return true;
    const there = found[path];
    return there ? there.version === version : Boolean(optional || peer);
  });
}

function packagesOf(file) {
  return JSON.parse(readFileSync(file, 'utf8')).packages ?? {};
}

/** Builds what is older than its sources, in a process of its own so that its memory is given back. */
export function ensureBuild() {
  const ended = spawnSync(process.execPath, [join(ROOT, 'scripts', 'build.mjs')], { cwd: ROOT, stdio: 'inherit' });
  if (ended.signal) process.exit(130);
  // It has said what is wrong.
  if (ended.status !== 0) process.exit(ended.status ?? 1);
}
