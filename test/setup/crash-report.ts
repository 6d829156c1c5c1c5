// Owns what the crash matrix publishes: docs/crash-matrix.json, and the same as a table for people.
// Called by the crash matrix when it ran whole.
import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

/** What was seen of one run: which part died while it was held at which call, and how its attempts ended. */
export interface Cell {
  part: string;
  boundary: string;
  attempts: string[];
}

const DOCS = resolve(__dirname, '..', '..', 'docs');

/** True when all parts are to be tried, and the result is to be published. */
export const isWholeMatrix = (): boolean => process.env.SLIPWAY_SCENARIOS === 'all';

interface Whole {
  /** In the order of the table, as are the boundaries. */
  parts: readonly string[];
  boundaries: readonly string[];
}

/** Publishes a matrix; one that lacks cells, since not all tests of it ran to their end, is not published. */
export function writeMatrix(cells: readonly Cell[], whole: Whole): void {
  if (cells.length < whole.parts.length * whole.boundaries.length) return;
  writeFileSync(join(DOCS, 'crash-matrix.json'), `${JSON.stringify(cells, null, 2)}\n`);
  writeFileSync(join(DOCS, 'crash-matrix.md'), renderMatrix(cells, whole));
}

function renderMatrix(cells: readonly Cell[], { parts, boundaries }: Whole): string {
  const wordOf = (part: string, boundary: string): string => {
    const attempts = cells.find((one) => one.part === part && one.boundary === boundary)?.attempts;
    return attempts?.join(', ') ?? 'not run';
  };
  const line = (words: readonly string[]): string => `| ${words.join(' | ')} |`;
  const rows = boundaries.map((boundary) => line([boundary, ...parts.map((part) => wordOf(part, boundary))]));
  return `# The crash matrix

Each row is a moment in the life of an attempt: a call to the API or to the Docker engine, held _before_ it arrived or
_after_ it took effect and before its answer was known. Each column is a part that died, was restarted or was cut off at
that moment. \`ok\`: the run passed in its first attempt. Else its attempts are named; a host that is gone for good costs
an attempt, and so does an engine that died with a start on its way and cannot say whether it did it. In every cell the
script was started once an attempt, the log is byte-identical, and nothing was left behind.

The last rows are records that the orchestrator keeps, held on their way to the database: before the first statement
arrived, or after the last one was committed. \`closeRuns\` ends a run whose need failed (\`exit-code\`), \`locateAttempt\`
and \`closeAttempt\` follow a host that was lost, \`expireBuild\` a build that ran out of time (\`build-timeout\`), and
\`finishBuild\` ends each build. In every cell the build ended as it does when nothing dies.

Written by \`npm run test:scenarios\`, which runs all of it again.

${line(['held at', ...parts])}
${line(['---', ...parts.map(() => '---')])}
${rows.join('\n')}
`;
}
