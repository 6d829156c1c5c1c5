// Owns the gateway process: one port for the workers of all clusters, in front of Temporal. Stateless: run n of them.
// Started by hand or as a service: node dist/gateway/main.js
import { join } from 'node:path';
import type { Logger } from 'pino';
import { readClusterKeys } from '../adapters/cluster-keys';
import { runProcess, type Running } from '../adapters/process';
import { readSettings, SettingsError } from '../adapters/settings';
import type { RefusalRecord } from './admission';
import { openFront, type Front } from './front';
import { openGrpcProxy } from './grpc-proxy';
import { Identities } from './identity';
import { TaskTokens } from './task-tokens';
import { openUpstream } from './upstream';

runProcess('gateway', serve);

async function serve(log: Logger): Promise<Running> {
  const settings = readSettings();
  const { SLIPWAY_GATEWAY_SECRET: secret, SLIPWAY_GATEWAY_LISTEN: listen } = settings;
  if (secret === undefined) throw new SettingsError('SLIPWAY_GATEWAY_SECRET: the secret of the gateway is missing');
  const keysDir = settings.SLIPWAY_CLUSTER_KEYS ?? join(settings.dataDir, 'cluster-keys');
  const opened: { front?: Front } = {};
  const proxy = openGrpcProxy({
    upstream: openUpstream(),
    identities: new Identities({ keysOf: (cluster) => readClusterKeys(keysDir, cluster) }),
    tokens: new TaskTokens(Buffer.from(secret)),
    audit: auditTo(log),
    report: (error, method) => log.error({ method, error: String(error) }, 'a call could not be passed on'),
    onAdmitted: (peer, { cluster }) => opened.front?.prove(peer, cluster),
  });
  const [, host = '', port = ''] = /^(.*):(\d+)$/.exec(listen) ?? [];
  const front = await openFront({
    host: host.replace(/^\[(.*)\]$/, '$1'),
    port: Number(port),
    grpc: (connection) => proxy.accept(connection),
    http: (_request, response) => response.writeHead(404).end('this port is for the gRPC calls of workers\n'),
  });
  opened.front = front;
  return {
    stop: async () => {
      front.stop();
      await proxy.close();
      front.destroy();
    },
  };
}

/** One line a second of each kind at most: a hostile worker must not fill the disk. What is left out is counted. */
function auditTo(log: Logger): (refusal: RefusalRecord) => void {
  const SAID_FOR_MS = 1_000;
  const said = new Map<string, { atMs: number; leftOut: number }>();
  return ({ identity, method, reason, message, peer }) => {
    const kind = `${identity?.cluster ?? ''} ${reason}`;
    const last = said.get(kind);
    if (last && performance.now() - last.atMs < SAID_FOR_MS) {
      last.leftOut += 1;
      return;
    }
    // Clusters are known names, reasons a closed list: the map stays small.
    said.set(kind, { atMs: performance.now(), leftOut: 0 });
    log.warn({ ...identity, method, reason, peer, leftOut: last?.leftOut ?? 0 }, `refused: ${message}`);
  };
}
