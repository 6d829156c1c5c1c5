// Owns the ground of the crash tests: a Slipway whose worker reaches API, engine and Temporal through links of the test.
// Called by the crash matrix and by the tests of fencing.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { embeddedUrl } from '../../adapters/embedded-database';
import { openStore, type Database } from '../../adapters/store/connect';
import { readContainerName } from '../../domain/names';
import { CuttableLink } from './cuttable-link';
import type { Side } from './holding-link';
import { HoldingProxy, type Call } from './holding-proxy';
import { House } from './house';
import { PrivateEngine } from './private-engine';

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

export interface CrashRig {
  house: House;
  engine: PrivateEngine;
  api: HoldingProxy;
  dockerLink: HoldingProxy;
  temporalLink: CuttableLink;
  db: Database;
  stop(): Promise<void>;
}

export const TIMES = { heartbeatMs: 6_000, graceMs: 12_000 };

/** A run whose name is `<call> <side>` is held at that call of its first attempt, once. */
export async function openCrashRig(slots: number): Promise<CrashRig> {
  const engine = await PrivateEngine.open();
  const made: { house?: House; links: { close(): Promise<void> }[]; db?: Database } = { links: [] };
  const names = new Map<string, string>();
  const nameOf = async (runId: string): Promise<string> => {
    const known = names.get(runId);
    if (known !== undefined) return known;
    const row = await made.db?.selectFrom('runs').select('name').where('id', '=', runId).executeTakeFirst();
    names.set(runId, row?.name ?? '');
    return row?.name ?? '';
  };
  const seen = new Set<string>();
  const hold = async (call: Call): Promise<Side | undefined> => {
    const found = readCall(call);
    if (!found || found.attempt !== 1) return undefined;
    const [wanted, side] = (await nameOf(found.runId)).split(' ');
    if (wanted !== found.name || seen.has(found.runId)) return undefined;
    seen.add(found.runId);
    return side as Side;
  };
  const dockerLink = await HoldingProxy.open({ socketPath: engine.socket }, hold);
  made.links.push(dockerLink);
  const links: { api?: HoldingProxy; temporal?: CuttableLink } = {};
  const house = await House.open({
    slots,
    env: {
      SLIPWAY_HEARTBEAT_TIMEOUT_MS: String(TIMES.heartbeatMs),
      SLIPWAY_REATTACH_GRACE_MS: String(TIMES.graceMs),
    },
    workerEnv: async ({ url, temporal }) => {
      links.api = await HoldingProxy.open({ host: '127.0.0.1', port: new URL(url).port }, hold);
      links.temporal = await CuttableLink.open(Number(temporal.split(':')[1]));
      made.links.push(links.api, links.temporal);
      return {
        SLIPWAY_SERVER: `http://127.0.0.1:${links.api.port}`,
        TEMPORAL_ADDRESS: `127.0.0.1:${links.temporal.port.at}`,
        DOCKER_HOST: `tcp://127.0.0.1:${dockerLink.port}`,
      };
    },
  }).catch(async (error: unknown) => {
    await Promise.all(made.links.map((link) => link.close()));
    await engine.stop();
    throw error;
  });
  made.db = openStore(embeddedUrl(join(house.dir, 'run')));
  const { db } = made;
  return {
    house,
    engine,
    api: links.api!,
    dockerLink,
    temporalLink: links.temporal!,
    db,
    stop: async () => {
      await db.destroy();
      await house.stop();
      await Promise.all(made.links.map((link) => link.close()));
      await engine.stop();
      rmSync(house.dir, { recursive: true, force: true });
    },
  };
}

const API_CALLS: Record<string, CallName> = { log: 'log', artifacts: 'artifact', result: 'result', release: 'release' };

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
  return state === 'running' || state === 'collecting' ? state : undefined;
}

function readDockerCall(method: string, path: string): CallName | undefined {
  if (/\/containers\/create\?/.test(path)) return 'create';
  if (method === 'DELETE') return 'remove';
  return /\/(start|wait)(?:\?|$)/.exec(path)?.[1] as CallName | undefined;
}
