// Owns the passing of time on screen: one shared ticking clock, ages and running durations.
// Used by every page.
import { useEffect, useState } from 'preact/hooks';
import { formatAge, formatDuration } from './format';

const TICK_MS = 1_000;
const watchers = new Set<(nowMs: number) => void>();
let ticking: ReturnType<typeof setInterval> | undefined;

function watch(watcher: (nowMs: number) => void): () => void {
  watchers.add(watcher);
  ticking ??= setInterval(() => {
    const nowMs = Date.now();
    for (const each of watchers) each(nowMs);
  }, TICK_MS);
  return () => {
    watchers.delete(watcher);
    if (watchers.size > 0) return;
    clearInterval(ticking);
    ticking = undefined;
  };
}

/** The present, to the second, while `isMoving`; one interval serves the whole page. */
export function useNow(isMoving: boolean): number {
  const [nowMs, setNowMs] = useState(Date.now);
  useEffect(() => (isMoving ? watch(setNowMs) : undefined), [isMoving]);
  return nowMs;
}

const absolute = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'long' });

/** `5 min ago`; the exact instant is in the tooltip. */
export function Age({ at }: { at: string }) {
  const nowMs = useNow(true);
  const date = new Date(at);
  return (
    <time dateTime={at} title={absolute.format(date)}>
      {formatAge(nowMs - date.getTime())}
    </time>
  );
}

interface Span {
  startedAt: string | null;
  finishedAt: string | null;
}

/** Milliseconds from start to finish, or to now; null before the start. Pure. */
export function spanMs(span: Span, nowMs: number): number | null {
  if (span.startedAt === null) return null;
  const endMs = span.finishedAt === null ? nowMs : Date.parse(span.finishedAt);
  return Math.max(0, endMs - Date.parse(span.startedAt));
}

/** How long something took, or takes so far; a dash when it never started. */
export function Duration({ span }: { span: Span }) {
  const isMoving = span.startedAt !== null && span.finishedAt === null;
  const durationMs = spanMs(span, useNow(isMoving));
  return <span class="number">{durationMs === null ? '–' : formatDuration(durationMs)}</span>;
}
