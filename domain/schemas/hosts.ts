// Owns the shapes of hosts and leases as they cross HTTP, under /v1 and between the API and cluster workers.
// Read by api/ (checks at the door), cli/ and web/ (types of the answers), adapters/ and worker-api.ts.
import { z } from 'zod';

export const instant = z.string().describe('ISO 8601 instant in UTC');
const count = z.number().int().nonnegative();
/** Not empty, and without control characters. */
export const plain = (max: number) =>
  z
    .string()
    .min(1)
    .max(max)
    .regex(/^[^\p{Cc}]*$/u, 'must have no control characters');

export const HostName = z
  .string()
  .regex(/^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$/, 'use 1 to 100 of A-Z a-z 0-9 . _ -, ends alphanumeric');
export const Label = plain(200).regex(/^[^,\s](?:[^,]*[^,\s])?$/, 'use no commas, and no blanks at its ends');
export const posixPath = z
  .string()
  .max(1024)
  .regex(/^\/[^\p{Cc}]*$/u, 'write an absolute path, with / as separator');

export const MachineFacts = z.strictObject({
  os: plain(40).nullable().describe('linux, darwin or windows; null: not known'),
  arch: plain(40).nullable().describe('amd64, arm64, …; null: not known'),
  cpus: z.number().positive().nullable().describe('cores; null: not known'),
  memoryBytes: z.number().int().positive().nullable().describe('bytes; null: not known'),
});
export type MachineFacts = z.infer<typeof MachineFacts>;

/** How a worker of the cluster reaches a host that is not its own machine. No secret is in it: keys are files of the workers. */
const address = plain(255).describe('name or IP address, as the workers of the cluster see it');
const port = z.number().int().min(1).max(65_535);
const ssh = {
  address,
  port: port.default(22),
  user: plain(100).describe('on the host; without containers, runs are its processes'),
  hostKeys: z
    .array(z.string().regex(/^SHA256:[A-Za-z0-9+/]{43}$/, 'write a fingerprint as ssh-keygen -l shows it: SHA256:…'))
    .min(1, 'name one fingerprint or more; see: ssh-keyscan HOST | ssh-keygen -lf -')
    .max(10)
    .describe('the only keys under which the host is believed'),
};
export const SshReach = z.strictObject({
  kind: z.literal('ssh').describe('commands over SSH, without containers'),
  ...ssh,
  dir: posixPath.default('/var/tmp/slipway').describe('folder of the runs on the host'),
  shell: posixPath.default('/bin/sh').describe('a POSIX shell on the host; on Windows that of Git, MSYS2 or Cygwin'),
});
export type SshReach = z.infer<typeof SshReach>;

/** A container that takes runs as a machine would; made by a blueprint, never listed by hand. */
export const ContainerReach = z.strictObject({
  kind: z.literal('container').describe('commands in a container of the Docker engine of its worker'),
  engine: plain(200).describe('id of that engine: only a worker that has it can serve the host'),
  container: plain(200),
  dir: posixPath,
  shell: posixPath,
});
export type ContainerReach = z.infer<typeof ContainerReach>;

const folders = {
  dir: posixPath
    .regex(/^[^:]*$/, 'use no colons')
    .default('/var/lib/slipway')
    .describe('folder of the runs on the host'),
  helper: plain(500)
    .default('alpine/git:latest')
    .describe('image of the container by which workers get at that folder: sh, and git for checkouts'),
};
export const DockerSshReach = z.strictObject({
  kind: z.literal('docker-ssh').describe('its Docker engine, over SSH'),
  ...ssh,
  socket: posixPath.default('/var/run/docker.sock').describe('of the engine; the user must be let in'),
  ...folders,
});
export type DockerSshReach = z.infer<typeof DockerSshReach>;
const DockerTlsReach = z.strictObject({
  kind: z.literal('docker-tls').describe('its Docker engine, by TCP with TLS; keys lie with the workers'),
  address,
  port: port.default(2376),
  ...folders,
});
export type DockerTlsReach = z.infer<typeof DockerTlsReach>;

export const Reach = z.discriminatedUnion('kind', [SshReach, DockerSshReach, DockerTlsReach, ContainerReach]);
export type Reach = z.infer<typeof Reach>;
/** What can be listed by hand. */
const ListedReach = z.discriminatedUnion('kind', [SshReach, DockerSshReach, DockerTlsReach]);
export type ListedReach = z.infer<typeof ListedReach>;

const fields = {
  labels: z
    .array(Label)
    .max(100)
    .describe('what runs may ask for by host-tag; system and architecture come by themselves'),
  slots: z.number().int().min(1).max(1000).describe('runs at once'),
  reach: ListedReach,
};
export const CreateHost = z.strictObject({
  name: HostName,
  labels: fields.labels.default([]),
  slots: fields.slots.default(1),
  reach: fields.reach,
});
export type CreateHost = z.infer<typeof CreateHost>;
export const EditHost = z.strictObject(fields).partial();
export type EditHost = z.infer<typeof EditHost>;

/** ready, or why it takes no new runs. */
export const HostState = z.enum([
  'ready',
  'starting',
  'ending',
  'refusing',
  'draining',
  'drained',
  'quarantined',
  'offline',
]);
export type HostState = z.infer<typeof HostState>;

/** Of a host that a blueprint makes: asked for, being there but not yet ready, taking runs, being ended. */
export const MadePhase = z.enum(['intended', 'starting', 'ready', 'ending']);
export type MadePhase = z.infer<typeof MadePhase>;

export const HostSummary = z.strictObject({
  cluster: z.string(),
  name: z.string(),
  origin: z
    .enum(['worker', 'listed', 'made'])
    .describe('worker: the machine of a worker, which says so itself; listed: by hand; made: by a blueprint'),
  state: HostState,
  why: z.string().nullable().describe('why it takes no new runs; null: it does'),
  engine: z.enum(['docker', 'shell']).describe('what runs are: containers, or processes without one'),
  reach: Reach.nullable().describe('null: the machine of its worker'),
  labels: z.array(z.string()),
  machine: MachineFacts,
  slots: count,
  busySlots: count,
  worker: z.string().nullable().describe('id of the worker that serves it; null: none does now'),
  drain: z
    .strictObject({ reason: z.string(), by: z.string(), since: instant })
    .nullable()
    .describe('its maintenance; null: none'),
  faults: count.describe('times in a row that it failed a run or a probe'),
  quarantinedUntil: instant.nullable(),
  lastSeenAt: instant.nullable().describe('null: it never answered'),
  made: z
    .strictObject({
      blueprint: z.string().describe('its name'),
      phase: MadePhase,
      resource: z
        .string()
        .nullable()
        .describe('what it is where it was made, e.g. i-0123456789abcdef0; null: not known'),
      uses: count.describe('leases that it was given in its life'),
      since: instant.describe('when it was asked for'),
      cost: z.number().describe('by its age and the cost per hour of its blueprint'),
    })
    .nullable()
    .describe('null: no blueprint made it'),
});
export type HostSummary = z.infer<typeof HostSummary>;
export const HostList = z.strictObject({ hosts: z.array(HostSummary) });
export const HostDrain = z.strictObject({ reason: plain(1000).describe('why; people who wait read it') });

export const LeaseEvent = z.strictObject({
  at: instant,
  token: count,
  state: z.string().describe('granted, active, releasing, released or expired'),
  by: z.string().nullable().describe('id of the worker that held it then'),
  why: z.string().nullable(),
});
export const LeaseSummary = z.strictObject({
  token: count.describe('fencing token; it rises with every grant and every change of supervisor'),
  cluster: z.string(),
  host: z.string(),
  slot: count,
  project: z.string(),
  build: count,
  run: z.string(),
  attempt: count,
  name: z.string().nullable().describe('by which the run calls a host that it has beside its own; null: its own'),
  state: z
    .enum(['granted', 'active', 'held', 'releasing', 'released', 'expired'])
    .describe('held: its run has failed, and what it left is kept for people to look at'),
  worker: z.string().nullable(),
  why: z.string().nullable().describe('what its newest change was for'),
  grantedAt: instant,
  heldUntil: instant.nullable().describe('set once it is held'),
  deadlineAt: instant.describe('when it ends even if its host never speaks again'),
  endedAt: instant.nullable(),
  history: z.array(LeaseEvent).describe('what became of it, oldest first; 50 at most'),
});
export type LeaseSummary = z.infer<typeof LeaseSummary>;
export const LeaseList = z.strictObject({ leases: z.array(LeaseSummary).describe('newest grant first') });
export const LeaseQuery = z.object({
  cluster: z.string().optional(),
  host: z.string().optional(),
  all: z.enum(['true', 'false']).default('false').describe('true: those that have ended as well'),
  limit: z.coerce.number().int().min(1).max(1000).default(100),
});
