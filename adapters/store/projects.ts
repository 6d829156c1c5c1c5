// Owns the rows of projects. Called by the API.
import { sql } from 'kysely';
import type { Database } from './connect';

export interface ProjectRow {
  name: string;
  description: string;
  definition: string;
  triggers: string[];
  organisation: string | null;
  created_at: Date;
  updated_at: Date;
  last_number: number;
}
export interface ProjectText {
  name: string;
  description: string;
  definition: string;
  triggers: string[];
  /** Absent: as it is, or none. */
  organisation?: string | null;
}

/** @returns false when the name is taken; the row is then left as it is */
export async function createProject(db: Database, project: ProjectText): Promise<boolean> {
  const result = await db
    .insertInto('projects')
    .values({ ...project, triggers: JSON.stringify(project.triggers) })
    .onConflict((conflict) => conflict.column('name').doNothing())
    .executeTakeFirst();
  return result.numInsertedOrUpdatedRows === 1n;
}

/** Replaces definition and what follows from it; builds keep the definition they were triggered with. */
export async function replaceProject(db: Database, project: ProjectText): Promise<boolean> {
  const { name, ...text } = project;
  const result = await db
    .updateTable('projects')
    .set({ ...text, triggers: JSON.stringify(text.triggers), updated_at: sql`now()` })
    .where('name', '=', name)
    .executeTakeFirst();
  return result.numUpdatedRows === 1n;
}

export async function readProject(db: Database, name: string): Promise<ProjectRow | undefined> {
  return db.selectFrom('projects').selectAll().where('name', '=', name).executeTakeFirst();
}

/** Of the project of a build; null: it has none. */
export async function readOrganisation(db: Database, buildId: string): Promise<string | null> {
  const row = await db
    .selectFrom('builds')
    .innerJoin('projects', 'projects.name', 'builds.project')
    .select('projects.organisation')
    .where('builds.id', '=', buildId)
    .executeTakeFirst();
  return row?.organisation ?? null;
}

export async function listProjects(db: Database): Promise<ProjectRow[]> {
  return db.selectFrom('projects').selectAll().orderBy('name').execute();
}
