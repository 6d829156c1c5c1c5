// Owns what is generated in docs/: promises.md (what is promised, and what proves it) and the table of settings.md.
// Called as `npm run docs` after a change of tests or settings; `--check` writes nothing and names what is out of date.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { compileFunction } from 'node:vm';
import { ensureBuild, ROOT, runScript, say, SetupError } from './setup.mjs';

const require = createRequire(import.meta.url);
const TESTS = 'test';
const FIGURES = 'bench/figures';

/** The promises in a few words each, in the order of the page. The title of what proves one begins with its id. */
const PROMISES = {
  S1: '`npm start` sets everything up on a fresh clone and runs the example',
  S2: '`npm test` sets everything up and passes',
  S3: '`slipway run` plans, shows live output, and exits with the verdict',
  S4: '`slipway doctor` names what is missing and the command that mends it, also without a network',
  S5: 'a failed run prints what a person needs next',
  P1: 'every problem of a project file has code, message, path, line and column; several at once',
  P2: 'project files of JobServ mean here what they mean there, as far as their keys are supported',
  P3: 'matrices: axes, exclude, include, overrides, limits; up to 1,000 runs and never a silent cut',
  P4: '`needs`: fan-in, fan-out, and cycles found before anything starts',
  P5: 'a plan is the same offline and on the server, by its digest',
  B1: 'a trigger is answered at once with number and URLs; an Idempotency-Key is honoured',
  B2: 'accepted means built, whatever dies right after the answer',
  B3: 'builds are numbered 1, 2, 3 … per project, without gaps or doubles',
  B4: 'a build outlives the death of every process, one at a time and all at once',
  B5: 'a worker that comes back goes on with the containers that it finds',
  B6: 'an attempt that was lost is fenced: nothing late from it counts',
  B7: 'cancelling is honest, can be repeated, and leaves nothing behind',
  B8: 'a rerun is a further attempt of the same build, with the same plan and images',
  B9: 'a time limit stops the run and names itself',
  B10: 'one state machine: outcome and cause are closed lists, and no failure is hidden',
  B11: 'an upgrade does not disturb builds that are under way',
  B13: 'URLs are minted at the trigger, say nothing of place, and keep answering',
  B14: 'one build, one commit: what a ref is was found once, and a commit or URL of the caller is obeyed',
  C1: 'registering a cluster is one call, with its keys, its policy and the organisations that may use it',
  C2: 'a fleet is started per cluster: workers dial out to one address, say hello, and are enlisted',
  C3: 'a worker reaches only its own work: the gateway checks each call, and refuses the rest on record',
  C4: 'a run goes where it names, where its labels are, or by weight among the defaults, and says why',
  C5: 'a specialised cluster serves the listed organisations alone, also when a run is moved',
  C6: 'a cluster is taken down without a failed run: what runs finishes, what waits moves or says why it stays',
  C7: 'workers come and go without a run noticing',
  C8: 'a waiting run says why it waits',
  C9: 'priority, and fair share between projects, with ageing',
  C10: 'an admin of an organisation manages its own clusters and cannot touch others',
  H1: 'hosts are machines of workers, listed by hand or made on demand: in containers, over SSH, or the machine itself',
  H3: 'a run asks for its host by labels and numbers, and is told what comes nearest',
  H4: 'a slot has one holder at a time, under a rising fencing token',
  H7: 'a slot is given back only when the container is gone',
  H2: 'blueprints make hosts for waiting work, and end them when they are idle, used up or old',
  H5: 'working copies: the commit that was asked for, clean, from a mirror that each host keeps and mends',
  H6: 'commands and files reach every kind of host through one interface, through broken links too',
  H8: 'hosts made on demand always end: the ledger is what there is, whatever is lost',
  H9: 'one build on several kinds of hosts at once; one run with several hosts, all or none, used by name',
  H10: 'what a run that failed left may be held for a while: visible, to be extended, and over when it says',
  H11: 'hosts are probed, left alone when they fail, and taken out of use on purpose; every lease is on record',
  R1: 'the container is what the file asks for',
  R2: 'logs: every byte once, live, from any offset, through any restart',
  R3: 'artifacts are kept on every outcome, with size, digest, type and range reads',
  U1: 'the page',
  U4: 'the Temporal Web UI is the trace',
  U5: 'operators have tokens that expire and can be revoked, and what they do is on record',
  U10: 'a web page of another origin drives nothing, whatever name it gives this machine',
  O1: '`docker-compose.yml` is true to what exists',
  O4: '`/healthz` and `/readyz` tell the truth; what is away is waited for',
  O6: 'sizes, numbers and rates are bounded, and nobody who asks for much delays others',
  F1: 'trigger to first command',
  F2: 'builds a minute',
  F3: 'trigger to answer',
  F4: 'a matrix beside the bare engine',
  F5: 'a log of a million lines',
};

const GROUPS = {
  S: 'The first five minutes',
  P: 'The project file',
  B: 'Builds that cannot be lost',
  C: 'Clusters',
  H: 'Hosts and leases',
  R: 'What a run gets',
  U: 'People',
  O: 'Running it for real',
  F: 'Fast',
};

/** Defaults that differ from machine to machine. */
const DEFAULTS_OF_A_MACHINE = {
  SLIPWAY_HOST: 'name of the machine',
  SLIPWAY_SLOTS: 'twice its cores, 2 to 16',
};

/** Settings whose schema has no description. */
const MEANINGS = {
  SLIPWAY_TEMPORAL_UI_PORT: 'port of the Temporal Web UI that `slipway up` starts',
  SLIPWAY_SLOTS: 'worker: runs at once on its host',
  SLIPWAY_MAX_BODY_BYTES: 'largest JSON body that the API reads',
  SLIPWAY_LOG_LEVEL: 'least important lines that the processes log',
};

const IDS = /^(?:[A-Z]\d+ )+/;
/** In turn: a group of tests begins; something ends, at its indent; a call whose first argument begins with ids. */
const TESTS_OF_FILE =
  /^( *)describe(?:\.each\(.*\))?\(\s*(['"`])(?<group>.+?)\2|^(?<end> *)\}\);$|\(\s*(['"`])(?<title>(?:[A-Z]\d+ )+(?:\\.|(?!\5)[^\\])+)\5/gm;
/** Where the table stands in docs/settings.md; what is around it is written by hand. */
const TABLE = /(<!-- table: [^>]*-->)[^]*(<!-- end of table -->)/;

await runScript(async () => {
  const isCheck = process.argv.includes('--check');
  if (!isCheck) ensureBuild();
  const documents = { 'docs/promises.md': renderPromises(), 'docs/settings.md': renderSettings() };
  const old = [];
  for (const [file, draft] of Object.entries(documents)) {
    const text = await format(file, draft);
    if (readIfThere(file) === text) continue;
    old.push(file);
    if (!isCheck) writeFileSync(join(ROOT, file), text);
  }
  if (!isCheck) say(old.length === 0 ? 'docs: all current' : `docs: wrote ${old.join(' and ')}`);
  else if (old.length > 0) throw new SetupError(`out of date: ${old.join(' and ')}; run: npm run docs`);
});

async function format(file, text) {
  const prettier = require('prettier');
  const path = join(ROOT, file);
  return prettier.format(text, { ...(await prettier.resolveConfig(path)), filepath: path });
}

function readIfThere(file) {
  try {
    return readFileSync(join(ROOT, file), 'utf8');
  } catch {
    return undefined;
  }
}

function renderPromises() {
  const proofs = [...titlesOfTests(), ...titlesOfFigures()];
  for (const { file, title, ids } of proofs) {
    const unknown = ids.find((id) => !(id in PROMISES));
    if (unknown) throw new SetupError(`${file}: "${title}": ${unknown} is no promise; add it to scripts/docs.mjs`);
  }
  const sections = Object.entries(GROUPS).map(([letter, name]) => {
    const rows = Object.entries(PROMISES).filter(([id]) => id.startsWith(letter));
    return [`## ${name}`, ...rows.map((row) => renderPromise(row, proofs))].join('\n\n');
  });
  return [
    '<!-- Generated by `npm run docs` from the titles of the tests and benchmarks. Do not edit. -->',
    '# Promises and what proves them',
    'Each promise has an id. The title of a test that proves it, wholly or in part, begins with that id, and so does the ' +
      'first line of a benchmark. Run those of one promise with `npm test -- -t "B4 "`. What a test does not say is not promised.',
    ...sections,
  ].join('\n\n');
}

function renderPromise([id, words], proofs) {
  const mine = proofs.filter((proof) => proof.ids.includes(id));
  const files = [...new Set(mine.map((proof) => proof.file))];
  const blocks = files.map((file) => {
    const lines = mine.filter((proof) => proof.file === file).map(renderProof);
    return `[${file}](../${file})\n\n${lines.join('\n')}`;
  });
  return [`### ${id}: ${words}`, ...(blocks.length > 0 ? blocks : ['Nothing proves this yet.'])].join('\n\n');
}

function renderProof({ group, title }) {
  return `- ${group ? `_${escapeMarkdown(group)}:_ ` : ''}${escapeMarkdown(title)}`;
}

function escapeMarkdown(text) {
  return text.replace(/[\\`*_<>[\]|]/g, '\\$&');
}

/** Every title that begins with an id, with the groups it stands in: many are the end of a sentence begun there. */
function* titlesOfTests() {
  for (const file of filesIn(TESTS, '.test.ts')) {
    const source = readFileSync(join(ROOT, file), 'utf8');
    const open = [];
    for (const { 1: indent, groups } of source.matchAll(TESTS_OF_FILE)) {
      const { group, end, title } = groups;
      if (group) open.push({ indent, name: fillTitle(group, source).replace(IDS, '') });
      else if (end === open.at(-1)?.indent) open.pop();
      if (title) yield { ...proofOf(file, fillTitle(title, source)), group: open.map(({ name }) => name).join(', ') };
    }
  }
}

/** A constant of the same file is put in; what differs from case to case becomes `…`. */
function fillTitle(title, source) {
  return title
    .replace(/\\(.)/g, '$1')
    .replace(/\$\{(\w+)\}/g, (_, name) => new RegExp(`const ${name} = (\\w+);`).exec(source)?.[1] ?? '…')
    .replace(/\$\{[^}]*\}|%[a-z]/g, '…');
}

function* titlesOfFigures() {
  for (const file of filesIn(FIGURES, '.ts')) {
    const [, title] = /^\/\/ Owns figure (.+)$/m.exec(readFileSync(join(ROOT, file), 'utf8')) ?? [];
    if (title) yield { ...proofOf(file, title.replace(':', '')), group: '' };
  }
}

function proofOf(file, title) {
  const [ids] = IDS.exec(title);
  return { file, title, ids: ids.trim().split(' ') };
}

function filesIn(folder, end) {
  const names = readdirSync(join(ROOT, folder)).filter((name) => name.endsWith(end));
  return names.sort().map((name) => `${folder}/${name}`);
}

function renderSettings() {
  const { z } = require('zod');
  const schema = readSettingsSchema();
  const asRead = z.toJSONSchema(schema, { unrepresentable: 'any' }).properties;
  const asWritten = z.toJSONSchema(schema, { unrepresentable: 'any', io: 'input' }).properties;
  const rows = Object.entries(schema.shape).map(([name, field]) => {
    const meaning = field.description ?? MEANINGS[name];
    if (!meaning) throw new SetupError(`${name} has no description; give it one in adapters/settings.ts`);
    const shape = asRead[name].type ? asRead[name] : { ...asWritten[name], default: asRead[name].default };
    const standard = DEFAULTS_OF_A_MACHINE[name] ?? sayDefault(shape.default);
    return `| \`${name}\` | ${sayShape(shape)} | ${standard} | ${meaning} |`;
  });
  const table = ['| setting | value | default | meaning |', '| --- | --- | --- | --- |', ...rows].join('\n');
  const page = readIfThere('docs/settings.md') ?? '';
  if (!TABLE.test(page)) throw new SetupError('docs/settings.md lacks the two marks that the table stands between');
  return page.replace(TABLE, (_, begin, end) => `${begin}\n\n${table}\n\n${end}`);
}

/** The schema as the built program has it. It is no export, since nothing but `readSettings` should read with it. */
function readSettingsSchema() {
  const file = join(ROOT, 'dist', 'adapters', 'settings.js');
  const load = compileFunction(`${readFileSync(file, 'utf8')}\nreturn Settings;`, ['require', 'exports']);
  return load(createRequire(file), {});
}

function sayDefault(value) {
  return value === undefined || value === '' ? '' : `\`${value}\``;
}

function sayShape({ type, format, enum: words, minLength, minimum, maximum }) {
  if (words) return words.map((word) => `\`${word}\``).join(', ');
  if (format === 'uri') return 'URL';
  if (type === 'integer') return sayRange(minimum, maximum);
  return minLength ? `text, ${minLength} characters or more` : 'text';
}

/** A bound that is only that of safe integers says nothing. */
function sayRange(minimum, maximum) {
  const [low, high] = [minimum, maximum].map((bound) =>
    Math.abs(bound) < Number.MAX_SAFE_INTEGER ? bound : undefined,
  );
  if (low !== undefined && high !== undefined) return `whole number, ${low} to ${high}`;
  return low === undefined ? 'whole number' : `whole number, ${low} or more`;
}
