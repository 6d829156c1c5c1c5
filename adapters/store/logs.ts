// Owns the rows of logs and artifacts: which bytes of which attempt lie in which blob.
// Called by adapters/log-store.ts and by the API's worker routes; the bytes themselves are in the blob store.
import { sql } from 'kysely';
import type { Database } from './connect';
import { FencedError, isHolding, type Holder } from './holders';
import type { LogIndex } from './tables';

export interface LogState {
  bytes: number;
  complete: boolean;
}

/** Nothing is added to an attempt whose result is in. */
const mayAdd = (holder: Holder) => isHolding(holder, ['granted', 'active']);

/**
 * Adds one chunk at exactly the end of the log. Fenced by the lease token.
 * @returns `appended` false when the log is not `startByte` long; `bytes` is then where the writer must go on
 * @throws FencedError
 */
export async function appendChunk(
  db: Database,
  holder: Holder,
  chunk: { startByte: number; sizeBytes: number; blob: string },
): Promise<{ appended: boolean; bytes: number }> {
  // A chunk of no bytes would take the place of the next one.
  if (chunk.sizeBytes === 0) return refuse(db, holder);
  const { rows } = await sql<{ appended: boolean; bytes: number }>`
    with grown as (
      update attempts set log_bytes = log_bytes + ${chunk.sizeBytes}, last_output_at = now()
      where run_id = ${holder.runId}::uuid and number = ${holder.attempt} and log_bytes = ${chunk.startByte}
        and state <> 'finished'
        and ${mayAdd(holder)}
      returning log_bytes
    ), added as (
      insert into log_chunks (run_id, attempt, start_byte, size_bytes, blob)
      select ${holder.runId}::uuid, ${holder.attempt}, ${chunk.startByte}, ${chunk.sizeBytes}, ${chunk.blob} from grown
    )
    select true as appended, log_bytes as bytes from grown`.execute(db);
  return rows[0] ?? refuse(db, holder);
}

async function refuse(db: Database, holder: Holder): Promise<{ appended: boolean; bytes: number }> {
  const { rows } = await sql<{ bytes: number }>`
    select log_bytes as bytes from attempts where run_id = ${holder.runId}::uuid and number = ${holder.attempt}
      and state <> 'finished'
      and ${mayAdd(holder)}`.execute(db);
  const [row] = rows;
  if (!row) throw new FencedError(holder);
  return { appended: false, bytes: row.bytes };
}

export async function readLogState(db: Database, runId: string, attempt: number): Promise<LogState | undefined> {
  const row = await db
    .selectFrom('attempts')
    .select(['log_bytes', 'log_complete'])
    .where('run_id', '=', runId)
    .where('number', '=', attempt)
    .executeTakeFirst();
  return row && { bytes: row.log_bytes, complete: row.log_complete };
}

/** What is needed to read a range: the index of the compressed log when there is one, else the chunks that touch it. */
export async function locateLog(
  db: Database,
  where: { runId: string; attempt: number; fromByte: number; toByte: number },
): Promise<{ index: LogIndex | null; chunks: { startByte: number; sizeBytes: number; blob: string }[] }> {
  const row = await db
    .selectFrom('attempts')
    .select('log_index')
    .where('run_id', '=', where.runId)
    .where('number', '=', where.attempt)
    .executeTakeFirst();
  if (row?.log_index) return { index: row.log_index, chunks: [] };
  const chunks = await db
    .selectFrom('log_chunks')
    .select(['start_byte as startByte', 'size_bytes as sizeBytes', 'blob'])
    .where('run_id', '=', where.runId)
    .where('attempt', '=', where.attempt)
    .where('start_byte', '<', where.toByte)
    .where(sql<boolean>`start_byte + size_bytes > ${where.fromByte}`)
    .orderBy('start_byte')
    .execute();
  return { index: null, chunks };
}

/** Some of the attempts that ended a while ago and whose log still lies in chunks; by chance, so that none holds up the others. */
export async function logsToCompress(
  db: Database,
  olderThanMs: number,
): Promise<{ runId: string; attempt: number; bytes: number }[]> {
  return db
    .selectFrom('attempts')
    .select(['run_id as runId', 'number as attempt', 'log_bytes as bytes'])
    .where('log_index', 'is', null)
    .where('log_bytes', '>', 0)
    .where('finished_at', '<', sql<Date>`now() - ${olderThanMs} * interval '1 millisecond'`)
    .orderBy(sql`random()`)
    .limit(20)
    .execute();
}

/** Swaps chunks for the compressed log in one step. @returns blobs that nobody needs any more */
export async function replaceChunks(
  db: Database,
  log: { runId: string; attempt: number; index: LogIndex },
): Promise<string[]> {
  return db.transaction().execute(async (tx) => {
    const taken = await tx
      .updateTable('attempts')
      .set({ log_index: JSON.stringify(log.index) })
      .where('run_id', '=', log.runId)
      .where('number', '=', log.attempt)
      .where('log_index', 'is', null)
      .executeTakeFirst();
    if (taken.numUpdatedRows === 0n) return [log.index.blob];
    const chunks = await tx
      .deleteFrom('log_chunks')
      .where('run_id', '=', log.runId)
      .where('attempt', '=', log.attempt)
      .returning('blob')
      .execute();
    return chunks.map((chunk) => chunk.blob);
  });
}
