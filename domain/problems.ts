// Owns how complaints about a project file are worded, located and printed.
// Pure; used by the checks in domain/, by the reader of project files and by the CLI.
import type { Problem } from './schemas/words';

/** Where in the document: keys and list indexes from the root. */
export type Path = readonly (string | number)[];

/** A problem before its line and column are known. */
export interface Complaint {
  code: string;
  message: string;
  at: Path;
}

/** Reads like `triggers[0].runs[2].script`; a key that is no plain word is quoted. */
export function formatPath(path: Path): string {
  let text = '';
  for (const step of path) {
    if (typeof step === 'number') text += `[${step}]`;
    else if (/^[\w-]+$/.test(step)) text += text === '' ? step : `.${step}`;
    else text += `[${JSON.stringify(step)}]`;
  }
  return text;
}

/** A problem without a place in a text, for complaints about requests and plans. */
export function toProblem(complaint: Complaint): Problem {
  return { code: complaint.code, message: complaint.message, path: formatPath(complaint.at) };
}

/** One line for people and for editors: `bad.yml:14:9 triggers[0].runs[2].script: unknown script "x"`. */
export function formatProblem(fileName: string, problem: Problem): string {
  const place = problem.line === undefined ? fileName : `${fileName}:${problem.line}:${problem.column ?? 1}`;
  return problem.path === '' ? `${place}: ${problem.message}` : `${place} ${problem.path}: ${problem.message}`;
}

const CANDIDATES = 50;
const LISTED = 20;

/**
 * The end of a message about a name nobody knows: what was probably meant, and what there is.
 * Looks at the first 50 names, so that it stays quick on hostile files.
 * @param what the names in plural, e.g. `scripts`
 */
export function sayKnown(what: string, unknown: string, known: Iterable<string>): string {
  const names = takeFirst(known, CANDIDATES);
  if (names.length === 0) return `there are no ${what}`;
  const near = findNearest(unknown, names);
  const guess = near === undefined ? '' : `did you mean "${near}"? `;
  return `${guess}${what}: ${names.slice(0, LISTED).join(', ')}${names.length > LISTED ? ', …' : ''}`;
}

function takeFirst(names: Iterable<string>, count: number): string[] {
  const taken: string[] = [];
  for (const name of names) {
    if (taken.length === count) break;
    taken.push(name);
  }
  return taken;
}

function findNearest(unknown: string, names: readonly string[]): string | undefined {
  const plain = simplify(unknown);
  return names.find((name) => isOneSlip(plain, simplify(name)));
}

/** Case and the choice of - or _ are no difference worth a second guess. */
function simplify(name: string): string {
  return name.toLowerCase().replace(/[-_ ]/g, '');
}

/** Whether one letter is too many, missing, wrong or has changed places; linear, since hostile files ask it often. */
function isOneSlip(from: string, to: string): boolean {
  const shorter = Math.min(from.length, to.length);
  let start = 0;
  while (start < shorter && from[start] === to[start]) start += 1;
  let end = 0;
  while (end < shorter - start && from.at(-1 - end) === to.at(-1 - end)) end += 1;
  const a = from.slice(start, from.length - end);
  const b = to.slice(start, to.length - end);
  if (a.length === 2 && b.length === 2) return a[0] === b[1] && a[1] === b[0];
  return a.length <= 1 && b.length <= 1 && (a === b || Math.max(from.length, to.length) > 3);
}
