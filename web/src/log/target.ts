// Owns what part of a log an address asks for. Pure.
// Called by use-log.ts and log-view.tsx; session.ts opens it.
export type LogTarget =
  { kind: 'end' } | { kind: 'start' } | { kind: 'line'; number: number } | { kind: 'byte'; byte: number };

/** `#L123` is a line by number, `#B4096` the line that holds this byte (for lines whose number is not known). Pure. */
export function targetOf(hash: string): LogTarget {
  const [, kind, digits] = /^#([LB])(\d{1,15})$/.exec(hash) ?? [];
  if (kind === 'L' && Number(digits) > 0) return { kind: 'line', number: Number(digits) };
  if (kind === 'B') return { kind: 'byte', byte: Number(digits) };
  return { kind: 'end' };
}
