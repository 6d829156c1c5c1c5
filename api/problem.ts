// Owns refusals: every error answer of the API is RFC 9457 JSON made here; no stack trace leaves the process.
// Called by all routes (they throw Refusal) and by the server's error handler.
import type { ErrorRequestHandler, RequestHandler } from 'express';
import type { Logger } from 'pino';
import { ZodError } from 'zod';
import { BlobError } from '../adapters/blobs';
import { PlannerError } from '../adapters/planner';
import { isStoreAway } from '../adapters/store/connect';
import { FencedError } from '../adapters/store/holders';
import { HTTP_STATUS, WorkerRefusal } from '../adapters/worker-refusal';
import type { ErrorAnswer } from '../domain/schemas/api';
import type { Problem } from '../domain/schemas/words';

/** Thrown by a route to refuse a request. `code` is kebab-case and stable; `detail` says what, which, and what to do. */
export class Refusal extends Error {
  problems: Problem[] | undefined;
  /** After which it may be asked again, s, where the status is 429 or 503. */
  retryAfterS = 1;

  constructor(
    readonly status: number,
    readonly code: string,
    readonly detail: string,
  ) {
    super(detail);
  }

  /** Says when to come again. */
  after(seconds: number): this {
    this.retryAfterS = seconds;
    return this;
  }

  /** Adds what is wrong in detail. */
  with(problems: Problem[]): this {
    this.problems = problems;
    return this;
  }
}

export function notFound(what: string): Refusal {
  return new Refusal(404, 'not-found', `${what} does not exist; check the name and the number`);
}

export const unknownRoute: RequestHandler = (request) => {
  throw new Refusal(404, 'unknown-route', `${request.method} ${request.path} is not part of the API; see /v1`);
};

export function errorHandler(log: Logger): ErrorRequestHandler {
  // oxlint-disable-next-line max-params -- Express knows an error handler by its four parameters
  return (error: unknown, request, response, next) => {
    if (response.headersSent) {
      // Too late for an answer: cut the connection, so that the client sees an incomplete body and not a short one.
      log.warn({ path: request.path, error: String(error) }, 'answer was cut');
      response.destroy();
      next();
      return;
    }
    const refusal = toRefusal(error);
    if (refusal.status >= 500) response.locals['failure'] = refusal.detail;
    if (refusal.status >= 500) log.error({ path: request.path, error: describe(error) }, refusal.detail);
    // A worker that comes back after it was given up: it is told so, and so are we.
    if (error instanceof FencedError) log.warn({ path: request.path }, `refused: ${refusal.detail}`);
    if ([429, 503, 507].includes(refusal.status)) response.set('retry-after', String(refusal.retryAfterS));
    response
      .status(refusal.status)
      .type('application/problem+json')
      .send(JSON.stringify(answerOf(refusal)));
  };
}

function answerOf(refusal: Refusal): ErrorAnswer {
  return {
    type: `urn:slipway:problem:${refusal.code}`,
    title: refusal.code.replaceAll('-', ' '),
    status: refusal.status,
    detail: refusal.detail,
    ...(refusal.problems ? { problems: refusal.problems } : {}),
  };
}

function toRefusal(error: unknown): Refusal {
  if (error instanceof Refusal) return error;
  if (error instanceof ZodError) return fromZod(error);
  if (error instanceof FencedError) return new Refusal(409, 'fenced', error.message);
  if (error instanceof WorkerRefusal) return new Refusal(HTTP_STATUS[error.kind], error.reason, error.message);
  if (error instanceof BlobError && error.reason === 'disk-full') {
    return new Refusal(507, 'disk-full', `${error.message}; free some of it, what is waited for then goes on`);
  }
  if (error instanceof PlannerError) {
    return error.reason === 'busy'
      ? new Refusal(429, 'too-many-files', error.message)
      : new Refusal(422, 'definition-too-costly', `${error.message}; write fewer cells, params and aliases`);
  }
  if (isStoreAway(error)) {
    return new Refusal(503, 'store-away', 'the record store does not answer; nothing was changed, try again');
  }
  return fromParser(error) ?? new Refusal(500, 'internal', 'the server failed; its log has the details');
}

function fromZod(error: ZodError): Refusal {
  const problems = error.issues.map((issue) => ({
    code: issue.code.replaceAll('_', '-'),
    message: issue.message,
    path: issue.path.join('.'),
  }));
  const first = problems[0];
  const detail = `the request is malformed: ${first?.path ? `${first.path}: ` : ''}${first?.message ?? ''}`;
  return new Refusal(400, 'malformed-request', detail).with(problems);
}

/** Express's body parser throws errors with a status of their own. */
function fromParser(error: unknown): Refusal | undefined {
  const { status, type, limit } = error as { status?: number; type?: string; limit?: number };
  if (type === 'entity.too.large') {
    return new Refusal(413, 'too-large', `the body is larger than the ${limit} bytes that are taken here`);
  }
  if (type === 'entity.parse.failed') return new Refusal(400, 'malformed-request', 'the body is not JSON');
  if (error instanceof URIError) return new Refusal(400, 'malformed-request', 'the path is not valid URL encoding');
  if (status !== undefined && status >= 400 && status < 500) {
    return new Refusal(status, 'malformed-request', 'the request cannot be read; check its headers and its body');
  }
  return undefined;
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
