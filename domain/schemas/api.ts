// Owns the shapes that cross HTTP between people and the API: every request and answer under /v1.
// Read by api/ (checks at the door), cli/ and web/ (types of the answers).
import { z } from 'zod';
import { ClusterName, Organisation, plainName } from './clusters';
import { Plan, PlannedRun, Priority } from './plan';
import { BuildState, Cause, Outcome, Problem, RunState, Status } from './words';

const instant = z.string().describe('ISO 8601 instant in UTC');
const count = z.number().int().nonnegative();

/** Names become part of URLs, workflow ids and queues for ever, so they are plain. */
export const ProjectName = plainName();
export const RunName = z
  .string()
  .regex(
    /^[A-Za-z0-9*?[][A-Za-z0-9 ._+=,@:*?![\]()-]{0,78}$/,
    'use 1 to 79 of A-Z a-z 0-9 blank . _ + = , @ : * ? ! [ ] ( ) - and begin with a letter, a digit, * ? or [',
  );

/** RFC 9457 answer to anything refused. */
export const ErrorAnswer = z.strictObject({
  type: z.string().describe('urn:slipway:problem:<code>'),
  title: z.string(),
  status: z.number().int(),
  detail: z.string().describe('what happened, which thing, and what to do next'),
  problems: z.array(Problem).optional(),
});
export type ErrorAnswer = z.infer<typeof ErrorAnswer>;

const Definition = z.string().min(1).describe('project file, YAML text, 1 MiB at most');
const Params = z
  .record(z.string(), z.string())
  .refine((params) => Object.keys(params).length <= 1000, 'use 1000 params at most')
  .describe('parameters of the caller, 1000 at most; they win over those in the file');
const priority = Priority.optional().describe(
  '1 (first) to 5 (last), of all runs of the build; it wins over those in the file; default: those, else 3',
);

const Hold = z.number().int().min(1).max(1440).describe('minutes, 1 to 1440, from now on');
const hold = Hold.optional().describe(
  'minutes for which the hosts of runs that fail for good are kept, 1 to 1440, whatever the file says',
);
export const HoldRequest = z.strictObject({ minutes: Hold });

const ofProject = {
  organisation: Organisation.nullish().describe('whose clusters it may use; an operator of that organisation sets it'),
};
export const CreateProject = z.strictObject({ name: ProjectName, definition: Definition, ...ofProject });
export const ReplaceProject = z.strictObject({ definition: Definition, ...ofProject });
export const ValidateRequest = z.strictObject({ definition: Definition });
export const TriggerRequest = z.strictObject({
  trigger: z.string().optional().describe('name of a trigger in the project file; default: the first'),
  params: Params.default({}),
  priority,
  cluster: ClusterName.optional().describe('cluster that takes all its runs, whatever the file says; default: placed'),
  reason: z.string().max(4096).default('').describe('free text shown with the build'),
  hold,
});
export type TriggerRequest = z.infer<typeof TriggerRequest>;
export const RerunRequest = z.strictObject({
  runs: z
    .union([z.enum(['all', 'failed']), z.array(RunName).min(1).max(1000)])
    .default('all')
    .describe('all; failed: what did not pass; or names. Runs that need one of them are run again as well'),
  hold,
});
export type RerunRequest = z.infer<typeof RerunRequest>;
export const PlanRequest = z.strictObject({
  definition: Definition.optional().describe('default: the definition the project has now'),
  trigger: z.string().optional(),
  params: Params.default({}),
  priority,
  cluster: ClusterName.optional(),
});

export const PlanAnswer = z.strictObject({
  digest: z.string().describe('sha256:<hex> of the canonical plan'),
  plan: Plan,
});
export type PlanAnswer = z.infer<typeof PlanAnswer>;
export const PlanPreview = PlanAnswer.extend({
  places: z
    .array(z.strictObject({ run: z.string(), cluster: z.string(), reason: z.string() }))
    .describe('where its runs would go if it were triggered now'),
});
export type PlanPreview = z.infer<typeof PlanPreview>;

export const RunCounts = z.strictObject({
  total: count,
  queued: count.describe('not yet holding a host'),
  running: count.describe('leasing to collecting'),
  passed: count,
  failed: count,
  errored: count,
  cancelled: count,
  timedOut: count,
  skipped: count,
});
export type RunCounts = z.infer<typeof RunCounts>;

export const BuildSummary = z.strictObject({
  project: ProjectName,
  number: z.number().int().positive(),
  state: BuildState,
  outcome: Outcome.nullable(),
  cause: Cause.nullable(),
  status: Status.describe('the word to show'),
  trigger: z.string(),
  reason: z.string(),
  params: z.record(z.string(), z.string()),
  planDigest: z.string(),
  commits: z
    .array(
      z.strictObject({
        url: z.string(),
        ref: z
          .string()
          .describe('branch, tag or whole ref that was looked up; the commit itself where a commit was given'),
        commit: z.string().describe('whole id, the same for every run, attempt and rerun of the build'),
      }),
    )
    .describe(
      'what its repositories are checked out at, in the order of their first use, 20 at most; empty: not known yet',
    ),
  counts: RunCounts,
  reruns: count.describe('how often it was run again, 0 at first'),
  createdAt: instant,
  startedAt: instant.nullable(),
  rerunAt: instant.nullable().describe('when it was run again for the last time'),
  finishedAt: instant.nullable(),
  urls: z.strictObject({
    self: z.string().describe('this build in the API'),
    page: z.string().describe('this build for people'),
    trace: z.string().describe('this build in the Temporal Web UI'),
  }),
});
export type BuildSummary = z.infer<typeof BuildSummary>;

export const RunSummary = z.strictObject({
  name: RunName,
  job: z.string(),
  cell: z.record(z.string(), z.string()),
  state: RunState,
  outcome: Outcome.nullable(),
  cause: Cause.nullable(),
  status: Status,
  message: z.string().describe('one sentence on how it ended; empty when there is nothing to add'),
  waiting: z
    .string()
    .nullable()
    .describe('why it does not run yet, or does not get on, one sentence; null: it does, or is finished'),
  attempt: count.describe('number of the newest attempt, 0 before the first'),
  exitCode: z.number().int().nullable(),
  commit: z
    .string()
    .nullable()
    .describe('that its checkout is of; null: it has none, or its ref was not looked up yet'),
  cluster: z.string(),
  placement: z.strictObject({
    reason: z.string().describe('why it is in this cluster'),
    pinned: z.boolean().describe('it names its cluster, so it is never moved'),
    before: z.array(z.string()).optional().describe('clusters it waited in before'),
    moves: count.optional().describe('how often it was moved; absent: never'),
  }),
  host: z.string().nullable(),
  logBytes: count,
  startedAt: instant.nullable(),
  finishedAt: instant.nullable(),
  urls: z.strictObject({ self: z.string(), page: z.string(), log: z.string(), artifacts: z.string() }),
});
export type RunSummary = z.infer<typeof RunSummary>;

export const Build = BuildSummary.extend({ runs: z.array(RunSummary).describe('in plan order') });
export type Build = z.infer<typeof Build>;

export const LogGap = z.strictObject({
  atByte: count.describe('offset in the log at which something is missing'),
  lostBytes: count.nullable().describe('how much; null: nobody knows, and it may be nothing'),
  reason: z
    .enum(['cap', 'engine-away', 'engine-restarted', 'log-damaged', 'host-lost', 'container-lost'])
    .describe(
      '`engine-restarted`: lines that the engine had read and not yet stored; it goes on behind them. ' +
        '`log-damaged`: somebody shortened or changed what the engine keeps of the output',
    ),
});
export type LogGap = z.infer<typeof LogGap>;

export const NotStoredFiles = z.strictObject({
  count: z.number().int().positive(),
  files: z
    .array(
      z.strictObject({
        path: z.string().max(300).describe('below /archive, odd bytes as \\xNN; `/`: all of it, or all that is left'),
        why: z.string().max(300),
      }),
    )
    .max(50)
    .describe('the first of them'),
});
export type NotStoredFiles = z.infer<typeof NotStoredFiles>;

export const Attempt = z.strictObject({
  number: z.number().int().positive(),
  state: RunState,
  outcome: Outcome.nullable(),
  cause: Cause.nullable(),
  message: z.string(),
  exitCode: z.number().int().nullable(),
  host: z.string().nullable(),
  hostsBeside: z
    .array(z.strictObject({ name: z.string().describe('by which the run calls it'), host: z.string() }))
    .describe('that it had at the same time'),
  worker: z.string().nullable(),
  containerId: z.string().nullable(),
  imageDigest: z.string().nullable(),
  logBytes: count,
  logComplete: z.boolean(),
  logGaps: z.array(LogGap).describe('what the log lacks; empty: every byte is there'),
  notStored: NotStoredFiles.nullable().describe('what it left in /archive and is no artifact; null: nothing'),
  createdAt: instant,
  startedAt: instant.nullable().describe('start of the container'),
  finishedAt: instant.nullable(),
});
export type Attempt = z.infer<typeof Attempt>;

export const Artifact = z.strictObject({
  path: z.string().describe('below /archive, with / as separator'),
  sizeBytes: count,
  digest: z.string().describe('sha256:<hex>'),
  contentType: z.string(),
  attempt: z.number().int().positive(),
  url: z.string(),
});
export type Artifact = z.infer<typeof Artifact>;

export const Run = RunSummary.extend({
  project: ProjectName,
  build: z.number().int().positive(),
  spec: PlannedRun,
  attempts: z.array(Attempt).describe('oldest first'),
  artifacts: z.array(Artifact).describe('of the newest attempt'),
  trace: z.string().describe('the build in the Temporal Web UI'),
  heldUntil: instant.nullable().describe('until when its hosts are kept as its script left them; null: they are not'),
});
export type Run = z.infer<typeof Run>;

export const ProjectSummary = z.strictObject({
  name: ProjectName,
  description: z.string(),
  organisation: z.string().nullable(),
  createdAt: instant,
  updatedAt: instant,
  lastBuild: BuildSummary.nullable(),
  urls: z.strictObject({ self: z.string(), page: z.string(), builds: z.string() }),
});
export type ProjectSummary = z.infer<typeof ProjectSummary>;
export const Project = ProjectSummary.extend({ definition: z.string(), triggers: z.array(z.string()) });
export type Project = z.infer<typeof Project>;

export const ProjectList = z.strictObject({ projects: z.array(ProjectSummary) });
export const BuildList = z.strictObject({
  builds: z.array(BuildSummary).describe('newest first'),
  next: z.string().nullable().describe('URL of the next page'),
});
export const ArtifactList = z.strictObject({ artifacts: z.array(Artifact) });

export const WorkerSummary = z.strictObject({
  id: z.string(),
  cluster: z.string(),
  host: z.string(),
  labels: z.array(z.string()),
  slots: count,
  busySlots: count,
  version: z.string(),
  connected: z.boolean(),
  lastSeenAt: instant,
});
export type WorkerSummary = z.infer<typeof WorkerSummary>;
export const WorkerList = z.strictObject({ workers: z.array(WorkerSummary) });

export const Ready = z.strictObject({
  ready: z.boolean(),
  checks: z.record(z.string(), z.string()).describe('part → "ok" or what is wrong'),
});
