// Owns how one run of the file (a job) becomes the final runs of a plan: cells, names, overrides.
// Pure; called by domain/plan.ts, which looks at all jobs of a trigger together.
import { checkMatrix, isMatch, unknownAxis, type Axis, type Cell, type Matrix, type Values } from './matrix';
import { fill, findBadPlaceholder, hasPlaceholder } from './placeholders';
import { sayKnown, type Complaint, type Path } from './problems';
import type { Override, RunEntry } from './schemas/project-file';

/** One run of the file with its matrix, not expanded yet. */
export interface Job {
  at: Path;
  entry: RunEntry;
  matrix: Matrix;
  overrides: readonly { override: Override; match: readonly [string, string][] }[];
}

/** One final run: the job's entry with all overrides of this cell laid over it, and placeholders filled. */
export interface JobRun {
  name: string;
  cell: Cell;
  settings: RunEntry;
  /** Parameters of the matching overrides, the later over the earlier. */
  overrideParams: Values;
}

/** Same as RunName of schemas/api.ts, which a file of domain/ can only see as a type; a test compares the two. */
export const RUN_NAME_PATTERN = /^[A-Za-z0-9*?[][A-Za-z0-9 ._+=,@:*?![\]()-]{0,78}$/;

/** Reads `loop-on` or `matrix` of a run; a run with neither is a job of one cell without axes. */
export function readJob(entry: RunEntry, at: Path): Job {
  const { matrix } = entry;
  return {
    at,
    entry,
    overrides: (matrix?.overrides ?? []).map((override) => ({ override, match: Object.entries(override.match) })),
    matrix: {
      axes: matrix ? axesOfMatrix(matrix.axes, at) : axesOfLoop(entry['loop-on'] ?? [], at),
      exclude: matrix?.exclude ?? [],
      include: matrix?.include ?? [],
      at: [...at, 'matrix'],
    },
  };
}

function axesOfMatrix(axes: Record<string, string[]>, at: Path): Axis[] {
  return Object.entries(axes).map(([name, values]) => ({ name, values, at: [...at, 'matrix', 'axes', name] }));
}

function axesOfLoop(loops: NonNullable<RunEntry['loop-on']>, at: Path): Axis[] {
  return loops.map(({ param, values }, index) => ({ name: param, values, at: [...at, 'loop-on', index, 'values'] }));
}

/** Checks everything about a job that can be seen without expanding it. */
export function checkJob(job: Job, scripts: ReadonlySet<string>): Complaint[] {
  const { entry, at } = job;
  const complaints = [...checkMatrix(job.matrix), ...checkScript(entry.script, scripts, at)];
  if (entry.matrix && entry['loop-on']) {
    const message = 'a run has either matrix or loop-on; move the params of loop-on to matrix.axes';
    complaints.push({ code: 'two-matrices', message, at: [...at, 'loop-on'] });
  }
  if (entry['needs-on'] && !entry.needs) {
    complaints.push({
      code: 'needs-missing',
      message: 'needs-on has no effect without needs',
      at: [...at, 'needs-on'],
    });
  }
  const axes = job.matrix.axes.map((axis) => axis.name);
  complaints.push(...checkPlaceholders(entry.name, axes.length > 0 ? ['loop', ...axes] : [], [...at, 'name']));
  complaints.push(...checkTarget(entry, axes, at));
  for (const [index, { override }] of job.overrides.entries()) {
    const place = [...at, 'matrix', 'overrides', index];
    complaints.push(...checkOverride(job, override, place));
    if (override.script !== undefined) complaints.push(...checkScript(override.script, scripts, place));
  }
  return complaints;
}

function checkScript(script: string, scripts: ReadonlySet<string>, at: Path): Complaint[] {
  if (scripts.has(script)) return [];
  const message = `unknown script "${script}"; ${sayKnown('scripts', script, scripts)}`;
  return [{ code: 'unknown-script', message, at: [...at, 'script'] }];
}

type Target = Pick<Override, 'container' | 'host-tag' | 'hosts'>;

function checkTarget(entry: Target, axes: readonly string[], at: Path): Complaint[] {
  return [
    ...checkPlaceholders(entry.container, axes, [...at, 'container']),
    ...checkPlaceholders(entry['host-tag'], axes, [...at, 'host-tag']),
    ...Object.entries(entry.hosts ?? {}).flatMap(([name, tag]) => checkPlaceholders(tag, axes, [...at, 'hosts', name])),
  ];
}

function checkPlaceholders(template: string | undefined, known: readonly string[], at: Path): Complaint[] {
  const message = template === undefined ? undefined : findBadPlaceholder(template, known);
  return message === undefined ? [] : [{ code: 'unknown-placeholder', message, at }];
}

function checkOverride(job: Job, override: Override, at: Path): Complaint[] {
  const { axes } = job.matrix;
  const names = axes.map((axis) => axis.name);
  const complaints = checkTarget(override, names, at);
  for (const axis of Object.keys(override.match)) {
    if (!names.includes(axis)) complaints.push(unknownAxis(axis, axes, [...at, 'match', axis]));
  }
  const taken = Object.keys(override.params ?? {}).filter((name) => names.includes(name));
  const places = taken.map((name) => [...at, 'params', name]);
  if (override['host-tag'] !== undefined && names.includes('host-tag')) places.push([...at, 'host-tag']);
  for (const place of places) {
    const message = `"${place.at(-1)}" is an axis, and its value names the cell; use exclude and include to change it`;
    complaints.push({ code: 'overrides-axis', message, at: place });
  }
  return complaints;
}

/** Makes the final runs of a job that {@link checkJob} found nothing wrong with. @param cells all of its matrix */
export function makeRuns(job: Job, cells: readonly Cell[]): { runs: JobRun[]; complaints: Complaint[] } {
  if (cells.length === 0) {
    const message = 'exclude leaves no cell of the matrix; remove an entry, or the run';
    return { runs: [], complaints: [{ code: 'empty-matrix', message, at: [...job.at, 'matrix', 'exclude'] }] };
  }
  const template = nameTemplate(job, cells.length);
  const runs = cells.map((cell) => makeRun(job, cell, template));
  return { runs, complaints: [...checkMatches(job, cells), ...checkFilled(job, runs)] };
}

/** A matrix of several cells needs names that differ; `loop-on` keeps JobServ's rule and gets no such help. */
function nameTemplate(job: Job, cells: number): string {
  const { name } = job.entry;
  return job.entry.matrix && cells > 1 && !hasPlaceholder(name) ? `${name}-{loop}` : name;
}

function makeRun(job: Job, cell: Cell, template: string): JobRun {
  const { values } = cell;
  const matching = job.overrides.filter(({ match }) => isMatch(match, values)).map(({ override }) => override);
  const settings = matching.reduce(layOver, job.entry);
  const hostTag = values['host-tag'] ?? settings['host-tag'];
  return {
    name: fill(template, { ...values, loop: Object.values(values).join('-') }),
    cell,
    settings: {
      ...settings,
      container: fill(settings.container, values),
      'host-tag': hostTag === undefined ? undefined : fill(hostTag, values).toLowerCase(),
      hosts: settings.hosts && mapValues(settings.hosts, (tag) => fill(tag, values).toLowerCase()),
    },
    overrideParams: Object.assign({}, ...matching.map((override) => override.params)) as Values,
  };
}

const mapValues = (record: Record<string, string>, change: (value: string) => string): Record<string, string> =>
  Object.fromEntries(Object.entries(record).map(([key, value]) => [key, change(value)]));

function layOver(entry: RunEntry, override: Override): RunEntry {
  const { match: _, params: __, resources, timeouts, retry, ...settings } = override;
  return {
    ...entry,
    ...settings,
    resources: { ...entry.resources, ...resources },
    timeouts: { ...entry.timeouts, ...timeouts },
    retry: { ...entry.retry, ...retry },
  };
}

function checkMatches(job: Job, cells: readonly Cell[]): Complaint[] {
  return job.overrides.flatMap(({ match }, index): Complaint[] => {
    if (cells.some((cell) => isMatch(match, cell.values))) return [];
    const wanted = match.map(([axis, value]) => `${axis}: ${value}`);
    const message = `matches no cell: none has ${wanted.join(', ')}`;
    return [{ code: 'no-such-cell', message, at: [...job.at, 'matrix', 'overrides', index, 'match'] }];
  });
}

/** One complaint a job at most for each check: a hundred cells with the same flaw are one mistake. */
function checkFilled(job: Job, runs: readonly JobRun[]): Complaint[] {
  const complaints: Complaint[] = [];
  const badName = runs.find((run) => !RUN_NAME_PATTERN.test(run.name));
  if (badName) {
    const rule =
      'use 1 to 79 of A-Z a-z 0-9 blank . _ + = , @ : * ? ! [ ] ( ) - and begin with a letter, a digit, * ? or [';
    const hint =
      job.matrix.axes.length > 0 ? '; change the value, or put single axes such as {axis} into the name' : '';
    const message = `"${badName.name}" is no name for a run; ${rule}${hint}`;
    complaints.push({ code: 'bad-run-name', message, at: [...job.at, 'name'] });
  }
  const badImage = runs.find((run) => !/^\S+$/.test(run.settings.container));
  if (badImage) {
    const message = `"${badImage.settings.container}" is no image reference; an axis value with a blank cannot be part of one`;
    complaints.push({ code: 'bad-container', message, at: [...job.at, 'container'] });
  }
  return complaints;
}
