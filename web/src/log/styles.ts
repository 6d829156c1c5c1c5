// Owns escape sequences in a log: which style is on when a line begins, and text without them. Pure.
// Called by the list for the lines on screen, and by search.ts.
// oxlint-disable no-control-regex -- escape sequences are control characters
import type { LogWindow, Segment } from './window';

/** What the terminal would still have switched on; values are SGR parameters. */
interface Style {
  fg: string;
  bg: string;
  flags: readonly string[];
}

const PLAIN: Style = { fg: '', bg: '', flags: [] };
const SGR = /\x1b\[([\d;:]*)m/g;
const ANY_ESCAPE = /\x1b(?:\][^\x07\x1b]*(?:\x07|\x1b\\)|\[[0-?]*[ -/]*[@-~]?|[@-Z\\^_])/g;

/** The text without escapes, for search and for copying. */
export const stripEscapes = (text: string): string => (text.includes('\x1b') ? text.replace(ANY_ESCAPE, '') : text);

/** Extended colours take the following parameters with them: `38;5;n` or `38;2;r;g;b`. */
function takeColour(codes: string[]): string {
  const [mode] = codes;
  return codes.splice(0, mode === '5' ? 2 : mode === '2' ? 4 : 1).join(';');
}

function withCode(style: Style, code: number, rest: string[]): Style {
  if (code === 0) return PLAIN;
  if (code < 10) return { ...style, flags: [...style.flags.filter((flag) => flag !== String(code)), String(code)] };
  if (code === 22) return { ...style, flags: style.flags.filter((flag) => flag !== '1' && flag !== '2') };
  if (code > 22 && code < 30) return { ...style, flags: style.flags.filter((flag) => flag !== String(code - 20)) };
  if (code === 38) return { ...style, fg: `38;${takeColour(rest)}` };
  if (code === 48) return { ...style, bg: `48;${takeColour(rest)}` };
  if (code === 39) return { ...style, fg: '' };
  if (code === 49) return { ...style, bg: '' };
  if ((code >= 30 && code < 38) || (code >= 90 && code < 98)) return { ...style, fg: String(code) };
  if ((code >= 40 && code < 48) || (code >= 100 && code < 108)) return { ...style, bg: String(code) };
  return style;
}

function styleAfter(style: Style, line: string): Style {
  if (!line.includes('\x1b')) return style;
  let current = style;
  for (const [, parameters = ''] of line.matchAll(SGR)) {
    const codes = parameters.split(/[;:]/);
    for (let code = codes.shift(); code !== undefined; code = codes.shift())
      current = withCode(current, Number(code), codes);
  }
  return current;
}

function escapeOf(style: Style): string {
  const codes = [...style.flags, style.fg, style.bg].filter((code) => code !== '');
  return codes.length === 0 ? '' : `\x1b[${codes.join(';')}m`;
}

/** Styles after each line of a segment, computed as far as they were asked for. */
const knownStyles = new WeakMap<Segment, { initial: Style; after: Style[] }>();

function styleAtEnd(segment: Segment | undefined): Style {
  return segment === undefined ? PLAIN : styleAfterLine(segment, PLAIN, segment.texts.length - 1);
}

function styleAfterLine(segment: Segment, initial: Style, line: number): Style {
  let known = knownStyles.get(segment);
  if (known === undefined) knownStyles.set(segment, (known = { initial, after: [] }));
  for (let at = known.after.length; at <= line; at += 1) {
    known.after.push(styleAfter(known.after.at(-1) ?? known.initial, segment.texts[at] ?? ''));
  }
  return known.after[line] ?? known.initial;
}

/** The escape that switches on what earlier lines left on. It looks back over one segment (about 1 MiB) at most. */
export function escapeBefore(window: LogWindow, index: number): string {
  const place = window.place(index);
  if (place === null) return escapeOf(styleAtEnd(window.segments.at(-1)));
  const { segment, at, line } = place;
  const initial = styleAtEnd(window.segments[at - 1]);
  const known = knownStyles.get(segment);
  // Lines were loaded above since: what was computed without them may be wrong.
  if (known !== undefined && escapeOf(known.initial) !== escapeOf(initial)) knownStyles.delete(segment);
  return escapeOf(line === 0 ? initial : styleAfterLine(segment, initial, line - 1));
}
