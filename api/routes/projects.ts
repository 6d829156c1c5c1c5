// Owns /v1/projects and /v1/validate: project files come in here, checked before anything is stored.
import { Router, type Request } from 'express';
import type { PlannerAnswer, PlannerWork } from '../../adapters/planner';
import { projectFileJsonSchema } from '../../adapters/project-file';
import { lastBuilds, listBuilds } from '../../adapters/store/builds';
import {
  createProject,
  listProjects,
  readProject,
  replaceProject,
  type ProjectRow,
} from '../../adapters/store/projects';
import type { Plan } from '../../domain/schemas/plan';
import * as shapes from '../../domain/schemas/api';
import type { Problem } from '../../domain/schemas/words';
import { peerOf, requireOperator } from '../caller';
import type { ApiContext } from '../context';
import { placeRuns, type Place } from '../placing';
import { notFound, Refusal } from '../problem';
import { viewProject } from '../views';

export function projectRoutes(context: ApiContext): Router {
  const router = Router();

  router.post('/v1/validate', async (request, response) => {
    const { definition } = shapes.ValidateRequest.parse(request.body);
    const { triggers } = await checkDefinition(context, request, definition);
    response.json({ valid: true, triggers });
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
    const text = { name, definition, ...(await checkDefinition(context, request, definition)) };
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
    const text = { name, definition, ...(await checkDefinition(context, request, definition)) };
    await requireOwners(context, request, { name, organisation });
    if (!(await replaceProject(context.db, { ...text, organisation }))) throw notFound(`project ${name}`);
    response.json(await answerProject(context, name));
  });

  router.post('/v1/projects/:project/plan', async (request, response) => {
    const project = await requireProject(context, request.params.project);
    const wanted = shapes.PlanRequest.parse(request.body ?? {});
    const { definition = project.definition } = wanted;
    const { plan, digest } = await planOrRefuse(context, request, { definition, plan: wanted });
    const { organisation } = project;
    const places = await placeRuns(context, plan, { organisation, cluster: wanted.cluster });
    response.json({ digest, plan, places: places.map((place, at) => viewPlace(plan, at, place)) });
  });

  return router;
}

/** @returns what a project keeps of its file @throws Refusal 422 with every problem of the file */
async function checkDefinition(
  context: ApiContext,
  request: Request,
  definition: string,
): Promise<{ description: string; triggers: string[] }> {
  const { description, triggers } = expectKind('valid', await context.planner.ask({ definition }, peerOf(request)));
  return { description, triggers };
}

/** @throws Refusal 422 with every problem of the file, or of what is asked for */
export async function planOrRefuse(context: ApiContext, request: Request, work: PlannerWork) {
  return expectKind('plan', await context.planner.ask(work, peerOf(request)));
}

function expectKind<Kind extends PlannerAnswer['kind']>(kind: Kind, answer: PlannerAnswer) {
  if (answer.kind === 'invalid') throw invalid(answer.problems);
  if (answer.kind === 'refused') {
    const detail = answer.problems[0]?.message ?? 'the plan cannot be made';
    throw new Refusal(422, 'no-plan', detail).with(answer.problems);
  }
  if (answer.kind !== kind) throw new Error(`the planner answers ${answer.kind} where ${kind} was asked for`);
  return answer as Extract<PlannerAnswer, { kind: Kind }>;
}

function invalid(problems: Problem[]): Refusal {
  const count = problems.length;
  return new Refusal(
    422,
    'invalid-definition',
    `the project file has ${count} problem${count === 1 ? '' : 's'}; nothing was stored`,
  ).with(problems);
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
