// Owns /v1/projects and /v1/validate: project files come in here, checked before anything is stored.
import { Router, type Request } from 'express';
import { projectFileJsonSchema, readProjectFile } from '../../adapters/project-file';
import { planDigest } from '../../adapters/plan-digest';
import { lastBuilds, listBuilds } from '../../adapters/store/builds';
import {
  createProject,
  listProjects,
  readProject,
  replaceProject,
  type ProjectRow,
} from '../../adapters/store/projects';
import { makePlan } from '../../domain/plan';
import type { Plan } from '../../domain/schemas/plan';
import type { ProjectFile } from '../../domain/schemas/project-file';
import * as shapes from '../../domain/schemas/api';
import type { Problem } from '../../domain/schemas/words';
import { requireOperator } from '../caller';
import type { ApiContext } from '../context';
import { placeRuns, type Place } from '../placing';
import { notFound, Refusal } from '../problem';
import { viewProject } from '../views';

export function projectRoutes(context: ApiContext): Router {
  const router = Router();

  router.post('/v1/validate', (request, response) => {
    const { definition } = shapes.ValidateRequest.parse(request.body);
    response.json({ valid: true, triggers: triggersOf(checkDefinition(definition)) });
  });

  router.get('/v1/schema/project.json', (_request, response) => {
    response.json(projectFileJsonSchema());
  });

  router.get('/v1/projects', async (_request, response) => {
    const [rows, builds] = await Promise.all([listProjects(context.db), lastBuilds(context.db)]);
    const newest = new Map(builds.map((build) => [build.project, build]));
    response.json({ projects: rows.map((row) => viewProject(row, newest.get(row.name), context.links)) });
  });

  router.post('/v1/projects', async (request, response) => {
    const { name, definition, organisation = null } = shapes.CreateProject.parse(request.body);
    const text = projectText(name, definition);
    if (organisation !== null) {
      await requireOperator(context, request, {
        action: 'project.create',
        subject: `project ${name}`,
        owner: organisation,
      });
    }
    const isNew = await createProject(context.db, { ...text, organisation });
    if (!isNew) throw new Refusal(409, 'name-taken', `project ${name} exists; replace its definition with PUT`);
    const answer = await answerProject(context, name);
    response.status(201).location(answer.urls.self).json(answer);
  });

  router.get('/v1/projects/:project', async (request, response) => {
    response.json(await answerProject(context, request.params.project));
  });

  router.put('/v1/projects/:project', async (request, response) => {
    const name = request.params.project;
    const { definition, organisation } = shapes.ReplaceProject.parse(request.body);
    const text = projectText(name, definition);
    await requireOwners(context, request, { name, organisation });
    if (!(await replaceProject(context.db, { ...text, organisation }))) throw notFound(`project ${name}`);
    response.json(await answerProject(context, name));
  });

  router.post('/v1/projects/:project/plan', async (request, response) => {
    const project = await requireProject(context, request.params.project);
    const wanted = shapes.PlanRequest.parse(request.body ?? {});
    const file = checkDefinition(wanted.definition ?? project.definition);
    const plan = planOrRefuse(file, wanted);
    const { organisation } = project;
    const places = await placeRuns(context, plan, { organisation, cluster: wanted.cluster });
    response.json({ digest: planDigest(plan), plan, places: places.map((place, at) => viewPlace(plan, at, place)) });
  });

  return router;
}

/** Files that were read lately, by their text: a trigger reads the same one again and again. Oldest first. */
const readFiles = new Map<string, ProjectFile>();
const READ_FILES = 50;

/** @throws Refusal 422 with every problem of the file */
export function checkDefinition(definition: string): ProjectFile {
  const known = readFiles.get(definition);
  if (known) return known;
  const read = readProjectFile(definition);
  if (read.kind === 'invalid') throw invalid(read.problems);
  readFiles.set(definition, read.file);
  const [oldest] = readFiles.keys();
  if (readFiles.size > READ_FILES && oldest !== undefined) readFiles.delete(oldest);
  return read.file;
}

function invalid(problems: Problem[]): Refusal {
  const count = problems.length;
  return new Refusal(
    422,
    'invalid-definition',
    `the project file has ${count} problem${count === 1 ? '' : 's'}; nothing was stored`,
  ).with(problems);
}

/** @throws Refusal 422 */
export function planOrRefuse(file: ProjectFile, wanted: Parameters<typeof makePlan>[1]) {
  const made = makePlan(file, wanted);
  if (made.kind === 'plan') return made.plan;
  const detail = made.problems[0]?.message ?? 'the plan cannot be made';
  throw new Refusal(422, 'no-plan', detail).with(made.problems);
}

export async function requireProject(context: ApiContext, name: string): Promise<ProjectRow> {
  const row = await readProject(context.db, name);
  if (!row) throw notFound(`project ${name}`);
  return row;
}

async function answerProject(context: ApiContext, name: string): Promise<shapes.Project> {
  const row = await requireProject(context, name);
  const [newest] = await listBuilds(context.db, name, { limit: 1 });
  return { ...viewProject(row, newest, context.links), definition: row.definition, triggers: row.triggers };
}

const viewPlace = (plan: Plan, at: number, { cluster, placement }: Place): shapes.PlanPreview['places'][number] => ({
  run: plan.runs[at]?.name ?? '',
  cluster,
  reason: placement.reason,
});

/** What a project of an organisation runs, runs on its clusters: it is changed by that organisation, and given away by both. */
async function requireOwners(
  context: ApiContext,
  request: Request,
  { name, organisation }: { name: string; organisation?: string | null },
): Promise<void> {
  const before = (await requireProject(context, name)).organisation;
  const intent = { action: 'project.replace', subject: `project ${name}` };
  for (const owner of new Set([before, organisation ?? before])) {
    if (owner !== null) await requireOperator(context, request, { ...intent, owner });
  }
}

function projectText(name: string, definition: string) {
  const file = checkDefinition(definition);
  return { name, definition, description: file.description ?? '', triggers: triggersOf(file) };
}

function triggersOf(file: ProjectFile): string[] {
  return file.triggers.map((trigger) => trigger.name);
}
