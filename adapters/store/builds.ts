// Owns the rows of builds: minted once by the trigger, read by everybody, finished by the orchestrator.
// Called by the API and by the orchestrator's record-keeping activities.
import { sql, type SelectQueryBuilder } from 'kysely';
import { DEFAULT_PRIORITY } from '../../domain/priority';
import type { Placement } from '../../domain/cluster-choice';
import { askOf } from '../../domain/host-tag';
import { buildWorkflowId } from '../../domain/names';
import { judgeBuild, type JudgedRun } from '../../domain/verdict';
import type { Plan } from '../../domain/schemas/plan';
import type { BuildState, Cause, Outcome } from '../../domain/schemas/words';
import { COMMITS, plannedCommits, type FrozenCommit } from './commits';
import type { Database } from './connect';
import { closeRuns } from './runs';
import type { Tables } from './tables';

export interface NewBuild {
  id: string;
  project: string;
  definition: string;
  plan: Plan;
  planDigest: string;
  /** One id a run, in plan order. */
  runIds: readonly string[];
  /** One a run, in plan order. */
  places: readonly { cluster: string; placement: Placement }[];
  params: Record<string, string>;
  reason: string;
  idempotencyKey: string | null;
  /** Tells a repeated request from another request under the same key. */
  requestDigest: string;
  /** For which the hosts of its failed runs are kept, ms; absent: as in their specs. */
  holdMs?: number;
}
export interface BuildRow {
  id: string;
  project: string;
  number: number;
  state: BuildState;
  outcome: Outcome | null;
  cause: Cause | null;
  trigger: string;
  params: Record<string, string>;
  reason: string;
  plan_digest: string;
  cancel_requested_at: Date | null;
  reruns: number;
  rerun_at: Date | null;
  created_at: Date;
  started_at: Date | null;
  finished_at: Date | null;
  counts: Record<string, number>;
  commits: FrozenCommit[];
}
export type CreatedBuild =
  | { kind: 'created'; number: number; createdAt: Date }
  | { kind: 'existing'; number: number }
  | { kind: 'key-reused' }
  | { kind: 'no-project' };

/**
 * Commits a build with all its runs and the next number of its project, in one statement: either everything or nothing,
 * and the number is taken back with it, so numbers have no gaps. The row is also the outbox: `dispatched_at` is null
 * until the workflow has been started.
 */
export async function createBuild(db: Database, build: NewBuild): Promise<CreatedBuild> {
  if (build.idempotencyKey !== null) {
    const found = await findByKey(db, build);
    if (found) return found;
  }
  try {
    const { rows } = await insertBuild(db, build);
    const [row] = rows;
    return row ? { kind: 'created', number: row.number, createdAt: row.created_at } : { kind: 'no-project' };
  } catch (error) {
    // Two requests with one key at the same time: the second finds the first's build.
    if ((error as { constraint?: string }).constraint !== 'builds_project_idempotency_key_key') throw error;
    return (await findByKey(db, build)) ?? { kind: 'key-reused' };
  }
}

function insertBuild(db: Database, build: NewBuild) {
  const runs = build.plan.runs.map((run, position) => ({
    id: build.runIds[position],
    position,
    name: run.name,
    spec: run,
    priority: run.priority ?? DEFAULT_PRIORITY,
    host_tag: askOf(run) ?? null,
    cluster: build.places[position]?.cluster,
    placement: build.places[position]?.placement,
  }));
  return sql<{ number: number; created_at: Date }>`
    with numbered as (
      update projects set last_number = last_number + 1 where name = ${build.project} returning last_number
    ), built as (
      insert into builds (id, project, number, trigger, params, reason, definition, plan_jobs, plan_digest,
                          idempotency_key, request_digest, timeout_ms, hold_ms)
      select ${build.id}::uuid, ${build.project}, last_number::int, ${build.plan.trigger}, ${JSON.stringify(build.params)}::jsonb,
             ${build.reason}, ${build.definition}, ${JSON.stringify(build.plan.jobs)}::jsonb, ${build.planDigest},
             ${build.idempotencyKey}, ${build.requestDigest}, ${build.plan.buildTimeoutMs ?? null}::bigint,
             ${build.holdMs ?? null}::int
      from numbered
      returning id, number, created_at
    ), planned as (
      insert into runs (id, build_id, position, name, spec, cluster, placement, priority, host_tag)
      select r.id, built.id, r.position, r.name, r.spec, r.cluster, r.placement, r.priority, r.host_tag
      from built, json_to_recordset(${JSON.stringify(runs)}::json)
        as r (id uuid, position int, name text, spec json, cluster text, placement jsonb, priority int, host_tag text)
    ), frozen as (
      insert into commits (build_id, url, ref, commit)
      select built.id, c.url, c.ref, c.commit
      from built, json_to_recordset(${JSON.stringify(plannedCommits(build.plan))}::json) as c (url text, ref text, commit text)
    )
    select number, created_at from built`.execute(db);
}

async function findByKey(db: Database, build: NewBuild): Promise<CreatedBuild | undefined> {
  const found = await db
    .selectFrom('builds')
    .select(['number', 'request_digest'])
    .where('project', '=', build.project)
    .where('idempotency_key', '=', build.idempotencyKey)
    .executeTakeFirst();
  if (!found) return undefined;
  return found.request_digest === build.requestDigest
    ? { kind: 'existing', number: found.number }
    : { kind: 'key-reused' };
}

/** Runs by what they count as: the state while unfinished, the outcome after. */
const COUNTS = sql<Record<string, number>>`(
  select coalesce(jsonb_object_agg(word, n), '{}') from (
    select case when state = 'finished' then outcome else state end as word, count(*)::int as n
    from runs where runs.build_id = builds.id group by 1
  ) as words
)`;

/** Named with their table, since a query may join another that has the same. */
const COLUMNS = [
  'builds.id',
  'builds.project',
  'builds.number',
  'builds.state',
  'builds.outcome',
  'builds.cause',
  'builds.trigger',
  'builds.params',
  'builds.reason',
  'builds.plan_digest',
  'builds.cancel_requested_at',
  'builds.reruns',
  'builds.rerun_at',
  'builds.created_at',
  'builds.started_at',
  'builds.finished_at',
] as const;

function selectBuilds(db: Database): SelectQueryBuilder<Tables, 'builds', BuildRow> {
  return db
    .selectFrom('builds')
    .select(COLUMNS)
    .select([COUNTS.as('counts'), COMMITS.as('commits')]);
}

export async function readBuild(db: Database, project: string, number: number): Promise<BuildRow | undefined> {
  return selectBuilds(db).where('project', '=', project).where('number', '=', number).executeTakeFirst();
}

/** Newest first. @param before only numbers below it */
export async function listBuilds(
  db: Database,
  project: string,
  page: { limit: number; before?: number },
): Promise<BuildRow[]> {
  let query = selectBuilds(db).where('project', '=', project).orderBy('number', 'desc').limit(page.limit);
  if (page.before !== undefined) query = query.where('number', '<', page.before);
  return query.execute();
}

/** The newest build of each project that has one. */
export async function lastBuilds(db: Database): Promise<BuildRow[]> {
  return selectBuilds(db)
    .innerJoin('projects', (join) =>
      join.onRef('projects.name', '=', 'builds.project').onRef('projects.last_number', '=', 'builds.number'),
    )
    .execute();
}

/** The jobs of a build, for what they limit; its runs are many times larger. */
export async function readJobs(db: Database, buildId: string): Promise<Plan['jobs']> {
  const { jobs } = await db
    .selectFrom('builds')
    .select('plan_jobs as jobs')
    .where('id', '=', buildId)
    .executeTakeFirstOrThrow();
  return jobs;
}

/** The frozen plan of a build as it was at the trigger. */
export async function readPlan(db: Database, buildId: string): Promise<Plan> {
  const build = await db
    .selectFrom('builds')
    .select(['trigger', 'plan_jobs', 'timeout_ms'])
    .where('id', '=', buildId)
    .executeTakeFirstOrThrow();
  const runs = await db.selectFrom('runs').select('spec').where('build_id', '=', buildId).orderBy('position').execute();
  const limit = build.timeout_ms === null ? {} : { buildTimeoutMs: build.timeout_ms };
  return { version: 1, trigger: build.trigger, ...limit, jobs: build.plan_jobs, runs: runs.map((run) => run.spec) };
}

/**
 * Records that the build is to end, and why; the first wish counts. @returns false when the build is finished already
 * @param cause why its runs end: a user asked, or it ran out of time, which its workflow knows already
 */
export async function requestBuildCancel(
  db: Database,
  buildId: string,
  cause: 'cancel-requested' | 'build-timeout' = 'cancel-requested',
): Promise<boolean> {
  const isKnown = cause === 'build-timeout';
  const { rows } = await sql<{ state: BuildState }>`
    with locked as (
      select id from runs where build_id = ${buildId}::uuid order by id for update
    ), wished as (
      update builds set cancel_requested_at = coalesce(cancel_requested_at, now()),
        cancel_cause = coalesce(cancel_cause, ${cause}),
        cancel_delivered_at = case when ${isKnown} then now() else cancel_delivered_at end
      where id = ${buildId}::uuid and state <> 'finished' and (select count(*) from locked) > 0 returning id
    ), runs_wished as (
      update runs set cancel_requested_at = coalesce(cancel_requested_at, now())
      where build_id in (select id from wished) and state <> 'finished'
    )
    select 'queued' as state from wished`.execute(db);
  return rows.length > 0;
}

/**
 * Judges a build from its runs, when nothing is to come any more. A run that is not finished by the rows is closed: whoever
 * said that it had ended has recorded nothing. Idempotent: a finished build keeps its verdict.
 * @param by id of the workflow that asks. One of before a rerun may ask late, and changes nothing; absent: it is the rows' own
 */
export async function finishBuild(db: Database, buildId: string, by?: string): Promise<JudgedRun> {
  const former = await formerVerdict(db, buildId, by);
  if (former) return former;
  const judged = await judgedRuns(db, buildId);
  const open = judged.filter(({ outcome }) => outcome === null).map(({ id }) => id);
  await closeRuns(
    db,
    open.map((runId) => ({ runId, cause: 'internal', message: NOT_RECORDED })),
  );
  const ended = open.length === 0 ? judged : await judgedRuns(db, buildId);
  // The rest was just closed, so each has both words now.
  const verdict = judgeBuild(ended as JudgedRun[]);
  await db
    .updateTable('builds')
    .set({ state: 'finished', ...verdict, finished_at: sql`now()`, started_at: sql`coalesce(started_at, now())` })
    .where('id', '=', buildId)
    .where('state', '<>', 'finished')
    .execute();
  return verdict;
}

/** @returns undefined: the build is still to be judged */
async function formerVerdict(db: Database, buildId: string, by: string | undefined): Promise<JudgedRun | undefined> {
  const build = await db
    .selectFrom('builds')
    .select(['project', 'number', 'reruns', 'outcome', 'cause'])
    .where('id', '=', buildId)
    .executeTakeFirstOrThrow();
  const { project, number, reruns, outcome, cause } = build;
  if (outcome !== null && cause !== null) return { outcome, cause };
  if (by === undefined || by === buildWorkflowId(project, number, reruns)) return undefined;
  const ended = (await judgedRuns(db, buildId)).filter((run) => run.outcome !== null);
  return judgeBuild(ended as JudgedRun[]);
}

const NOT_RECORDED = 'its worker said that it had ended, and has recorded nothing';

const judgedRuns = (db: Database, buildId: string) =>
  db
    .selectFrom('runs')
    .select(['id', 'outcome', 'cause'])
    .where('build_id', '=', buildId)
    .orderBy('position')
    .execute();
