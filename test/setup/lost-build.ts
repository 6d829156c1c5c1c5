// Owns the look-out for a build that nobody drives any more, and all that there is to say of it while its parts are there.
// Called by the soak.
import { execFile } from 'node:child_process';
import { cpSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { sql } from 'kysely';
import { buildWorkflowId, clusterQueue, ORCHESTRATOR_QUEUE, workerQueue } from '../../domain/names';
import type { CrashRig } from './crash-rig';

const run = promisify(execFile);

export interface LostBuild {
  id: string;
  project: string;
  number: number;
  reruns: number;
  /** How long nothing began or ended of it, and nothing was written. */
  idleMs: number;
}

/** The unfinished build of which nothing was seen for longest. @throws while the database is away */
export async function findIdlest({ db }: CrashRig): Promise<LostBuild | undefined> {
  const { rows } = await sql<LostBuild>`
    select b.id, project, b.number, reruns, (extract(epoch from now() - greatest(b.created_at, max(a.created_at),
      max(a.finished_at), max(a.last_output_at))) * 1000)::int8 as "idleMs"
    from builds b join runs r on r.build_id = b.id left join attempts a on a.run_id = r.id
    where b.state <> 'finished' group by b.id order by "idleMs" desc limit 1`.execute(db);
  return rows[0];
}

/** Rows, workflow, queues, containers and the ends of all logs, as one text. Every part is up meanwhile. */
export async function describeLostBuild(rig: CrashRig, lost: LostBuild): Promise<string> {
  const { house, engine } = rig;
  const id = buildWorkflowId(lost.project, lost.number, lost.reruns);
  const temporal = (...args: string[]) => askTemporal(house.temporal.address, args);
  const queues = await queuesOf(rig);
  const parts: Record<string, () => string | Promise<string>> = {
    ...Object.fromEntries(ROWS.map(([what, query]) => [what, () => rowsOf(rig, query, lost.id)])),
    workflow: () => temporal('workflow', 'describe', '-w', id, '--raw', '-o', 'json'),
    'how the workflow sees it': () => temporal('workflow', 'query', '-w', id, '--name', 'buildView', '-o', 'json'),
    'end of its history': async () => lastEvents(await temporal('workflow', 'show', '-w', id, '-o', 'json')),
    ...Object.fromEntries(
      queues.map((name) => [`queue ${name}`, () => temporal('task-queue', 'describe', '--task-queue', name)]),
    ),
    containers: async () => {
      const all = await engine.docker.listContainers({ all: true });
      return all.map(({ Names, Status }) => `${Names.join()} ${Status}`).join('\n');
    },
    ...Object.fromEntries(house.logs().map((path) => [`end of ${basename(path)}`, () => tailOf(path)])),
    'end of the log of temporal': () => tailOf(join(house.temporal.dir, 'server.log')),
  };
  const told: string[] = [];
  for (const [what, tell] of Object.entries(parts)) {
    const text = await Promise.resolve()
      .then(tell)
      .catch((error: unknown) => `not told: ${String(error)}`);
    told.push(`--- ${what}\n${text}`);
  }
  return told.join('\n');
}

/** Copies what the house and its Temporal have on disk, for a look afterwards; ends both database and Temporal before. */
export async function keepRemains({ house }: CrashRig, dir: string): Promise<void> {
  await house.temporal.kill9();
  await house.kill9('database');
  for (const from of [house.dir, house.temporal.dir]) {
    // Sockets cannot be copied.
    cpSync(from, join(dir, basename(from)), { recursive: true, filter: (path) => !path.includes('/run') });
  }
}

const ROWS = [
  ['row of the build', 'select * from builds where id = $1'],
  ['runs', 'select * from runs where build_id = $1 order by position'],
  ['attempts', 'select a.* from attempts a join runs r on r.id = a.run_id where r.build_id = $1 order by a.created_at'],
  [
    'leases, and those of others that live',
    `select l.*, r.name, b.number from leases l join runs r on r.id = l.run_id join builds b on b.id = r.build_id
     where r.build_id = $1 or l.state in ('granted', 'active', 'releasing') order by token`,
  ],
  ['hosts', 'select *, now() - last_seen_at as silent from hosts where $1::uuid is not null'],
] as const;

async function rowsOf({ db }: CrashRig, query: string, buildId: string): Promise<string> {
  const { rows } = await sql<object>`${sql.raw(query.replace('$1', `'${buildId}'`))}`.execute(db);
  const brief = (key: string, value: unknown): unknown => (LONG.has(key) ? undefined : value);
  return rows.map((row) => JSON.stringify(row, brief)).join('\n');
}

/** Columns that say nothing of where a build stands. */
const LONG = new Set(['definition', 'plan_jobs', 'spec', 'params', 'log_index']);

async function queuesOf({ db }: CrashRig): Promise<string[]> {
  const hosts = await db.selectFrom('hosts').select(['cluster', 'worker']).execute();
  const clusters = new Set(hosts.map(({ cluster }) => clusterQueue(cluster)));
  return [ORCHESTRATOR_QUEUE, ...clusters, ...hosts.map(({ cluster, worker }) => workerQueue(cluster, worker ?? ''))];
}

async function askTemporal(address: string, args: string[]): Promise<string> {
  const program = process.env.SLIPWAY_TEMPORAL_CLI ?? 'temporal';
  const { stdout } = await run(program, [...args, '--address', address, '--command-timeout', '20s'], {
    maxBuffer: 64 * 1024 * 1024,
  });
  return stdout;
}

const EVENTS = 60;

function lastEvents(text: string): string {
  const { events } = JSON.parse(text) as { events: object[] };
  return events
    .slice(-EVENTS)
    .map((event) => JSON.stringify(event))
    .join('\n');
}

const TAIL_BYTES = 8_000;
const tailOf = (path: string): string => readFileSync(path, 'utf8').slice(-TAIL_BYTES);
