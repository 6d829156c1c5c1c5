// Owns how the runs of a build are laid out: which jobs become a table, a grid of cells, or plain cells. Pure.
// Called by matrix-view.tsx.
import type { RunSummary } from '../../domain/schemas/api';

/** A job with exactly two axes is a table; any other matrix is a wrapped grid; neighbours without a matrix share one grid. */
export type JobShape =
  | {
      kind: 'table';
      job: string;
      rowAxis: string;
      columnAxis: string;
      rows: string[];
      columns: string[];
      runAt: Map<string, RunSummary>;
      runs: RunSummary[];
    }
  | { kind: 'cells'; job: string; axes: string[]; runs: RunSummary[] }
  | { kind: 'singles'; runs: RunSummary[] };

export const cellKey = (row: string, column: string): string => JSON.stringify([row, column]);

function groupByJob(runs: RunSummary[]): Map<string, RunSummary[]> {
  const jobs = new Map<string, RunSummary[]>();
  for (const run of runs) {
    const group = jobs.get(run.job);
    if (group === undefined) jobs.set(run.job, [run]);
    else group.push(run);
  }
  return jobs;
}

const valuesOf = (runs: RunSummary[], axis: string): string[] => [...new Set(runs.map((run) => run.cell[axis] ?? ''))];

const axesOf = (runs: RunSummary[]): string[] => [...new Set(runs.flatMap((run) => Object.keys(run.cell)))];

/** The longer axis goes down, where there is room. Null when the cells do not all have these two axes and one run each. */
function asTable(job: string, runs: RunSummary[]): JobShape | null {
  const axes = axesOf(runs);
  const [first, second] = axes;
  if (axes.length !== 2 || first === undefined || second === undefined) return null;
  if (runs.some((run) => Object.keys(run.cell).length !== 2)) return null;
  const isFirstLonger = valuesOf(runs, first).length >= valuesOf(runs, second).length;
  const [rowAxis, columnAxis] = isFirstLonger ? [first, second] : [second, first];
  const runAt = new Map(runs.map((run) => [cellKey(run.cell[rowAxis] ?? '', run.cell[columnAxis] ?? ''), run]));
  if (runAt.size !== runs.length) return null;
  return {
    kind: 'table',
    job,
    rowAxis,
    columnAxis,
    rows: valuesOf(runs, rowAxis),
    columns: valuesOf(runs, columnAxis),
    runAt,
    runs,
  };
}

/** In plan order, as given. */
export function shapeJobs(runs: RunSummary[]): JobShape[] {
  const shapes: JobShape[] = [];
  for (const [job, group] of groupByJob(runs)) {
    const axes = axesOf(group);
    const last = shapes.at(-1);
    if (axes.length === 0 && last?.kind === 'singles') last.runs.push(...group);
    else if (axes.length === 0) shapes.push({ kind: 'singles', runs: [...group] });
    else shapes.push(asTable(job, group) ?? { kind: 'cells', job, axes, runs: group });
  }
  return shapes;
}

/** What a cell is called inside its job: its values in the order of the axes, or the name of the run. */
export function cellLabel(run: RunSummary, axes: string[]): string {
  const values = axes.map((axis) => run.cell[axis]).filter((value) => value !== undefined);
  return values.length === 0 ? run.name : values.join(' · ');
}

/** Runs kept by reference when nothing about them changed, so that one changed run of 1,000 redraws one cell. */
export function keepUnchangedRuns(before: RunSummary[], after: RunSummary[]): RunSummary[] {
  const byName = new Map(before.map((run) => [run.name, run]));
  return after.map((run) => {
    const old = byName.get(run.name);
    return old !== undefined && JSON.stringify(old) === JSON.stringify(run) ? old : run;
  });
}

/** Every word must occur in the name, job, host, status, cause or message; case does not matter. */
export function matchesText(run: RunSummary, text: string): boolean {
  const words = text
    .toLowerCase()
    .split(/\s+/)
    .filter((word) => word !== '');
  if (words.length === 0) return true;
  const cell = Object.entries(run.cell).map(([axis, value]) => `${axis}=${value}`);
  const hay = [run.name, run.job, run.host, run.cluster, run.status, run.cause, run.message, ...cell]
    .join(' ')
    .toLowerCase();
  return words.every((word) => hay.includes(word));
}
