// Owns the header Retry-After as this server sends it. Called by the command line and by workers, which obey it.

/** A server that says more is asked again after so long all the same, ms. */
const MOST_MS = 60_000;

/** @returns undefined: it does not say */
export function retryAfterMs({ headers }: Pick<Response, 'headers'>): number | undefined {
  const text = headers.get('retry-after') ?? '';
  return /^\d{1,9}$/.test(text) ? Math.min(Number(text) * 1000, MOST_MS) : undefined;
}
