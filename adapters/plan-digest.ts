// Owns the digest of a plan: equal plans have equal digests, wherever and whenever they are made.
// Called by the API when a build is accepted, and by the CLI offline.
import { createHash } from 'node:crypto';
import type { Plan } from '../domain/schemas/plan';

/** `sha256:<hex>` of the plan's canonical JSON: keys in code-unit order, no blanks, absent keys left out. */
export function planDigest(plan: Plan): string {
  return `sha256:${createHash('sha256').update(toCanonical(plan)).digest('hex')}`;
}

// Sorting the keys of objects is not enough: JavaScript moves keys such as "10" to the front again.
function toCanonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(toCanonical).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const entries = Object.entries(value).filter(([, entry]) => entry !== undefined);
  const sorted = entries.sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${sorted.map(([key, entry]) => `${JSON.stringify(key)}:${toCanonical(entry)}`).join(',')}}`;
}
