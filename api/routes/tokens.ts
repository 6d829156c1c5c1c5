// Owns /v1/tokens and /v1/audit: who may operate this server, and what was done or refused. For its admins alone.
import { Router } from 'express';
import { z } from 'zod';
import { listAudit } from '../../adapters/store/audit';
import { createToken, listTokens, revokeToken } from '../../adapters/store/tokens';
import * as shapes from '../../domain/schemas/clusters';
import { recordDone, requireOperator } from '../caller';
import type { ApiContext } from '../context';
import { notFound } from '../problem';
import { viewToken } from '../view-clusters';

const LIFE_DAYS = 90;
const Page = z.object({
  limit: z.coerce.number().int().min(1).max(1000).default(100),
  before: z.coerce.number().int().positive().optional(),
  subject: z.string().optional(),
});

export function tokenRoutes(context: ApiContext): Router {
  const router = Router();

  router.post('/v1/tokens', async (request, response) => {
    const wanted = shapes.CreateToken.parse(request.body);
    const intent = { action: 'token.create', subject: `token ${wanted.name}` };
    const caller = await requireOperator(context, request, intent);
    const { row, secret } = await createToken(context.db, {
      name: wanted.name,
      role: wanted.role,
      organisation: wanted.organisation ?? null,
      expiresAt: new Date(wanted.expiresAt ?? Date.now() + LIFE_DAYS * 86_400_000),
    });
    await recordDone(context, caller, { ...intent, detail: `${row.role} ${row.organisation ?? ''}`.trim() });
    response.status(201).json({ ...viewToken(row), token: secret });
  });

  router.get('/v1/tokens', async (request, response) => {
    await requireOperator(context, request, { action: 'token.list', subject: 'tokens' });
    response.json({ tokens: (await listTokens(context.db)).map(viewToken) });
  });

  router.post('/v1/tokens/:id/revoke', async (request, response) => {
    const id = z.uuid().parse(request.params.id);
    const intent = { action: 'token.revoke', subject: `token ${id}` };
    const caller = await requireOperator(context, request, intent);
    const row = await revokeToken(context.db, id);
    if (!row) throw notFound(`token ${id}`);
    await recordDone(context, caller, { ...intent, detail: row.name });
    response.json(viewToken(row));
  });

  router.get('/v1/audit', async (request, response) => {
    await requireOperator(context, request, { action: 'audit.read', subject: 'audit' });
    const rows = await listAudit(context.db, Page.parse(request.query));
    response.json({ entries: rows.map((row) => ({ ...row, at: row.at.toISOString() })) });
  });

  return router;
}
