// Owns the door for project files: text in, a checked file or every problem with its line and column out.
// Called by the API (validate, store, plan), by the CLI offline, and by the docs for the JSON Schema.
import { z } from 'zod';
import { checkProject } from '../domain/plan';
import { ProjectFile } from '../domain/schemas/project-file';
import type { Problem } from '../domain/schemas/words';
import { describeIssue, salvage } from './project-file-issues';
import { findPlace, isTreeMap, readYaml } from './yaml-tree';

export type ProjectFileReading = { kind: 'valid'; file: ProjectFile } | { kind: 'invalid'; problems: Problem[] };

const MAX_BYTES = 1024 ** 2;
/** Enough for any file that people write; more only makes an answer nobody reads. */
const MAX_PROBLEMS = 1000;

/**
 * Reads and checks a project file. Never throws for what the text holds.
 * @param text YAML, 1 MiB at most
 * @returns the file, or all problems in the order of the text
 */
export function readProjectFile(text: string): ProjectFileReading {
  const refusal = checkText(text);
  if (refusal) return { kind: 'invalid', problems: [refusal] };
  const tree = readYaml(text.replace(/^\uFEFF/, ''));
  const { problems, root } = tree;
  if (!root) return { kind: 'invalid', problems: sortProblems(problems) };
  if (!isTreeMap(root.value)) {
    const message = 'a project file is a map with the keys timeout, scripts and triggers; this is none';
    return { kind: 'invalid', problems: [...problems, { code: 'not-a-map', message, path: '', line: 1, column: 1 }] };
  }
  const parsed = ProjectFile.safeParse(root.value);
  const complaints = parsed.success ? [] : parsed.error.issues.flatMap((issue) => describeIssue(root, issue));
  const readable = parsed.success ? parsed.data : salvage(root.value);
  complaints.push(...checkProject(readable));
  problems.push(...complaints.map((complaint) => tree.locate(complaint, findPlace(root, complaint.at).at)));
  if (parsed.success && problems.length === 0) return { kind: 'valid', file: parsed.data };
  return { kind: 'invalid', problems: sortProblems(problems) };
}

/** JSON Schema of the project file, for editors. */
export function projectFileJsonSchema(): Record<string, unknown> {
  return { title: 'Slipway project file', ...z.toJSONSchema(ProjectFile, { io: 'input' }) };
}

function checkText(text: unknown): Problem | undefined {
  const place = { path: '', line: 1, column: 1 };
  if (typeof text !== 'string') return { code: 'not-text', message: 'a project file is text', ...place };
  if (Buffer.byteLength(text) > MAX_BYTES) {
    const message = 'the file is larger than 1 MiB; keep long programs in the image or the repository';
    return { code: 'too-large', message, ...place };
  }
  // U+FFFD is what decoding leaves of bytes that are no UTF-8.
  // eslint-disable-next-line no-control-regex -- control characters are what is looked for
  const odd = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f\uFFFD]/.exec(text);
  if (!odd) return undefined;
  const before = text.slice(0, odd.index).split('\n');
  const message = 'the file is not plain UTF-8 text: there is a control character or an invalid byte here';
  return { code: 'not-text', message, path: '', line: before.length, column: (before.at(-1)?.length ?? 0) + 1 };
}

function sortProblems(problems: readonly Problem[]): Problem[] {
  const sorted = [...problems].sort(
    (a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0) || (a.path < b.path ? -1 : 1),
  );
  const more = sorted.length - MAX_PROBLEMS;
  if (more <= 0) return sorted;
  const message = `there are ${more} more problems; correct these first`;
  return [...sorted.slice(0, MAX_PROBLEMS), { code: 'too-many-problems', message, path: '' }];
}
