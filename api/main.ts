// Owns the API process: reads the settings, opens the ports, serves until it is told to stop. Stateless: run n of them.
// Started by `slipway up`, by docker-compose, or by hand: node dist/api/main.js
import type { Server } from 'node:http';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { FileBlobs } from '../adapters/blobs';
import { embeddedUrl } from '../adapters/embedded-database';
import { Planner } from '../adapters/planner';
import { RefusalAudit } from '../adapters/refusal-audit';
import { runProcess, type Running } from '../adapters/process';
import { readSettings, type Settings } from '../adapters/settings';
import { migrateWhenThere, openStore } from '../adapters/store/connect';
import { readAccess } from '../adapters/store/clusters';
import { Temporal } from '../adapters/temporal';
import { Identities } from '../adapters/worker-identity';
import type { ApiContext } from './context';
import { makeLimits } from './limits';
import { readOwnAddress } from './own-address';
import { listen, makeApp, makeTriggerApp } from './server';
import { Troubles } from './troubles';

runProcess('api', serve);

async function serve(log: Logger): Promise<Running> {
  const settings = readSettings();
  const db = openStore(settings.DATABASE_URL ?? embeddedUrl(join(settings.dataDir, 'run')));
  const temporal = Temporal.open(settings);
  await migrateWhenThere(db, (why) => log.warn({ why }, 'the record store does not answer yet; waiting for it'));
  const stopping = new AbortController();
  const planner = new Planner();
  const context = makeContext(settings, { db, temporal, planner, log, stopping: stopping.signal });
  const servers = [(await listen(makeApp(context), settings.SLIPWAY_LISTEN)).server];
  const { SLIPWAY_TRIGGER_LISTEN: apart } = settings;
  if (apart !== undefined) servers.push((await listen(makeTriggerApp(context), apart)).server);
  return {
    stop: async () => {
      stopping.abort();
      await Promise.all(servers.map(close));
      await Promise.all([temporal.close(), planner.close()]);
      await db.destroy();
    },
  };
}

type Ports = Pick<ApiContext, 'db' | 'temporal' | 'planner' | 'log' | 'stopping'>;

function makeContext(settings: Settings, ports: Ports): ApiContext {
  return {
    ...ports,
    blobs: new FileBlobs(join(settings.dataDir, 'blobs'), settings.SLIPWAY_SERVER_MIN_FREE_BYTES),
    links: {
      base: settings.baseUrl,
      temporalUi: settings.SLIPWAY_TEMPORAL_UI_URL.replace(/\/+$/, ''),
      namespace: ports.temporal.namespace,
    },
    ownAddress: readOwnAddress(settings),
    limits: makeLimits(),
    identities: new Identities({ accessOf: (cluster) => readAccess(ports.db, cluster) }),
    refusals: new RefusalAudit(ports.db, ports.log),
    troubles: new Troubles(() => ports.temporal.check()),
    adminToken: settings.SLIPWAY_ADMIN_TOKEN,
    maxBodyBytes: settings.SLIPWAY_MAX_BODY_BYTES,
    logCapBytes: settings.SLIPWAY_LOG_CAP_BYTES,
    ageStepMs: settings.SLIPWAY_AGE_STEP_MS,
    triggersApart: settings.SLIPWAY_TRIGGER_LISTEN !== undefined,
  };
}

/** Lets answers that are under way end; connections that only wait are closed at once. */
function close(server: Server): Promise<void> {
  return new Promise((done) => {
    server.close(() => done());
    server.closeIdleConnections();
  });
}
