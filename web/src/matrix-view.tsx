// Owns drawing the runs of a build as a matrix: one section per job, one link per cell.
// Used by build-page.tsx; the layout is decided in matrix.ts.
import { Component } from 'preact';
import type { BuildSummary, RunSummary } from '../../domain/schemas/api';
import { pagePath } from '../../domain/names';
import { spanMs } from './clock';
import { countOf, formatDuration, joinFacts } from './format';
import { cellKey, cellLabel, shapeJobs, type JobShape } from './matrix';
import { StatusIcon, toneOf } from './status';

type BuildName = Pick<BuildSummary, 'project' | 'number'>;

interface CellProps {
  build: BuildName;
  run: RunSummary;
  /** Null inside a table, where row and column already say which cell it is. */
  label: string | null;
}

/** A passed run says how long it took, any other says its status. */
function factOf(run: RunSummary): string {
  const durationMs = run.finishedAt === null ? null : spanMs(run, 0);
  return run.status === 'passed' && durationMs !== null ? formatDuration(durationMs) : run.status;
}

/** Drawn again only when its run changed: with 1,000 cells a second this is what keeps the page responsive. */
class Cell extends Component<CellProps> {
  override shouldComponentUpdate(next: CellProps): boolean {
    return next.run !== this.props.run || next.label !== this.props.label;
  }

  override render({ build, run, label }: CellProps) {
    const detail = joinFacts([run.status, run.message, run.waiting], ': ');
    return (
      <a
        class={`cell tone-${toneOf(run.status)} is-${run.status}`}
        href={pagePath.run(build.project, build.number, run.name)}
        title={`${run.name}\n${detail}`}
        aria-label={`${run.name}: ${run.status}`}
        data-item
      >
        <StatusIcon status={run.status} />
        {label === null ? null : <span class="cell-label">{label}</span>}
        <span class="cell-fact">{factOf(run)}</span>
      </a>
    );
  }
}

const passedOf = (runs: RunSummary[]): string =>
  `${runs.filter((run) => run.outcome === 'passed').length} of ${countOf(runs.length, 'run')} passed`;

function JobTable({ build, shape }: { build: BuildName; shape: Extract<JobShape, { kind: 'table' }> }) {
  return (
    <div class="scroll-x">
      <table class="matrix">
        <thead>
          <tr>
            <td class="axes">
              {shape.rowAxis} ↓ {shape.columnAxis} →
            </td>
            {shape.columns.map((column) => (
              <th key={column} scope="col">
                {column}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {shape.rows.map((row) => (
            <tr key={row}>
              <th scope="row">{row}</th>
              {shape.columns.map((column) => {
                const run = shape.runAt.get(cellKey(row, column));
                return <td key={column}>{run === undefined ? null : <Cell build={build} run={run} label={null} />}</td>;
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function CellGrid({ build, runs, axes }: { build: BuildName; runs: RunSummary[]; axes: string[] }) {
  return (
    <ul class="cells">
      {runs.map((run) => (
        <li key={run.name}>
          <Cell build={build} run={run} label={cellLabel(run, axes)} />
        </li>
      ))}
    </ul>
  );
}

function Job({ build, shape }: { build: BuildName; shape: JobShape }) {
  if (shape.kind === 'singles') return <CellGrid build={build} runs={shape.runs} axes={[]} />;
  return (
    <section class="job">
      <h3>
        {shape.job} <span class="muted">{passedOf(shape.runs)}</span>
        {shape.kind === 'cells' ? <span class="muted"> · {shape.axes.join(' · ')}</span> : null}
      </h3>
      {shape.kind === 'table' ? (
        <JobTable build={build} shape={shape} />
      ) : (
        <CellGrid build={build} runs={shape.runs} axes={shape.axes} />
      )}
    </section>
  );
}

const keyOf = (shape: JobShape): string =>
  shape.kind === 'singles' ? `singles ${shape.runs[0]?.name ?? ''}` : `job ${shape.job}`;

export function Matrix({ build, runs }: { build: BuildName; runs: RunSummary[] }) {
  return (
    <>
      {shapeJobs(runs).map((shape) => (
        <Job key={keyOf(shape)} build={build} shape={shape} />
      ))}
    </>
  );
}
