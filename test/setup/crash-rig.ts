// Owns the ground of the crash tests: a Slipway whose worker reaches API, engine and Temporal through links of the test.
// Called by the crash matrix and by the tests of fencing.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { sql } from 'kysely';
import { embeddedUrl, SOCKET_NAME } from '../../adapters/embedded-database';
import { openStore, type Database } from '../../adapters/store/connect';
import { readContainerName } from '../../domain/names';
import { CuttableLink } from './cuttable-link';
import { HoldingDatabase, type HoldStatement } from './holding-database';
import type { Side } from './holding-link';
import { HoldingProxy, type Call, type Hold } from './holding-proxy';
import { House } from './house';
import { PrivateEngine } from './private-engine';
import { SmallDisk } from './small-disk';

/** The calls that one attempt makes to the world outside its process, in their order. */
export const CALLS = [
  'lease',
  'create',
  'starting',
  'start',
  'running',
  'wait',
  'log',
  'collecting',
  'artifact',
  'result',
  'remove',
  'release',
] as const;
export type CallName = (typeof CALLS)[number];

const LOCK = /select "id" from "runs" where "id" in .* for update/;
const LOCATE = /coalesce\(hosts\.worker, attempts\.worker\)/;
const EXPIRE = /wished as/;

/** The record calls of the orchestrator to the database: what their first statement, or transaction, and their last are known by. */
const RECORDS = {
  closeRuns: { before: LOCK, after: LOCK },
  closeAttempt: { before: LOCK, after: LOCK },
  locateAttempt: { before: LOCATE, after: LOCATE },
  expireBuild: { before: EXPIRE, after: EXPIRE },
  finishBuild: {
    before: /select "project", "number", "reruns", "outcome", "cause" from "builds"/,
    after: /update "builds" set "state"/,
  },
};
export type RecordName = keyof typeof RECORDS;
export const RECORD_CALLS = Object.keys(RECORDS) as RecordName[];

export interface CrashRig {
  house: House;
  engine: PrivateEngine;
  api: HoldingProxy;
  dockerLink: HoldingProxy;
  /** Between the orchestrator and the database. */
  records: HoldingDatabase;
  temporalLink: CuttableLink;
  /** What the server keeps logs and artifacts on. */
  blobsDisk: SmallDisk;
  db: Database;
  stop(): Promise<void>;
}

const BLOBS_BYTES = 128 * 1024 * 1024;

export const TIMES = { heartbeatMs: 6_000, graceMs: 12_000 };

/**
 * A run whose name is `<call> <side>` is held at that call of its first attempt, once, and a build whose trigger is
 * `<record call> <side>` at that one.
 */
export async function openCrashRig(slots: number): Promise<CrashRig> {
  const engine = await PrivateEngine.open();
  const made: { links: { close(): Promise<void> }[]; db?: Database } = { links: [] };
  const hold = holdCalls(() => made.db);
  const holdRecord = holdRecords(() => made.db);
  const dockerLink = await HoldingProxy.open({ socketPath: engine.socket }, hold);
  made.links.push(dockerLink);
  const links: { api?: HoldingProxy; temporal?: CuttableLink; records?: HoldingDatabase } = {};
  let blobsDisk: SmallDisk | undefined;
  const house = await House.open({
    slots,
    env: {
      SLIPWAY_HEARTBEAT_TIMEOUT_MS: String(TIMES.heartbeatMs),
      SLIPWAY_REATTACH_GRACE_MS: String(TIMES.graceMs),
      SLIPWAY_SERVER_MIN_FREE_BYTES: '0',
    },
    roleEnv: async ({ url, temporal, dir }) => {
      blobsDisk = new SmallDisk(join(dir, 'blobs'), BLOBS_BYTES);
      links.api = await HoldingProxy.open({ host: '127.0.0.1', port: new URL(url).port }, hold);
      links.temporal = await CuttableLink.open(Number(temporal.split(':')[1]));
      links.records = await HoldingDatabase.open(join(dir, 'run', SOCKET_NAME), holdRecord);
      made.links.push(links.api, links.temporal, links.records);
      return {
        worker: {
          SLIPWAY_SERVER: `http://127.0.0.1:${links.api.port}`,
          TEMPORAL_ADDRESS: `127.0.0.1:${links.temporal.port.at}`,
          DOCKER_HOST: `tcp://127.0.0.1:${dockerLink.port}`,
        },
        orchestrator: { DATABASE_URL: `postgres://postgres@127.0.0.1:${links.records.port}/postgres` },
      };
    },
  }).catch(async (error: unknown) => {
    await Promise.all(made.links.map((link) => link.close()));
    await engine.stop();
    blobsDisk?.unmount();
    throw error;
  });
  made.db = openStore(embeddedUrl(join(house.dir, 'run')));
  const { db } = made;
  return {
    house,
    engine,
    api: links.api!,
    dockerLink,
    records: links.records!,
    temporalLink: links.temporal!,
    blobsDisk: blobsDisk!,
    db,
    stop: async () => {
      await db.destroy();
      blobsDisk?.unmount();
      await house.stop();
      await Promise.all(made.links.map((link) => link.close()));
      await engine.stop();
      rmSync(house.dir, { recursive: true, force: true });
    },
  };
}

/** A run whose name is `<call> <side>` is held at that call of its first attempt, once. @param database may not be there yet */
export function holdCalls(database: () => Database | undefined): Hold {
  const sideOf = holdOnce(async (runId) => {
    const run = await database()?.selectFrom('runs').select('name').where('id', '=', runId).executeTakeFirst();
    return run?.name;
  });
  return async (call) => {
    const found = readCall(call);
    return found?.attempt === 1 ? sideOf(found.runId, (name) => name === found.name) : undefined;
  };
}

function holdRecords(database: () => Database | undefined): HoldStatement {
  const forms: Record<string, Record<string, RegExp>> = RECORDS;
  const all = Object.values(RECORDS).flatMap(({ before, after }) => [before, after]);
  const sideOf = holdOnce(async (id) => {
    const { rows } = await sql<{ trigger: string }>`
      select trigger from builds where id = ${id}::uuid or id = (select build_id from runs where id = ${id}::uuid)
    `.execute(database()!);
    return rows[0]?.trigger;
  });
  return async (text) => {
    const [id] = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/.exec(text) ?? [];
    if (id === undefined || !all.some((form) => form.test(text))) return undefined;
    return sideOf(id, (call, side) => forms[call]?.[side]?.test(text) === true);
  };
}

/** Holds a call when what its id stands for is named `<call> <side>`, once. @param nameOf that name, which never changes */
function holdOnce(nameOf: (id: string) => Promise<string | undefined>) {
  const names = new Map<string, string>();
  const held = new Set<string>();
  return async (id: string, isAt: (call: string, side: string) => boolean): Promise<Side | undefined> => {
    const name = names.get(id) ?? (await nameOf(id)) ?? '';
    names.set(id, name);
    const [call = '', side = ''] = name.split(' ');
    if (!isAt(call, side) || held.has(id)) return undefined;
    held.add(id);
    return side as Side;
  };
}

const API_CALLS: Record<string, CallName> = {
  log: 'log',
  collecting: 'collecting',
  artifacts: 'artifact',
  result: 'result',
  release: 'release',
};

/** Which call of which attempt this is; undefined: none that is ever held. */
function readCall({ method, path, body }: Call): { name: CallName; runId: string; attempt: number } | undefined {
  if (path === '/v1/worker/lease') {
    const { runId, attempt } = JSON.parse(body.toString()) as { runId: string; attempt: number };
    return { name: 'lease', runId, attempt };
  }
  const [, runId, attempt, what = ''] = /^\/v1\/worker\/attempts\/([^/]+)\/(\d+)\/(\w+)/.exec(path) ?? [];
  if (runId !== undefined) {
    const name = what === 'progress' ? readProgress(body) : API_CALLS[what];
    return name && { name, runId, attempt: Number(attempt) };
  }
  const container = /slipway-[0-9a-f-]{36}-\d+/.exec(path)?.[0];
  const key = container && readContainerName(container);
  const name = readDockerCall(method, path);
  return key && name ? { name, ...key } : undefined;
}

function readProgress(body: Buffer): CallName | undefined {
  const { state, starting } = JSON.parse(body.toString()) as { state: string; starting?: boolean };
  if (starting) return 'starting';
  return state === 'running' ? state : undefined;
}

function readDockerCall(method: string, path: string): CallName | undefined {
  if (/\/containers\/create\?/.test(path)) return 'create';
  if (method === 'DELETE') return 'remove';
  return /\/(start|wait)(?:\?|$)/.exec(path)?.[1] as CallName | undefined;
}
