// Owns where the bars of the timeline are: shares of the build's whole duration, and the ticks of its scale. Pure.
// Called by timeline-view.tsx.
import type { BuildSummary, RunSummary } from '../../domain/schemas/api';
import { formatDuration } from './format';

/** All positions are percent of the width. */
export interface TimelineRow {
  run: RunSummary;
  /** Waiting goes from 0 to here. */
  startPercent: number;
  widthPercent: number;
  durationMs: number | null;
}

export interface Timeline {
  rows: TimelineRow[];
  ticks: Array<{ percent: number; text: string }>;
}

const SECOND_MS = 1_000;
const STEPS_MS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400].map(
  (s) => s * SECOND_MS,
);
const MAX_TICKS = 8;

function ticksOf(totalMs: number): Timeline['ticks'] {
  const stepMs = STEPS_MS.find((step) => totalMs / step <= MAX_TICKS) ?? totalMs / MAX_TICKS;
  const count = Math.floor(totalMs / stepMs);
  return Array.from({ length: count + 1 }, (_, index) => ({
    percent: (100 * index * stepMs) / totalMs,
    text:
      index === 0
        ? '0'
        : formatDuration(index * stepMs)
            .replace(/\.0 s$/, ' s')
            .replace(/ 00 [sm]$/, ''),
  }));
}

/** `nowMs` is where bars of unfinished runs end. */
export function layoutTimeline(build: BuildSummary, runs: RunSummary[], nowMs: number): Timeline {
  const beginMs = Date.parse(build.createdAt);
  const endMs = build.finishedAt === null ? nowMs : Date.parse(build.finishedAt);
  const totalMs = Math.max(SECOND_MS, endMs - beginMs);
  const percentAt = (atMs: number): number => Math.min(100, Math.max(0, (100 * (atMs - beginMs)) / totalMs));
  const rows = runs.map((run): TimelineRow => {
    const finishMs = run.finishedAt === null ? endMs : Date.parse(run.finishedAt);
    if (run.startedAt === null) return { run, startPercent: percentAt(finishMs), widthPercent: 0, durationMs: null };
    const startMs = Date.parse(run.startedAt);
    const startPercent = percentAt(startMs);
    return {
      run,
      startPercent,
      widthPercent: percentAt(finishMs) - startPercent,
      durationMs: Math.max(0, finishMs - startMs),
    };
  });
  return { rows, ticks: ticksOf(totalMs) };
}
