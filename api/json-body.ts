// Owns how a JSON body is read: who has room for it, in which format it comes, and which texts it may hold.
// Called by server.ts for everybody, and by the routes of workers once they are known.
import express, { type NextFunction, type Request, type RequestHandler, type Response } from 'express';
import { requireRoom, type Room } from './limits';
import { isSuspect, makePlain, whyNotPlain } from './plain-text';
import { Refusal } from './problem';

/** Their bodies are bytes, whatever content type a client names. */
const TAKES_BYTES = /^\/v1\/(?:worker\/attempts\/[^/]+\/[^/]+\/(?:log|artifacts)|clusters\/[^/]+\/release)$/;
/** What workers say is read once it is known which worker it is. */
export const OF_WORKERS = /^\/v1\/worker\//;
const JSON_TYPE = 'application/json';
const NOT_JSON = 'send it with the header Content-Type: application/json, and the body, if there is one, as JSON';

interface BodyOptions {
  /** Of one body, bytes. */
  limit: number;
  room: Room;
}

/**
 * Reads the bodies of everybody but workers. A body in any other format is refused: ignored, it would trigger a build without
 * the parameters that it names. A POST says that it is JSON even without a body: a page of another origin, or a server that
 * sends a program of ours on, cannot say so.
 */
export function readJson({ limit, room }: BodyOptions): RequestHandler {
  const read = reader({ limit, admit: requireRoom(room, limit) });
  return (request, response, next) => {
    if (TAKES_BYTES.test(request.path) || OF_WORKERS.test(request.path)) return next();
    read(request, response, (error?: unknown) => next(error ?? (hasBody(request) ? undefined : whyUnsaid(request))));
  };
}

/**
 * Reads the bodies of workers. Half characters are replaced: names of a stranger's files stand in what they say, and a
 * refusal would end the attempt. @param callerOf whose room it takes
 */
export function readWorkerJson(
  { limit, room }: BodyOptions,
  callerOf: (request: Request, response: Response) => string,
): RequestHandler {
  const read = reader({ limit, admit: requireRoom(room, limit, callerOf), reviver: makePlain });
  return (request, response, next) => {
    if (TAKES_BYTES.test(request.baseUrl + request.path)) return next();
    read(request, response, next);
  };
}

interface ReaderOptions {
  limit: number;
  /** Lets a body in where there is room for it. */
  admit: RequestHandler;
  reviver?: (key: string, value: unknown) => unknown;
}

function reader({ limit, admit, reviver }: ReaderOptions): RequestHandler {
  const suspects = new WeakSet<object>();
  const parse = express.json({
    limit,
    type: JSON_TYPE,
    // Packed, it would be a thousand times what was admitted.
    inflate: false,
    reviver,
    verify: (request, _response, raw) => void (isSuspect(raw) && suspects.add(request)),
  });
  return (request, response, next) => {
    // Nothing may be thrown in here: the parser calls it outside of Express.
    const check: NextFunction = (error?: unknown) => {
      const isUnread = request.body === undefined && hasBody(request);
      const refusal = isUnread ? new Refusal(415, 'not-json', NOT_JSON) : undefined;
      next(error ?? refusal ?? (suspects.has(request) ? whyNotPlain(request.body) : undefined));
    };
    admit(request, response, (refusal?: unknown) => {
      if (refusal === undefined) parse(request, response, check);
      else next(refusal);
    });
  };
}

function whyUnsaid(request: Request): Refusal | undefined {
  return request.method === 'POST' && !isJson(request) ? new Refusal(415, 'not-json', NOT_JSON) : undefined;
}

/** Also of a request without a body, where Express's own `is` says nothing. */
const isJson = (request: Request): boolean => /^application\/json\s*(?:;|$)/i.test(request.get('content-type') ?? '');

function hasBody({ headers }: Request): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
}
