// Owns figure F4: one build with a matrix of runs that do nothing, beside as many containers of the bare engine.
// Called through figures/index.ts.
import { alternate } from '../alternate';
import { endOf, NO_OP, passed, trigger } from '../builds';
import { sized, SLOTS, type Bench, type Figure } from '../figure';
import { runContainers } from '../floor';

const PROJECT = 'matrix';
const CELLS = 100;

export const matrix: Figure = {
  id: 'F4',
  async measure(bench) {
    const cells = sized(bench, CELLS, SLOTS);
    await bench.house.project(PROJECT, matrixFile(bench.image, cells));
    await bench.house.project(`${PROJECT}-small`, matrixFile(bench.image, SLOTS));
    await runContainers(bench, SLOTS, SLOTS);
    await runMatrix(bench, `${PROJECT}-small`, SLOTS);
    const { ours, floor } = await alternate(bench, {
      ours: () => runMatrix(bench, PROJECT, cells),
      floor: () => runContainers(bench, cells, SLOTS),
    });
    const what = `one build with a matrix of ${cells} containers, ${SLOTS} slots`;
    return [{ figure: 'F4', what, unit: 's', ours, floor, goal: { kind: 'ratio-at-most', value: 1.17 } }];
  },
};

async function runMatrix(bench: Bench, project: string, cells: number): Promise<number> {
  const { number, sentAt } = await trigger(bench, project);
  const build = await passed(bench, project, number);
  if (build.counts.passed !== cells) throw new Error(`${build.counts.passed} of ${cells} cells passed`);
  return (endOf(build) - sentAt) / 1000;
}

function matrixFile(image: string, cells: number): string {
  const values = Array.from({ length: cells }, (_, at) => `c${at + 1}`);
  return JSON.stringify({
    timeout: 10,
    triggers: [
      {
        name: 'main',
        runs: [{ name: 'work-{cell}', container: image, script: 'work', matrix: { axes: { cell: values } } }],
      },
    ],
    scripts: { work: NO_OP },
  });
}
