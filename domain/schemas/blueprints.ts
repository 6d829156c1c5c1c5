// Owns the shapes of blueprints, by which a cluster makes hosts on demand, as they cross HTTP and lie in the store.
// Read by api/ (checks at the door), cli/ and web/ (types of the answers), workers and the store.
import { z } from 'zod';
import { HostName, instant, Label, MachineFacts, plain, posixPath } from './hosts';

const seconds = (least: number) => z.number().int().min(least).max(31_536_000);
const count = (least: number) => z.number().int().min(least).max(10_000);

/** A container of the worker's own Docker engine that takes runs as a machine would: for trying, and for small fleets. */
const DockerMake = z.strictObject({
  kind: z.literal('docker'),
  image: plain(500).describe('has /bin/sh; with git where runs have a repository'),
  cpus: z.number().positive().max(1024).optional().describe('cores; absent: no limit'),
  memoryBytes: z
    .number()
    .int()
    .min(6 * 1024 ** 2)
    .optional()
    .describe('absent: no limit'),
});

/** An instance of Amazon EC2. The worker finds its credentials as the AWS SDK does; none are kept here. */
const Ec2Make = z.strictObject({
  kind: z.literal('ec2'),
  region: z.string().regex(/^[a-z]{2}(?:-[a-z]+)+-\d$/, 'write a region such as eu-central-1'),
  image: z
    .string()
    .regex(/^ami-[0-9a-f]{8,17}$/, 'write the id of an image, ami-…')
    .describe('Linux with cloud-init and sshd'),
  type: plain(60).describe('instance type, e.g. c7i.large'),
  subnet: plain(60).optional(),
  securityGroups: z.array(plain(60)).max(16).default([]).describe('ids; workers must reach the SSH port'),
  profile: plain(128).optional().describe('name of an instance profile'),
  spot: z.boolean().default(false).describe('true: cheaper, and may be taken away'),
  address: z.enum(['private', 'public']).default('private').describe('by which of its addresses workers reach it'),
  user: plain(100).describe('the user of the image that cloud-init lets in, e.g. ec2-user, admin or ubuntu'),
  port: z.number().int().min(1).max(65_535).default(22),
  containers: z
    .boolean()
    .default(false)
    .describe('true: runs are containers of the Docker engine that the image brings, and that lets the user in'),
  dir: posixPath.optional().describe('folder of the runs; default: as of a listed host'),
  shell: posixPath.default('/bin/sh').describe('without containers: a POSIX shell'),
});

export const Make = z.discriminatedUnion('kind', [DockerMake, Ec2Make]);
export type Make = z.infer<typeof Make>;
export type DockerMake = z.infer<typeof DockerMake>;
export type Ec2Make = z.infer<typeof Ec2Make>;

export const PutBlueprint = z
  .strictObject({
    make: Make,
    labels: z.array(Label).max(99).default([]).describe('of its hosts; the name of the blueprint is one more'),
    machine: MachineFacts.partial().default({}).describe('what its hosts will be; what is left out is not asked about'),
    slots: z.number().int().min(1).max(1000).default(1).describe('runs at once on each host'),
    minReady: count(0).default(0).describe('idle hosts that are kept ready'),
    most: count(0).describe('hosts at once, those that begin or end included; 0: it makes none'),
    idleSeconds: seconds(1).default(300).describe('a host that had no run for so long ends'),
    maxUses: count(1).nullable().default(null).describe('runs that a host takes in its life; null: no limit'),
    maxAgeSeconds: seconds(60).nullable().default(null).describe('an older host takes no more runs; null: no limit'),
    startSeconds: seconds(5).default(600).describe('a host that does not take runs by then is given up'),
    costPerHour: z.number().min(0).max(1_000_000).default(0).describe('of one host, in any currency; only shown'),
  })
  .refine((blueprint) => blueprint.minReady <= blueprint.most, {
    path: ['minReady'],
    message: 'must not be above most',
  });
export type PutBlueprint = z.infer<typeof PutBlueprint>;
export const BlueprintName = HostName.refine((name) => name.length <= 60, 'use 60 characters at most');

export const Blueprint = z.strictObject({
  cluster: z.string(),
  name: z.string(),
  ...PutBlueprint.shape,
  hosts: z
    .strictObject({ starting: count(0), ready: count(0), ending: count(0) })
    .describe('how many it has now, by where they are'),
  costPerHourNow: z.number().describe('of all its hosts that are not gone'),
  faults: count(0).describe('hosts in a row that could not be made or did not get ready'),
  fault: z.string().nullable().describe('what went wrong with the newest one; null: nothing'),
  restingUntil: instant.nullable().describe('it makes no host before, since it failed; null: it does'),
});
export type Blueprint = z.infer<typeof Blueprint>;
export const BlueprintList = z.strictObject({ blueprints: z.array(Blueprint) });

/** What the workflow of an on-demand host and the worker's activities name it by. Stored in histories. */
export interface HostToMake {
  cluster: string;
  /** Its name, never used for another. */
  host: string;
  /** Id of the blueprint; what is made carries it, so that it is found again. */
  blueprint: string;
  make: Make;
}
