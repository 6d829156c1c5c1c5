// Owns the safe HTML of one line of a log.
// Called by log-list.tsx for the lines on screen, and by failures.tsx.
// oxlint-disable no-control-regex -- escape sequences are control characters
import { AnsiUp } from 'ansi_up';

/** Operating-system commands (window titles, hyperlinks): removed, the text between them stays. */
const OSC = /\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)/g;
/** One that never ends would swallow the rest of the line: its text is shown instead. */
const OPEN_OSC = /\x1b\]/g;

/**
 * Colours become classes (the style sheet has readable ones for light and dark); everything else is escaped by ansi_up.
 * One converter a line, because an escape that is cut off at the end of a line would leak into the next.
 */
export function htmlOfLine(before: string, text: string): string {
  const converter = new AnsiUp();
  converter.use_classes = true;
  converter.url_allowlist = {};
  return converter.ansi_to_html(before + text.replace(OSC, '').replace(OPEN_OSC, ']'));
}
