// Owns finding text in the loaded part of a log. Pure, with a memory of segments already searched.
// Called by the view when the question or the window changes.
import { stripEscapes } from './styles';
import type { LogWindow, Segment } from './window';

/** More are not counted: nobody steps through them, and the list would outgrow the log. */
export const MAX_MATCHES = 100_000;

export interface Matches {
  /** Ordinals of lines that hold the text, ascending. */
  ordinals: number[];
  isCut: boolean;
}

export const NO_MATCHES: Matches = { ordinals: [], isCut: false };

/** Case does not matter; everything else is taken literally. */
export const patternOf = (query: string, flags: 'i' | 'gi'): RegExp =>
  new RegExp(query.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'), flags);

/** One question; segments only ever grow at their end, so each line is looked at once. */
export class LogSearch {
  private readonly pattern: RegExp;
  private readonly found = new WeakMap<Segment, { scanned: number; lines: number[] }>();

  constructor(readonly query: string) {
    this.pattern = patternOf(query, 'i');
  }

  matches(window: LogWindow): Matches {
    const ordinals: number[] = [];
    let before = window.firstOrdinal;
    for (const segment of window.segments) {
      for (const line of this.linesIn(segment)) {
        if (ordinals.length >= MAX_MATCHES) return { ordinals, isCut: true };
        ordinals.push(before + line);
      }
      before += segment.texts.length;
    }
    if (window.openText !== null && this.pattern.test(stripEscapes(window.openText))) ordinals.push(before);
    return { ordinals, isCut: false };
  }

  private linesIn(segment: Segment): number[] {
    let known = this.found.get(segment);
    if (known === undefined) this.found.set(segment, (known = { scanned: 0, lines: [] }));
    for (; known.scanned < segment.texts.length; known.scanned += 1) {
      if (this.pattern.test(stripEscapes(segment.texts[known.scanned] ?? ''))) known.lines.push(known.scanned);
    }
    return known.lines;
  }
}

/** The match to go to from `current`: the next or previous one, round the end. Null when there is none. */
export function stepMatch(matches: Matches, current: number | null, step: 1 | -1): number | null {
  const { ordinals } = matches;
  if (ordinals.length === 0) return null;
  if (current === null) return (step === 1 ? ordinals[0] : ordinals.at(-1)) ?? null;
  const next =
    step === 1 ? ordinals.find((ordinal) => ordinal > current) : ordinals.findLast((ordinal) => ordinal < current);
  return next ?? (step === 1 ? ordinals[0] : ordinals.at(-1)) ?? null;
}
