// Owns how each status looks: its tone (colour), its icon, its badge. Colour is never the only sign.
// Used by every page; the words themselves come from domain/schemas/words.
import type { RunSummary } from '../../domain/schemas/api';
import type { Status } from '../../domain/schemas/words';

/** A family of colours: good, bad (the user's), ours (the machine's fault), late, busy, quiet. */
export type Tone = 'good' | 'bad' | 'ours' | 'late' | 'busy' | 'quiet';

const TONES: Record<Status, Tone> = {
  queued: 'quiet',
  leasing: 'busy',
  preparing: 'busy',
  running: 'busy',
  collecting: 'busy',
  failing: 'bad',
  cancelling: 'quiet',
  passed: 'good',
  failed: 'bad',
  errored: 'ours',
  cancelled: 'quiet',
  'timed-out': 'late',
  skipped: 'quiet',
};

const RING = 'M8 2.2a5.8 5.8 0 1 0 0 11.6a5.8 5.8 0 1 0 0-11.6';

/** Strokes in a box of 16 by 16; each status has a shape of its own, so it reads without colour. */
const SHAPES: Record<Status, string> = {
  queued: 'M3 8h.1M8 8h.1M13 8h.1',
  leasing: `${RING}M8 8h.1`,
  preparing: `${RING}M8 2.2v11.6M9.8 3v10M11.6 4.2v7.6`,
  running: 'M5 3.2v9.6l7.6-4.8zM6.5 6.2v3.6M8 7v2',
  collecting: 'M8 2.5v7M4.8 6.8L8 10l3.2-3.2M3 13.4h10',
  failing: `${RING}M5.9 5.9l4.2 4.2M10.1 5.9l-4.2 4.2`,
  cancelling: `${RING}M4.4 11.6l7.2-7.2`,
  passed: 'M3 8.6l3.4 3.4L13 4.6',
  failed: 'M4 4l8 8M12 4l-8 8',
  errored: 'M8 2.2L14.6 13.6H1.4zM8 6.6v3M8 11.6h.1',
  cancelled: `${RING}M4.4 11.6l7.2-7.2`,
  'timed-out': `${RING}M8 5v3.3l2.1 1.5`,
  skipped: 'M3.4 4l4 4-4 4M8.8 4l4 4-4 4',
};

/** Groups people filter by: every status before the end but `queued` counts as running. */
export type StatusGroup =
  'queued' | 'running' | 'passed' | 'failed' | 'errored' | 'timed-out' | 'cancelled' | 'skipped';

/** In the order of attention: what is wrong first. */
export const STATUS_GROUPS: readonly StatusGroup[] = [
  'failed',
  'errored',
  'timed-out',
  'running',
  'queued',
  'passed',
  'cancelled',
  'skipped',
];

export function groupOf(status: Status): StatusGroup {
  switch (status) {
    case 'leasing':
    case 'preparing':
    case 'running':
    case 'collecting':
    case 'cancelling':
      return 'running';
    case 'failing':
      return 'failed';
    default:
      return status;
  }
}

export const toneOf = (status: Status): Tone => TONES[status];

/** A run that people must look at; cancelled and skipped runs are consequences, not causes. */
export const isWrong = (run: Pick<RunSummary, 'outcome'>): boolean =>
  run.outcome === 'failed' || run.outcome === 'errored' || run.outcome === 'timed-out';

export function StatusIcon({ status }: { status: Status }) {
  return (
    <svg class="icon" viewBox="0 0 16 16" aria-hidden="true">
      <path d={SHAPES[status]} />
    </svg>
  );
}

/** Icon and word in the colour of the status. */
export function StatusBadge({ status }: { status: Status }) {
  return (
    <span class={`badge tone-${TONES[status]}`} data-status={status}>
      <StatusIcon status={status} />
      {status}
    </span>
  );
}
