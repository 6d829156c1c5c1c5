// Owns how large a plan becomes, counted before one run of it is made: its runs multiply what a file says once.
// Pure; called by domain/plan.ts.
import type { Values } from './matrix';
import type { ExpandedJob } from './needs';
import type { ProjectFile } from './schemas/project-file';

/** Characters of scripts, parameters and needs of all runs of one plan: a build is stored and sent as a whole. */
export const MAX_PLAN_CHARACTERS = 8 * 1024 * 1024;
/** What each parameter costs beside its characters, in a plan and wherever it is kept. */
const PARAM_CHARACTERS = 16;

/**
 * Characters that the runs of a plan come to. Parameters that replace others are counted as well.
 * @param params of all runs: of the file, of the trigger and of the caller
 * @param needed final names that each job needs, in the order of the jobs
 */
export function countCharacters(
  { scripts }: Pick<ProjectFile, 'scripts'>,
  params: readonly (Values | undefined)[],
  { jobs, needed }: { jobs: readonly ExpandedJob[]; needed: readonly (readonly string[])[] },
): number {
  const ofAll = sumOf(params, charactersOf);
  return sumOf(jobs, ({ job, runs }, at) => {
    const ofJob = ofAll + charactersOf(job.entry.params) + sumOf(needed[at] ?? [], ({ length }) => length);
    return sumOf(runs, ({ settings, overrideParams, cell }) => {
      const script = scripts[settings.script]?.length ?? 0;
      return ofJob + script + sumOf([overrideParams, cell.extra, cell.values], charactersOf);
    });
  });
}

function sumOf<T>(items: readonly T[], count: (item: T, at: number) => number): number {
  return items.reduce((sum, item, at) => sum + count(item, at), 0);
}

function charactersOf(params: Values = {}): number {
  return sumOf(Object.entries(params), ([name, value]) => name.length + value.length + PARAM_CHARACTERS);
}
