// Owns figure B7: how soon a cancel reaches a running container, pushed by the server and by heartbeats alone.
// Called through figures/index.ts.
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { apiPath } from '../../domain/names';
import { repeat } from '../alternate';
import { ended, makeProject, RUN } from '../builds';
import { sized, type Bench, type Figure } from '../figure';

const PROJECT = 'cancel';
/** A repeat: each lets its run go on for seconds first. */
const SAMPLES = 5;
/**
 * How long a run has been running when it is cancelled, ms. The first heartbeat of an attempt is sent at once and would
 * flatter; later ones come each HEARTBEAT_MS, so the cancels are spread evenly over one such interval.
 */
const SETTLED_MS = 3_000;
const HEARTBEAT_MS = 2_000;
const TERM = '15';

export const cancel: Figure = {
  id: 'B7',
  async measure(bench) {
    const pushed = await measureMany(bench);
    const house = await bench.openHouse({ withoutPush: true });
    const byHeartbeat = await measureMany({ ...bench, house }).finally(() => house.stop());
    const what = 'cancel request to TERM at the container';
    return [
      { figure: 'B7', what: `${what}, pushed`, unit: 's', ours: pushed, goal: { kind: 'at-most', value: 0.5 } },
      {
        figure: 'B7',
        what: `${what}, by heartbeats alone`,
        unit: 's',
        ours: byHeartbeat,
        goal: { kind: 'at-most', value: 3 },
      },
    ];
  },
};

async function measureMany(bench: Bench): Promise<number[]> {
  const samples = bench.repeats * sized(bench, SAMPLES);
  await makeProject(bench, PROJECT, '#!/bin/sh\nexec sleep 600');
  await measureOnce(bench, 0);
  return repeat(bench, samples, (at) => measureOnce(bench, SETTLED_MS + (HEARTBEAT_MS * at) / samples));
}

/** One build that is cancelled after so long. @returns time from the request until the engine has sent TERM, s */
async function measureOnce(bench: Bench, runningMs: number): Promise<number> {
  const { house } = bench;
  const { number } = await house.trigger(PROJECT);
  await house.runIn('running', PROJECT, number, RUN);
  await sleep(runningMs);
  const sentAt = Date.now();
  await house.call('POST', `${apiPath.build(PROJECT, number)}/cancel`);
  const { status } = await ended(bench, PROJECT, number);
  if (status !== 'cancelled') throw new Error(`build ${PROJECT}/${number} was cancelled and ended as ${status}`);
  const { attempts } = await house.run(PROJECT, number, RUN);
  const labels = { worker: attempts[0]?.worker, project: PROJECT, build: number };
  return ((await termSentAt(bench, labels, sentAt)) - sentAt) / 1000;
}

/** As the engine remembers it, which has the same clock: its files are mounted from here. @returns ms since the epoch */
async function termSentAt({ docker }: Bench, labels: object, sinceMs: number): Promise<number> {
  const label = Object.entries(labels).map(([name, value]) => `dev.slipway.${name}=${value}`);
  const events = await docker.getEvents({
    since: sinceMs / 1000,
    until: Date.now() / 1000,
    filters: { label, event: ['kill'] },
  });
  const kills = (await text(events))
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as { timeNano: number; Actor: { Attributes: { signal?: string } } });
  const term = kills.find(({ Actor }) => Actor.Attributes.signal === TERM);
  if (!term) throw new Error(`the engine has sent no TERM to a container with ${label.join(' ')}`);
  return term.timeNano / 1e6;
}
