// Owns record stores for tests, embedded and PostgreSQL, and the making of builds in them.
// Called by tests that run the same suite on both; each stops what it has started.
import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { embeddedUrl } from '../../adapters/embedded-database';
import { createBuild, readBuild, type BuildRow, type NewBuild } from '../../adapters/store/builds';
import { createCluster } from '../../adapters/store/clusters';
import type { Database } from '../../adapters/store/connect';
import { createProject } from '../../adapters/store/projects';
import { CreateCluster } from '../../domain/schemas/clusters';
import type { Plan, PlannedRun } from '../../domain/schemas/plan';
import { startPostgres } from './postgres';

export interface TestStore {
  /** Of an empty database. */
  url: string;
  stop(): Promise<void>;
}

/** Both implementations of the record store, for `describe.each`. */
export const STORES: [name: string, start: () => Promise<TestStore>][] = [
  ['the embedded database', startEmbeddedStore],
  ['PostgreSQL', startPostgresStore],
];

async function startPostgresStore(): Promise<TestStore> {
  const server = await startPostgres();
  return { url: await server.createDatabase(), stop: () => server.stop() };
}

async function startEmbeddedStore(): Promise<TestStore> {
  const dir = mkdtempSync(join(tmpdir(), 'slipway-store-'));
  const database = await startEmbedded(dir);
  const stop = async (): Promise<void> => {
    await database.end('SIGTERM');
    rmSync(dir, { recursive: true, force: true });
  };
  return { url: database.url, stop };
}

export interface EmbeddedProcess {
  url: string;
  child: ChildProcess;
  /** Waits until it is gone. */
  end(signal: NodeJS.Signals): Promise<void>;
}

/** The database process as `slipway up` starts it. @throws Error with what it said, when it ends before it is ready */
export async function startEmbedded(dataDir: string): Promise<EmbeddedProcess> {
  const program = join(resolve(__dirname, '..', '..'), 'dist', 'workers', 'database.js');
  const child = spawn(process.execPath, [program], {
    env: { ...process.env, NODE_OPTIONS: '', SLIPWAY_DATA_DIR: dataDir },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  let said = '';
  child.stdout?.on('data', (text) => (said += String(text)));
  child.stderr?.on('data', (text) => (said += String(text)));
  const gone = once(child, 'close');
  await Promise.race([
    once(child, 'message'),
    gone.then(() => {
      throw new Error(said);
    }),
  ]);
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    child.kill(signal);
    await gone;
  };
  return { url: embeddedUrl(join(dataDir, 'run')), child, end };
}

/** A run of a plan, with every field that is not given as plain as can be. */
export function plannedRun(name: string, more: Partial<PlannedRun> = {}): PlannedRun {
  return {
    name,
    job: name,
    cell: {},
    container: 'image',
    privileged: false,
    capAdd: [],
    capDrop: [],
    script: '#!/bin/sh\n',
    env: {},
    timeoutMs: 60_000,
    resources: {},
    needs: [],
    needsCondition: 'success',
    ...more,
  };
}

/** What a trigger commits; every call has ids of its own. */
export function newBuild(
  project: string,
  more: Partial<NewBuild> & { runs?: PlannedRun[]; jobs?: Plan['jobs']; cluster?: string } = {},
) {
  const { runs = [plannedRun('work')], jobs = [], cluster = 'local', ...rest } = more;
  return {
    id: randomUUID(),
    project,
    definition: 'timeout: 1',
    plan: { version: 1 as const, trigger: 'main', jobs, runs },
    planDigest: 'sha256:0',
    runIds: runs.map(() => randomUUID()),
    places: runs.map(() => ({ cluster, placement: { reason: 'the only one', pinned: false } })),
    params: {},
    reason: '',
    idempotencyKey: null,
    requestDigest: 'request',
    ...rest,
  };
}

let projects = 0;
/** A project of its own for a test. @returns its name */
export async function makeProject(db: Database): Promise<string> {
  const name = `project-${++projects}`;
  await createProject(db, { name, description: '', definition: 'timeout: 1', triggers: ['main'] });
  return name;
}

/** There already is fine. */
export async function makeCluster(db: Database, name: string): Promise<void> {
  await createCluster(db, CreateCluster.parse({ name }), 'a test');
}

/** A build of a project of its own, in a cluster of its own. */
export async function makeBuild(
  db: Database,
  more: Parameters<typeof newBuild>[1] = {},
): Promise<{ row: BuildRow; runIds: string[]; cluster: string }> {
  const project = await makeProject(db);
  const { cluster = `cluster-of-${project}` } = more;
  await makeCluster(db, cluster);
  const build = newBuild(project, { ...more, cluster });
  const made = await createBuild(db, build);
  if (made.kind !== 'created') throw new Error(made.kind);
  const row = await readBuild(db, project, made.number);
  if (!row) throw new Error('the build cannot be read');
  return { row, runIds: [...build.runIds], cluster };
}
