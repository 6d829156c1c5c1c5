// Owns the reading of YAML: text to plain values, each with its place, and every trap of YAML as a problem.
// Called by adapters/project-file.ts; nothing else knows the yaml package.
import { Composer, isAlias, isMap, isNode, isScalar, isSeq, Lexer, LineCounter, Parser, visit } from 'yaml';
import type { Alias, Document, Node, Scalar, YAMLMap } from 'yaml';
import { toProblem, type Complaint, type Path } from '../domain/problems';
import type { Problem } from '../domain/schemas/words';

/** Scalars are the text they are in the file, whatever YAML makes of them; only null stays null. */
export type TreeValue = string | null | TreeValue[] | { [key: string]: TreeValue };

/** A value with the offset of its key, or of itself in a list, and the places of what it contains. */
export interface Place {
  at: number;
  value: TreeValue;
  children: Map<string | number, Place>;
}
export interface YamlTree {
  /** Undefined when the text is no YAML: no value can be trusted then. */
  root: Place | undefined;
  problems: Problem[];
  /** Makes a problem with the line and column of an offset. */
  locate(complaint: Complaint, offset: number): Problem;
}

/** Open collections while parsing; a project file has about 20. Without a limit the composer overflows the stack. */
const MAX_OPEN = 100;
/** Words, signs and line ends; more than any file needs, and 1 MiB of commas took the composer half a minute. */
const MAX_PARTS = 200_000;
/** Values made through aliases; a bomb of a few lines makes billions. */
const MAX_ALIASED = 20_000;
/** Names that reach into JavaScript's objects; no project needs one. */
const RESERVED: ReadonlySet<string> = new Set(['__proto__', 'constructor', 'prototype']);

export function readYaml(text: string): YamlTree {
  const lines = countLines(text);
  const problems: Problem[] = [];
  const locate: YamlTree['locate'] = (complaint, offset) => {
    const { line, col } = lines.linePos(offset);
    return { ...toProblem(complaint), line, column: col };
  };
  const report: Report = (complaint, offset) => {
    problems.push(locate(complaint, offset));
  };
  const document = compose(text, report);
  if (!document) return { root: undefined, problems, locate };
  const reading: Reading = {
    report,
    targets: findTargets(document),
    open: new Set(),
    aliasDepth: 0,
    aliased: 0,
    isBroken: false,
  };
  const root = readNode(reading, document.contents, { at: 0, path: [] });
  return { root: reading.isBroken ? undefined : root, problems, locate };
}

/** The parser could call this counter itself, but after an error it leaves out lines. */
function countLines(text: string): LineCounter {
  const lines = new LineCounter();
  let start = 0;
  while (start >= 0) {
    lines.addNewLine(start);
    start = text.indexOf('\n', start) + 1 || -1;
  }
  return lines;
}

type Report = (complaint: Complaint, offset: number) => void;
interface Reading {
  report: Report;
  targets: ReadonlyMap<Alias, Node>;
  /** Collections that are being read, to see an alias to one of them. */
  open: Set<Node>;
  aliasDepth: number;
  aliased: number;
  /** An alias could not be followed: what stands in its place is not what was meant. */
  isBroken: boolean;
}
interface Spot {
  at: number;
  path: Path;
}

/** Text to a syntax tree; undefined after reporting when it is none, or several. */
function compose(text: string, report: Report): Document | undefined {
  const tokens = tokenize(text, report);
  if (!tokens) return undefined;
  const options = { prettyErrors: false, stringKeys: true, uniqueKeys: false, resolveKnownTags: false };
  const composed = new Composer(options).compose(tokens, true, text.length);
  const document = withoutStackTraces(() => composed.next().value) ?? undefined;
  const second = withoutStackTraces(() => composed.next().value) ?? undefined;
  if (!document) return undefined;
  for (const { message, pos } of [...document.errors, ...document.warnings]) {
    report({ code: 'yaml-syntax', message: `no valid YAML: ${lowerFirst(message)}`, at: [] }, pos[0]);
  }
  if (second) {
    const message = 'a second document begins here; a project file is one document, so remove the "---"';
    report({ code: 'multiple-documents', message, at: [] }, second.range[0]);
  }
  return document.errors.length + document.warnings.length > 0 || second ? undefined : document;
}

/** The composer makes an Error for each flaw: with stack traces, 1 MiB of commas took it 30 s. */
function withoutStackTraces<T>(work: () => T): T {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 0;
  try {
    return work();
  } finally {
    Error.stackTraceLimit = limit;
  }
}

type Token = Parameters<Composer['next']>[0];

/** The parser keeps a stack of its own, so depth and number can be limited before anything recurses or is composed. */
function tokenize(text: string, report: Report): Token[] | undefined {
  const parser = new Parser();
  const tokens: Token[] = [];
  let parts = 0;
  for (const lexeme of new Lexer().lex(text)) {
    for (const token of parser.next(lexeme)) tokens.push(token);
    parts += 1;
    if (parts > MAX_PARTS) {
      const message = `the file has more than ${MAX_PARTS} words, signs and line ends up to here; make it smaller`;
      report({ code: 'too-many-parts', message, at: [] }, parser.offset);
      return undefined;
    }
    if (parser.stack.length > MAX_OPEN) {
      const message = 'lists and maps are nested too deeply here; a project file needs about ten levels';
      report({ code: 'too-deep', message, at: [] }, parser.offset);
      return undefined;
    }
  }
  for (const token of parser.end()) tokens.push(token);
  return tokens;
}

/** An alias means the nearest anchor of its name above it; one pass, where the library searches for each alias. */
function findTargets(document: Document): Map<Alias, Node> {
  const anchors = new Map<string, Node>();
  const targets = new Map<Alias, Node>();
  visit(document, {
    Node(_key, node) {
      if (isAlias(node)) {
        const target = anchors.get(node.source);
        if (target) targets.set(node, target);
      } else if (node.anchor !== undefined) anchors.set(node.anchor, node);
    },
  });
  return targets;
}

function readNode(reading: Reading, node: unknown, spot: Spot): Place {
  if (reading.aliasDepth > 0) reading.aliased += 1;
  const place: Place = { at: spot.at, value: null, children: new Map() };
  if (reading.aliased > MAX_ALIASED) return place;
  if (isAlias(node)) return readAlias(reading, node, spot);
  if (isScalar(node)) place.value = readScalar(reading, node, spot);
  if (!isMap(node) && !isSeq(node)) return place;
  reading.open.add(node);
  if (isMap(node)) {
    place.value = {};
    readMap(reading, node, { place, path: spot.path });
  } else {
    node.items.forEach((item, index) => {
      place.children.set(index, readNode(reading, item, { at: offsetOf(item, spot.at), path: [...spot.path, index] }));
    });
    place.value = [...place.children.values()].map((child) => child.value);
  }
  reading.open.delete(node);
  return place;
}

function readAlias(reading: Reading, alias: Alias, spot: Spot): Place {
  const empty: Place = { at: spot.at, value: null, children: new Map() };
  const target = reading.targets.get(alias);
  if (!target || reading.open.has(target)) {
    const message = target ? 'contains itself; write the value out' : 'has no anchor above it; define it with & first';
    const complaint = { code: 'bad-alias', message: `alias *${alias.source} ${message}`, at: spot.path };
    reading.report(complaint, offsetOf(alias, spot.at));
    reading.isBroken = true;
    return empty;
  }
  reading.aliasDepth += 1;
  const place = readNode(reading, target, spot);
  reading.aliasDepth -= 1;
  if (reading.aliasDepth === 0 && reading.aliased > MAX_ALIASED && !reading.isBroken) {
    reading.isBroken = true;
    const message = `aliases make more than ${MAX_ALIASED} values; write fewer of them`;
    reading.report({ code: 'too-many-aliases', message, at: spot.path }, offsetOf(alias, spot.at));
  }
  return place;
}

function readScalar(reading: Reading, scalar: Scalar, spot: Spot): string | null {
  if (scalar.value === null) return null;
  const text = typeof scalar.value === 'string' ? scalar.value : (scalar.source ?? '');
  if (!/[\0\p{Surrogate}]/u.test(text)) return text;
  const message = 'holds NUL or half a character (a lone surrogate), which neither a script nor a variable can';
  reading.report({ code: 'not-text', message, at: spot.path }, spot.at);
  return text;
}

/** Fills a place from a map: its own keys first, then those of `<<` that it does not have, as YAML 1.1 says. */
function readMap(reading: Reading, map: YAMLMap, into: { place: Place; path: Path }): void {
  const { place, path } = into;
  const merges: { value: unknown; at: number }[] = [];
  for (const { key, value } of map.items) {
    const name = isScalar(key) && typeof key.value === 'string' ? key.value : '';
    const at = offsetOf(key, place.at);
    if (name === '<<') merges.push({ value, at });
    else if (RESERVED.has(name)) {
      const message = `the name "${name}" is reserved; choose another`;
      reading.report({ code: 'reserved-key', message, at: [...path, name] }, at);
    } else if (place.children.has(name)) {
      const message = `"${name}" is given twice in this map; remove one`;
      reading.report({ code: 'duplicate-key', message, at: [...path, name] }, at);
    } else place.children.set(name, readNode(reading, value, { at, path: [...path, name] }));
  }
  for (const merge of merges) mergeInto(reading, merge, into);
  place.value = Object.fromEntries([...place.children].map(([name, child]) => [name, child.value]));
}

function mergeInto(reading: Reading, merge: { value: unknown; at: number }, into: { place: Place; path: Path }): void {
  const parts = isSeq(merge.value) ? merge.value.items : [merge.value];
  for (const part of parts) {
    const source = readNode(reading, part, { at: merge.at, path: into.path });
    if (!isTreeMap(source.value) && reading.aliased <= MAX_ALIASED) {
      const message = '"<<" takes a map or an alias of one, or a list of these';
      reading.report({ code: 'bad-merge', message, at: [...into.path, '<<'] }, merge.at);
    }
    for (const [name, child] of source.children) {
      if (!into.place.children.has(name)) into.place.children.set(name, child);
    }
  }
}

function offsetOf(node: unknown, otherwise: number): number {
  return (isNode(node) ? node.range?.[0] : undefined) ?? otherwise;
}

/** The place of a path, or of the nearest thing around it that exists. */
export function findPlace(root: Place, path: Path): Place {
  let place = root;
  for (const step of path) {
    const child = place.children.get(step);
    if (!child) break;
    place = child;
  }
  return place;
}

export function isTreeMap(value: TreeValue | undefined): value is { [key: string]: TreeValue } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}
