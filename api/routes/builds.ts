// Owns /v1/projects/:project/builds and the runs below: what people read of a build, and how they cancel it.
import { Router } from 'express';
import { z } from 'zod';
import { deliverCancels, dispatchStored } from '../../adapters/outbox';
import { listBeside } from '../../adapters/store/beside';
import { listBuilds, readBuild, readPlan, requestBuildCancel, type BuildRow } from '../../adapters/store/builds';
import { readHold } from '../../adapters/store/holds';
import { listHosts } from '../../adapters/store/hosts';
import { beginRerun } from '../../adapters/store/reruns';
import {
  listArtifacts,
  listAttempts,
  listRuns,
  readRun,
  requestRunCancel,
  type RunRow,
} from '../../adapters/store/runs';
import { MINUTE_MS } from '../../domain/build-input';
import { apiPath } from '../../domain/names';
import * as shapes from '../../domain/schemas/api';
import { INT_MAX } from '../../domain/schemas/worker-api';
import type { ApiContext } from '../context';
import { notFound, Refusal } from '../problem';
import { sayWaiting } from '../waiting';
import { viewArtifact, viewAttempt, viewBuild, viewRun, viewWorker } from '../views';
import { requireProject } from './projects';

/** What a column of the store takes. */
export const Int = z.coerce.number().int().positive().max(INT_MAX);

const Page = z.object({
  limit: z.coerce.number().int().min(1).max(200).default(50),
  before: Int.optional(),
});

export function buildRoutes(context: ApiContext): Router {
  const router = Router();

  router.get('/v1/projects/:project/builds', async (request, response) => {
    const { project } = request.params;
    const page = Page.parse(request.query);
    const rows = await listBuilds(context.db, project, page);
    if (rows.length === 0) await requireProject(context, project);
    const last = rows.length === page.limit ? rows.at(-1)?.number : undefined;
    const next =
      last && last > 1 ? `${context.links.base}${apiPath.builds(project)}?limit=${page.limit}&before=${last}` : null;
    response.json({ builds: rows.map((row) => viewBuild(row, context.links)), next });
  });

  router.get('/v1/projects/:project/builds/:number', async (request, response) => {
    const row = await requireBuild(context, request.params);
    response.json(await answerBuild(context, row));
  });

  router.get('/v1/projects/:project/builds/:number/plan', async (request, response) => {
    const row = await requireBuild(context, request.params);
    response.json({ digest: row.plan_digest, plan: await readPlan(context.db, row.id) });
  });

  router.post('/v1/projects/:project/builds/:number/cancel', async (request, response) => {
    const row = await requireBuild(context, request.params);
    if (await requestBuildCancel(context.db, row.id)) tellTemporal(context);
    const now = await requireBuild(context, request.params);
    response.status(now.state === 'finished' ? 200 : 202).json(await answerBuild(context, now));
  });

  router.get('/v1/projects/:project/builds/:number/runs/:run', async (request, response) => {
    response.json(await answerRun(context, request.params));
  });

  router.post('/v1/projects/:project/builds/:number/runs/:run/cancel', async (request, response) => {
    const row = await requireRun(context, request.params);
    if (await requestRunCancel(context.db, row.id)) tellTemporal(context);
    const answer = await answerRun(context, request.params);
    response.status(answer.state === 'finished' ? 200 : 202).json(answer);
  });

  router.post('/v1/projects/:project/builds/:number/rerun', async (request, response) => {
    const wish = shapes.RerunRequest.parse(request.body ?? {});
    const row = await requireBuild(context, request.params);
    await rerun(context, row, wish);
    response.status(202).json(await answerBuild(context, await requireBuild(context, request.params)));
  });

  router.post('/v1/projects/:project/builds/:number/runs/:run/rerun', async (request, response) => {
    const row = await requireBuild(context, request.params);
    const { hold } = shapes.RerunRequest.parse(request.body ?? {});
    await rerun(context, row, { runs: [request.params.run], hold });
    response.status(202).json(await answerRun(context, request.params));
  });

  router.get('/v1/workers', async (_request, response) => {
    response.json({
      workers: (await listHosts(context.db)).filter(({ origin }) => origin === 'worker').map(viewWorker),
    });
  });

  return router;
}

async function rerun(context: ApiContext, build: BuildRow, { runs, hold }: shapes.RerunRequest): Promise<void> {
  const name = `build ${build.project}/${build.number}`;
  const holdMs = hold === undefined ? null : hold * MINUTE_MS;
  const answer = await beginRerun(context.db, build.id, { runs, holdMs });
  switch (answer.kind) {
    case 'not-finished':
      throw new Refusal(409, 'build-not-finished', `${name} is under way; wait for its end, or cancel it first`);
    case 'nothing':
      throw new Refusal(409, 'nothing-to-rerun', `all runs of ${name} passed; name runs, or rerun all`);
    case 'unknown-run':
      throw notFound(`run ${build.project}/${build.number}/${answer.run}`);
    case 'begun':
      dispatchStored(context, build).catch((error: unknown) => {
        context.log.warn({ error: String(error) }, 'rerun left to the sweep');
      });
  }
}

/** The wish is committed; Temporal is told at once, and by the sweep if that fails. */
function tellTemporal(context: ApiContext): void {
  deliverCancels(context).catch((error: unknown) => {
    context.log.warn({ error: String(error) }, 'cancel left to the sweep');
  });
}

interface BuildPath {
  project: string;
  number: string;
}
export interface RunPath extends BuildPath {
  run: string;
}

export async function requireBuild(context: ApiContext, path: BuildPath): Promise<BuildRow> {
  const number = Int.safeParse(path.number);
  const row = number.success ? await readBuild(context.db, path.project, number.data) : undefined;
  if (!row) throw notFound(`build ${path.project}/${path.number}`);
  return row;
}

export async function requireRun(context: ApiContext, path: RunPath): Promise<RunRow> {
  const number = Int.safeParse(path.number);
  const where = { project: path.project, number: number.data ?? 0, run: path.run };
  const row = number.success ? await readRun(context.db, where) : undefined;
  if (!row) throw notFound(`run ${path.project}/${path.number}/${path.run}`);
  return row;
}

async function answerBuild(context: ApiContext, row: BuildRow): Promise<shapes.Build> {
  const runs = await listRuns(context.db, row.id);
  const waiting = await sayWaiting(context, row.id, { runs, all: runs });
  const place = { project: row.project, build: row.number, waiting };
  return { ...viewBuild(row, context.links), runs: runs.map((run) => viewRun(run, place, context.links)) };
}

export async function answerRun(context: ApiContext, path: RunPath): Promise<shapes.Run> {
  const row = await requireRun(context, path);
  const [attempts, beside, held, artifacts, build] = await Promise.all([
    listAttempts(context.db, row.id),
    row.spec.hosts ? listBeside(context.db, row.id) : [],
    readHold(context.db, row.id),
    listArtifacts(context.db, row.id, row.attempt),
    requireBuild(context, path),
  ]);
  const all = row.state === 'queued' ? await listRuns(context.db, build.id) : [];
  const waiting = await sayWaiting(context, build.id, { runs: [row], all });
  const place = { project: build.project, build: build.number, waiting };
  const artifactPlace = { ...place, run: row.name, attempt: row.attempt };
  return {
    ...viewRun(row, place, context.links),
    project: build.project,
    build: build.number,
    spec: row.spec,
    attempts: attempts.map((attempt) => viewAttempt(attempt, beside)),
    artifacts: artifacts.map((artifact) => viewArtifact(artifact, artifactPlace, context.links)),
    trace: viewBuild(build, context.links).urls.trace,
    heldUntil: held?.toISOString() ?? null,
  };
}
