// Owns what is wrong with the first lines of a script: the kernel, or a shell in its place, would not read them as meant.
// Pure; called by domain/plan.ts.

/** Why a script would not be run by the program that it names; undefined: it would. */
export function sayHeadFault(script: string): string | undefined {
  if (script.startsWith('\uFEFF'))
    return 'begins with a byte order mark, so its first line is not read as #!; remove the mark';
  const lines = script.split('\n', 100);
  if (lines[0]?.endsWith('\r')) {
    return 'its first line ends with a carriage return, which becomes part of the command; end lines with \\n alone';
  }
  const head = lines.findIndex((line) => !/^\s*(?:#|$)/.test(line));
  const at = lines.slice(0, head === -1 ? lines.length : head).findIndex((line) => /^\s*#!/.test(line));
  if (at === -1 || script.startsWith('#!')) return undefined;
  const where = at === 0 ? 'has blanks before it' : `is in line ${at + 1}`;
  return `#! ${where}, and has an effect only at the very beginning; move it there`;
}
