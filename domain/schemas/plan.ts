// Owns the shape of a plan: the frozen, fully expanded list of runs of one build.
// Made by domain/plan.ts, stored with the build, interpreted by the build workflow, executed by cluster workers.
import { z } from 'zod';

const ms = z.number().int().positive();
const count = z.number().int().nonnegative();

/** Whose turn it is when several runs wait for a slot. */
export const Priority = z.number().int().min(1, 'use 1 (first) to 5 (last)').max(5, 'use 1 (first) to 5 (last)');

/** When a run that needs others may start, judged once all of them are finished. */
export const NeedCondition = z.enum(['success', 'failure', 'always']);
export type NeedCondition = z.infer<typeof NeedCondition>;

export const Resources = z.strictObject({
  cpus: z.number().positive().optional().describe('CPU cores, fractions allowed, e.g. 1.5'),
  memoryBytes: z.number().int().positive().optional().describe('bytes; the run is killed above it'),
  pids: z.number().int().positive().optional().describe('processes and threads at once'),
  artifactBytes: count.optional().describe('of all its artifacts; absent: DEFAULT_ARTIFACT_LIMITS'),
});
export type Resources = z.infer<typeof Resources>;

/** Further attempts by the kind of cause; domain/verdict.ts says which cause is of which kind. */
export const RetryBudget = z.strictObject({
  infrastructure: count.describe('lost hosts, engines and containers, full disks'),
  failure: count.describe('the script failed or ran out of memory'),
  timeout: count.describe('it did not start, said nothing, or ran for too long'),
});
export type RetryBudget = z.infer<typeof RetryBudget>;

/** What is put into /repo before the script starts. */
export const Checkout = z.strictObject({
  url: z.string().describe('of the repository, as git takes it'),
  ref: z.string().describe('branch, tag, commit, or a whole ref such as refs/pull/7/head; HEAD: the default branch'),
  submodules: z.boolean(),
  lfs: z.boolean().describe('files kept by git-lfs, where the host has it'),
});
export type Checkout = z.infer<typeof Checkout>;

export const PlannedRun = z.strictObject({
  name: z.string().describe('unique in the build, final: placeholders are expanded'),
  job: z.string().describe('the name of the run in the file that this cell came from'),
  cell: z.record(z.string(), z.string()).describe('axis → value; empty when the run has no matrix'),
  container: z.string().describe('image reference as written in the file'),
  containerUser: z.string().optional(),
  containerEntrypoint: z.string().optional().describe('empty text clears the entrypoint of the image'),
  privileged: z.boolean(),
  capAdd: z.array(z.string()),
  capDrop: z.array(z.string()),
  cluster: z.string().optional().describe('cluster that the file names; absent: placement finds one'),
  hostTag: z.string().optional().describe('lower-case glob over host name and labels; absent: any host'),
  hosts: z
    .record(z.string(), z.string())
    .optional()
    .describe('name → lower-case host-tag of each host that it has beside its own; absent: none'),
  script: z.string().describe('program text, executed as a file'),
  env: z.record(z.string(), z.string()).describe('merged parameters, see docs/project-file.md'),
  checkout: Checkout.optional().describe('absent: /repo is empty'),
  timeoutMs: ms.describe('ms from the start of the container to its last artifact'),
  waitingTimeoutMs: ms.optional().describe('ms until a host takes it; absent: DEFAULT_LIMITS of domain/build-input.ts'),
  startTimeoutMs: ms.optional().describe('ms from its lease to the start of the container; absent: as above'),
  idleTimeoutMs: ms.optional().describe('ms without output; absent: no limit'),
  priority: Priority.optional().describe('1 (first) to 5 (last); absent: 3, see domain/priority.ts'),
  retry: RetryBudget.partial().optional().describe('absent: DEFAULT_BUDGET of domain/verdict.ts'),
  holdMs: ms.optional().describe('ms for which its host is kept when it has failed for good; absent: it is not'),
  resources: Resources,
  needs: z.array(z.string()).describe('final names of the runs that must be finished first'),
  needsCondition: NeedCondition,
});
export type PlannedRun = z.infer<typeof PlannedRun>;

/** Limits that hold among the cells of one job. */
export const PlannedJob = z.strictObject({
  name: z.string(),
  maxParallel: z.number().int().positive().optional().describe('cells running at once; absent: no limit'),
  failFast: z.boolean().describe('the first cell that is not passed cancels the others'),
});
export type PlannedJob = z.infer<typeof PlannedJob>;

export const Plan = z.strictObject({
  version: z.literal(1),
  trigger: z.string().describe('name of the trigger in the file'),
  buildTimeoutMs: ms.optional().describe('ms from the first run to the verdict; absent: DEFAULT_LIMITS'),
  jobs: z.array(PlannedJob),
  runs: z.array(PlannedRun),
});
export type Plan = z.infer<typeof Plan>;
