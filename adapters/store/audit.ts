// Owns the rows of the audit: who did, or tried, what to which thing. Only ever added to.
// Called by the API and the gateway.
import type { Transaction } from 'kysely';
import type { Database } from './connect';
import type { Tables } from './tables';

export interface AuditRecord {
  /** Token, or `worker <id> of <cluster>`; `-` when nobody could be told. */
  actor: string;
  /** Kebab-case words with a dot, e.g. `cluster.create`. */
  action: string;
  subject: string;
  allowed: boolean;
  detail: string;
}
export type AuditRow = AuditRecord & { id: number; at: Date };

const MAX_CHARACTERS = 500;
/** Text of a stranger, as one line without what a terminal or PostgreSQL would choke on. */
const plain = (text: string): string => text.slice(0, MAX_CHARACTERS).replace(/[^\x20-\x7e\u00a0-\uffff]/g, '?');

export async function recordAudit(db: Database | Transaction<Tables>, record: AuditRecord): Promise<void> {
  const { actor, action, subject, allowed, detail } = record;
  await db
    .insertInto('audit')
    .values({ actor: plain(actor), action, subject: plain(subject), allowed, detail: plain(detail) })
    .execute();
}

/** Newest first. @param page.before only entries with a lower id @param page.subject only of this thing */
export async function listAudit(
  db: Database,
  page: { limit: number; before?: number; subject?: string },
): Promise<AuditRow[]> {
  let query = db.selectFrom('audit').selectAll().orderBy('id', 'desc').limit(page.limit);
  if (page.before !== undefined) query = query.where('id', '<', page.before);
  if (page.subject !== undefined) query = query.where('subject', '=', page.subject);
  return query.execute();
}
