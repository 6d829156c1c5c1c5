// Owns what must be there before the first test: a current build and the path of the Temporal CLI.
// Called by Jest once a run (globalSetup); `npm test` has done all of it by then, a plain `npx jest` has not.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { lookForTemporalCli } from '../../adapters/temporal-cli';

const ROOT = join(__dirname, '..', '..');

export default async function prepare(): Promise<void> {
  if (process.env.SLIPWAY_TEST_PREPARED) return;
  execFileSync(process.execPath, [join(ROOT, 'scripts', 'build.mjs')], { cwd: ROOT, stdio: 'inherit' });
  const found = await lookForTemporalCli({ toolsDir: join(ROOT, '.slipway', 'tools') });
  // Tests that need it say so themselves; all others run without.
  if (found.kind === 'found') process.env.SLIPWAY_TEMPORAL_CLI ??= found.path;
}
