// Proves that the documents are true where a machine can tell: generated parts current, links alive, names real.
// Reads the sources and the built settings; starts nothing but the generator.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, resolve } from 'node:path';
import { readProjectFile } from '../adapters/project-file';
import { readSettings } from '../adapters/settings';
import { Cause, Outcome } from '../domain/schemas/words';
import { budgetOf, DEFAULT_BUDGET, outcomeOf } from '../domain/verdict';
import { dependencies, scripts } from '../package.json';

const ROOT = resolve(__dirname, '..');
const read = (file: string): string => readFileSync(join(ROOT, file), 'utf8');
const documents = ['.', 'docs', 'bench']
  .flatMap((folder) => readdirSync(join(ROOT, folder)).map((name) => normalize(join(folder, name))))
  .filter((file) => file.endsWith('.md'));

/** Text without fenced blocks, whose lines are commands and drawings. */
const proseOf = (text: string): string => text.replace(/^```[^]*?^```$/gm, '');

/** The anchor that a heading gets: lower case, letters, digits, blanks as dashes. */
const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .replace(/ /g, '-');
const anchorsIn = (file: string): string[] =>
  [...proseOf(read(file)).matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) => anchorOf(heading));

function brokenLinks(file: string, text = read(file)): string[] {
  const targets = [...proseOf(text).matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = '']) => target);
  return targets.filter((target) => {
    if (/^https?:/.test(target)) return false;
    const [path = '', anchor] = target.split('#');
    const aim = path === '' ? file : normalize(join(dirname(file), path));
    if (!existsSync(join(ROOT, aim))) return true;
    return anchor !== undefined && !anchorsIn(aim).includes(anchor);
  });
}

const FOLDERS =
  /^(?:\.\/)?(?:activities|adapters|api|bench|cli|deploy|docs|domain|examples|scripts|test|web|workers|workflows)\/[\w./-]*$/;

/** What stands in back-quotes and reads like a file or folder of ours. */
const pathsIn = (file: string): string[] =>
  [...proseOf(read(file)).matchAll(/`([^`\s]+)`/g)].map(([, word = '']) => word).filter((word) => FOLDERS.test(word));

test('what is generated is current: npm run docs would change nothing', () => {
  const { status, stderr } = spawnSync(process.execPath, ['scripts/docs.mjs', '--check'], {
    cwd: ROOT,
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '' },
  });

  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
});

test.each(documents)('every link of %s leads to a file that exists and a heading that is there', (file) => {
  expect(brokenLinks(file)).toEqual([]);
});

test('a link to a file or a heading that is not there would be found', () => {
  const text = '[a](nowhere.md) [b](ARCHITECTURE.md#nowhere) [c](ARCHITECTURE.md#states) [d](#security-as-it-is-today)';

  expect(brokenLinks('README.md', text)).toEqual(['nowhere.md', 'ARCHITECTURE.md#nowhere']);
});

test.each(documents)('every file and folder of ours that %s names exists', (file) => {
  expect(pathsIn(file).filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
});

test.each(documents)('every setting that %s names is one that is read', (file) => {
  const known = new Set([...Object.keys(readSettings({})), 'SLIPWAY_CHROMIUM', 'SLIPWAY_POSTGRES_BIN']);
  const table = new Set([...read('docs/settings.md').matchAll(/^\| `(\w+)`/gm)].map(([, name]) => name));
  // Any of them may be given as NAME_FILE.
  const named = [...read(file).matchAll(/\bSLIPWAY_[A-Z_]*[A-Z]\b/g)].map(([name]) => name.replace(/_FILE$/, ''));

  expect(named.filter((name) => !known.has(name) && !table.has(name))).toEqual([]);
});

test('the README names every command, and no other', () => {
  const files = ['cluster-commands', 'host-commands', 'blueprints'].map((name) => read(`cli/${name}.ts`));
  const groups = files.flatMap((text) => [...text.matchAll(/program\s*\.command\('(\w+)'\)/g)]);
  const commands = [...read('cli/main.ts').matchAll(/\.command\('(\w+)'\)/g), ...groups].map(([, name]) => name);
  const rows = [...read('README.md').matchAll(/^\| `slipway (\w+)/gm)].map(([, name]) => name);

  expect(new Set(rows)).toEqual(new Set(commands));
});

/** Old packages have a list. */
interface Licensed {
  license?: string;
  licenses?: { type: string }[];
}

test('CONTRIBUTING says of every runtime dependency what it is for, under which licence and how large', () => {
  const rows = [...read('CONTRIBUTING.md').matchAll(/^\| `([^`]+)` +\|.+\| +(\S+) +\| +[\d.]+ [kM]B \|$/gm)];
  const licences = Object.fromEntries(rows.map(([, name = '', licence]) => [name, licence]));
  const installed = Object.keys(dependencies).map((name) => {
    const { license, licenses } = JSON.parse(read(`node_modules/${name}/package.json`)) as Licensed;
    return [name, license ?? licenses?.[0]?.type];
  });

  expect(licences).toEqual(Object.fromEntries(installed));
});

test('CONTRIBUTING explains every script', () => {
  const rows = [...read('CONTRIBUTING.md').matchAll(/^\| `npm (?:run )?([\w:]+)`/gm)].map(([, name]) => name);

  expect(new Set(rows)).toEqual(new Set(Object.keys(scripts)));
});

test('ARCHITECTURE lists every cause under its outcome, with the further attempts that it gets', () => {
  const rows = Outcome.options.flatMap((outcome) => {
    const [, causes = ''] = new RegExp(`^\\| \`${outcome}\` +\\|(.+)\\|$`, 'm').exec(read('ARCHITECTURE.md')) ?? [];
    const found = causes.matchAll(/`([\w-]+)`(?: \((\d)\))?/g);
    return [...found].map(([, cause, further = '0']) => `${outcome}: ${cause} ${further}`);
  });
  const real = Cause.options.map((cause) => {
    const kind = budgetOf(cause);
    const further = kind ? DEFAULT_BUDGET[kind] : 0;
    return `${outcomeOf(cause)}: ${cause} ${further}`;
  });

  expect(new Set(rows)).toEqual(new Set(real));
});

test('the project file of the README is valid', () => {
  const [, definition = ''] = /^```yaml\n([^]*?)^```$/m.exec(read('README.md')) ?? [];

  expect(readProjectFile(definition)).toMatchObject({ kind: 'valid' });
});
