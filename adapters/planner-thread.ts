// Owns the thread in which project files are read and plans are made, one after the other.
// Started by planner.ts; it has no port but the one to its owner, who ends it when a text keeps it busy for too long.
import { parentPort } from 'node:worker_threads';
import { makePlan } from '../domain/plan';
import type { ProjectFile } from '../domain/schemas/project-file';
import { planDigest } from './plan-digest';
import type { PlannerAnswer, PlannerWork } from './planner';
import { readProjectFile } from './project-file';

/** Files that were read lately, by their text, oldest first: a trigger reads the same one again and again. */
const known = new Map<string, ProjectFile>();
const MOST_KNOWN = 50;
/** Of all their texts. What is made of a text may be many times as large. */
const MOST_CHARACTERS = 256 * 1024;
let characters = 0;

function remember(definition: string, file: ProjectFile): void {
  known.set(definition, file);
  characters += definition.length;
  for (const text of known.keys()) {
    if (known.size <= MOST_KNOWN && characters <= MOST_CHARACTERS) return;
    known.delete(text);
    characters -= text.length;
  }
}

function answer({ definition, plan: wanted, mostCharacters }: PlannerWork): PlannerAnswer {
  let file = known.get(definition);
  if (!file) {
    const read = readProjectFile(definition);
    if (read.kind === 'invalid') return read;
    file = read.file;
    remember(definition, file);
  }
  if (!wanted) {
    const { description = '', triggers } = file;
    return { kind: 'valid', description, triggers: triggers.map((trigger) => trigger.name) };
  }
  const made = makePlan(file, wanted, mostCharacters);
  return made.kind === 'plan' ? { ...made, digest: planDigest(made.plan) } : made;
}

parentPort?.on('message', (work: PlannerWork) => parentPort?.postMessage(answer(work)));
