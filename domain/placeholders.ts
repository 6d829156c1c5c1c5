// Owns `{axis}` and `{loop}` in names, images, host tags and parameters.
// Pure; called by domain/jobs.ts and domain/plan.ts.
import { sayKnown } from './problems';
import type { Values } from './matrix';

// `${word}` belongs to the shell: it is never filled, and where no shell reads the text it is a mistake.
const PLACEHOLDER = /(\$?)\{(host-tag|[A-Za-z_][A-Za-z0-9_]*)\}/g;

/** Whether a template has a placeholder that can be filled. */
export function hasPlaceholder(template: string): boolean {
  return [...template.matchAll(PLACEHOLDER)].some(([, dollar]) => dollar === '');
}

/** Fills every placeholder that `values` has a value for; all other text stays as it is. */
export function fill(template: string, values: Values): string {
  if (!template.includes('{')) return template;
  return template.replace(PLACEHOLDER, (whole, dollar: string, word: string) =>
    dollar === '' && Object.hasOwn(values, word) ? (values[word] ?? '') : whole,
  );
}

/** What is wrong with the placeholders of a text that no shell reads; undefined when nothing is. */
export function findBadPlaceholder(template: string, known: readonly string[]): string | undefined {
  for (const [whole, dollar = '', word = ''] of template.matchAll(PLACEHOLDER)) {
    if (!known.includes(word)) {
      const hint = known.length === 0 ? 'the run has no axes' : sayKnown('placeholders', word, known);
      return `unknown placeholder {${word}}; ${hint}`;
    }
    if (dollar !== '') return `write {${word}} instead of ${whole}`;
  }
  return undefined;
}
