// Owns the order of measuring: ours and the floor in turn, in one run, each on a machine that has come to rest.
// Called by the figures. What changes on the machine in the meantime then falls on both sides alike.
import { cpus } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { waitFor } from '../test/setup/wait-for';
import type { Bench } from './figure';

/** Below this share of free CPU a machine is busy with something else. */
const FREE_SHARE = 0.85;
const LOOK_MS = 250;
/** Time to wait for that, ms; a machine that others use may never come to rest. */
const REST_LIMIT_MS = 5_000;
const SLOTS_LIMIT_MS = 120_000;

/**
 * Measures floor, ours, floor, ours …
 * @param options.samples pairs of measurements; default: the repeats of the bench
 */
export async function alternate<Ours, Floor>(
  bench: Bench,
  sides: { ours: () => Promise<Ours>; floor: () => Promise<Floor> },
  options: { samples?: number } = {},
): Promise<{ ours: Ours[]; floor: Floor[] }> {
  const measured = { ours: [] as Ours[], floor: [] as Floor[] };
  for (let at = 0; at < (options.samples ?? bench.repeats); at += 1) {
    await comeToRest(bench);
    measured.floor.push(await sides.floor());
    await comeToRest(bench);
    measured.ours.push(await sides.ours());
  }
  return measured;
}

/** Measures one side alone. @param measure is told which sample it is, from 0 on */
export async function repeat<T>(bench: Bench, samples: number, measure: (at: number) => Promise<T>): Promise<T[]> {
  const measured: T[] = [];
  for (let at = 0; at < samples; at += 1) {
    await comeToRest(bench);
    measured.push(await measure(at));
  }
  return measured;
}

/** Waits until every slot is free again and the processors are, and counts when others keep them busy. */
export async function comeToRest(bench: Bench): Promise<void> {
  await waitFor(() => areSlotsFree(bench), { what: 'free slots', timeoutMs: SLOTS_LIMIT_MS, intervalMs: 50 });
  const until = Date.now() + REST_LIMIT_MS;
  while ((await freeShare()) < FREE_SHARE) {
    if (Date.now() < until) continue;
    bench.unrest.count += 1;
    return;
  }
}

async function areSlotsFree({ house }: Bench): Promise<boolean> {
  const { workers } = await house.call<{ workers: { busySlots: number }[] }>('GET', '/v1/workers');
  return workers.every((worker) => worker.busySlots === 0);
}

async function freeShare(): Promise<number> {
  const before = processorTimes();
  await sleep(LOOK_MS);
  const after = processorTimes();
  return (after.idle - before.idle) / Math.max(after.all - before.all, 1);
}

function processorTimes(): { idle: number; all: number } {
  const times = cpus().map((cpu) => cpu.times);
  const sum = (numbers: number[]): number => numbers.reduce((total, number) => total + number, 0);
  return { idle: sum(times.map((one) => one.idle)), all: sum(times.flatMap((one) => Object.values(one))) };
}
