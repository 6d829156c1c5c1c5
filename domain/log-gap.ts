// Owns the words for what a log lacks. Pure; said by the command line and by the page.
import type { LogGap } from './schemas/api';

/** One sentence, without its full stop. */
export function sayGap({ atByte, lostBytes, reason }: LogGap): string {
  const at = `at byte ${atByte}`;
  if (reason === 'engine-restarted')
    return `${at} the engine was restarted; lines that it had not yet stored may be missing`;
  const what = lostBytes === null ? 'what was written after it may be lost' : `${lostBytes} bytes are left out`;
  return `the log has a gap ${at}: ${what} (${reason})`;
}
