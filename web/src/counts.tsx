// Owns how the counts of a build are shown: a bar of shares and the words beside it.
// Used by the list of builds and by the build page, where the words are filters.
import type { RunCounts } from '../../domain/schemas/api';
import { countOf, formatCount } from './format';
import { STATUS_GROUPS, StatusIcon, toneOf, type StatusGroup } from './status';

export const countIn = (counts: RunCounts, group: StatusGroup): number =>
  group === 'timed-out' ? counts.timedOut : counts[group];

/** Groups that have runs, in the order of attention. */
export const presentGroups = (counts: RunCounts): StatusGroup[] =>
  STATUS_GROUPS.filter((group) => countIn(counts, group) > 0);

/** In the bar what is done comes first, so that it fills from the left. */
const BAR_ORDER: readonly StatusGroup[] = [
  'passed',
  'failed',
  'errored',
  'timed-out',
  'cancelled',
  'skipped',
  'running',
  'queued',
];

const summaryOf = (counts: RunCounts): string =>
  `${countOf(counts.total, 'run')}: ${presentGroups(counts)
    .map((group) => `${formatCount(countIn(counts, group))} ${group}`)
    .join(', ')}`;

export function CountsBar({ counts }: { counts: RunCounts }) {
  const summary = summaryOf(counts);
  return (
    <span class="bar" role="img" aria-label={summary} title={summary}>
      {BAR_ORDER.filter((group) => countIn(counts, group) > 0).map((group) => (
        <span
          key={group}
          class={`bar-part tone-${toneOf(group)} bar-${group}`}
          style={{ flexGrow: countIn(counts, group) }}
        />
      ))}
    </span>
  );
}

/** `2 failed · 30 passed` beside the bar; complete in the bar's own label, hence hidden from screen readers. */
export function CountsText({ counts }: { counts: RunCounts }) {
  return (
    <span class="counts-text" aria-hidden="true">
      {presentGroups(counts).map((group) => (
        <span key={group} class={`tone-${toneOf(group)}`}>
          <StatusIcon status={group} />
          {formatCount(countIn(counts, group))}
        </span>
      ))}
    </span>
  );
}
