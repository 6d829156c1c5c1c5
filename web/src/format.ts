// Owns how durations, ages, sizes and counts are written. Pure.
// Used by every page.
const SECOND_MS = 1_000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

const twoDigits = (value: number): string => String(value).padStart(2, '0');

/** `0.4 s`, `45 s`, `3 m 05 s`, `2 h 04 m`, `3 d 4 h`. A clock that runs ahead of the server's never shows less than nothing. */
export function formatDuration(durationMs: number): string {
  const ms = Math.max(0, durationMs);
  if (ms < 9_950) return `${(ms / SECOND_MS).toFixed(1)} s`;
  const seconds = Math.round(ms / SECOND_MS);
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  if (minutes === 0) return `${seconds} s`;
  if (hours === 0) return `${minutes} m ${twoDigits(seconds % 60)} s`;
  if (hours < 24) return `${hours} h ${twoDigits(minutes % 60)} m`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** `just now`, `12 s ago`, `5 min ago`, `3 h ago`, `2 d ago`. */
export function formatAge(ageMs: number): string {
  if (ageMs < 5 * SECOND_MS) return 'just now';
  if (ageMs < MINUTE_MS) return `${Math.floor(ageMs / SECOND_MS)} s ago`;
  if (ageMs < HOUR_MS) return `${Math.floor(ageMs / MINUTE_MS)} min ago`;
  if (ageMs < DAY_MS) return `${Math.floor(ageMs / HOUR_MS)} h ago`;
  return `${Math.floor(ageMs / DAY_MS)} d ago`;
}

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'] as const;

/** Decimal units, as disks and networks count: `0 B`, `1.2 kB`, `98 MB`. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit > 0 && value < 9.95 ? 1 : 0;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** `a · b`: what there is of several facts. */
export const joinFacts = (facts: ReadonlyArray<string | null>, separator: string): string =>
  facts.filter((fact) => fact !== null && fact !== '').join(separator);

/** `1,000`: the same in every browser, whatever its language. */
export const formatCount = (count: number): string => count.toLocaleString('en-US');

/** `1 run`, `2 runs`. */
export const countOf = (count: number, noun: string): string =>
  `${formatCount(count)} ${noun}${count === 1 ? '' : 's'}`;
