// Owns how the command line looks: colours where they are wanted, tables, durations, problems. Pure but for isColourful.
// Called by the commands.
import { styleText } from 'node:util';
import type { Status } from '../domain/schemas/words';

type Style = Parameters<typeof styleText>[0];

const isColourful = !process.env['NO_COLOR'] && (process.stdout.isTTY || process.env['FORCE_COLOR'] !== undefined);

export function paint(style: Style, text: string): string {
  return isColourful ? styleText(style, text) : text;
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

/** Columns aligned by what is seen; the last one is not padded. */
export function table(rows: readonly (readonly string[])[]): string {
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
