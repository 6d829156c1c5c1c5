// Owns the gateway process: one port for the workers of all clusters, in front of Temporal. Stateless: run n of them.
// Started by `slipway up`, by docker-compose, or by hand: node dist/gateway/main.js
import { join } from 'node:path';
import { createSecureContext } from 'node:tls';
import type { Logger } from 'pino';
import { embeddedUrl } from '../adapters/embedded-database';
import { runProcess, type Running } from '../adapters/process';
import { RefusalAudit } from '../adapters/refusal-audit';
import { readListen, readSettings, SettingsError, type Settings } from '../adapters/settings';
import { readAccess } from '../adapters/store/clusters';
import { openStore } from '../adapters/store/connect';
import { Identities } from '../adapters/worker-identity';
import { openFront, type Front, type FrontOptions } from './front';
import { makeAllowance, openGrpcProxy } from './grpc-proxy';
import { openHttpProxy } from './http-proxy';
import { TaskTokens } from './task-tokens';
import { openUpstream } from './upstream';

/** Reads of keys that may run at once. */
const CONNECTIONS = 4;

runProcess('gateway', serve);

async function serve(log: Logger): Promise<Running> {
  const settings = readSettings();
  const { SLIPWAY_GATEWAY_SECRET: secret, SLIPWAY_GATEWAY_SECRET_BEFORE: before } = settings;
  if (secret === undefined) throw new SettingsError('SLIPWAY_GATEWAY_SECRET: the secret of the gateway is missing');
  const tls = readTls(settings);
  const db = openStore(settings.DATABASE_URL ?? embeddedUrl(join(settings.dataDir, 'run')), CONNECTIONS);
  const identities = new Identities({ accessOf: (cluster) => readAccess(db, cluster) });
  const audit = new RefusalAudit(db, log);
  const opened: { front?: Front } = {};
  const allowance = makeAllowance();
  const proxy = openGrpcProxy({
    upstream: openUpstream(),
    identities,
    tokens: new TaskTokens(Buffer.from(secret), before === undefined ? undefined : Buffer.from(before)),
    audit: ({ identity, method, reason, message, peer }) =>
      audit.record({ who: identity, call: method, refusal: { reason, message }, peer }),
    report: (error, method) => log.error({ method, error: String(error) }, 'a call could not be passed on'),
    onAdmitted: (peer, { cluster }) => opened.front?.prove(peer, cluster),
    allowance,
  });
  const http = openHttpProxy({
    api: new URL(settings.SLIPWAY_SERVER ?? settings.baseUrl),
    identities,
    audit: (refused) => audit.record(refused),
    onAdmitted: (peer, cluster) => opened.front?.prove(peer, cluster),
    allowance,
  });
  const front = await openFront({
    ...readListen(settings.SLIPWAY_GATEWAY_LISTEN),
    ...(tls ? { tls } : {}),
    grpc: (connection) => proxy.accept(connection),
    http: http.listener,
  });
  opened.front = front;
  return {
    stop: async () => {
      front.stop();
      await proxy.close();
      front.destroy();
      http.close();
      await db.destroy();
    },
  };
}

/** @throws SettingsError when a certificate has no key, or the two do not belong together */
function readTls({ SLIPWAY_GATEWAY_TLS_CERT: cert, SLIPWAY_GATEWAY_TLS_KEY: key }: Settings): FrontOptions['tls'] {
  if (cert === undefined && key === undefined) return undefined;
  if (cert === undefined || key === undefined) {
    throw new SettingsError('SLIPWAY_GATEWAY_TLS_CERT and SLIPWAY_GATEWAY_TLS_KEY: set both of them or none');
  }
  try {
    createSecureContext({ cert, key });
  } catch (error) {
    throw new SettingsError(
      `SLIPWAY_GATEWAY_TLS_CERT and SLIPWAY_GATEWAY_TLS_KEY: not a certificate and its key in PEM: ${(error as Error).message}`,
    );
  }
  return { cert, key };
}
