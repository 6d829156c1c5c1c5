// Owns the commands that read a project file or ask the server: validate, plan, run, builds, log, cancel.
// Called by main.ts; each returns its exit code.
import { randomUUID } from 'node:crypto';
import { planDigest } from '../adapters/plan-digest';
import { readProjectFile } from '../adapters/project-file';
import { makePlan } from '../domain/plan';
import { formatProblem } from '../domain/problems';
import { ProjectName, type Build, type BuildSummary } from '../domain/schemas/api';
import type { Plan } from '../domain/schemas/plan';
import type { ProjectFile } from '../domain/schemas/project-file';
import type { Client } from './client';
import { CommandError, EXIT, readDefinition, readParams, readPlace, requireRunPlace, type Output } from './context';
import { followBuild, printVerdict, sayGaps } from './follow';
import { elapsed, oneLine, paint, paintStatus, table } from './print';
import { shortCommit } from '../domain/repository';

/** Prints every problem of a project file. */
export function validate(path: string, output: Output): number {
  const { file, definition } = readDefinition(path);
  const read = readProjectFile(definition);
  if (read.kind === 'invalid') {
    for (const problem of read.problems) output.out(oneLine(formatProblem(file, problem)));
    return EXIT.failed;
  }
  const names = read.file.triggers.map((trigger) => oneLine(trigger.name)).join(', ');
  output.out(`${file}: valid; triggers: ${names}`);
  return EXIT.passed;
}

export interface PlanOptions {
  trigger?: string;
  param: string[];
  priority?: number;
  json?: boolean;
}

/** Prints what a build would run, without starting anything and without a server. */
export function plan(path: string, options: PlanOptions, output: Output): number {
  const { file, definition } = readDefinition(path);
  const made = planOf({ file, definition }, options, output);
  if (!made) return EXIT.failed;
  const digest = planDigest(made);
  if (options.json) output.out(JSON.stringify({ digest, plan: made }, null, 2));
  else output.out(describePlan(made, digest));
  return EXIT.passed;
}

function planOf(source: { file: string; definition: string }, options: PlanOptions, output: Output): Plan | undefined {
  const read = readProjectFile(source.definition);
  if (read.kind === 'invalid') {
    for (const problem of read.problems) output.err(oneLine(formatProblem(source.file, problem)));
    return undefined;
  }
  return planFile(read.file, options);
}

function planFile(file: ProjectFile, options: PlanOptions): Plan {
  const { trigger, priority } = options;
  const made = makePlan(file, { trigger, priority, params: readParams(options.param) });
  if (made.kind === 'plan') return made.plan;
  throw new CommandError(made.problems.map((problem) => problem.message).join('\n'), EXIT.failed);
}

function describePlan(plan: Plan, digest: string): string {
  const rows = plan.runs.map((run) => [
    paint('bold', run.name),
    run.container,
    [run.hostTag ?? 'any host', ...Object.entries(run.hosts ?? {}).map(([name, tag]) => `${name}: ${tag}`)].join(' + '),
    run.cluster === undefined ? 'any cluster' : `cluster ${run.cluster}`,
    run.priority === undefined ? '' : `priority ${run.priority}`,
    run.needs.length === 0 ? '' : `needs ${run.needs.join(', ')} (${run.needsCondition})`,
    Object.entries(run.env)
      .map(([key, value]) => `${key}=${value}`)
      .join(' '),
  ]);
  const head = `trigger ${oneLine(plan.trigger)}: ${plan.runs.length} run${plan.runs.length === 1 ? '' : 's'}`;
  return `${head}\n${table(rows)}\nplan ${digest}`;
}

export interface RunOptions extends PlanOptions {
  project?: string;
  cluster?: string;
  reason?: string;
  hold?: number;
}

/** Plans, stores the project, triggers a build and follows it; the exit code is the verdict. */
export async function run(
  client: Client,
  path: string,
  { options, output }: { options: RunOptions; output: Output },
): Promise<number> {
  const { file, definition, defaultProject } = readDefinition(path);
  const made = planOf({ file, definition }, options, output);
  if (!made) return EXIT.couldNotRun;
  if (!options.json) output.err(describePlan(made, planDigest(made)));
  const project = ProjectName.safeParse(options.project ?? defaultProject);
  if (!project.success)
    throw new CommandError(`--project ${options.project}: ${project.error.issues[0]?.message}`, EXIT.usage);
  await storeProject(client, project.data, definition);
  const request = {
    trigger: made.trigger,
    params: readParams(options.param),
    priority: options.priority,
    reason: options.reason ?? 'slipway run',
    cluster: options.cluster,
    hold: options.hold,
  };
  const build = await client.trigger(project.data, request, randomUUID());
  return follow(client, build, { isJson: options.json ?? false, output });
}

export interface RerunOptions {
  hold?: number;
  failed?: boolean;
  json?: boolean;
}

/** Runs a finished build again, or a part of it, and follows it; the exit code is the verdict. */
export async function rerun(
  client: Client,
  text: string,
  { options, output }: { options: RerunOptions; output: Output },
): Promise<number> {
  const { project, number, run: name } = readPlace(text);
  if (options.failed && name !== undefined) {
    throw new CommandError('--failed is for whole builds; leave out the name of the run', EXIT.usage);
  }
  const runs = name === undefined ? (options.failed ? 'failed' : 'all') : [name];
  const build = await client.rerun(project, number, { runs, hold: options.hold });
  return follow(client, build, { isJson: options.json ?? false, output });
}

/** Keeps what a failed run left for longer, or (`end`) gives its hosts back. */
export async function hold(
  client: Client,
  text: string,
  { options, output }: { options: { minutes: number; end?: boolean }; output: Output },
): Promise<number> {
  const place = await requireRunPlace(client, text);
  const { heldUntil, host } = await client.hold(place, options.end ? undefined : options.minutes);
  output.out(
    heldUntil === null ? `${text} gives host ${host} back` : `${text} is held on host ${host} until ${heldUntil}`,
  );
  return EXIT.passed;
}

async function follow(
  client: Client,
  build: BuildSummary | Build,
  { isJson, output }: { isJson: boolean; output: Output },
): Promise<number> {
  const quiet: Output = { out: () => undefined, err: () => undefined };
  if (!isJson) output.err(`\nbuild ${build.project} #${build.number}  ${build.urls.page}\n`);
  const finished = await followBuild(client, build, isJson ? quiet : output);
  if (isJson) output.out(JSON.stringify(finished, null, 2));
  else await printVerdict(client, finished, output);
  return exitCodeOf(finished.status);
}

async function storeProject(client: Client, name: string, definition: string): Promise<void> {
  const found = await client.project(name);
  if (!found) await client.createProject(name, definition);
  else if (found.definition !== definition) await client.replaceProject(name, definition);
}

/** Red work is 1; what never got a fair run is 2. */
function exitCodeOf(status: string): number {
  if (status === 'passed') return EXIT.passed;
  return status === 'errored' || status === 'cancelled' ? EXIT.couldNotRun : EXIT.failed;
}

export async function builds(
  client: Client,
  project: string | undefined,
  { options, output }: { options: { json?: boolean; limit: string }; output: Output },
): Promise<number> {
  const names = project === undefined ? (await client.projects()).map((one) => one.name) : [project];
  const limit = Number(options.limit);
  const found = (await Promise.all(names.map((name) => client.builds(name, limit)))).flat();
  found.sort((a, b) => (a.createdAt < b.createdAt ? 1 : -1));
  const shown = found.slice(0, limit);
  if (options.json) output.out(JSON.stringify({ builds: shown }, null, 2));
  else if (shown.length === 0) output.out('no builds yet; start one with: slipway run DIR');
  else {
    const rows = shown.map((build) => [
      `${build.project}/${build.number}`,
      paintStatus(build.status),
      `${build.counts.passed}/${build.counts.total} passed`,
      elapsed(build.createdAt, build.finishedAt),
      build.createdAt,
      build.commits.map(({ commit }) => shortCommit(commit)).join(' '),
      build.reason,
    ]);
    output.out(table(rows));
  }
  return EXIT.passed;
}

/** Writes the log as it came, byte for byte. */
export async function log(
  client: Client,
  text: string,
  { options, output }: { options: { follow?: boolean; attempt?: number }; output: Output },
): Promise<number> {
  const place = { ...(await requireRunPlace(client, text)), attempt: options.attempt };
  if (options.follow) {
    for await (const bytes of client.follow(place)) await write(bytes);
  } else {
    await write(await client.log(place));
  }
  const { attempts } = await client.run(place.project, place.number, place.run);
  sayGaps(attempts.find(({ number }) => number === options.attempt) ?? attempts.at(-1), output);
  return EXIT.passed;
}

function write(bytes: Buffer): Promise<void> {
  return new Promise((done, fail) => process.stdout.write(bytes, (error) => (error ? fail(error) : done())));
}

export async function cancel(client: Client, text: string, output: Output): Promise<number> {
  const { project, number, run } = readPlace(text);
  const answer =
    run === undefined ? await client.cancelBuild(project, number) : await client.cancelRun(project, number, run);
  output.out(`${text} ${paintStatus(answer.status)}`);
  return EXIT.passed;
}
