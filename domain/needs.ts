// Owns what `needs` means: which runs a name stands for, and which needs can never be met.
// Pure; called by domain/plan.ts once all jobs of a trigger are expanded.
import type { Job, JobRun } from './jobs';
import { sayKnown, type Complaint } from './problems';

export interface ExpandedJob {
  job: Job;
  runs: readonly JobRun[];
}

/** Who a name stands for: all runs of a job, or one run of it. */
interface Needed {
  jobIndex: number;
  runs: readonly string[];
}
export type NeedIndex = ReadonlyMap<string, Needed>;

/** Makes the table of names that a need may use. Names of runs are unique here. */
export function indexNeeds(jobs: readonly ExpandedJob[]): NeedIndex {
  const index = new Map<string, Needed>();
  jobs.forEach(({ runs }, jobIndex) => {
    for (const run of runs) index.set(run.name, { jobIndex, runs: [run.name] });
  });
  // Backwards, so that of two jobs with one name (a complaint of its own) the first is meant.
  for (const [jobIndex, { job, runs }] of [...jobs.entries()].reverse()) {
    index.set(job.entry.name, { jobIndex, runs: runs.map((run) => run.name) });
  }
  return index;
}

/** Final names of all runs that a job needs, in the order of the file, each once. */
export function resolveNeeds(job: Job, index: NeedIndex): string[] {
  return [...new Set((job.entry.needs ?? []).flatMap((need) => index.get(need)?.runs ?? []))];
}

/**
 * Finds unknown needs, needs that are given twice, needs on oneself and cycles.
 * @param isComplete false when some run of the trigger could not be read: its name may be what a need means
 */
export function checkNeeds(jobs: readonly ExpandedJob[], index: NeedIndex, isComplete: boolean): Complaint[] {
  const complaints: Complaint[] = [];
  const names = new Set(jobs.map(({ job }) => job.entry.name));
  jobs.forEach(({ job }, jobIndex) => {
    const seen = new Set<string>();
    job.entry.needs?.forEach((need, position) => {
      const at = [...job.at, 'needs', position];
      const target = index.get(need);
      if (seen.has(need)) {
        complaints.push({ code: 'duplicate-need', message: `"${need}" is needed twice; remove one`, at });
        return;
      }
      seen.add(need);
      if (!target && isComplete) {
        const message = `unknown need "${need}"; ${sayKnown('runs of this trigger', need, names)}`;
        complaints.push({ code: 'unknown-need', message, at });
      }
      if (target?.jobIndex === jobIndex) {
        complaints.push({
          code: 'needs-itself',
          message: `the run "${job.entry.name}" needs itself; remove it here`,
          at,
        });
      }
    });
  });
  return [...complaints, ...findCycles(jobs, index)];
}

/** Each cycle once, at the run whose need closes it. Depth first; a trigger has 1,000 jobs at most. */
function findCycles(jobs: readonly ExpandedJob[], index: NeedIndex): Complaint[] {
  const complaints: Complaint[] = [];
  const done = new Set<number>();
  // In the order in which they are visited; a list would be searched from its start for every need.
  const trail = new Set<number>();
  const nameOf = (jobIndex: number): string => jobs[jobIndex]?.job.entry.name ?? '';
  const visit = (jobIndex: number): void => {
    const { at = [], entry } = jobs[jobIndex]?.job ?? {};
    trail.add(jobIndex);
    entry?.needs?.forEach((need, position) => {
      const target = index.get(need)?.jobIndex;
      if (target === undefined || target === jobIndex || done.has(target)) return;
      if (!trail.has(target)) return visit(target);
      const way = [...trail];
      const names = [...way.slice(way.indexOf(target)), target].map(nameOf);
      const message = `these runs wait for each other: ${names.join(' → ')}; remove one of the needs`;
      complaints.push({ code: 'needs-cycle', message, at: [...at, 'needs', position] });
    });
    trail.delete(jobIndex);
    done.add(jobIndex);
  };
  jobs.forEach((_, jobIndex) => {
    if (!done.has(jobIndex)) visit(jobIndex);
  });
  return complaints;
}
