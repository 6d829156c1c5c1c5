// Owns talking to the API: one read with ETag, one change, and the two ways either can go wrong.
// Called by poll.ts (reads), cancel.tsx, rerun.tsx, host-form.tsx, and the log reader for its error text.
import type { ErrorAnswer } from '../../domain/schemas/api';

/** Why an answer is missing. `refused`: the API said no; `unreachable`: it said nothing. */
export type Trouble =
  { kind: 'refused'; status: number; title: string; detail: string } | { kind: 'unreachable'; detail: string };

export type Answer<T> =
  { kind: 'data'; data: T; etag: string | null } | { kind: 'unchanged' } | { kind: 'trouble'; trouble: Trouble };

const REQUEST_TIMEOUT_MS = 20_000;

/** Links in answers carry the server's public address; the page must talk to the address it was loaded from. */
export function toLocalPath(url: string): string {
  const { pathname, search } = new URL(url, location.href);
  return pathname + search;
}

/** Reads an RFC 9457 answer; anything else (a proxy's page, say) is still shown by its status. */
export async function refusalOf(response: Response): Promise<Trouble> {
  const fallback = { title: `${response.status} ${response.statusText}`.trim(), detail: 'The server gave no reason.' };
  // An error body is the one answer that may come from something else than our API, hence Partial.
  const body = (await response.json().catch(() => ({}))) as Partial<ErrorAnswer>;
  return {
    kind: 'refused',
    status: response.status,
    title: body.title ?? fallback.title,
    detail: body.detail ?? fallback.detail,
  };
}

export function unreachable(error: unknown): Trouble {
  const isLate = error instanceof DOMException && error.name === 'TimeoutError';
  return { kind: 'unreachable', detail: isLate ? 'The server did not answer in time.' : 'The server does not answer.' };
}

async function send(url: string, init: RequestInit & { signal: AbortSignal }): Promise<Response> {
  const signal = AbortSignal.any([init.signal, AbortSignal.timeout(REQUEST_TIMEOUT_MS)]);
  return fetch(url, { ...init, signal });
}

/**
 * Reads JSON. `no-cache` makes the browser ask with the ETag it has; an answer with `knownEtag` is not parsed again,
 * which matters once a second for a build of 1,000 runs.
 */
export async function readJson<T>(url: string, knownEtag: string | null, signal: AbortSignal): Promise<Answer<T>> {
  try {
    const response = await send(url, { headers: { accept: 'application/json' }, cache: 'no-cache', signal });
    if (!response.ok) return { kind: 'trouble', trouble: await refusalOf(response) };
    const etag = response.headers.get('etag');
    if (etag !== null && etag === knownEtag) return { kind: 'unchanged' };
    // The API checks its own answers against the same schemas; the page trusts them.
    return { kind: 'data', data: (await response.json()) as T, etag };
  } catch (error) {
    return { kind: 'trouble', trouble: unreachable(error) };
  }
}

/** Asks for a build or run to be cancelled or run again; null when the request was taken. */
export function requestChange(selfUrl: string, what: 'cancel' | 'rerun', body: object = {}): Promise<Trouble | null> {
  return sendChange({ method: 'POST', path: `${toLocalPath(selfUrl)}/${what}`, body });
}

export interface Change {
  method: 'POST' | 'PATCH' | 'DELETE';
  path: string;
  body?: object;
  /** Of an operator; absent or empty: none is shown. */
  token?: string;
}

/** Asks for a change; null when it was made. */
export async function sendChange({ method, path, body = {}, token }: Change): Promise<Trouble | null> {
  try {
    const headers = {
      accept: 'application/json',
      'content-type': 'application/json',
      ...(token ? { authorization: `Bearer ${token}` } : {}),
    };
    const init = { method, headers, body: JSON.stringify(body), signal: new AbortController().signal };
    const response = await send(path, init);
    return response.ok ? null : await refusalOf(response);
  } catch (error) {
    return unreachable(error);
  }
}
