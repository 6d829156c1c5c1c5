// Owns the mathematics of a matrix: how axes, exclude and include make cells, and which entries are mistakes.
// Pure; called by domain/jobs.ts for `loop-on` and `matrix:` alike.
import { sayKnown, type Complaint, type Path } from './problems';

export interface Axis {
  name: string;
  values: readonly string[];
  /** Place of the list of values in the file. */
  at: Path;
}

/** Axis → value; a pattern names some axes, the values of a cell name all of them. */
export type Values = Readonly<Record<string, string>>;

export interface Matrix {
  /** At least one value each; the last one varies fastest. */
  axes: readonly Axis[];
  exclude: readonly Values[];
  /** A value for every axis; any other key is a parameter of that cell. */
  include: readonly Values[];
  /** Place of `matrix` in the file. */
  at: Path;
}

export interface Cell {
  /** Axis → value, in the order of the axes. */
  values: Values;
  /** Parameters that an include entry brings along. */
  extra: Values;
}

/** Cells before exclude and include, counted without making one. Without axes it is 1. */
export function countProduct(axes: readonly Axis[]): bigint {
  return axes.reduce((product, axis) => product * BigInt(axis.values.length), 1n);
}

/** Whether a cell has every value the pattern names. */
export function isMatch(pattern: readonly (readonly [string, string])[], values: Values): boolean {
  return pattern.every(([axis, value]) => values[axis] === value);
}

/** All cells of a matrix that {@link checkMatrix} finds nothing wrong with: product − exclude, then include. */
export function expandMatrix(matrix: Matrix): Cell[] {
  const { axes } = matrix;
  const kept = combine(matrix).map((row) => ({
    values: Object.fromEntries(axes.map((axis, index) => [axis.name, row[index] ?? ''])),
    extra: {},
  }));
  return [...kept, ...matrix.include.map((entry) => splitInclude(axes, entry))];
}

/** An exclude entry by the index of the axes: the value it asks for, and the last axis it asks anything of. */
interface Exclusion {
  wanted: readonly (string | undefined)[];
  last: number;
}

/**
 * Adds axis after axis to every row, so the last one varies fastest. A row carries along the exclusions it may still
 * fall under: trying all of them on every cell took a minute for a hostile file of 400 KB.
 */
function combine(matrix: Matrix): string[][] {
  const exclusions = matrix.exclude.map((pattern): Exclusion => {
    const wanted = matrix.axes.map((axis) => pattern[axis.name]);
    return { wanted, last: wanted.findLastIndex((value) => value !== undefined) };
  });
  let rows: { row: string[]; open: Exclusion[] }[] = [{ row: [], open: exclusions }];
  matrix.axes.forEach((axis, index) => {
    rows = rows.flatMap(({ row, open }) =>
      axis.values.flatMap((value) => {
        const still = open.filter(({ wanted }) => wanted[index] === undefined || wanted[index] === value);
        return still.some(({ last }) => last === index) ? [] : [{ row: [...row, value], open: still }];
      }),
    );
  });
  return rows.map(({ row }) => row);
}

function splitInclude(axes: readonly Axis[], entry: Values): Cell {
  const names = new Set(axes.map((axis) => axis.name));
  return {
    values: Object.fromEntries(axes.map((axis) => [axis.name, entry[axis.name] ?? ''])),
    extra: Object.fromEntries(Object.entries(entry).filter(([name]) => !names.has(name))),
  };
}

/** Says what is wrong with a matrix, without expanding it: the time grows with the text, not with the product. */
export function checkMatrix(matrix: Matrix): Complaint[] {
  return [...checkAxes(matrix.axes), ...checkExclude(matrix), ...checkInclude(matrix)];
}

function checkAxes(axes: readonly Axis[]): Complaint[] {
  const complaints: Complaint[] = [];
  const names = new Set<string>();
  for (const { name, values, at } of axes) {
    if (names.has(name)) complaints.push({ code: 'duplicate-axis', message: `axis "${name}" is given twice`, at });
    names.add(name);
    const seen = new Set<string>();
    values.forEach((value, index) => {
      const message = `axis "${name}" has the value "${value}" twice; every cell must be another one`;
      if (seen.has(value)) complaints.push({ code: 'duplicate-value', message, at: [...at, index] });
      seen.add(value);
    });
  }
  return complaints;
}

function checkExclude(matrix: Matrix): Complaint[] {
  const known = valuesByAxis(matrix.axes);
  return matrix.exclude.flatMap((pattern, index) =>
    Object.entries(pattern).flatMap(([axis, value]): Complaint[] => {
      const at = [...matrix.at, 'exclude', index, axis];
      const values = known.get(axis);
      if (!values) return [unknownAxis(axis, matrix.axes, at)];
      if (values.has(value)) return [];
      const message = `excludes no cell: axis "${axis}" has no value "${value}"; ${sayKnown('values', value, [...values])}`;
      return [{ code: 'no-such-cell', message, at }];
    }),
  );
}

function checkInclude(matrix: Matrix): Complaint[] {
  const known = valuesByAxis(matrix.axes);
  const added = new Set<string>();
  return matrix.include.flatMap((entry, index): Complaint[] => {
    const at = [...matrix.at, 'include', index];
    const missing = matrix.axes.filter((axis) => !Object.hasOwn(entry, axis.name)).map((axis) => axis.name);
    if (missing.length > 0) {
      return [
        {
          code: 'incomplete-cell',
          message: `an added cell needs a value for every axis; add ${missing.join(', ')}`,
          at,
        },
      ];
    }
    const { values, extra } = splitInclude(matrix.axes, entry);
    if (Object.hasOwn(extra, 'host-tag')) {
      const message = 'host-tag is no axis here; make it one, or set it by an entry of overrides';
      return [{ code: 'unknown-axis', message, at: [...at, 'host-tag'] }];
    }
    const id = JSON.stringify(values);
    const isMade = matrix.axes.every((axis) => known.get(axis.name)?.has(values[axis.name] ?? ''));
    if (added.has(id) || (isMade && !matrix.exclude.some((pattern) => isMatch(Object.entries(pattern), values)))) {
      const message = 'the matrix has this cell already; to change it, use an entry of overrides';
      return [{ code: 'duplicate-cell', message, at }];
    }
    added.add(id);
    return [];
  });
}

function valuesByAxis(axes: readonly Axis[]): Map<string, Set<string>> {
  return new Map(axes.map((axis) => [axis.name, new Set(axis.values)]));
}

/** The complaint about a name that is none of the axes. */
export function unknownAxis(name: string, axes: readonly Axis[], at: Path): Complaint {
  const names = axes.map((axis) => axis.name);
  return { code: 'unknown-axis', message: `unknown axis "${name}"; ${sayKnown('axes', name, names)}`, at };
}
