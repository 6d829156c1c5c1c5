// Owns the HTTP server: which routes are on which address, body limits, security headers, the page's files.
// Called by main.ts, and by tests with ports of their own.
import { existsSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import express, { type Express } from 'express';
import helmet from 'helmet';
import type { ApiContext } from './context';
import { readJson } from './json-body';
import { requireOwnAddress } from './own-address';
import { requirePlainPath } from './plain-text';
import { errorHandler, unknownRoute } from './problem';
import { artifactRoutes } from './routes/artifacts';
import { blueprintRoutes } from './routes/blueprints';
import { buildRoutes } from './routes/builds';
import { holdRoutes } from './routes/holds';
import { clusterRoutes } from './routes/clusters';
import { healthRoutes } from './routes/health';
import { hostRoutes } from './routes/hosts';
import { logRoutes } from './routes/logs';
import { maintenanceRoutes } from './routes/maintenance';
import { projectRoutes } from './routes/projects';
import { shellRoutes } from './routes/shells';
import { releaseRoutes } from './routes/releases';
import { tokenRoutes } from './routes/tokens';
import { triggerRoutes } from './routes/trigger';
import { workerRoutes } from './routes/worker';

/** Built by vite; absent in a checkout that was not built: then there is only the API. */
const PAGE_DIR = join(__dirname, '..', 'web');

/** Everything but, when `triggersApart`, the trigger. */
export function makeApp(context: ApiContext): Express {
  const app = makeBare(context);
  app.use(healthRoutes(context));
  app.use(workerRoutes(context), clusterRoutes(context), maintenanceRoutes(context), tokenRoutes(context));
  app.use(releaseRoutes(context), hostRoutes(context), blueprintRoutes(context));
  app.use(
    projectRoutes(context),
    buildRoutes(context),
    holdRoutes(context),
    shellRoutes(context),
    logRoutes(context),
    artifactRoutes(context),
  );
  if (!context.triggersApart) app.use(triggerRoutes(context));
  app.use('/v1', unknownRoute);
  servePage(app);
  return finish(app, context);
}

/** The trigger alone, for an address of its own. */
export function makeTriggerApp(context: ApiContext): Express {
  const app = makeBare(context);
  app.use(healthRoutes(context), triggerRoutes(context));
  return finish(app, context);
}

function makeBare(context: ApiContext): Express {
  const app = express();
  app.disable('x-powered-by');
  app.set('query parser', 'simple');
  app.use(
    helmet({
      strictTransportSecurity: false,
      contentSecurityPolicy: {
        useDefaults: false,
        directives: {
          defaultSrc: ["'self'"],
          styleSrc: ["'self'", "'unsafe-inline'"],
          imgSrc: ["'self'", 'data:'],
          objectSrc: ["'none'"],
          baseUri: ["'none'"],
          frameAncestors: ["'none'"],
        },
      },
    }),
  );
  app.use(requireOwnAddress(context.ownAddress), requirePlainPath);
  app.use(readJson({ limit: context.maxBodyBytes, room: context.limits.bodies }));
  return app;
}

function finish(app: Express, context: ApiContext): Express {
  app.use(unknownRoute);
  app.use(errorHandler(context.log));
  return app;
}

/** Every page is the same file; it reads its own address. */
function servePage(app: Express): void {
  const index = join(PAGE_DIR, 'index.html');
  if (!existsSync(index)) return;
  app.use(express.static(PAGE_DIR, { index: false, maxAge: '1y', immutable: true, setHeaders: keepIndexFresh }));
  app.get(/^\/(?:$|(?:projects|clusters|hosts|leases)(?:\/|$))/, (request, response, next) => {
    if (!request.accepts('html')) return next();
    response.set('cache-control', 'no-cache').sendFile(index);
  });
}

function keepIndexFresh(response: { setHeader(name: string, value: string): unknown }, path: string): void {
  if (!/\/assets\//.test(path)) response.setHeader('cache-control', 'no-cache');
}

/** Listens on `address:port` (port 0: a free one). @returns the server and the port it got @throws EADDRINUSE in words */
export async function listen(app: Express, at: string): Promise<{ server: Server; port: number }> {
  const [, host = '127.0.0.1', port = '0'] = /^(.*):(\d+)$/.exec(at) ?? [];
  const server = createServer(app);
  // A slow sender of headers is cut; a body or an event stream may take its time.
  server.requestTimeout = 0;
  await new Promise<void>((done, fail) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const taken = error.code === 'EADDRINUSE';
      fail(
        taken
          ? new Error(`${at} is in use by another program; stop it, or set SLIPWAY_LISTEN to a free address`)
          : error,
      );
    });
    server.listen(Number(port), host.replace(/^\[(.*)\]$/, '$1'), done);
  });
  return { server, port: (server.address() as AddressInfo).port };
}
