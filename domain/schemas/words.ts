// Owns the closed lists of words every other file speaks in: states, outcomes, causes, statuses, problems.
// Read by the API, the CLI, the page (as types) and the store; the values are stored, so they are never renamed.
import { z } from 'zod';

/** Where a run or an attempt is. It only moves forward within one attempt. */
export const RunState = z.enum(['queued', 'leasing', 'preparing', 'running', 'collecting', 'finished']);
export type RunState = z.infer<typeof RunState>;

/** Where a build is. */
export const BuildState = z.enum(['queued', 'running', 'finished']);
export type BuildState = z.infer<typeof BuildState>;

/** How something ended. `failed` is the user's exit code; `errored` is ours or the machine's fault. */
export const Outcome = z.enum(['passed', 'failed', 'errored', 'cancelled', 'timed-out', 'skipped']);
export type Outcome = z.infer<typeof Outcome>;

/** Why it ended so. One closed list; `domain/verdict.ts` says which outcome each belongs to and what is retried. */
export const Cause = z.enum([
  'ok',
  'exit-code',
  'out-of-memory',
  'waiting-timeout',
  'start-timeout',
  'run-timeout',
  'idle-timeout',
  'log-limit',
  'build-timeout',
  'cancel-requested',
  'workflow-terminated',
  'fail-fast',
  'needs-not-met',
  'image-missing',
  'checkout-failed',
  'script-not-runnable',
  'container-refused',
  'disk-full',
  'engine-unavailable',
  'container-lost',
  'host-lost',
  'beside-lost',
  'artifact-upload',
  'internal',
]);
export type Cause = z.infer<typeof Cause>;

/** The one word shown to people, computed from state and outcome (see `domain/verdict.ts`). */
export const Status = z.enum([
  'queued',
  'leasing',
  'preparing',
  'running',
  'collecting',
  'failing',
  'cancelling',
  'passed',
  'failed',
  'errored',
  'cancelled',
  'timed-out',
  'skipped',
]);
export type Status = z.infer<typeof Status>;

/** One complaint about input. `path` reads like `runs[2].script`; line and column count from 1. */
export const Problem = z.strictObject({
  code: z.string().describe('stable kebab-case word, e.g. unknown-script'),
  message: z.string().describe('what is wrong and what to do'),
  path: z.string().describe('where in the document, empty for the whole'),
  line: z.number().int().positive().optional(),
  column: z.number().int().positive().optional(),
});
export type Problem = z.infer<typeof Problem>;
