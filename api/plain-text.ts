// Owns what no text of a request may hold: NUL and half characters (lone surrogates), which no column of the store takes.
// Called by server.ts for every path, query and JSON body, so that no route has to think of it.
import type { RequestHandler } from 'express';
import { Refusal } from './problem';

const NOT_PLAIN = /[\0\p{Surrogate}]/u;
/** How they come in JSON; as bytes neither JSON nor UTF-8 has them. Of two halves that belong together no harm is done. */
const SUSPECT = /\\u(?:0000|d[89a-f])/i;

export const requirePlainPath: RequestHandler = (request, _response, next) => {
  if (!/%00/.test(request.url)) return next();
  next(new Refusal(400, 'malformed-request', 'the path or the query holds NUL (%00); leave it out'));
};

/** @param raw the body as it came @returns whether its values have to be looked at */
export const isSuspect = (raw: Buffer): boolean => SUSPECT.test(raw.toString('latin1'));

/**
 * For JSON.parse: half characters become a space, since texts of a stranger may have been cut. NUL does so in messages alone,
 * which are for people; a name with NUL is no name.
 */
export function makePlain(key: string, value: unknown): unknown {
  if (typeof value !== 'string') return value;
  return value.replace(key === 'message' ? /[\0\p{Surrogate}]/gu : /\p{Surrogate}/gu, ' ');
}

interface Found {
  value: unknown;
  key: string;
  parent?: Found;
}

/** Looks at all keys and texts of a JSON value, however deep. @returns a refusal that names the place; undefined: all is well */
export function whyNotPlain(body: unknown): Refusal | undefined {
  const open: Found[] = [{ value: body, key: '' }];
  for (let found = open.pop(); found; found = open.pop()) {
    const { value } = found;
    if (typeof value === 'string' && NOT_PLAIN.test(value) && !isDefinition(found)) return refuse(found);
    if (typeof value !== 'object' || value === null) continue;
    for (const [key, child] of Object.entries(value)) {
      const next = { value: child as unknown, key, parent: found };
      if (NOT_PLAIN.test(key)) return refuse(next);
      open.push(next);
    }
  }
  return undefined;
}

/** Project files are read by a reader of their own, which names line and column. */
const isDefinition = ({ key, parent }: Found): boolean => key === 'definition' && parent?.parent === undefined;

function refuse(found: Found): Refusal {
  const path: string[] = [];
  for (let at: Found | undefined = found; at?.parent; at = at.parent) path.unshift(JSON.stringify(at.key).slice(1, -1));
  const message = 'holds NUL or half a character (a lone surrogate), which cannot be kept';
  const place = path.join('.');
  return new Refusal(400, 'malformed-request', `the request is malformed: ${place}: ${message}`).with([
    { code: 'not-text', message, path: place },
  ]);
}
