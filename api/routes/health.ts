// Owns /healthz (this process lives) and /readyz (it can do its work: store and Temporal answer; and whether bytes can be stored).
import { sql } from 'kysely';
import { Router } from 'express';
import type { ApiContext } from '../context';

const CHECK_LIMIT_MS = 2_500;

export function healthRoutes(context: ApiContext): Router {
  const router = Router();
  router.get('/healthz', (_request, response) => {
    response.json({ alive: true });
  });
  router.get('/readyz', async (_request, response) => {
    const [store, temporal, full] = await Promise.all([
      check(sql`select 1`.execute(context.db)),
      check(context.temporal.check()),
      context.blobs.whyFull(),
    ]);
    // With a full disk it still answers, takes triggers and gives slots back.
    const ready = store === 'ok' && temporal === 'ok';
    response.status(ready ? 200 : 503).json({ ready, checks: { store, temporal, blobs: full ?? 'ok' } });
  });
  return router;
}

async function check(work: Promise<unknown>): Promise<string> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<string>((done) => {
    timer = setTimeout(() => done(`no answer within ${CHECK_LIMIT_MS} ms`), CHECK_LIMIT_MS);
  });
  const result = work.then(
    () => 'ok',
    (error: unknown) => (error as Error).message.split('\n')[0] || 'it does not answer',
  );
  return Promise.race([result, limit]).finally(() => clearTimeout(timer));
}
