// Owns the HTTP server: which routes are on which address, body limits, security headers, the page's files.
// Called by main.ts, and by tests with ports of their own.
import { existsSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import express, { type Express, type NextFunction, type Request, type RequestHandler } from 'express';
import helmet from 'helmet';
import type { ApiContext } from './context';
import { requireRoom } from './limits';
import { requireOwnAddress } from './own-address';
import { isSuspect, requirePlainPath, whyNotPlain } from './plain-text';
import { errorHandler, Refusal, unknownRoute } from './problem';
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
  app.use(requireOwnAddress(context.ownAddress), requirePlainPath, readJson(context));
  return app;
}

/** Their bodies are bytes, whatever content type a client names. */
const TAKES_BYTES = /^\/v1\/(?:worker\/attempts\/[^/]+\/[^/]+\/(?:log|artifacts)|clusters\/[^/]+\/release)$/;
/** What workers say is covered by their token, which no page can send for them. */
const OF_WORKERS = /^\/v1\/worker\//;

/**
 * A body in any other format is refused: ignored, it would trigger a build without the parameters that it names.
 * A POST says that it is JSON even without a body: a page of another origin cannot say so without asking first.
 */
function readJson({ maxBodyBytes: limit, limits }: ApiContext): RequestHandler {
  const admit = requireRoom(limits.bodies, limit);
  const suspects = new WeakSet<object>();
  const parse = express.json({
    limit,
    type: ['application/json', 'application/*+json'],
    verify: (request, _response, raw) => void (isSuspect(raw) && suspects.add(request)),
  });
  return (request, response, next) => {
    if (TAKES_BYTES.test(request.path)) return next();
    // Nothing may be thrown in here: the parser calls it outside of Express.
    const check: NextFunction = (error?: unknown) => {
      next(error ?? whyUnread(request) ?? (suspects.has(request) ? whyNotPlain(request.body) : undefined));
    };
    admit(request, response, (refusal?: unknown) => {
      if (refusal === undefined) parse(request, response, check);
      else next(refusal);
    });
  };
}

const NOT_JSON = 'send it with the header Content-Type: application/json, and the body, if there is one, as JSON';

function whyUnread(request: Request): Refusal | undefined {
  const isPost = request.method === 'POST' && !OF_WORKERS.test(request.path);
  const isOdd = request.body === undefined && (hasBody(request) || (isPost && !isJson(request)));
  return isOdd ? new Refusal(415, 'not-json', NOT_JSON) : undefined;
}

/** Also of a request without a body, where Express's own `is` says nothing. */
const isJson = (request: Request): boolean =>
  /^application\/(?:[\w.+-]+\+)?json\s*(?:;|$)/i.test(request.get('content-type') ?? '');

function hasBody({ headers }: Request): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
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
