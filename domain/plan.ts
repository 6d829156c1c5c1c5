// Owns the plan: what is wrong with a project file as a whole, and the frozen list of runs of one trigger.
// Pure and deterministic; called by the API and the CLI, and by the reader of project files for its checks.
import { checkJob, makeRuns, readJob, type Job, type JobRun } from './jobs';
import { countProduct, expandMatrix } from './matrix';
import { checkNeeds, indexNeeds, resolveNeeds, type ExpandedJob } from './needs';
import { checkParameters, saySumFault, sayVariableFault, variableBytes } from './parameters';
import { fill } from './placeholders';
import { countCharacters, MAX_PLAN_CHARACTERS } from './plan-size';
import { sayKnown, toProblem, type Complaint, type Path } from './problems';
import { checkCheckout, checkRepository, planCheckout, type CheckoutWish } from './repository';
import type { Plan, PlannedJob, PlannedRun } from './schemas/plan';
import type { ProjectFile, RepositoryEntry, RunEntry, TriggerEntry } from './schemas/project-file';
import type { Problem } from './schemas/words';
import { sayHeadFault } from './script-head';
import { withoutUndefined } from './without-undefined';

/** Runs of one build: half of the 2,000 children at which the workflow of a build gets stuck. */
const MAX_RUNS = 1000;
/** Cells of one trigger before exclude: what may be looked at to find those that stay. */
const MAX_CELLS = 10_000;

interface PlanRequest {
  /** Name of a trigger in the file; default: the first. */
  trigger?: string;
  /** Parameters of the caller; they win over everything in the file. */
  params: Record<string, string>;
  /** Of all runs, 1 (first) … 5 (last); it wins over everything in the file. */
  priority?: number;
}
export type PlanResult = { kind: 'plan'; plan: Plan } | { kind: 'refused'; problems: Problem[] };

/** As much of a file as could be read; a run that could not is a gap, so that all indexes stay. */
export interface ReadableFile {
  /** Name → program text, where it is text. */
  scripts: Readonly<Record<string, unknown>>;
  triggers: readonly ReadableTrigger[];
  params?: Record<string, string>;
  repository?: RepositoryEntry;
}
export interface ReadableTrigger {
  name: string;
  params?: Record<string, string>;
  runs: readonly (RunEntry | undefined)[];
}

/** Finds everything that is wrong with a file whose shape is right, in all of its triggers. */
export function checkProject(file: ReadableFile): Complaint[] {
  const scripts = new Set(Object.keys(file.scripts));
  const names = new Set<string>();
  const complaints = [...checkScripts(file.scripts), ...sayBadRepository(file.repository)];
  const triggers = file.triggers.map((trigger, index) => {
    const at = ['triggers', index];
    const expanded = expandTrigger(trigger, scripts, at);
    complaints.push(...expanded.complaints);
    if (names.has(trigger.name)) {
      const message = `the name "${trigger.name}" is taken by a trigger above; choose another`;
      complaints.push({ code: 'duplicate-name', message, at: [...at, 'name'] });
    }
    names.add(trigger.name);
    return { params: trigger.params, at, jobs: expanded.jobs };
  });
  return [...complaints, ...checkParameters(file, triggers)];
}

function checkScripts(scripts: ReadableFile['scripts']): Complaint[] {
  return Object.entries(scripts).flatMap(([name, script]): Complaint[] => {
    const message = typeof script === 'string' ? sayHeadFault(script) : undefined;
    return message === undefined ? [] : [{ code: 'bad-script', message, at: ['scripts', name] }];
  });
}

function sayBadRepository(repository: RepositoryEntry | undefined): Complaint[] {
  if (!repository) return [];
  return checkRepository(repository).map(({ key, message }) => {
    return { code: 'bad-repository', message, at: ['repository', key] };
  });
}

/**
 * Makes the plan of one build. The same file and request always give the same plan.
 * @param file a file without complaints, as the reader of project files returns it
 * @param mostCharacters of scripts, parameters and needs of all runs; more is refused as `plan-too-large`
 */
export function makePlan(
  file: ProjectFile,
  request: PlanRequest,
  mostCharacters: number = MAX_PLAN_CHARACTERS,
): PlanResult {
  const names = file.triggers.map((trigger) => trigger.name);
  const index = request.trigger === undefined ? 0 : names.indexOf(request.trigger);
  const trigger = file.triggers[index];
  const complaints = checkParams(request.params);
  if (!trigger) {
    const message = `unknown trigger "${request.trigger}"; ${sayKnown('triggers', request.trigger ?? '', names)}`;
    return refuse([...complaints, { code: 'unknown-trigger', message, at: ['trigger'] }]);
  }
  const at = ['triggers', index];
  const expanded = expandTrigger(trigger, new Set(Object.keys(file.scripts)), at);
  complaints.push(...expanded.complaints);
  if (complaints.length > 0) return refuse(complaints);
  const runs = planRuns({ file, trigger, caller: request, at, mostCharacters }, expanded.jobs);
  if (!Array.isArray(runs)) return refuse([runs]);
  const jobs = expanded.jobs.map(({ job }) => planJob(job));
  const build = file.timeouts?.build;
  const plan = { version: 1 as const, trigger: trigger.name, buildTimeoutMs: build && toMs(build), jobs, runs };
  return { kind: 'plan', plan: withoutUndefined(plan) };
}

function refuse(complaints: readonly Complaint[]): PlanResult {
  return { kind: 'refused', problems: complaints.map(toProblem) };
}

function checkParams(params: Record<string, string>): Complaint[] {
  return Object.entries(params).flatMap(([name, value]): Complaint[] => {
    const at = ['params', name];
    if (!/^[^\s=\0\p{Surrogate}]+$/u.test(name)) {
      const message =
        'a parameter becomes an environment variable: use a name without blanks, "=" and broken characters';
      return [{ code: 'bad-param', message, at }];
    }
    const message = /[\0\p{Surrogate}]/u.test(value) ? 'use text without NUL' : sayVariableFault(name, value);
    return message === undefined ? [] : [{ code: 'bad-param', message: `${name}: ${message}`, at }];
  });
}

interface Expansion {
  jobs: ExpandedJob[];
  complaints: Complaint[];
}

/** Expands all jobs of a trigger, unless they are too many, and checks them together. */
function expandTrigger(trigger: ReadableTrigger, scripts: ReadonlySet<string>, at: Path): Expansion {
  const { sound, complaints } = readJobs(trigger, scripts, at);
  const excess = (message: string): Expansion => ({
    jobs: [],
    complaints: [...complaints, { code: 'too-many-runs', message, at: [...at, 'runs'] }],
  });
  const early = sayExcessBeforeExclude(trigger.name, sound);
  if (early !== undefined) return excess(early);
  const matrices = sound.map((job) => ({ job, cells: expandMatrix(job.matrix) }));
  const count = matrices.reduce((sum, { cells }) => sum + cells.length, 0);
  if (count > MAX_RUNS) return excess(sayExcess(trigger.name, count));
  const jobs = matrices.map(({ job, cells }) => {
    const made = makeRuns(job, cells);
    complaints.push(...made.complaints);
    return { job, runs: made.runs };
  });
  complaints.push(...checkNames(jobs));
  complaints.push(...checkNeeds(jobs, indexNeeds(jobs), jobs.length === trigger.runs.length));
  return { jobs, complaints };
}

/** Sound jobs are those whose cells and names can be told for certain; complaints about those of others would mislead. */
function readJobs(trigger: ReadableTrigger, scripts: ReadonlySet<string>, at: Path): JobReading {
  const complaints: Complaint[] = [];
  const sound: Job[] = [];
  trigger.runs.forEach((entry, index) => {
    if (!entry) return;
    const job = readJob(entry, [...at, 'runs', index]);
    const found = checkJob(job, scripts);
    complaints.push(...found);
    if (found.every(({ code }) => code === 'unknown-script' || code === 'needs-missing')) sound.push(job);
  });
  return { sound, complaints };
}
interface JobReading {
  sound: Job[];
  complaints: Complaint[];
}

/** Without exclude the count is exact before any cell is made; with it, only so many cells are looked at. */
function sayExcessBeforeExclude(trigger: string, jobs: readonly Job[]): string | undefined {
  const cells = jobs.reduce((sum, job) => sum + countProduct(job.matrix.axes), 0n);
  if (jobs.every((job) => job.matrix.exclude.length === 0)) {
    const count = cells + BigInt(jobs.reduce((sum, job) => sum + job.matrix.include.length, 0));
    return count > MAX_RUNS ? sayExcess(trigger, count) : undefined;
  }
  if (cells <= MAX_CELLS) return undefined;
  return `trigger "${trigger}" makes ${cells} cells before exclude, ${MAX_CELLS} at most; split it into triggers`;
}

function sayExcess(trigger: string, count: number | bigint): string {
  return `trigger "${trigger}" makes ${count} runs, ${MAX_RUNS} at most; nothing is cut off, so split it into triggers`;
}

/** Names of runs and of jobs must be told apart, since both can be needed. One complaint a job at most. */
function checkNames(jobs: readonly ExpandedJob[]): Complaint[] {
  const owners = new Map<string, Job>();
  const jobNames = new Map<string, Job>();
  for (const { job } of jobs) if (!jobNames.has(job.entry.name)) jobNames.set(job.entry.name, job);
  return jobs.flatMap(({ job, runs }): Complaint[] => {
    let complaint: Complaint | undefined;
    for (const { name } of runs) {
      const namesake = jobNames.get(name);
      const other = owners.get(name) ?? (namesake === job ? undefined : namesake);
      if (!other) owners.set(name, job);
      else complaint ??= { code: 'duplicate-name', message: sayDuplicate(name, job, other), at: [...job.at, 'name'] };
    }
    return complaint ? [complaint] : [];
  });
}

function sayDuplicate(name: string, job: Job, other: Job): string {
  if (other !== job) return `the name "${name}" is taken by another run of this trigger; choose another`;
  const hint = job.matrix.axes.map((axis) => `{${axis.name}}`).join(', ');
  return `several cells are called "${name}"; put {loop} or all of ${hint} into the name`;
}

function planJob(job: Job): PlannedJob {
  const limits = job.entry.matrix;
  const planned: PlannedJob = { name: job.entry.name, failFast: limits?.['fail-fast'] ?? false };
  if (limits?.['max-parallel'] !== undefined) planned.maxParallel = limits['max-parallel'];
  return planned;
}

interface PlanContext {
  file: ProjectFile;
  trigger: TriggerEntry;
  caller: Pick<PlanRequest, 'params' | 'priority'>;
  /** Of the trigger. */
  at: Path;
  mostCharacters: number;
}

/** All runs in the order of the file; a complaint where they are too large, or as soon as one cannot be. */
function planRuns(context: PlanContext, jobs: readonly ExpandedJob[]): PlannedRun[] | Complaint {
  const { file, trigger, caller } = context;
  const index = indexNeeds(jobs);
  const needed = jobs.map(({ job }) => resolveNeeds(job, index));
  const characters = countCharacters(file, [file.params, trigger.params, caller.params], { jobs, needed });
  if (characters > context.mostCharacters) return sayTooLarge(context);
  const planned: PlannedRun[] = [];
  for (const [position, { job, runs }] of jobs.entries()) {
    for (const run of runs) {
      const params = mergeParams(context, job, run);
      const wish = checkoutWish(context, run, params);
      const { env, checkout } = planCheckout(wish);
      const needs = needed[position] ?? [];
      const next = { ...planRun(context, job.entry.name, run), env: { ...params, ...env }, checkout, needs };
      const complaint = checkPlanned(context, wish, next);
      if (complaint) return complaint;
      planned.push(withoutUndefined(next));
    }
  }
  return planned;
}

function sayTooLarge({ at }: PlanContext): Complaint {
  const limit = `${MAX_PLAN_CHARACTERS / 1024 ** 2} Mi characters`;
  const message = `the scripts, parameters and needs of all runs come to more than ${limit}; keep programs in the image or the repository`;
  return { code: 'plan-too-large', message, at: [...at, 'runs'] };
}

const checkoutWish = ({ file }: PlanContext, { settings }: JobRun, params: Record<string, string>): CheckoutWish => ({
  repository: file.repository,
  checkout: settings.checkout,
  find: (name) => params[name],
});

/** What nobody could know before the parameters of the caller and of the cell were in their places. */
function checkPlanned(context: PlanContext, wish: CheckoutWish, run: PlannedRun): Complaint | undefined {
  const fault = checkCheckout(wish);
  if (fault) return { code: 'bad-repository', message: fault.message, at: ['params', fault.name] };
  let bytes = 0;
  for (const [name, value] of Object.entries(run.env)) {
    const message = sayVariableFault(name, value);
    if (message !== undefined) {
      return { code: 'bad-param', message: `${name} of run "${run.name}" ${message}`, at: ['params', name] };
    }
    bytes += variableBytes(name, value);
  }
  const message = saySumFault(run.name, bytes);
  return message === undefined ? undefined : { code: 'params-too-large', message, at: [...context.at, 'runs'] };
}

function planRun(context: PlanContext, job: string, run: JobRun): Omit<PlannedRun, 'env' | 'needs'> {
  const { settings } = run;
  const { file, trigger, caller } = context;
  return withoutUndefined({
    name: run.name,
    job,
    cell: { ...run.cell.values },
    container: settings.container,
    containerUser: settings['container-user'],
    containerEntrypoint: settings['container-entrypoint'],
    privileged: settings.privileged ?? false,
    capAdd: settings['cap-add'] ?? [],
    capDrop: settings['cap-drop'] ?? [],
    cluster: settings.cluster ?? trigger.cluster ?? file.cluster,
    hostTag: settings['host-tag'],
    hosts: settings.hosts,
    script: file.scripts[settings.script] ?? '',
    timeoutMs: toMs(settings.timeout ?? file.timeout),
    ...planLimits(file, settings),
    holdMs: toMs(settings.hold ?? file.hold ?? 0) || undefined,
    priority: caller.priority ?? settings.priority ?? trigger.priority ?? file.priority,
    resources: withoutUndefined({
      cpus: settings.resources?.cpus,
      memoryBytes: settings.resources?.memory,
      pids: settings.resources?.pids,
      artifactBytes: settings.resources?.artifacts,
    }),
    needsCondition: settings['needs-on'] ?? 'success',
  });
}

const toMs = (minutes: number): number => Math.round(minutes * 60_000);

/** Only what the file says: what it leaves out has its default where it is used. */
function planLimits(file: ProjectFile, run: JobRun['settings']) {
  const { waiting, start, idle } = { ...file.timeouts, ...withoutUndefined(run.timeouts ?? {}) };
  const retry = { ...file.retry, ...withoutUndefined(run.retry ?? {}) };
  return {
    waitingTimeoutMs: waiting && toMs(waiting),
    startTimeoutMs: start && toMs(start),
    idleTimeoutMs: idle && toMs(idle),
    retry: Object.keys(retry).length > 0 ? retry : undefined,
  };
}

/** Weakest first: project, trigger, run, overrides, cell, caller. */
function mergeParams(context: PlanContext, job: Job, run: JobRun): Record<string, string> {
  const { 'host-tag': _, ...axes } = run.cell.values;
  const ofFile: Record<string, string> = {
    ...context.file.params,
    ...context.trigger.params,
    ...job.entry.params,
    ...run.overrideParams,
    ...run.cell.extra,
  };
  // JobServ leaves braces in parameters alone, so a run with loop-on does too.
  if (job.entry.matrix) {
    for (const name of Object.keys(ofFile)) ofFile[name] = fill(ofFile[name] ?? '', run.cell.values);
  }
  return { ...ofFile, ...axes, ...context.caller.params };
}
