// Owns figure F3: how long a trigger waits for its answer, alone and in a burst.
// Called through figures/index.ts.
import { Agent } from 'node:http';
import { repeat } from '../alternate';
import { makeProject, passed, timeTrigger } from '../builds';
import { sized, type Bench, type Figure } from '../figure';
import { percentile } from '../spread';

const PROJECT = 'trigger-answer';
const ALONE = 10;
const BURST = 100;

export const triggerAnswer: Figure = {
  id: 'F3',
  async measure(bench) {
    const agent = new Agent({ keepAlive: true });
    try {
      await makeProject(bench, PROJECT);
      await passed(bench, PROJECT, (await timeTrigger(bench, PROJECT, agent)).number);
      const alone = await repeat(bench, bench.repeats * sized(bench, ALONE), () => triggerAlone(bench, agent));
      const count = sized(bench, BURST);
      const bursts = await repeat(bench, bench.repeats, () => triggerAtOnce(bench, count, agent));
      return [
        {
          figure: 'F3',
          what: 'POST to answer, idle, median',
          unit: 'ms',
          ours: alone,
          goal: { kind: 'at-most', value: 20 },
        },
        {
          figure: 'F3',
          what: `POST to answer, p95 of ${count} at once`,
          unit: 'ms',
          ours: bursts.map((times) => percentile(times, 0.95)),
          goal: { kind: 'at-most', value: 100 },
        },
      ];
    } finally {
      agent.destroy();
    }
  },
};

async function triggerAlone(bench: Bench, agent: Agent): Promise<number> {
  const { number, ms } = await timeTrigger(bench, PROJECT, agent);
  await passed(bench, PROJECT, number);
  return ms;
}

/** @returns the time of each answer, ms; every build is awaited, because an answer that loses one is worth nothing */
async function triggerAtOnce(bench: Bench, count: number, agent: Agent): Promise<number[]> {
  const answers = await Promise.all(Array.from({ length: count }, () => timeTrigger(bench, PROJECT, agent)));
  const numbers = new Set(answers.map(({ number }) => number));
  if (numbers.size !== count) throw new Error(`${count} triggers were given ${numbers.size} build numbers`);
  for (const number of numbers) await passed(bench, PROJECT, number);
  return answers.map(({ ms }) => ms);
}
