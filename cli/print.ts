// Owns how the command line looks: colours where they are wanted, tables, durations, problems. Pure but for isColourful.
// Called by the commands.
import { styleText } from 'node:util';
import type { Status } from '../domain/schemas/words';

type Style = Parameters<typeof styleText>[0];

const isColourful = !process.env['NO_COLOR'] && (process.stdout.isTTY || process.env['FORCE_COLOR'] !== undefined);

export function paint(style: Style, text: string): string {
  return isColourful ? styleText(style, text) : text;
}

/** Colours and weights, as they are in logs and as paint makes them: they move nothing and end with the line. */
// oxlint-disable-next-line no-control-regex -- colour codes are control characters
const STYLES = /(\u001b\[[\d;:]*m)/;
// oxlint-disable-next-line no-control-regex -- what controls a terminal is what is looked for
const CONTROLS = /[\0-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/**
 * Makes what strangers wrote harmless to a terminal: nothing moves the cursor, sets a title, writes to the clipboard or
 * turns the direction of the text. Colours, line ends and tabs stay. What is replaced reads like a JSON escape, so that
 * JSON stays the JSON that it was.
 */
export function visible(text: string): string {
  return text
    .split(STYLES)
    .map((part, at) => (at % 2 === 1 ? part : part.replace(CONTROLS, escapeOf)))
    .join('');
}

/** The same for a text that must not begin a line of its own, nor colour what follows it. */
export function oneLine(text: string): string {
  return text.replace(/[\n\t]/g, ' ').replace(CONTROLS, escapeOf);
}

const escapeOf = (character: string): string => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;

/** A line of a log as a terminal would leave it: what a carriage return has written over is gone, and colours end. */
export function lineOfLog(line: string): string {
  const shown = line.replace(/\r+$/, '').replace(/^[^]*\r/, '');
  return shown.includes('\u001b') ? `${shown}\u001b[0m` : shown;
}

const STATUS_STYLE: Record<Status, Style> = {
  queued: 'gray',
  leasing: 'cyan',
  preparing: 'cyan',
  running: 'cyan',
  collecting: 'cyan',
  failing: 'red',
  cancelling: 'yellow',
  passed: 'green',
  failed: 'red',
  errored: 'magenta',
  cancelled: 'yellow',
  'timed-out': 'red',
  skipped: 'gray',
};

export function paintStatus(status: Status): string {
  return paint(STATUS_STYLE[status], status);
}

// oxlint-disable-next-line no-control-regex -- colour codes are control characters
const COLOUR = /\u001b\[\d+m/g;

/** Whole cells that paint has made; anything else with an escape in it is a stranger's. */
// oxlint-disable-next-line no-control-regex -- colour codes are control characters
const PAINTED = /^(\u001b\[\d+m)([^\u001b]*)(\u001b\[\d+m)$/;

function cellOf(text: string): string {
  const [, begin, inner, end] = PAINTED.exec(text) ?? [];
  return inner === undefined ? oneLine(text) : `${begin}${oneLine(inner)}${end}`;
}

/** Columns aligned by what is seen; the last one is not padded. A row is a line, whatever its cells hold. */
export function table(texts: readonly (readonly string[])[]): string {
  const rows = texts.map((row) => row.map(cellOf));
  const seen = (text: string): number => text.replace(COLOUR, '').length;
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, at) => (widths[at] = Math.max(widths[at] ?? 0, seen(cell))));
  return rows
    .map((row) =>
      row
        .map((cell, at) => (at === row.length - 1 ? cell : cell + ' '.repeat((widths[at] ?? 0) - seen(cell))))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** `850 ms`, `12.3 s`, `4 min 5 s`, `2 h 3 min`. */
export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 60) return `${minutes} min ${Math.round((ms % 60_000) / 1_000)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** From the start of something to its end, or to now. */
export function elapsed(from: string | null, to: string | null): string {
  if (from === null) return '-';
  return duration((to === null ? Date.now() : Date.parse(to)) - Date.parse(from));
}
