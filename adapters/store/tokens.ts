// Owns the rows of API tokens: made once, shown once, found by their digest. Called by the API.
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import type { Role } from '../../domain/schemas/clusters';
import type { Database } from './connect';

export interface TokenRow {
  id: string;
  name: string;
  role: Role;
  organisation: string | null;
  created_at: Date;
  expires_at: Date;
  revoked_at: Date | null;
}

const COLUMNS = ['id', 'name', 'role', 'organisation', 'created_at', 'expires_at', 'revoked_at'] as const;

export const digestOf = (token: string): string => createHash('sha256').update(token).digest('hex');

/** @returns its row, and the token itself: only its digest is kept */
export async function createToken(
  db: Database,
  token: { name: string; role: Role; organisation: string | null; expiresAt: Date },
): Promise<{ row: TokenRow; secret: string }> {
  const secret = `slipway_${randomBytes(32).toString('base64url')}`;
  const { name, role, organisation, expiresAt } = token;
  const row = await db
    .insertInto('tokens')
    .values({ id: randomUUID(), digest: digestOf(secret), name, role, organisation, expires_at: expiresAt })
    .returning(COLUMNS)
    .executeTakeFirstOrThrow();
  return { row, secret };
}

/** Also one that has expired or was revoked: what it tries is put on record under its name. */
export async function findToken(db: Database, secret: string): Promise<TokenRow | undefined> {
  return db.selectFrom('tokens').select(COLUMNS).where('digest', '=', digestOf(secret)).executeTakeFirst();
}

export async function listTokens(db: Database): Promise<TokenRow[]> {
  return db.selectFrom('tokens').select(COLUMNS).orderBy('created_at', 'desc').execute();
}

/** Idempotent. @returns undefined when there is none */
export async function revokeToken(db: Database, id: string): Promise<TokenRow | undefined> {
  return db
    .updateTable('tokens')
    .set({ revoked_at: sql`coalesce(revoked_at, now())` })
    .where('id', '=', id)
    .returning(COLUMNS)
    .executeTakeFirst();
}
