// Owns the build: TypeScript to dist/, the workflows bundled once, the page. Each part is made only when its sources changed.
// Called as `npm run build` and, before anything runs, by start.mjs, test.mjs and Jest's global set-up.
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { ensureDependencies, ensureNode, ROOT, runScript, runStep, say } from './setup.mjs';

const require = createRequire(import.meta.url);
const CODE = ['domain', 'adapters', 'activities', 'workflows', 'workers', 'api', 'gateway', 'cli', 'bench'];
const PACKAGES = join(ROOT, 'node_modules');
const DIST = join(ROOT, 'dist');
const STAMPS = join(DIST, '.stamps.json');
const BUNDLE = join(DIST, 'workflow-bundle.js');

/** `sources` decide whether `output` is made again; a part whose entry does not exist is left out. */
const PARTS = [
  {
    name: 'program',
    entry: 'domain',
    sources: [...CODE, 'test/setup', 'package.json', 'tsconfig.json', 'tsconfig.build.json'],
    output: DIST,
    make: compile,
  },
  { name: 'workflows', entry: 'workflows/index.ts', sources: ['workflows', 'domain'], output: BUNDLE, make: bundle },
  {
    name: 'page',
    entry: 'web/vite.config.mts',
    sources: ['web', 'domain'],
    output: join(DIST, 'web'),
    make: buildPage,
  },
];

await runScript(async () => {
  ensureNode();
  ensureDependencies();
  mkdirSync(DIST, { recursive: true });
  const stamps = existsSync(STAMPS) ? JSON.parse(readFileSync(STAMPS, 'utf8')) : {};
  for (const part of PARTS) {
    if (!existsSync(join(ROOT, part.entry))) continue;
    const stamp = digestOf([...part.sources, 'package-lock.json', 'scripts/build.mjs']);
    if (stamps[part.name] === stamp && existsSync(part.output)) continue;
    await part.make();
    stamps[part.name] = stamp;
    writeFileSync(STAMPS, JSON.stringify(stamps, null, 2));
  }
});

async function compile() {
  runStep('build program', [process.execPath, join(PACKAGES, 'typescript', 'bin', 'tsc'), '-p', 'tsconfig.build.json']);
  // npx links to it, and makes it executable only the first time that it sees this folder.
  chmodSync(join(DIST, 'cli', 'main.js'), 0o755);
  // Shell texts are sent along as they are.
  for (const file of CODE.flatMap(filesBelow).filter((name) => name.endsWith('.sh'))) {
    mkdirSync(dirname(join(DIST, file)), { recursive: true });
    copyFileSync(join(ROOT, file), join(DIST, file));
  }
  // What was deleted or renamed in the sources must not be found by anything that lists dist/.
  for (const folder of CODE) {
    for (const file of filesBelow(join('dist', folder))) {
      const source = file.replace(/^dist./, '').replace(/\.js(\.map)?$/, '.ts');
      if (/\.js(\.map)?$/.test(file) && !existsSync(join(ROOT, source))) rmSync(join(ROOT, file));
    }
  }
}

/** A bundle costs 2 to 4 s and 200 MB, so it is made here and not by every process that runs workflows. */
async function bundle() {
  const began = performance.now();
  const { bundleWorkflowCode, DefaultLogger } = require('@temporalio/worker');
  const workflowsPath = join(DIST, 'workflows', 'index.js');
  const converter = join(DIST, 'workflows', 'data-converter.js');
  const { code } = await bundleWorkflowCode({
    workflowsPath,
    payloadConverterPath: converter,
    failureConverterPath: converter,
    logger: new DefaultLogger('WARN'),
  });
  // Moved into place whole: a worker that starts meanwhile reads the old one or the new one.
  writeFileSync(`${BUNDLE}.new`, code);
  renameSync(`${BUNDLE}.new`, BUNDLE);
  say(`build workflows: done in ${((performance.now() - began) / 1000).toFixed(1)} s`);
}

async function buildPage() {
  const vite = join(PACKAGES, 'vite', 'bin', 'vite.js');
  runStep('build page', [process.execPath, vite, 'build', '--config', 'web/vite.config.mts', '--logLevel', 'warn']);
}

function digestOf(sources) {
  const hash = createHash('sha256');
  for (const file of sources.flatMap(filesBelow)) hash.update(`${file}\0`).update(readFileSync(join(ROOT, file)));
  return hash.digest('hex');
}

/** All files of a folder (or the one file), as paths from the top, in a stable order. */
function filesBelow(path) {
  const found = statSync(join(ROOT, path), { throwIfNoEntry: false });
  if (!found) return [];
  if (found.isFile()) return [path];
  return readdirSync(join(ROOT, path))
    .sort()
    .flatMap((name) => filesBelow(join(path, name)));
}
