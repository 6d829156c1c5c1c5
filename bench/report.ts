// Owns the report: verdicts, a table for people, and one JSON line a row for programs. Pure.
// Called by main.ts.
import type { Goal, Row, Unit } from './figure';
import { spreadOf, type Spread } from './spread';

export interface Judged {
  row: Row;
  ours: Spread;
  floor: Spread | undefined;
  /** Median of ours over median of the floor. */
  ratio: number | undefined;
  /** Undefined: there is no goal. */
  met: boolean | undefined;
}

/** @throws RangeError for a goal that names the floor without one */
export function judge(row: Row): Judged {
  const ours = spreadOf(row.ours);
  const floor = row.floor && spreadOf(row.floor);
  return { row, ours, floor, ratio: floor && ours.median / floor.median, met: isMet(row.goal, ours, floor) };
}

function isMet(goal: Goal | undefined, ours: Spread, floor: Spread | undefined): boolean | undefined {
  if (!goal) return undefined;
  if (goal.kind === 'at-most') return ours.median <= goal.value;
  if (!floor) throw new RangeError(`goal ${goal.kind} needs a floor`);
  switch (goal.kind) {
    case 'at-most-over-floor':
      return ours.median - floor.median <= goal.value;
    case 'ratio-at-most':
      return ours.median / floor.median <= goal.value;
    case 'ratio-at-least':
      return ours.median / floor.median >= goal.value;
  }
}

/** One line of JSON: medians, ranges, the goal and the verdict. */
export function toJson({ row, ours, floor, ratio, met }: Judged): string {
  return JSON.stringify({
    figure: row.figure,
    what: row.what,
    unit: row.unit,
    ours: rounded(ours.median),
    oursRange: [ours.least, ours.most].map(rounded),
    floor: floor ? rounded(floor.median) : null,
    floorRange: floor ? [floor.least, floor.most].map(rounded) : null,
    ratio: ratio === undefined ? null : rounded(ratio),
    ...(row.goal ? { goal: row.goal.kind, target: row.goal.value, met } : {}),
    count: ours.count,
  });
}

const rounded = (value: number): number => Number(value.toPrecision(4));

const HEADINGS = ['figure', 'what', 'ours', 'floor', 'ratio', 'target', 'verdict'];

/** A table with columns as wide as what is in them. */
export function toTable(all: readonly Judged[]): string {
  const lines = [HEADINGS, ...all.map(cellsOf)];
  const widths = HEADINGS.map((_, at) => Math.max(...lines.map((cells) => cells[at]?.length ?? 0)));
  const write = (cells: string[]): string =>
    cells
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join('  ')
      .trimEnd();
  return [write(HEADINGS), write(widths.map((width) => '-'.repeat(width))), ...lines.slice(1).map(write)].join('\n');
}

function cellsOf({ row, ours, floor, ratio, met }: Judged): string[] {
  return [
    row.figure,
    row.what,
    words(ours, row.unit),
    floor ? words(floor, row.unit) : '',
    ratio === undefined ? '' : ratio.toFixed(2),
    row.goal ? targetOf(row.goal, row.unit) : '',
    met === undefined ? '' : met ? 'met' : 'not met',
  ];
}

function words(spread: Spread, unit: Unit): string {
  const { median, least, most, count } = spread;
  const range = count > 1 ? ` [${number(least, unit)}–${number(most, unit)}]` : '';
  return `${number(median, unit)} ${UNIT[unit]}${range}`;
}

const UNIT: Record<Unit, string> = { s: 's', ms: 'ms', 'per-min': '/min', MB: 'MB' };
const DECIMALS: Record<Unit, number> = { s: 2, ms: 1, 'per-min': 0, MB: 0 };
const number = (value: number, unit: Unit): string => value.toFixed(DECIMALS[unit]);

function targetOf(goal: Goal, unit: Unit): string {
  switch (goal.kind) {
    case 'at-most':
      return `≤ ${goal.value} ${UNIT[unit]}`;
    case 'at-most-over-floor':
      return `≤ floor + ${goal.value} ${UNIT[unit]}`;
    case 'ratio-at-most':
      return `≤ ${goal.value} × floor`;
    case 'ratio-at-least':
      return `≥ ${goal.value} × floor`;
  }
}
