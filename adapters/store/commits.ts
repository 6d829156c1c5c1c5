// Owns the commits that builds are frozen to: of each repository and ref of a build, what the first run found.
//
//   planned with a ref ──freezeCommit──> frozen ──> told with every later lease, reruns included
//   planned with the id of a commit ───> frozen by createBuild
//
// A row is never changed. Called by the API and by the other files of this folder.
import { sql } from 'kysely';
import { isCommitId } from '../../domain/repository';
import type { Plan, PlannedRun } from '../../domain/schemas/plan';
import type { Database } from './connect';
import { FencedError, isHolding, type Holder } from './holders';

export interface FrozenCommit {
  url: string;
  ref: string;
  commit: string;
}

/**
 * Freezes what a worker found for the ref of its run, for all runs of the build of that repository and ref; the first to
 * say so counts. @returns the commit that counts @throws FencedError
 */
export async function freezeCommit(db: Database, holder: Holder, found: string): Promise<string> {
  // The update changes nothing: it waits for whoever is first, and makes their row come back.
  const { rows } = await sql<{ commit: string }>`
    insert into commits (build_id, url, ref, commit)
    select build_id, spec #>> '{checkout,url}', spec #>> '{checkout,ref}', ${found}::text from runs
    where id = ${holder.runId}::uuid and spec #>> '{checkout,url}' is not null
      and ${isHolding(holder, ['granted', 'active'])}
    on conflict (build_id, url, ref) do update set commit = commits.commit
    returning commit`.execute(db);
  const [row] = rows;
  if (!row) throw new FencedError(holder);
  return row.commit;
}

/** What a plan says itself, frozen from the start. */
export function plannedCommits({ runs }: Plan): FrozenCommit[] {
  const checkouts = runs.flatMap(({ checkout }) => (checkout && isCommitId(checkout.ref) ? [checkout] : []));
  const found = new Map(checkouts.map(({ url, ref }) => [`${url} ${ref}`, { url, ref, commit: ref }]));
  return [...found.values()];
}

/** As SQL: the commit of a run; null: it has no checkout, or nobody has looked yet. @param run name of the table of runs */
export const commitOf = (run: 'runs' | 'r') => sql<string | null>`(
  select commit from commits where commits.build_id = ${sql.ref(`${run}.build_id`)}
    and commits.url = ${sql.ref(`${run}.spec`)} #>> '{checkout,url}'
    and commits.ref = ${sql.ref(`${run}.spec`)} #>> '{checkout,ref}')`;

/** Of one build; a matrix of refs may have hundreds. */
export const MOST_COMMITS_SHOWN = 20;

/** As SQL: the first commits of a build. */
export const COMMITS = sql<FrozenCommit[]>`(
  select coalesce(jsonb_agg(jsonb_build_object('url', url, 'ref', ref, 'commit', commit)), '[]') from (
    select url, ref, commit from commits where commits.build_id = builds.id order by frozen_at, url, ref limit ${MOST_COMMITS_SHOWN}
  ) as first)`;

/** A commit in place of its ref: workers of every version check out exactly that. */
export function specAt(spec: PlannedRun, commit: string | null): PlannedRun {
  return spec.checkout && commit !== null ? { ...spec, checkout: { ...spec.checkout, ref: commit } } : spec;
}
