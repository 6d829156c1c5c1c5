// Owns what the program of machines without containers answers, read for those who know Docker's words.
// Called by bare-engine.ts, and for its own machine by a worker's greeting.
import type { MachineFacts } from '../domain/schemas/hosts';
import { BARE_CODES } from './bare-program';
import { KINDS_LEFT_OUT, leftOut, whyNoPath } from './archive-files';
import { EngineError, type ArchivedFile, type EngineErrorReason, type NotStored, type SpoolFile } from './engine';

/** What `ls` says of both folders, with a slash between them: no name has one. */
export function readSpool(listing: string): SpoolFile[] {
  const lines = listing.split('\n');
  const middle = lines.indexOf('/');
  return lines.flatMap((line, at) => {
    // Mode, links, owner, group, size, three words of time: of plain files alone.
    const [, size, file] = /^-\S+ +\d+ +\S+ +\S+ +(\d+) +\S+ +\S+ +\S+ (.+)$/.exec(line) ?? [];
    if (file === undefined || file.endsWith('.new')) return [];
    return [{ side: at < middle ? 'in' : 'out', name: file, sizeBytes: Number(size) }];
  });
}

/** By the letter that `find` has for it. */
const KIND_OF = { l: 'link', p: 'pipe', s: 'socket', b: 'device', c: 'device', d: 'deep', x: 'shut' } as const;

/** Reads entries of a letter, a size and a path each, which end with a NUL; the last may be cut. By path. */
export function readArchive(listing: Buffer): (NotStored | Omit<ArchivedFile, 'open'>)[] {
  const entries: { letter: string; sizeBytes: number; path: Buffer }[] = [];
  for (let start = 0, end = listing.indexOf(0); end !== -1; start = end + 1, end = listing.indexOf(0, start)) {
    const entry = listing.subarray(start, end);
    const blank = entry.indexOf(' ');
    const [letter = '', ...size] = entry.toString('latin1', 0, blank);
    // A path begins with ./
    entries.push({ letter, sizeBytes: Number(size.join('')), path: entry.subarray(blank + 3) });
  }
  entries.sort((a, b) => Buffer.compare(a.path, b.path));
  const isCut = listing.length > 0 && listing.at(-1) !== 0;
  return [
    ...entries.map(({ letter, sizeBytes, path }): NotStored | Omit<ArchivedFile, 'open'> => {
      const why =
        letter === 'f' ? whyNoPath(path) : KINDS_LEFT_OUT[KIND_OF[letter as keyof typeof KIND_OF] ?? 'device'];
      return why === undefined ? { kind: 'file', path: path.toString(), sizeBytes } : leftOut(path, why);
    }),
    ...(isCut ? [leftOut(Buffer.from('/'), 'it holds more names than are read; the rest of them is left out')] : []),
  ];
}

interface BareState {
  state: 'absent' | 'created' | 'running' | 'exited' | 'lost';
  /** s since 1970 */
  created: number;
  started: number | undefined;
  /** What its clock says now; NaN: it does not tell. */
  now: number;
  exitCode: number | undefined;
  isUnbegun: boolean;
}

export function readState(answer: string): BareState {
  const lines = answer.split('\n');
  const [state = '', created, started, exitCode, , begun] = (lines[0] ?? '').trim().split(' ');
  if (!['absent', 'created', 'running', 'exited', 'lost'].includes(state)) {
    throw new EngineError('refused', `the program of the run said ${JSON.stringify(answer.slice(0, 200))}`);
  }
  const number = (text: string | undefined): number | undefined => (text === undefined ? undefined : Number(text));
  return {
    state: state as BareState['state'],
    created: Number(created),
    started: number(started),
    now: Number(lines[1] || NaN),
    exitCode: number(exitCode),
    isUnbegun: begun === 'unbegun',
  };
}

export function reasonOf(code: number, errors: string): EngineErrorReason {
  if (code === BARE_CODES.gone) return 'no-such-container';
  if (code === BARE_CODES.fenced) return 'fenced';
  if (/no space left on device|disk quota exceeded/i.test(errors)) return 'disk-full';
  // Not by the program: the shell, or the folder of the runs, is not as it should be, or a signal ended it.
  return [1, 126, 127].includes(code) || code > 128 ? 'engine-unavailable' : 'refused';
}

export interface BareProbe {
  machine: MachineFacts;
  freeDiskBytes: number;
}

export function readProbe(answer: string): BareProbe {
  const [system = '', processor = '', cpus = '', memoryKib = '', freeKib = ''] = answer.split('\n');
  const positive = (number: number): number | null => (number > 0 ? number : null);
  return {
    machine: {
      os: osOf(system),
      arch: archOf(processor),
      cpus: positive(Number(cpus)),
      memoryBytes: positive(Number(memoryKib) * 1024),
    },
    freeDiskBytes: Number(freeKib) * 1024,
  };
}

/** In Docker's words. */
export function osOf(system: string): string | null {
  if (/^(?:MINGW|MSYS|CYGWIN)/.test(system)) return 'windows';
  return system === '' ? null : system.toLowerCase();
}

const ARCHITECTURES: ReadonlyMap<string, string> = new Map([
  ['x86_64', 'amd64'],
  ['x64', 'amd64'],
  ['aarch64', 'arm64'],
  ['i686', '386'],
  ['ia32', '386'],
]);

/** In Docker's words. */
export function archOf(processor: string): string | null {
  return processor === '' ? null : (ARCHITECTURES.get(processor) ?? processor);
}
