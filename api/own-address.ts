// Owns who may drive this server from a browser: it answers to its own names, and is changed from its own pages alone.
// Called by server.ts before every route. What is no browser (curl, the command line, workers) sends no origin and passes.
import { isIP } from 'node:net';
import type { RequestHandler } from 'express';
import type { Settings } from '../adapters/settings';
import { readListen } from '../adapters/settings';
import { OF_WORKERS } from './json-body';
import { Refusal } from './problem';

/** What this server is called. */
export interface OwnAddress {
  /** Host names, lower case, without ports. */
  names: ReadonlySet<string>;
  /** That of the URL that people know, e.g. `https://ci.example.org`. */
  origin: string;
}

/** What a request says of where it comes from and where it wants to go. */
export interface Approach {
  method: string;
  host: string | undefined;
  origin: string | undefined;
  /** Sec-Fetch-Site */
  site: string | undefined;
}

const CHANGES_NOTHING: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS']);
/** Names that no name server can point to another machine. */
const LOOPBACK = 'localhost';

export function readOwnAddress(
  settings: Pick<Settings, 'baseUrl' | 'SLIPWAY_LISTEN' | 'SLIPWAY_TRIGGER_LISTEN' | 'SLIPWAY_ALLOWED_HOSTS'>,
): OwnAddress {
  const { baseUrl, SLIPWAY_LISTEN: listen, SLIPWAY_TRIGGER_LISTEN: apart, SLIPWAY_ALLOWED_HOSTS: more } = settings;
  const { hostname, origin } = new URL(baseUrl);
  const listened = [listen, ...(apart === undefined ? [] : [apart])].map((address) => readListen(address).host);
  const names = [LOOPBACK, hostname, ...listened, ...more.split(',')].map((name) =>
    name.trim().toLowerCase().replace(/:\d+$/, ''),
  );
  return { names: new Set(names.filter((name) => name !== '')), origin };
}

/**
 * Refuses what a page of another origin may have a browser say.
 * @returns undefined: it may pass
 */
export function whyForeign({ method, host, origin, site }: Approach, own: OwnAddress): Refusal | undefined {
  // Browsers always name a host; some health checks speak HTTP/1.0 and do not.
  if (host !== undefined && !isOwnHost(host, own)) {
    const name = host.slice(0, 253);
    return new Refusal(
      421,
      'unknown-host',
      `this server is not called "${name}"; reach it by SLIPWAY_URL, or add the name to SLIPWAY_ALLOWED_HOSTS of the API`,
    );
  }
  if (CHANGES_NOTHING.has(method)) return undefined;
  const isOwnSite = site === undefined || site === 'same-origin' || site === 'none';
  if (isOwnSite && isOwnOrigin(origin, host, own)) return undefined;
  return new Refusal(
    403,
    'foreign-page',
    `a page of ${origin?.slice(0, 253) ?? 'another site'} may change nothing here; use the page of this server, and set SLIPWAY_URL to the address that people open`,
  );
}

/** An address of numbers passes: a name server cannot turn it into the address of another machine. */
function isOwnHost(host: string, { names }: OwnAddress): boolean {
  const [, bracketed, plain = ''] = /^(?:\[([^\]]*)\]|([^:]*))(?::\d*)?$/.exec(host.toLowerCase()) ?? [];
  if (bracketed !== undefined) return isIP(bracketed) === 6;
  return isIP(plain) === 4 || names.has(plain.replace(/\.$/, ''));
}

/** A proxy may give the request another host than the browser has; then SLIPWAY_URL says what that one is. */
function isOwnOrigin(origin: string | undefined, host: string | undefined, own: OwnAddress): boolean {
  if (origin === undefined || origin === own.origin) return true;
  return /^https?:\/\/(.+)$/.exec(origin.toLowerCase())?.[1] === host?.toLowerCase();
}

export function requireOwnAddress(own: OwnAddress): RequestHandler {
  return (request, _response, next) => {
    // No page has a worker's token; and a fleet may know this server by a name that nobody has told it.
    if (OF_WORKERS.test(request.path)) return next();
    const { host, origin, 'sec-fetch-site': site } = request.headers;
    next(whyForeign({ method: request.method, host, origin, site: typeof site === 'string' ? site : undefined }, own));
  };
}
