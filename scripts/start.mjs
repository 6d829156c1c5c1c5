// Owns `npm start`: set-up and build where needed, then `slipway up --example` in this very process.
// Called by npm. One process, so that Ctrl-C has one reader and no second Node sits in memory.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { ensureBuild, ensureDependencies, ensureNode, ROOT, runScript } from './setup.mjs';

await runScript(() => {
  ensureNode();
  ensureDependencies();
  ensureBuild();
  process.chdir(ROOT);
  const main = join(ROOT, 'dist', 'cli', 'main.js');
  process.argv.splice(1, process.argv.length, main, 'up', '--example', ...process.argv.slice(2));
  createRequire(import.meta.url)(main);
});
