// Owns figure F2: builds a minute that do nothing, beside containers a minute of the bare engine.
// Called through figures/index.ts.
import { alternate } from '../alternate';
import { makeProject, runBuilds } from '../builds';
import { sized, SLOTS, type Figure } from '../figure';
import { runContainers } from '../floor';

const PROJECT = 'throughput';
const BUILDS = 60;

export const throughput: Figure = {
  id: 'F2',
  async measure(bench) {
    const count = sized(bench, BUILDS, SLOTS);
    const perMinute = (seconds: number): number => (count / seconds) * 60;
    await makeProject(bench, PROJECT);
    await runContainers(bench, SLOTS, SLOTS);
    await runBuilds(bench, PROJECT, { count: SLOTS, feeders: SLOTS });
    const { ours, floor } = await alternate(bench, {
      ours: async () => perMinute(await runBuilds(bench, PROJECT, { count, feeders: SLOTS })),
      floor: async () => perMinute(await runContainers(bench, count, SLOTS)),
    });
    const what = `builds that do nothing, ${count} of one container, ${SLOTS} slots`;
    return [{ figure: 'F2', what, unit: 'per-min', ours, floor, goal: { kind: 'ratio-at-least', value: 0.85 } }];
  },
};
