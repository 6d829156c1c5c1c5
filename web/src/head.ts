// Owns what a tab shows without being looked at: title, icon, and the words spoken to screen readers.
// Called by every page with the status it shows.
import { useEffect } from 'preact/hooks';
import type { Status } from '../../domain/schemas/words';
import { joinFacts } from './format';
import { toneOf } from './status';

const SPEAKER_ID = 'speaker';

/** Says `text` politely through the live region that the shell keeps. */
export function announce(text: string): void {
  const speaker = document.getElementById(SPEAKER_ID);
  if (speaker !== null) speaker.textContent = text;
}

/** Icons are files: the page is served under default-src 'self', which refuses a data: address. */
function showIcon(status: Status | null): void {
  const icon = document.getElementById('icon');
  const href = `/icon-${status === null ? 'idle' : toneOf(status)}.svg`;
  if (icon !== null && icon.getAttribute('href') !== href) icon.setAttribute('href', href);
}

/** Title, icon and announcement follow `subject` and its status; a first status is not announced, a change is. */
export function useHead(subject: string, status: Status | null): void {
  useEffect(() => {
    document.title = joinFacts([status, subject, 'Slipway'], ' · ');
    showIcon(status);
  }, [subject, status]);
  useEffect(() => announceChange(subject, status), [subject, status]);
}

let spoken: { subject: string; status: Status } | null = null;

function announceChange(subject: string, status: Status | null): void {
  if (status === null) return;
  if (spoken !== null && spoken.subject === subject && spoken.status !== status)
    announce(`${subject} is now ${status}`);
  spoken = { subject, status };
}
