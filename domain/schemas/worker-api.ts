// Owns the shapes that cross HTTP between a cluster's workers and the API, under /v1/worker.
// Read by api/ (checks at the door) and adapters/worker-api.ts (checks the answers).
import { z } from 'zod';
import { LogGap, NotStoredFiles } from './api';
import { Make } from './blueprints';
import { MachineFacts, Reach } from './hosts';
import { PlannedRun } from './plan';
import { Cause, RunState } from './words';

const count = z.number().int().nonnegative();
/** The largest number that a column of attempts takes. */
export const INT_MAX = 2 ** 31 - 1;
const attemptNumber = z.number().int().positive().max(INT_MAX);
/** For what is kept or shown as a text: neither PostgreSQL nor a terminal takes every character. */
const plain = (min: number, max: number) =>
  z
    .string()
    .min(min)
    .max(max)
    .regex(/^[^\p{Cc}]*$/u, 'must have no control characters');

/** What came of trying whether a host that failed works again. */
const Proof = z.strictObject({
  fault: plain(1, 500).nullable().describe('why it does not; null: it does'),
  beganMsAgo: count.describe('ms since the try began, by the clock of the worker alone'),
});
export type Proof = z.infer<typeof Proof>;
const proveEveryMs = count
  .optional()
  .describe('it failed, and is to be tried so often, ms; absent: it is well, or the server is too old to ask');

export const Hello = z.strictObject({
  worker: z.uuid().describe('kept on disk by the worker, the same after a restart'),
  cluster: z.string().min(1),
  host: plain(1, 200),
  labels: z
    .array(plain(1, 200))
    .max(100)
    .refine((labels) => labels.join('').length <= 4096, 'must have 4096 characters at most, all together'),
  slots: z.number().int().min(1).max(1000),
  version: plain(0, 64),
  notAccepting: plain(1, 300).nullish().describe('why it takes no new runs; absent: it does'),
  load: z.number().nonnegative().nullish().describe('runnable processes over the last minute'),
  freeDiskBytes: count.nullish().describe('where its runs lie'),
  release: z
    .strictObject({
      runs: z
        .string()
        .max(100)
        .nullable()
        .describe('digest of the release that it runs; null: what is installed there'),
      failed: z
        .strictObject({ id: z.uuid(), reason: plain(1, 500) })
        .nullable()
        .describe('the pin that it could not take'),
    })
    .nullish()
    .describe('null: it takes no releases; absent: it does not know yet whether the server knows this field'),
  machine: MachineFacts.extend({ engine: z.enum(['docker', 'shell']).describe('shell: it has no containers') })
    .optional()
    .describe('of its host; absent: it does not know yet whether the server knows this field'),
  proof: Proof.optional().describe('of its host; absent: it was not asked for, or is under way'),
});
export type Hello = z.infer<typeof Hello>;

export const HelloReply = z.object({
  enlisted: z.boolean().describe('false: wait for an admin, and say hello again'),
  serverVersion: z.string(),
  heldSlots: count.optional().describe('slots of its host under a live lease; absent: the server is too old to say'),
  upgrade: z
    .object({ id: z.uuid().describe('of the pin'), signed: z.string().describe('compact JWS of a SignedRelease') })
    .nullish()
    .describe('the release to take now; null: none; absent: the server does not know of releases'),
  proveEveryMs,
  knowsMachines: z.boolean().optional().describe('a hello may say what machine its host is; absent: it may not'),
});
export type HelloReply = z.infer<typeof HelloReply>;

/** What the maker of a release signs. */
export const SignedRelease = z.strictObject({
  version: plain(1, 64),
  digest: z
    .string()
    .regex(/^sha256:[0-9a-f]{64}$/)
    .describe('of the archive'),
  sizeBytes: z.number().int().positive().describe('of the archive, bytes'),
});
export type SignedRelease = z.infer<typeof SignedRelease>;

export const LeaseAsk = z.strictObject({
  runId: z.uuid(),
  attempt: attemptNumber,
  worker: z.uuid(),
  move: count.optional().describe('how often the run had been moved when its task was made; absent: not known'),
});
export type LeaseAsk = z.infer<typeof LeaseAsk>;

const HostsBeside = z
  .array(z.strictObject({ name: z.string(), host: z.string(), reach: Reach.nullable() }))
  .optional()
  .describe('hosts that it has beside that one, by the names that the run gives them; absent: none');
export type HostBeside = NonNullable<z.infer<typeof HostsBeside>>[number];

export const Lease = z.strictObject({
  kind: z.literal('granted'),
  token: count.describe('fencing token; every later call names it'),
  project: z.string(),
  build: count,
  run: z.string(),
  runUrl: z.string(),
  spec: PlannedRun,
  host: z.string(),
  reach: Reach.optional().describe('of a listed host; absent: it is the machine of the worker'),
  beside: HostsBeside,
  image: z.string().describe('what to make the container from: the reference, or the digest of an earlier attempt'),
  leasedForMs: count.describe('ms since the slot was granted'),
  silentForMs: count.describe('ms since the script started or its last output came home'),
  mayHaveStarted: z.boolean().describe('the script may have been started: adopt, never create again'),
  logBytes: count.describe('bytes of the log that are at home'),
  logCapBytes: z.number().int().positive().describe('size from which on only the head and the tail of a log are kept'),
});
export type Lease = z.infer<typeof Lease>;

export const LeaseReply = z.discriminatedUnion('kind', [
  Lease,
  z.strictObject({ kind: z.literal('elsewhere'), queue: z.string().describe('the worker that holds the lease') }),
  z.strictObject({ kind: z.literal('waiting'), reason: z.string() }),
  z.strictObject({ kind: z.literal('cancelled') }),
  z.strictObject({
    kind: z.literal('moved'),
    cluster: z.string().describe('the run waits there now'),
    move: count.describe('how often it was moved'),
  }),
  z.strictObject({
    kind: z.literal('clean'),
    token: count,
    cause: Cause.describe('how the attempt ended; its container may still be there'),
    host: z.string().optional().describe('a listed host; absent: it is the machine of the worker'),
    reach: Reach.optional(),
    beside: HostsBeside,
  }),
  z.strictObject({ kind: z.literal('ended'), cause: Cause }),
]);
export type LeaseReply = z.infer<typeof LeaseReply>;

/** Query of every call about one attempt. */
export const HolderQuery = z.object({ token: z.coerce.number().int().positive() });
export const ReleaseQuery = z.object({
  beside: z.string().default('').describe('name of a host beside its own; empty: its own'),
});

export const Progress = z.strictObject({
  state: RunState.extract(['preparing', 'running', 'collecting']),
  starting: z.boolean().optional().describe('the script is about to be started'),
  containerId: plain(0, 200).optional(),
  imageDigest: plain(0, 500).optional(),
  startedAt: z.iso.datetime().optional(),
  logGap: LogGap.optional().describe('the log may lack something from now on; told at once, since its finder may die'),
});
export type Progress = z.infer<typeof Progress>;

/** What a worker found for the ref of its run, and the commit that counts for its build. */
export const FoundCommit = z.strictObject({
  commit: z.string().regex(/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/, 'must be the whole id of a commit'),
});

export const LogEnd = z.strictObject({ bytes: count.describe('where the log ends now; go on from there') });

export const Result = z.strictObject({
  cause: Cause,
  message: z
    .string()
    .max(4096)
    .overwrite((text) => text.replaceAll('\0', '')),
  exitCode: z.number().int().min(-INT_MAX).max(INT_MAX).nullable(),
  logGaps: z.array(LogGap).max(10).optional().describe('what the log lacks; absent: nothing'),
  notStored: NotStoredFiles.optional().describe('what of /archive is no artifact; absent: nothing'),
});
export type Result = z.infer<typeof Result>;

/** An attempt whose script was never begun, for the sake of its host, and of which nothing is left there. */
export const HandBack = z.strictObject({ cause: Cause, message: Result.shape.message });
export type HandBack = z.infer<typeof HandBack>;
export const HandBackReply = z.object({
  isTaken: z.boolean().describe('false: it was handed back too often; end the attempt'),
});

/** What may be sent of the artifacts of an attempt, and what is stored of it already. */
export const Collecting = z.object({
  limits: z.object({
    fileBytes: z.number().describe('of one file'),
    bytes: z.number().describe('of all files'),
    files: z.number(),
  }),
  stored: z.array(z.object({ path: z.string(), sizeBytes: count, digest: z.string() })),
});
export type Collecting = z.infer<typeof Collecting>;

export const ResultReply = z.object({
  heldUntil: z.iso.datetime().nullish().describe('until when what it left is kept as it is; null: clean up now'),
});

export const Stored = z.strictObject({ sizeBytes: count, digest: z.string() });
export type Stored = z.infer<typeof Stored>;

const AttemptKey = z.strictObject({ runId: z.uuid(), attempt: attemptNumber });
export type AttemptKey = z.infer<typeof AttemptKey>;
/** Names an attempt and the supervisor that has it. */
export type HolderKey = AttemptKey & { token: number };

/** What a worker found of a listed host that it serves: `machine`, or the `fault` that keeps it from working there. */
export const HostProbe = z.strictObject({
  host: z.string(),
  fault: plain(1, 500).optional(),
  machine: MachineFacts.optional(),
  notAccepting: plain(1, 300).nullish().describe('why it takes no new runs though it is well; null: it does'),
  proof: Proof.optional(),
});
export type HostProbe = z.infer<typeof HostProbe>;
/** Hosts of a blueprint that a worker found where they are made. */
const FoundHosts = z.strictObject({
  blueprint: z.uuid(),
  hosts: z
    .array(z.strictObject({ host: z.string(), isAlive: z.boolean().describe('false: it is there, but off') }))
    .max(10_000),
});
export type FoundHosts = z.infer<typeof FoundHosts>;
export const HostsAsk = z.strictObject({
  worker: z.uuid(),
  probes: z.array(HostProbe).max(10_000),
  engine: plain(1, 200).optional().describe('id of the Docker engine that it can make hosts on; absent: none'),
  found: z.array(FoundHosts).max(100).optional().describe('of blueprints that were looked at since the last time'),
});
export const HostsReply = z.object({
  hosts: z.array(z.object({ name: z.string(), reach: Reach, proveEveryMs })).describe('those that it is to serve now'),
  blueprints: z.array(z.object({ id: z.uuid(), make: Make })).describe('of its cluster, to be looked at now and then'),
  orphans: z
    .array(z.object({ blueprint: z.uuid(), host: z.string() }))
    .describe('of what it found: those that nobody needs'),
});
export type HostsReply = z.infer<typeof HostsReply>;
export type ServedHost = HostsReply['hosts'][number];

/** What a worker finds on its machine of attempts; the answer names those whose remains nobody needs. */
export const RemainsList = z.strictObject({
  worker: z.uuid(),
  found: z.array(AttemptKey).max(10_000).describe('all of them: containers, folders, and what it supervises now'),
  hosts: z.array(z.string()).max(10_000).optional().describe('listed hosts that it could look at; absent: none'),
  isPart: z.boolean().optional().describe('there may be more than what was found; absent: that is all'),
});
export const OrphanList = z.strictObject({ orphans: z.array(AttemptKey) });

/** Attempts of which a worker has something and wants to know how they stand. */
export const StandingAsk = z.strictObject({ worker: z.uuid(), attempts: z.array(AttemptKey).max(10_000) });
const Standing = z.object({
  ...AttemptKey.shape,
  isKnown: z.boolean().describe('false: no row knows of it'),
  isCancelled: z.boolean().describe('somebody wants it to end, or its build or another cell of its job does'),
});
export type Standing = z.infer<typeof Standing>;
export const StandingList = z.object({ attempts: z.array(Standing) });
