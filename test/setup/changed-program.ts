// Owns copies of the built program whose build workflow is changed, as another version of it would be.
// Called by the tests of upgrades.
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { bundleWorkflowCode } from '@temporalio/worker';

const TOP = resolve(__dirname, '..', '..');

export interface ChangedProgram {
  /** Folder of its program, as `House.upgrade` takes it. */
  program: string;
  remove(): void;
}

type Change = [what: RegExp | string, by: string];

/** @param changes of workflows/build.ts; each has to be found there */
export async function makeChangedProgram(version: string, changes: Change[]): Promise<ChangedProgram> {
  const dir = mkdtempSync(join(tmpdir(), 'slipway-next-'));
  const program = join(dir, 'dist');
  symlinkSync(join(TOP, 'node_modules'), join(dir, 'node_modules'));
  cpSync(join(TOP, 'dist'), program, { recursive: true });
  for (const part of ['workflows', 'domain', 'activities'])
    cpSync(join(TOP, part), join(dir, part), { recursive: true });
  replaceIn(join(program, 'package.json'), [/"version": "[^"]+"/, `"version": "${version}"`]);
  for (const change of changes) replaceIn(join(dir, 'workflows', 'build.ts'), change);
  const { code } = await bundleWorkflowCode({ workflowsPath: join(dir, 'workflows', 'index.ts') });
  writeFileSync(join(program, 'workflow-bundle.js'), code);
  return { program, remove: () => rmSync(dir, { recursive: true, force: true }) };
}

function replaceIn(path: string, [what, by]: Change): void {
  const before = readFileSync(path, 'utf8');
  const after = before.replace(what, by);
  if (after === before) throw new Error(`${path} has no ${String(what)}`);
  writeFileSync(path, after);
}
