// Owns who calls the API as an operator: tokens and their roles, and the record of what was done or refused.
// Called by the routes that change clusters, tokens and organisations.
import { timingSafeEqual } from 'node:crypto';
import type { Request } from 'express';
import { recordAudit } from '../adapters/store/audit';
import { digestOf, findToken } from '../adapters/store/tokens';
import type { ApiContext } from './context';
import { Refusal } from './problem';

/** The machine that a request comes from: whose turn it is, and how much it may ask, is counted by it. */
export const peerOf = (request: Pick<Request, 'socket'>): string => request.socket.remoteAddress ?? '';

export interface Caller {
  /** As the audit shows it. */
  name: string;
  /** The organisation it may manage; null: everything. */
  organisation: string | null;
}

/** What somebody wants to do. */
export interface Intent {
  /** e.g. `cluster.create` */
  action: string;
  /** e.g. `cluster edge` */
  subject: string;
  /** Organisation whose admins may do it as well; null or absent: admins of the server alone. */
  owner?: string | null;
}

/**
 * Lets an operator pass who may do it; everybody else is put on record.
 * @throws Refusal 401 without a token that counts, 403 with one that may not
 */
export async function requireOperator(context: ApiContext, request: Request, intent: Intent): Promise<Caller> {
  const caller = await readCaller(context, request, intent);
  const isMine = intent.owner !== undefined && intent.owner !== null && intent.owner === caller.organisation;
  if (caller.organisation === null || isMine) return caller;
  return refuse(
    context,
    { ...intent, actor: caller.name },
    new Refusal(403, 'not-allowed', sayNotAllowed(caller, intent)),
  );
}

function sayNotAllowed({ name, organisation }: Caller, { action, subject }: Intent): string {
  return `${name} manages organisation ${organisation} only and may not do this (${action}) to ${subject}; ask an admin of the server`;
}

/** @throws Refusal 401 */
async function readCaller(context: ApiContext, request: Request, intent: Intent): Promise<Caller> {
  const [, secret] = /^Bearer (\S+)$/i.exec(request.get('authorization') ?? '') ?? [];
  const unknown = (actor: string, detail: string): Promise<never> =>
    refuse(context, { ...intent, actor }, new Refusal(401, 'no-token', detail));
  if (secret === undefined) {
    return unknown('-', 'this needs a token of an operator: send Authorization: Bearer <token> (SLIPWAY_TOKEN)');
  }
  if (context.adminToken !== undefined && isSame(secret, context.adminToken)) {
    return { name: 'the admin token', organisation: null };
  }
  const token = await findToken(context.db, secret);
  if (!token) return unknown('-', 'this token is not known here; check SLIPWAY_TOKEN');
  const actor = `token ${token.name}`;
  if (token.revoked_at) return unknown(actor, `token ${token.name} was revoked; ask an admin for another`);
  if (token.expires_at.getTime() <= Date.now()) {
    return unknown(actor, `token ${token.name} has expired; ask an admin for another`);
  }
  return { name: actor, organisation: token.role === 'admin' ? null : token.organisation };
}

/** Who does what everybody may do: by their token, where they show one. @throws Refusal 401 with one that does not count */
export async function nameCaller(context: ApiContext, request: Request, intent: Intent): Promise<Caller> {
  if (request.get('authorization') === undefined) return { name: '-', organisation: null };
  return readCaller(context, request, intent);
}

async function refuse(
  context: ApiContext,
  { actor, action, subject }: Intent & { actor: string },
  refusal: Refusal,
): Promise<never> {
  await context.refusals.recordOperator({ actor, action, subject, detail: refusal.detail });
  throw refusal;
}

const isSame = (a: string, b: string): boolean => timingSafeEqual(Buffer.from(digestOf(a)), Buffer.from(digestOf(b)));

/** Puts on record what an operator has done. */
export async function recordDone(
  context: ApiContext,
  caller: Caller,
  intent: Intent & { detail?: string },
): Promise<void> {
  const { action, subject, detail = '' } = intent;
  await recordAudit(context.db, { actor: caller.name, action, subject, allowed: true, detail });
}
