// Owns figure F1: how long after a trigger the first command runs, and how soon a follower of the log sees its output.
// Called through figures/index.ts.
import { Client } from '../../cli/client';
import { alternate } from '../alternate';
import { makeProject, passed, RUN, trigger } from '../builds';
import { sized, type Bench, type Figure } from '../figure';
import { runContainer } from '../floor';

const PROJECT = 'first-command';
/** Pairs of measurements a repeat: one start takes half a second. */
const SAMPLES = 10;

export const firstCommand: Figure = {
  id: 'F1',
  async measure(bench) {
    await makeProject(bench, PROJECT, '#!/bin/sh\necho started');
    await runContainer(bench);
    await measureOnce(bench);
    const samples = bench.repeats * sized(bench, SAMPLES);
    const sides = { ours: () => measureOnce(bench), floor: async () => (await runContainer(bench)).startedS };
    const { ours, floor } = await alternate(bench, sides, { samples });
    return [
      {
        figure: 'F1',
        what: 'trigger to container started',
        unit: 's',
        ours: ours.map((one) => one.startedS),
        floor,
        goal: { kind: 'at-most-over-floor', value: 0.15 },
      },
      {
        figure: 'F1',
        what: 'container started to first byte at a follower of the log',
        unit: 's',
        ours: ours.map((one) => one.seenS - one.startedS),
        goal: { kind: 'at-most', value: 1 },
      },
    ];
  },
};

/** One build, followed from its trigger on. On both sides a container has started when the engine's call returned. */
async function measureOnce(bench: Bench): Promise<{ startedS: number; seenS: number }> {
  const { number, sentAt } = await trigger(bench, PROJECT);
  let seenAt: number | undefined;
  for await (const bytes of new Client(bench.house.url).follow({ project: PROJECT, number, run: RUN })) {
    if (bytes.length > 0) seenAt ??= Date.now();
  }
  await passed(bench, PROJECT, number);
  const { attempts } = await bench.house.run(PROJECT, number, RUN);
  const startedAt = attempts[0]?.startedAt;
  if (!startedAt || seenAt === undefined) throw new Error(`build ${PROJECT}/${number} shows no start or no output`);
  return { startedS: (Date.parse(startedAt) - sentAt) / 1000, seenS: (seenAt - sentAt) / 1000 };
}
