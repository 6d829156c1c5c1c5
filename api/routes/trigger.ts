// Owns the trigger: one POST that commits a build with its number and all its URLs, and answers before anything runs.
// Mounted on the main address, or on an address of its own that can be hidden from the public.
import { createHash, randomUUID } from 'node:crypto';
import { Router, type Request } from 'express';
import { dispatchBuild } from '../../adapters/outbox';
import { createBuild, readBuild, type NewBuild } from '../../adapters/store/builds';
import { MOST_COMMITS_SHOWN, plannedCommits } from '../../adapters/store/commits';
import type { BuildToStart } from '../../adapters/temporal';
import { MINUTE_MS } from '../../domain/build-input';
import type { Plan } from '../../domain/schemas/plan';
import * as shapes from '../../domain/schemas/api';
import { peerOf } from '../caller';
import type { ApiContext } from '../context';
import { placeRuns } from '../placing';
import { notFound, Refusal } from '../problem';
import { viewBuild } from '../views';
import { planOrRefuse, requireProject } from './projects';

export function triggerRoutes(context: ApiContext): Router {
  const router = Router();
  router.post('/v1/projects/:project/builds', async (request, response) => {
    requireRate(context, request);
    const { status, build } = await trigger(context, request.params.project, request);
    response.status(status).location(build.urls.self).json(build);
  });
  return router;
}

/** @throws Refusal 429 */
export function requireRate({ limits }: ApiContext, request: Request): void {
  const seconds = limits.triggers.take(peerOf(request));
  if (seconds === 0) return;
  const detail = `this caller starts too many builds; it may start the next one in ${seconds} s`;
  throw new Refusal(429, 'too-many-triggers', detail).after(seconds);
}

async function trigger(context: ApiContext, name: string, request: Request) {
  const wanted = shapes.TriggerRequest.parse(request.body ?? {});
  const project = await requireProject(context, name);
  const { definition } = project;
  const { plan, digest } = await planOrRefuse(context, request, { definition, plan: wanted });
  const { organisation } = project;
  const places = await placeRuns(context, plan, { organisation, cluster: wanted.cluster });
  const build = {
    id: randomUUID(),
    project: name,
    definition,
    plan,
    planDigest: digest,
    runIds: plan.runs.map(() => randomUUID()),
    places,
    params: wanted.params,
    reason: wanted.reason,
    idempotencyKey: keyOf(request),
    holdMs: wanted.hold === undefined ? undefined : wanted.hold * MINUTE_MS,
    requestDigest: createHash('sha256').update(JSON.stringify(wanted)).digest('hex'),
  };
  const created = await createBuild(context.db, build);
  switch (created.kind) {
    case 'no-project':
      throw notFound(`project ${name}`);
    case 'key-reused':
      throw new Refusal(
        422,
        'key-reused',
        'this Idempotency-Key was used for another request of this project; use a new key',
      );
    case 'existing':
      return { status: 200, build: await answer(context, name, created.number) };
    case 'created': {
      const { number } = created;
      // The answer does not wait for Temporal: the row is committed, and the sweep delivers what this misses.
      setImmediate(dispatch, context, toStart(build, number));
      return { status: 201, build: firstView(context, build, created) };
    }
  }
}

function toStart({ id, project, plan, runIds, places }: NewBuild, number: number): BuildToStart {
  const runs = plan.runs.map((spec, at) => ({
    id: runIds[at] ?? '',
    spec,
    cluster: places[at]!.cluster,
    moves: 0,
    outcome: null,
    attemptsBefore: 0,
  }));
  const { trigger, jobs } = plan;
  return { id, project, number, reruns: 0, trigger, jobs, runs, timeoutMs: plan.buildTimeoutMs ?? null };
}

function dispatch(context: ApiContext, build: BuildToStart): void {
  dispatchBuild(context, build).catch((error: unknown) => {
    const { project, number } = build;
    context.log.warn({ project, build: number, error: String(error) }, 'left to the sweep');
  });
}

/** What reading it back would give, without asking the store again. */
function firstView(
  context: ApiContext,
  build: {
    id: string;
    project: string;
    plan: Plan;
    planDigest: string;
    params: Record<string, string>;
    reason: string;
  },
  created: { number: number; createdAt: Date },
): shapes.BuildSummary {
  const row = {
    id: build.id,
    project: build.project,
    number: created.number,
    state: 'queued' as const,
    outcome: null,
    cause: null,
    trigger: build.plan.trigger,
    params: build.params,
    reason: build.reason,
    plan_digest: build.planDigest,
    cancel_requested_at: null,
    reruns: 0,
    rerun_at: null,
    created_at: created.createdAt,
    started_at: null,
    finished_at: null,
    counts: { queued: build.plan.runs.length },
    commits: plannedCommits(build.plan).slice(0, MOST_COMMITS_SHOWN),
  };
  return viewBuild(row, context.links);
}

async function answer(context: ApiContext, project: string, number: number): Promise<shapes.BuildSummary> {
  const row = await readBuild(context.db, project, number);
  if (!row) throw notFound(`build ${project}/${number}`);
  return viewBuild(row, context.links);
}

function keyOf(request: Request): string | null {
  const key = request.get('idempotency-key');
  if (key === undefined) return null;
  if (key.length === 0 || key.length > 255) {
    throw new Refusal(400, 'malformed-request', 'Idempotency-Key must be 1 to 255 characters');
  }
  return key;
}
