// Owns what a host-tag means: terms separated by commas, all of which a host must meet.
//
//   gpu*            a glob over its name, its labels, its system and its architecture, case ignored
//   cpus>=4         it has so many cores
//   memory>=8g      it has so many bytes of memory; units are k, m, g in steps of 1024
//
// What a run asks for is one such line for its own host, and one for each of the hosts that it has beside it.
//
// Pure; called by placement.ts, waiting.ts and cluster-choice.ts.
import type { PlannedRun } from './schemas/plan';

/** What is known of a machine; null: nobody could tell, and then nothing is refused for it. */
export interface Machine {
  /** `linux`, `darwin` or `windows`. */
  os: string | null;
  /** `amd64`, `arm64`, … */
  arch: string | null;
  cpus: number | null;
  memoryBytes: number | null;
}

export interface TaggedHost {
  name: string;
  labels: readonly string[];
  machine?: Machine;
  /** It has no containers: a run must ask for it by its name or by one of its labels. */
  isBare?: boolean;
}

/**
 * What a run asks of its host, its limits of cores and memory included, as one host-tag, and in further lines what it asks of
 * the hosts beside it; undefined: any host will do.
 */
export function askOf({ hostTag, resources, hosts = {} }: Asking): string | undefined {
  const terms = [hostTag, numeric('cpus', resources.cpus), numeric('memory', resources.memoryBytes)];
  const own = terms.filter((term) => term !== undefined).join(',');
  return [own, ...Object.values(hosts)].map((tag) => tag.replaceAll(/\s+/g, ' ')).join('\n') || undefined;
}
type Asking = Pick<PlannedRun, 'hostTag' | 'resources' | 'hosts'>;

/** The host-tag of each host that is asked for, first that of the run's own; undefined: any. */
export function tagsOf(ask: string | undefined): (string | undefined)[] {
  return (ask ?? '').split('\n').map((tag) => tag || undefined);
}

/** As a sentence needs it. */
export const sayAsk = (ask: string): string =>
  ask
    .split('\n')
    .map((tag) => tag || 'any host')
    .join(' and ');

const numeric = (what: string, least: number | undefined): string | undefined =>
  least === undefined ? undefined : `${what}>=${least}`;

/** Whether a host meets every term of a host-tag; undefined: none is asked. */
export function matchesTag(host: TaggedHost, hostTag: string | undefined): boolean {
  return missedTerms(host, hostTag).length === 0;
}

/** The terms of a host-tag that a host does not meet; `containers` where it has none and was not asked for by itself. */
export function missedTerms(host: TaggedHost, hostTag: string | undefined): string[] {
  const terms = splitTerms(hostTag);
  const missed = terms.filter((term) => !meets(host, term));
  if (missed.length > 0 || !host.isBare) return missed;
  const isNamed = terms.some((term) => /[^*]/.test(term) && matchesAny(term, [host.name, ...host.labels]));
  return isNamed ? [] : ['containers'];
}

const splitTerms = (hostTag: string | undefined): string[] =>
  (hostTag ?? '')
    .split(',')
    .map((term) => term.trim().toLowerCase())
    .filter((term) => term !== '');

const NUMBER_TERM = /^(cpus|memory)>=(\d+(?:\.\d+)?)([kmg]?)$/;
const UNITS: ReadonlyMap<string, number> = new Map([
  ['k', 1024],
  ['m', 1024 ** 2],
  ['g', 1024 ** 3],
]);

function meets(host: TaggedHost, term: string): boolean {
  const [, what, number, unit = ''] = NUMBER_TERM.exec(term) ?? [];
  if (what !== undefined) {
    const has = what === 'cpus' ? host.machine?.cpus : host.machine?.memoryBytes;
    return (has ?? Infinity) >= Number(number) * (UNITS.get(unit) ?? 1);
  }
  const { os, arch } = host.machine ?? {};
  return matchesAny(
    term,
    [host.name, ...host.labels, os ?? '', arch ?? ''].filter((text) => text !== ''),
  );
}

function matchesAny(term: string, texts: readonly string[]): boolean {
  const glob = readGlob(term);
  return texts.some((text) => matchesGlob(glob, Array.from(text.toLowerCase())));
}

/** One step of a glob: any run of characters, or one character that is in (or not in) a set. */
type GlobStep = '*' | { takes(char: string): boolean };

/** fnmatch's `*`, `?` and `[…]`, nothing else; the same meaning as JobServ's host-tag. */
function readGlob(glob: string): GlobStep[] {
  const chars = Array.from(glob);
  const steps: GlobStep[] = [];
  for (let at = 0; at < chars.length; at += 1) {
    const char = chars[at]!;
    // A bracket right after the opening one (or its `!`) is a member of the set, not its end.
    const close = char === '[' ? chars.indexOf(']', at + (chars[at + 1] === '!' ? 3 : 2)) : -1;
    if (char === '*') steps.push('*');
    else if (char === '?') steps.push({ takes: () => true });
    else if (close > 0) {
      steps.push(readSet(chars.slice(at + 1, close)));
      at = close;
    } else steps.push({ takes: (other) => other === char });
  }
  return steps;
}

/** A range that runs backwards holds nothing. */
function readSet(body: readonly string[]): GlobStep {
  const isNegated = body[0] === '!';
  const chars = isNegated ? body.slice(1) : body;
  const ranges: [from: string, to: string][] = [];
  for (let at = 0; at < chars.length; at += 1) {
    const isRange = chars[at + 1] === '-' && at + 2 < chars.length;
    ranges.push([chars[at]!, chars[isRange ? at + 2 : at]!]);
    if (isRange) at += 2;
  }
  return { takes: (char) => ranges.some(([from, to]) => from <= char && char <= to) !== isNegated };
}

/** Goes back to the last star only, so the time is pattern × text: as a regular expression some patterns take years. */
function matchesGlob(glob: readonly GlobStep[], text: readonly string[]): boolean {
  let step = 0;
  let at = 0;
  let star = { step: -1, at: 0 };
  while (at < text.length) {
    const now = glob[step];
    if (now === '*') {
      star = { step, at };
      step += 1;
    } else if (now?.takes(text[at]!)) {
      step += 1;
      at += 1;
    } else if (star.step >= 0) {
      star.at += 1;
      step = star.step + 1;
      at = star.at;
    } else return false;
  }
  return glob.slice(step).every((rest) => rest === '*');
}
