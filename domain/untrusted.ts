// Owns how what comes from outside is read where zod is not: inside workflows, and on the way into texts that people see.
// Pure; called by the readers of answers and messages, by workflows and by the store.

/** An own field of an object; undefined: there is none, or it is no object. Never one of a prototype. */
export function fieldOf(value: unknown, name: string): unknown {
  if (typeof value !== 'object' || value === null || !Object.hasOwn(value, name)) return undefined;
  return (value as Record<string, unknown>)[name];
}

/** A message is no longer than this, in UTF-16 units. */
const MOST_TEXT = 2_000;

/**
 * Makes a text safe to store and to show: no control characters, no halves of characters, and not too long. PostgreSQL
 * takes no NUL, and a terminal obeys escapes. @param most in UTF-16 units
 */
export function plainText(text: unknown, most = MOST_TEXT): string {
  if (typeof text !== 'string') return '';
  const plain = text.slice(0, most + 1).replaceAll(/[\p{Cc}\p{Cs}]+/gu, ' ');
  return text.length > most ? `${cutText(plain, most - 1)}…` : plain;
}

/** The beginning of a text, without half a character at its end. @param most in UTF-16 units */
export const cutText = (text: string, most: number): string => text.slice(0, most).replace(/\p{Cs}$/u, '');
