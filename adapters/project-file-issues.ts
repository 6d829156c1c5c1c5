// Owns the step from what the schema found to what people read, and what can still be checked after it.
// Called by adapters/project-file.ts.
import { z } from 'zod';
import type { ReadableFile, ReadableTrigger } from '../domain/plan';
import { sayKnown, type Complaint, type Path } from '../domain/problems';
import { KEYS_NOT_SUPPORTED, ProjectFile, RunEntry } from '../domain/schemas/project-file';
import { findPlace, isTreeMap, type Place, type TreeValue } from './yaml-tree';

type Issue = z.core.$ZodIssue;

/** One issue of the schema as complaints: several when it lists several unknown keys. */
export function describeIssue(root: Place, issue: Issue): Complaint[] {
  // The cast holds: keys of YAML maps are text and list indexes numbers, so no symbol can be in a path.
  const at = issue.path as Path;
  if (issue.code === 'unrecognized_keys') return describeUnknownKeys(at, issue.keys);
  const parent = findPlace(root, at.slice(0, -1));
  const key = at.at(-1);
  const place = key === undefined ? root : parent.children.get(key);
  if (!place) {
    // JobServ has script-repo in place of script; the complaint about that key says enough.
    if (key === 'script' && parent.children.has('script-repo')) return [];
    return [{ code: 'missing-key', message: `"${String(key)}" is missing; add it`, at }];
  }
  return [{ ...describeValue(issue, place.value), at }];
}

function describeValue(issue: Issue, value: TreeValue): Omit<Complaint, 'at'> {
  if (value === null) {
    return { code: 'empty-value', message: 'is empty; write a value, "" for empty text, or leave the key out' };
  }
  if (issue.code === 'invalid_type') {
    return { code: 'wrong-type', message: `must be ${sayExpected(issue.expected)}, not ${sayActual(value)}` };
  }
  if (issue.code === 'invalid_union')
    return { code: 'wrong-type', message: `is ${sayActual(value)}; ${issue.message}` };
  if (issue.code === 'invalid_key') return { code: 'bad-key', message: issue.issues[0]?.message ?? issue.message };
  if (issue.code === 'invalid_value') {
    return { code: 'bad-value', message: `unknown value ${sayActual(value)}; ${sayChoice(issue.values, value)}` };
  }
  return { code: 'bad-value', message: issue.message };
}

function sayChoice(choices: readonly unknown[], value: TreeValue): string {
  return sayKnown('values', typeof value === 'string' ? value : '', choices.map(String));
}

function sayExpected(expected: string): string {
  switch (expected) {
    case 'object':
    case 'record':
      return 'a map';
    case 'array':
      return 'a list';
    case 'string':
      return 'text';
    case 'number':
      return 'a number';
    case 'int':
      return 'a whole number';
    case 'boolean':
      return 'true or false';
    default:
      return expected;
  }
}

function sayActual(value: TreeValue): string {
  if (typeof value === 'string') return value.length > 40 ? `"${value.slice(0, 40)}…"` : JSON.stringify(value);
  return Array.isArray(value) ? 'a list' : 'a map';
}

function describeUnknownKeys(at: Path, unknown: readonly string[]): Complaint[] {
  const known = keysAt(at);
  const refused = keysNotSupported(at);
  return unknown.map((key) => {
    if (!refused.includes(key)) {
      return {
        code: 'unknown-key',
        message: `unknown key "${key}"; ${sayKnown('keys', key, known)}`,
        at: [...at, key],
      };
    }
    const message = `the key "${key}" of JobServ is not supported by this version yet; remove it`;
    return { code: 'key-not-supported', message, at: [...at, key] };
  });
}

function keysNotSupported(at: Path): readonly string[] {
  if (at.length === 0) return KEYS_NOT_SUPPORTED.file;
  if (at.length === 2) return KEYS_NOT_SUPPORTED.trigger;
  return at.length === 4 ? KEYS_NOT_SUPPORTED.run : [];
}

/** Keys that the schema has at a path, found by walking down the schema itself. */
function keysAt(path: Path): string[] {
  let schema: unknown = ProjectFile;
  for (const step of path) {
    const outer = unwrap(schema);
    if (outer instanceof z.ZodArray) schema = outer.element;
    else schema = outer instanceof z.ZodObject ? outer.shape[step] : undefined;
  }
  const inner = unwrap(schema);
  return inner instanceof z.ZodObject ? Object.keys(inner.shape) : [];
}

function unwrap(schema: unknown): unknown {
  let inner = schema;
  while (inner instanceof z.ZodOptional || inner instanceof z.ZodDefault) inner = inner.unwrap();
  return inner;
}

/** Parts of a run that others are checked against; without one of them the run is a gap. */
const ANCHORS: ReadonlySet<string> = new Set(['name', 'matrix', 'loop-on', 'needs']);

/** What of a file with flaws can still be checked for meaning, so that one look finds as much as possible. */
export function salvage(file: { [key: string]: TreeValue }): ReadableFile {
  const { scripts, triggers } = file;
  const more = { params: soundOf('params', file), repository: soundOf('repository', file) };
  // Without the scripts, each run would be told that its script is unknown.
  if (!isTreeMap(scripts) || !Array.isArray(triggers)) return { scripts: {}, triggers: [], ...more };
  return { scripts, triggers: triggers.slice(0, 100).map(salvageTrigger), ...more };
}

/** The value of a key that has no flaw of its own. */
function soundOf<Key extends 'params' | 'repository'>(key: Key, file: { [key: string]: TreeValue }): ReadableFile[Key] {
  return ProjectFile.shape[key].safeParse(file[key]).data as ReadableFile[Key];
}

function salvageTrigger(trigger: TreeValue, index: number): ReadableTrigger {
  const { name, runs, params } = isTreeMap(trigger) ? trigger : {};
  return {
    name: typeof name === 'string' ? name : `triggers[${index}]`,
    params: ProjectFile.shape.params.safeParse(params).data,
    runs: Array.isArray(runs) ? runs.map(salvageRun) : [],
  };
}

function salvageRun(run: TreeValue): RunEntry | undefined {
  if (!isTreeMap(run)) return undefined;
  const first = RunEntry.safeParse(run);
  if (first.success) return first.data;
  const sound = { ...run };
  for (const issue of first.error.issues) {
    const keys = issue.code === 'unrecognized_keys' && issue.path.length === 0 ? issue.keys : [String(issue.path[0])];
    if (keys.some((key) => ANCHORS.has(key))) return undefined;
    for (const key of keys) delete sound[key];
  }
  // Nothing else is checked against the image, so any will do in place of one that is missing.
  return RunEntry.safeParse({ container: 'unreadable', ...sound }).data;
}
