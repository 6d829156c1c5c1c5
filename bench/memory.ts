// Owns the memory of a process as the kernel counts it: what it holds, and the most it has held since a mark.
// Called by figures that bound growth. Linux alone has these files; elsewhere there is no figure.
import { readFileSync, writeFileSync } from 'node:fs';

const KIBIBYTE = 1024;
const MEGABYTE = 1_000_000;

/** Marks the present and says later by how much the process has grown at its peak since, MB. */
export function watchGrowth(pid: number): (() => number) | undefined {
  if (process.platform !== 'linux') return undefined;
  // "5" makes the kernel forget the peak until now.
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
  const before = readBytes(pid, 'VmRSS');
  return () => (readBytes(pid, 'VmHWM') - before) / MEGABYTE;
}

function readBytes(pid: number, field: 'VmRSS' | 'VmHWM'): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const [, kibibytes] = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status) ?? [];
  if (kibibytes === undefined) throw new Error(`process ${pid} has no ${field}: it has ended`);
  return Number(kibibytes) * KIBIBYTE;
}
