// Owns the shapes of clusters, their keys and workers, of API tokens and of the audit, as they cross HTTP under /v1.
// Read by api/ (checks at the door), cli/ and web/ (types of the answers), and adapters/cluster-keys.ts (the keys).
import { z } from 'zod';

const instant = z.string().describe('ISO 8601 instant in UTC');
const count = z.number().int().nonnegative();

/** Names become part of queues and URLs for ever, so they are plain. */
const NAME = /^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$/;
export const plainName = () =>
  z.string().regex(NAME, 'use 1 to 64 of a-z 0-9 . _ - and begin and end with a letter or digit');
export const ClusterName = plainName();
/** As the forge has it, in lower case: `github.com/acme`, or just `acme`. */
export const Organisation = z
  .string()
  .regex(/^[a-z0-9](?:[a-z0-9._/-]{0,98}[a-z0-9])?$/, 'use 1 to 100 of a-z 0-9 . _ - /, e.g. acme');

const base64url32 = z.string().regex(/^[\w-]{43}$/, 'must be 32 bytes as base64url');
/** RFC 8037; a private part is refused, so that nobody hands it over by mistake. */
export const PublicKey = z.strictObject({
  kty: z.literal('OKP'),
  crv: z.literal('Ed25519'),
  x: base64url32.describe('the public key itself'),
  kid: z.string().min(1).max(100).describe('its name in the cluster; by default its RFC 7638 thumbprint'),
  exp: z.number().int().positive().optional().describe('end of its validity, s since 1970'),
});
export type PublicKey = z.infer<typeof PublicKey>;

export const Policy = z.strictObject({
  allowPrivileged: z.boolean().describe('runs may ask for privileged containers and capabilities'),
  maxCpus: z.number().positive().nullable().describe('CPU cores that one run may ask for; null: no limit'),
  maxMemoryBytes: z.number().int().positive().nullable().describe('bytes that one run may ask for; null: no limit'),
  maxArtifactBytes: z
    .number()
    .int()
    .positive()
    .nullable()
    .describe('bytes of artifacts that one run may store; null: as many as it asks for'),
  maxSlotsPerProject: z.number().int().positive().nullable().describe('slots one project may hold at once; null: all'),
});
export type Policy = z.infer<typeof Policy>;

const fields = {
  description: z.string().max(1000).describe('free text'),
  maintainer: z.string().max(200).describe('whom to ask, e.g. a mail address'),
  kind: z
    .enum(['default', 'specialised'])
    .describe('default: takes any run by its weight; specialised: only runs that name it or need its labels'),
  weight: z.number().int().min(0).max(100).describe('share among default clusters; 0: only runs that name it'),
  organisations: z
    .array(Organisation)
    .max(1000)
    .describe('projects of these alone may use it; empty: every project, for a default cluster only'),
  owner: Organisation.nullable().describe('its admins manage this cluster too; null: admins of the server alone'),
  policy: Policy.partial().describe('what runs may ask for; what is left out stays'),
  active: z.boolean().describe('false: it gets no new runs'),
  enlistAutomatically: z.boolean().describe('workers that hold a key of the cluster count at once'),
};

export const CreateCluster = z.strictObject({
  name: ClusterName,
  description: fields.description.default(''),
  maintainer: fields.maintainer.default(''),
  kind: fields.kind.default('default'),
  weight: fields.weight.default(100),
  organisations: fields.organisations.default([]),
  owner: fields.owner.default(null),
  policy: fields.policy.default({}),
  active: fields.active.default(true),
  enlistAutomatically: fields.enlistAutomatically.default(false),
  keys: z.array(PublicKey).max(20).default([]).describe('public keys of its workers; more can be added later'),
});
export type CreateCluster = z.infer<typeof CreateCluster>;
export const EditCluster = z.strictObject(fields).partial();
export type EditCluster = z.infer<typeof EditCluster>;

export const ClusterKey = z.strictObject({
  kid: z.string(),
  x: z.string(),
  createdAt: instant,
  createdBy: z.string(),
  expiresAt: instant.nullable(),
  revokedAt: instant.nullable(),
});

export const FleetWorker = z.strictObject({
  id: z.uuid(),
  host: z.string().nullable().describe('name of the host it serves; null while it is not enlisted'),
  enlisted: z.boolean().describe('false: it gets no work until an admin of its cluster enlists it'),
  slots: count,
  busySlots: count,
  version: z.string(),
  isSameVersion: z.boolean().describe('false: the server is of another version'),
  notAccepting: z.string().nullable().describe('why it takes no new runs; null: it does'),
  load: z.number().nullable().describe('runnable processes over the last minute'),
  freeDiskBytes: count.nullable().describe('where its runs lie'),
  takesReleases: z.boolean().describe('it knows the key of a maker of releases, and upgrades itself'),
  upgradeFailure: z.string().nullable().describe('why it could not take the pinned release; null: nothing went wrong'),
  connected: z.boolean(),
  firstSeenAt: instant,
  lastSeenAt: instant,
});
export type FleetWorker = z.infer<typeof FleetWorker>;

export const Drain = z.strictObject({
  reason: z.string(),
  by: z.string(),
  since: instant,
  deadline: instant.nullable().describe('when what still runs is to be cancelled; null: it may finish'),
});
export type Drain = z.infer<typeof Drain>;

export const ClusterSummary = z.strictObject({
  name: z.string(),
  ...fields,
  policy: Policy,
  queue: z.string().describe('task queue of its new work in Temporal'),
  status: z.string().describe('active, inactive, draining (N left) or drained'),
  drain: Drain.nullable().describe('null: it is not in maintenance'),
  runs: z.strictObject({ waiting: count, running: count }),
  slots: z.strictObject({ total: count, busy: count }).describe('of workers that are connected and enlisted'),
  workers: z.strictObject({ connected: count, toEnlist: count }),
  createdAt: instant,
  urls: z.strictObject({ self: z.string() }),
});
export type ClusterSummary = z.infer<typeof ClusterSummary>;
/** Query of the call that pins a release; its body is the archive. */
export const PinRelease = z.strictObject({
  signed: z.string().min(1).max(4096).describe('compact JWS, as `slipway release sign` makes it'),
  canaries: z.coerce.number().int().min(1).max(100).default(1).describe('workers that take it first'),
  holdMs: z.coerce
    .number()
    .int()
    .min(0)
    .max(7 * 86_400_000)
    .default(600_000)
    .describe('how long every canary must have run it before the others take it'),
});
export type PinRelease = z.infer<typeof PinRelease>;
export const Release = z.strictObject({
  version: z.string(),
  digest: z.string(),
  sizeBytes: count,
  canaries: count,
  holdMs: count,
  by: z.string(),
  since: instant,
  state: z.string().describe('how far it is, in words'),
});
export type Release = z.infer<typeof Release>;

export const Cluster = ClusterSummary.extend({
  release: Release.nullable().describe('what its workers are to run; null: what is installed there'),
  keys: z.array(ClusterKey),
  fleet: z.array(FleetWorker),
});
export type Cluster = z.infer<typeof Cluster>;
export const ClusterList = z.strictObject({ clusters: z.array(ClusterSummary) });

export const DrainRequest = z.strictObject({
  reason: z.string().min(1).max(1000).describe('why; people who wait read it'),
  deadline: z.iso.datetime().optional().describe('what still runs then is cancelled; absent: it may finish'),
});
export const DrainPreview = z.strictObject({
  running: z.array(z.string()).describe('PROJECT/NUMBER/RUN that would finish there first'),
  moves: z.array(z.strictObject({ run: z.string(), to: z.string() })),
  stays: z.array(z.strictObject({ run: z.string(), why: z.string() })),
});
export type DrainPreview = z.infer<typeof DrainPreview>;

export const Role = z
  .enum(['admin', 'org-admin'])
  .describe('org-admin: manages clusters and projects of one organisation');
export type Role = z.infer<typeof Role>;
export const CreateToken = z
  .strictObject({
    name: z.string().min(1).max(100).describe('whose it is; the audit shows it'),
    role: Role,
    organisation: Organisation.optional().describe('of an org-admin'),
    expiresAt: z.iso.datetime().optional().describe('default: in 90 days'),
  })
  .refine(({ role, organisation }) => (role === 'org-admin') === (organisation !== undefined), {
    message: 'an org-admin has an organisation, an admin has none',
    path: ['organisation'],
  });
export type CreateToken = z.infer<typeof CreateToken>;
export const TokenSummary = z.strictObject({
  id: z.uuid(),
  name: z.string(),
  role: Role,
  organisation: z.string().nullable(),
  createdAt: instant,
  expiresAt: instant,
  revokedAt: instant.nullable(),
});
export type TokenSummary = z.infer<typeof TokenSummary>;
export const NewToken = TokenSummary.extend({ token: z.string().describe('shown this once; only its digest is kept') });
export const TokenList = z.strictObject({ tokens: z.array(TokenSummary) });

export const AuditEntry = z.strictObject({
  id: count,
  at: instant,
  actor: z.string().describe('token, or cluster and worker; `-` when nobody could be told'),
  action: z.string().describe('e.g. cluster.create, worker.refused'),
  subject: z.string(),
  allowed: z.boolean(),
  detail: z.string(),
});
export type AuditEntry = z.infer<typeof AuditEntry>;
export const AuditPage = z.strictObject({ entries: z.array(AuditEntry).describe('newest first') });
