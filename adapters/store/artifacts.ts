// Owns the rows of artifacts: which file of which attempt lies in which blob, and how much of it an attempt may have.
// Called by the API's worker routes; the bytes themselves are in the blob store.
import { sql, type RawBuilder, type Transaction } from 'kysely';
import { artifactLimitsOf, whyTooMuch, type ArtifactLimits } from '../../domain/artifact-limits';
import type { Database } from './connect';
import { FencedError, isHolding, type Holder } from './holders';
import type { Tables } from './tables';

export interface NewArtifact {
  path: string;
  sizeBytes: number;
  digest: string;
  contentType: string;
  blob: string;
}

/** An attempt may store no more; the message says of what. */
export class TooMuchError extends Error {
  override readonly name = 'TooMuchError';
}

interface Others {
  /** What the other files of the attempt have. */
  used: { bytes: number; files: number };
  /** Blob of the one that is stored under the same path. */
  before: string | null;
}

/** Nothing is added to an attempt whose result is in. @throws FencedError */
async function readOthers(
  db: Database | Transaction<Tables>,
  holder: Holder,
  { path, lock }: { path: string; lock: RawBuilder<unknown> },
): Promise<Others> {
  const { rows } = await sql<{ bytes: number; files: number; before: string | null }>`
    select artifact_bytes - coalesce(size_bytes, 0) as bytes, artifact_files - (case when blob is null then 0 else 1 end) as files, blob as before
    from attempts left join artifacts on artifacts.run_id = attempts.run_id and artifacts.attempt = attempts.number
      and artifacts.path = ${path}
    where attempts.run_id = ${holder.runId}::uuid and number = ${holder.attempt} and state <> 'finished'
      and ${isHolding(holder, ['granted', 'active'])} ${lock}`.execute(db);
  const [row] = rows;
  if (!row) throw new FencedError(holder);
  const { before, ...used } = row;
  return { used, before };
}

/** Of a run by what it asks for and by the policy of its cluster. */
export async function readLimits(db: Database, runId: string): Promise<ArtifactLimits> {
  const { rows } = await sql<{ asked: number | null; most: number | null }>`
    select (spec -> 'resources' ->> 'artifactBytes')::int8 as asked, max_artifact_bytes as most
    from runs left join clusters on clusters.name = runs.cluster where runs.id = ${runId}::uuid`.execute(db);
  return artifactLimitsOf(rows[0]?.asked ?? null, rows[0]?.most ?? null);
}

/** Says why a file may not be stored now; undefined: it may. @throws FencedError */
export async function whyNotStored(
  db: Database,
  holder: Holder,
  { path, sizeBytes, limits }: Pick<NewArtifact, 'path' | 'sizeBytes'> & { limits: ArtifactLimits },
): Promise<string | undefined> {
  const { used } = await readOthers(db, holder, { path, lock: sql`` });
  return whyTooMuch(sizeBytes, used, limits);
}

/**
 * Records an artifact; the same path again replaces it. @returns the blob that nobody needs any more, if there is one
 * @throws FencedError, TooMuchError
 */
export async function recordArtifact(
  db: Database,
  holder: Holder,
  { limits, ...artifact }: NewArtifact & { limits: ArtifactLimits },
): Promise<string | undefined> {
  return db.transaction().execute(async (tx) => {
    const { used, before } = await readOthers(tx, holder, { path: artifact.path, lock: sql`for update of attempts` });
    const why = whyTooMuch(artifact.sizeBytes, used, limits);
    if (why !== undefined) throw new TooMuchError(why);
    await sql`
      with stored as (
        insert into artifacts (run_id, attempt, path, size_bytes, digest, content_type, blob)
        values (${holder.runId}::uuid, ${holder.attempt}, ${artifact.path}, ${artifact.sizeBytes}::bigint,
          ${artifact.digest}, ${artifact.contentType}, ${artifact.blob})
        on conflict (run_id, attempt, path) do update set size_bytes = excluded.size_bytes, digest = excluded.digest,
          content_type = excluded.content_type, blob = excluded.blob
      )
      update attempts set artifact_bytes = ${used.bytes + artifact.sizeBytes}::bigint, artifact_files = ${used.files + 1}
      where run_id = ${holder.runId}::uuid and number = ${holder.attempt}`.execute(tx);
    return before ?? undefined;
  });
}
