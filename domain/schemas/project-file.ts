// Owns the shape of a project file: every key, its unit and its range, in the form people write it.
// Read by adapters/project-file.ts (checks at the door, JSON Schema for editors); as a type by domain/.
import { z } from 'zod';

// The reader hands over every scalar as the text it is in the file, so `1.10` stays `1.10`. Keys that need a number
// or a flag turn that text into one here; all others keep it. Plain numbers and booleans are taken too.
const NUMBER = /^[+-]?(?:0|[1-9]\d*)(?:\.\d+)?$/;
const FLAGS: ReadonlyMap<string, boolean> = new Map([
  ...['true', 'yes', 'on'].map((word): [string, boolean] => [word, true]),
  ...['false', 'no', 'off'].map((word): [string, boolean] => [word, false]),
]);

const asNumber = (value: unknown): unknown => (typeof value === 'string' && NUMBER.test(value) ? Number(value) : value);
const asFlag = (value: unknown): unknown =>
  typeof value === 'string' ? (FLAGS.get(value.toLowerCase()) ?? value) : value;

const numberFrom = (low: number, high: number): z.ZodPreprocess<z.ZodNumber> =>
  z.preprocess(asNumber, z.number().min(low, `use ${low} to ${high}`).max(high, `use ${low} to ${high}`));
const wholeFrom = (low: number, high: number): z.ZodPreprocess<z.ZodNumber> =>
  z.preprocess(
    asNumber,
    z.number().int('use a whole number').min(low, `use ${low} to ${high}`).max(high, `use ${low} to ${high}`),
  );
const flag = (): z.ZodPreprocess<z.ZodBoolean> => z.preprocess(asFlag, z.boolean());
const text = (max: number): z.ZodString =>
  z.string().min(1, 'is empty; write a value or leave the key out').max(max, `use ${max} characters at most`);
const word = (max: number): z.ZodString => text(max).regex(/^\S+$/, 'use no blanks');

/** Text that YAML may take for a number or a boolean; what counts is how it is written. */
const scalar = (max: number) =>
  z
    .union([z.string(), z.number(), z.boolean()], {
      error: 'write one value: text, a number, true or false; "" for empty',
    })
    .transform(String)
    .pipe(z.string().max(max, `use ${max} characters at most`));

const ParamName = z
  .string()
  .regex(/^[^\s=]+$/, 'a parameter becomes an environment variable: use a name without blanks and "="');
/** Every cell of a matrix has all of them, so their number is multiplied. */
const MOST_PARAMS = 1000;
const isFew = (params: object): boolean => Object.keys(params).length <= MOST_PARAMS;
// Whether the kernel takes them is for domain/parameters.ts to say: it counts bytes.
const Params = z.record(ParamName, scalar(131_072)).refine(isFew, `use ${MOST_PARAMS} params at most`);

const AxisName = z
  .string()
  .regex(/^(?:host-tag|[A-Za-z_][A-Za-z0-9_]*)$/, 'name an axis with A-Z a-z 0-9 _ (no digit first), or host-tag');
const AxisValues = z.array(scalar(256)).min(1, 'an axis needs one value or more');
const Pattern = z
  .record(AxisName, scalar(256))
  .refine((pattern) => Object.keys(pattern).length > 0, 'name one axis or more, e.g. {os: a}');

const MEBIBYTE = 1024 ** 2;
const UNITS: ReadonlyMap<string, number> = new Map([
  ['k', 1024],
  ['m', MEBIBYTE],
  ['g', 1024 * MEBIBYTE],
]);
const toBytes = (size: string): number =>
  Math.floor(Number.parseFloat(size) * (UNITS.get(size.slice(-1).toLowerCase()) ?? 1));

const bytesFrom = (low: z.ZodNumber) =>
  z
    .union([z.string(), z.number()], { error: 'write a size such as 512m' })
    .transform(String)
    .pipe(z.string().regex(/^\d+(?:\.\d+)?[bkmg]?$/i, 'write a size such as 512m or 1.5g; units are b, k, m, g'))
    .transform(toBytes)
    .pipe(low.max(2 ** 46, 'use 65536g at most'));

const Resources = z.strictObject({
  cpus: numberFrom(0.01, 1024).optional().describe('CPU cores, 0.01 to 1024, fractions allowed'),
  memory: bytesFrom(z.number().min(6 * MEBIBYTE, 'use 6m or more'))
    .optional()
    .describe('bytes, or with b, k, m, g (steps of 1024), 6m or more; the run is killed above it'),
  pids: wholeFrom(1, 4_194_304).optional().describe('processes and threads at once, 1 to 4194304'),
  artifacts: bytesFrom(z.number())
    .optional()
    .describe(
      'bytes of all its artifacts together, or of one; with b, k, m, g (steps of 1024); default 8g, and 2g a file',
    ),
});

const Capabilities = z.array(z.string().regex(/^[A-Za-z_]+$/, 'write a Linux capability, e.g. NET_ADMIN'));
const MOST_HOSTS_BESIDE = 5;
const HostsBeside = z
  .record(
    z.string().regex(/^[a-z][a-z0-9-]{0,31}$/, 'name a host with a-z 0-9 -, a letter first, 32 characters at most'),
    text(256).describe('host-tag'),
  )
  .refine((hosts) => Object.keys(hosts).length > 0, 'name one host or more, e.g. {board: arm64}')
  .refine((hosts) => Object.keys(hosts).length <= MOST_HOSTS_BESIDE, `name ${MOST_HOSTS_BESIDE} hosts at most`);
const timeout = () => numberFrom(0.001, 43_200);

const priority = () => wholeFrom(1, 5).optional();
const cluster = () =>
  text(64)
    .regex(/^[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?$/, 'use a-z 0-9 . _ - and begin and end with a letter or digit')
    .optional();

const timeouts = {
  waiting: timeout().optional().describe('minutes until a host takes the run; default 10080 (a week)'),
  start: timeout().optional().describe('minutes from its host to its first command, pulls included; default 60'),
  idle: timeout().optional().describe('minutes without output; default: no limit'),
};
const hold = () => numberFrom(0, 1440).optional();
const budget = () => wholeFrom(0, 10).optional();
const Retry = z.strictObject({
  infrastructure: budget().describe('further attempts after a lost host, engine or container, 0 to 10; default 2'),
  failure: budget().describe('further attempts after a failed script, 0 to 10; default 0'),
  timeout: budget().describe('further attempts after a time-out of start, run or output, 0 to 10; default 0'),
});

const CONTAINER_USER = /^[^\s:\p{Cc}+-][^\s:\p{Cc}]*(?::[^\s:\p{Cc}+-][^\s:\p{Cc}]*)?$/u;
/** The largest that an engine takes. */
const MOST_UID = 2 ** 31 - 1;
const containerUser = () =>
  text(256)
    .regex(CONTAINER_USER, 'write user, uid, user:group or uid:gid, without blanks; neither begins with "-" or "+"')
    .refine(
      (user) => user.split(':').every((part) => !/^\d+$/.test(part) || Number(part) <= MOST_UID),
      `a uid or gid is ${MOST_UID} at most`,
    );

/** What a run says about its container, and what an override may say anew for some cells. */
const settings = {
  'container-user': containerUser()
    .optional()
    .describe('user or uid[:gid] in the container; default: that of the image'),
  'container-entrypoint': z.string().max(4096).optional().describe('replaces that of the image; "" clears it'),
  privileged: flag().optional().describe('full access to the host, where the cluster allows it; default false'),
  'cap-add': Capabilities.optional().describe('Linux capabilities to add'),
  'cap-drop': Capabilities.optional().describe('Linux capabilities to drop'),
  cluster: cluster().describe('cluster that takes it; default: as in the trigger, else in the file, else placed'),
  'host-tag': text(256).optional().describe('glob over host name and labels, case ignored; default: any host'),
  hosts: HostsBeside.optional().describe(
    'name → host-tag of further hosts that it has at the same time, 5 at most, for slipway on, copy and release',
  ),
  params: Params.optional().describe('environment variables; values are taken as written'),
  timeout: timeout().optional().describe('minutes, 0.001 to 43200, fractions allowed; default: that of the file'),
  checkout: flag()
    .optional()
    .describe('false: /repo of this run stays empty; default true, where the file has a repository'),
  timeouts: z.strictObject(timeouts).optional().describe('further limits of a run; default: those of the file'),
  retry: Retry.optional().describe('further attempts by what went wrong; default: as in the file'),
  hold: hold().describe(
    'minutes for which its host is kept when it has failed for good, 0 to 1440; default: as in the file',
  ),
  priority: priority().describe(
    '1 (first) to 5 (last): whose turn it is when several runs wait; default: as in the trigger',
  ),
  resources: Resources.optional().describe('limits of the container; default: none'),
};

const Override = z.strictObject({
  match: Pattern.describe('axis → value; the cells that have all of these values'),
  container: word(512).optional().describe('image of these cells'),
  script: text(256).optional().describe('name of an entry of scripts'),
  ...settings,
});
export type Override = z.infer<typeof Override>;

const MatrixEntry = z.strictObject({
  axes: z
    .record(AxisName, AxisValues)
    .refine((axes) => Object.keys(axes).length > 0, 'name one axis or more, e.g. {os: [a, b]}')
    .refine((axes) => Object.keys(axes).length <= 16, 'use 16 axes at most')
    .refine((axes) => !Object.hasOwn(axes, 'loop'), '"loop" is taken by the placeholder {loop}; choose another name')
    .describe('1 to 16 of axis → values; every combination is a cell, the last axis varies fastest'),
  exclude: z.array(Pattern).max(200, 'use 200 entries at most').optional().describe('cells to leave out, 200 at most'),
  include: z
    .array(Params)
    .max(1000, 'use 1000 entries at most')
    .optional()
    .describe('cells to add: a value for every axis, and parameters of that cell, 1000 at most'),
  overrides: z
    .array(Override)
    .max(200, 'use 200 entries at most')
    .refine(
      (overrides) => overrides.reduce((sum, { params = {} }) => sum + Object.keys(params).length, 0) <= MOST_PARAMS,
      `use ${MOST_PARAMS} params in all overrides at most`,
    )
    .optional()
    .describe('other settings for some cells, 200 at most; the later entry wins'),
  'max-parallel': wholeFrom(1, 1000).optional().describe('cells running at once, 1 to 1000; default: no limit'),
  'fail-fast': flag().optional().describe('the first cell that fails cancels the others; default false'),
});

export const RunEntry = z.strictObject({
  name: text(256).describe('name of the run; may hold {loop} and {axis}; up to 79 characters once filled'),
  container: word(512).describe('image reference; may hold {axis}'),
  script: text(256).describe('name of an entry of scripts'),
  ...settings,
  'loop-on': z
    .array(
      z.strictObject({
        param: AxisName.describe('environment variable to set, or host-tag'),
        values: AxisValues.describe('one run for each'),
      }),
    )
    .min(1, 'name one param or more')
    .max(16, 'use 16 params at most')
    .optional()
    .describe('matrix in the words of JobServ; the last param varies fastest'),
  matrix: MatrixEntry.optional().describe('matrix with include, exclude, overrides and limits'),
  needs: z
    .array(text(256))
    .min(1, 'name one run or more')
    .max(1000, 'name 1000 runs at most')
    .optional()
    .describe('names of runs of this trigger that must be finished first, 1000 at most, each once'),
  'needs-on': z
    .enum(['success', 'failure', 'always'])
    .optional()
    .describe(
      'success: all needs passed (default); failure: one failed, errored or timed out; always: they are finished',
    ),
});
export type RunEntry = z.infer<typeof RunEntry>;

const TriggerEntry = z.strictObject({
  name: text(80).describe('name of the trigger, unique in the file, 1 to 80 characters'),
  type: z
    .enum(['git_poller', 'github_pr', 'gitlab_mr', 'simple'])
    .default('simple')
    .describe('what starts it besides the API; simple: nothing else'),
  params: Params.optional().describe('environment variables of all its runs'),
  priority: priority().describe('1 (first) to 5 (last), of all its runs; default: as in the file'),
  cluster: cluster().describe('cluster of all its runs'),
  runs: z.array(RunEntry).min(1, 'a trigger needs one run or more').describe('1 to 1000 runs once expanded'),
});
export type TriggerEntry = z.infer<typeof TriggerEntry>;

const RepositoryEntry = z.strictObject({
  url: text(2048).describe(
    'https://…, ssh://…, git://…, file://… or user@host:path, without a password or a token: hosts use the credentials of their own user',
  ),
  ref: text(256)
    .optional()
    .describe('branch, tag, commit, or a whole ref such as refs/pull/7/head; default: the default branch'),
  submodules: flag().optional().describe('default true'),
  lfs: flag().optional().describe('files kept by git-lfs, where the host has it; default true'),
});
export type RepositoryEntry = z.infer<typeof RepositoryEntry>;

const Scripts = z.record(text(256), z.string().min(1, 'is empty; write a program, e.g. starting with #!/bin/sh'));

export const ProjectFile = z.strictObject({
  timeout: timeout().describe('minutes, 0.001 to 43200, from the start of the container to its last artifact'),
  timeouts: z
    .strictObject({
      ...timeouts,
      build: timeout().optional().describe('minutes for the whole build; default 43200 (30 days)'),
    })
    .optional()
    .describe('further limits of all runs, and that of the build'),
  retry: Retry.optional().describe('further attempts of all runs by what went wrong'),
  hold: hold().describe('minutes for which the hosts of runs that failed for good are kept, 0 to 1440; default 0'),
  priority: priority().describe('1 (first) to 5 (last), of all runs; default 3'),
  description: z.string().max(4096).optional().describe('free text, up to 4096 characters'),
  params: Params.optional().describe('environment variables of all runs'),
  repository: RepositoryEntry.optional().describe(
    'checked out into /repo of all runs; parameters GIT_URL, GIT_REF and GIT_SHA replace what it says',
  ),
  cluster: cluster().describe('cluster of all runs'),
  scripts: Scripts.default({}).describe('name → program text, executed as a file'),
  triggers: z
    .array(TriggerEntry)
    .min(1, 'a project needs one trigger or more')
    .max(100, 'use 100 triggers at most')
    .describe('1 to 100; a build is one of them, by default the first'),
});
export type ProjectFile = z.infer<typeof ProjectFile>;

/** Keys of JobServ that this version refuses by name, so that none of them is silently without effect. */
export const KEYS_NOT_SUPPORTED = {
  file: ['email', 'webhooks', 'script-repos'],
  trigger: ['email', 'webhooks', 'triggers'],
  run: [
    'container-auth',
    'script-repo',
    'persistent-volumes',
    'shared-volumes',
    'test-grepping',
    'console-progress',
    'triggers',
  ],
} as const;
