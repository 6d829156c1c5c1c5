// Owns drawing the timeline: names as links on the left, one inline SVG of waiting lines and bars on the right.
// Used by build-page.tsx; positions come from timeline.ts.
import type { BuildSummary, RunSummary } from '../../domain/schemas/api';
import { pagePath } from '../../domain/names';
import { useNow } from './clock';
import { formatDuration } from './format';
import { StatusIcon, toneOf } from './status';
import { layoutTimeline, type Timeline, type TimelineRow } from './timeline';

/** Height of a row in CSS pixels; the names beside it have the same height in build.css. */
const ROW_PX = 22;
const BAR_PX = 12;

function Bar({ row, index }: { row: TimelineRow; index: number }) {
  const middle = index * ROW_PX + ROW_PX / 2;
  const { run, startPercent, widthPercent, durationMs } = row;
  const isRightHalf = startPercent + widthPercent > 75;
  return (
    <g class={`tone-${toneOf(run.status)} is-${run.status}`}>
      <line class="wait" x1="0" x2={`${startPercent}%`} y1={middle} y2={middle} />
      {durationMs === null ? null : (
        <rect
          class="took"
          x={`${startPercent}%`}
          y={middle - BAR_PX / 2}
          width={`${widthPercent}%`}
          height={BAR_PX}
          rx="2"
        >
          <title>{`${run.name}: ${run.status}, ${formatDuration(durationMs)}`}</title>
        </rect>
      )}
      {durationMs === null ? null : (
        <text
          x={`${isRightHalf ? startPercent : startPercent + widthPercent}%`}
          dx={isRightHalf ? -5 : 5}
          y={middle}
          text-anchor={isRightHalf ? 'end' : 'start'}
        >
          {formatDuration(durationMs)}
        </text>
      )}
    </g>
  );
}

function Scale({ ticks }: { ticks: Timeline['ticks'] }) {
  return (
    <svg class="scale" aria-hidden="true">
      {ticks.map(({ percent, text }) => (
        <text key={text} x={`${percent}%`} y="14" text-anchor={percent > 95 ? 'end' : percent < 5 ? 'start' : 'middle'}>
          {text}
        </text>
      ))}
    </svg>
  );
}

export function TimelineView({ build, runs }: { build: BuildSummary; runs: RunSummary[] }) {
  const nowMs = useNow(build.finishedAt === null);
  const { rows, ticks } = layoutTimeline(build, runs, nowMs);
  const heightPx = rows.length * ROW_PX;
  return (
    <div class="timeline">
      <p class="muted timeline-key">thin line: waiting · bar: container running</p>
      <Scale ticks={ticks} />
      <ul class="timeline-names">
        {rows.map(({ run }) => (
          <li key={run.name}>
            <a
              class={`tone-${toneOf(run.status)}`}
              href={pagePath.run(build.project, build.number, run.name)}
              title={`${run.name}: ${run.status}`}
              aria-label={`${run.name}: ${run.status}`}
              data-item
            >
              <StatusIcon status={run.status} />
              <span class="clip">{run.name}</span>
            </a>
          </li>
        ))}
      </ul>
      <svg class="bars" style={{ height: `${heightPx}px` }} role="img" aria-label="When each run waited and ran">
        {ticks.map(({ percent }) => (
          <line key={percent} class="tick" x1={`${percent}%`} x2={`${percent}%`} y1="0" y2={heightPx} />
        ))}
        {rows.map((row, index) => (
          <Bar key={row.run.name} row={row} index={index} />
        ))}
      </svg>
    </div>
  );
}
