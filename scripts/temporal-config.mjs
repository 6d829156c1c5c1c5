// Owns writing deploy/temporal-dynamic-config.yaml from the constant that the dev server's flags are made of.
// Called by hand after a change of adapters/temporal-dev-server.ts; a test fails while the two differ.
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { ensureBuild, ROOT, runScript, say } from './setup.mjs';

await runScript(() => {
  ensureBuild();
  const { renderDynamicConfig } = createRequire(import.meta.url)(
    join(ROOT, 'dist', 'adapters', 'temporal-dev-server.js'),
  );
  const file = join('deploy', 'temporal-dynamic-config.yaml');
  writeFileSync(join(ROOT, file), renderDynamicConfig());
  say(`wrote ${file}`);
});
