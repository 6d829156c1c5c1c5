// Owns our side of a measurement: projects that do next to nothing, builds triggered and awaited, their verdict checked.
// Called by the figures. Times are those the records hold, so that how often we look does not count.
import { once } from 'node:events';
import { request, type Agent } from 'node:http';
import { apiPath } from '../domain/names';
import type { Build } from '../domain/schemas/api';
import { oneRun } from '../test/setup/house';
import { waitFor } from '../test/setup/wait-for';
import type { Bench } from './figure';

const FINISH_LIMIT_MS = 15 * 60_000;
/** Each look costs the API three queries: at one a 100 ms a fifth of its work was to answer us. */
const LOOK_MS = 500;
/** The run of every project that `makeProject` makes. */
export const RUN = 'work';

/** The script that does nothing. */
export const NO_OP = '#!/bin/sh\n:';

/** A project with one run; a project of that name is left as it is. */
export async function makeProject(bench: Bench, name: string, script = NO_OP): Promise<void> {
  await bench.house.project(name, oneRun(script));
}

export interface Triggered {
  number: number;
  /** When the request was sent, ms since the epoch. */
  sentAt: number;
}

export async function trigger(bench: Bench, project: string): Promise<Triggered> {
  const sentAt = Date.now();
  const { number } = await bench.house.trigger(project);
  return { number, sentAt };
}

/** Waits for a build to end, however it does. */
export async function ended(bench: Bench, project: string, number: number): Promise<Build> {
  const finished = async (): Promise<Build | false> => {
    const build = await bench.house.build(project, number);
    return build.state === 'finished' && build;
  };
  const what = `build ${project}/${number} is finished`;
  return waitFor(finished, { what, timeoutMs: FINISH_LIMIT_MS, intervalMs: LOOK_MS });
}

/** Waits for a build to end and checks that all of it passed. */
export async function passed(bench: Bench, project: string, number: number): Promise<Build> {
  const build = await ended(bench, project, number);
  if (build.outcome === 'passed') return build;
  const bad = build.runs.find((run) => run.outcome !== 'passed');
  throw new Error(`build ${project}/${number} ended as ${build.status}: ${bad?.name}: ${bad?.message}`);
}

/** Triggers `count` builds from so many feeders. @returns wall time from the first request to the last end, s */
export async function runBuilds(
  bench: Bench,
  project: string,
  load: { count: number; feeders: number },
): Promise<number> {
  const triggered: Triggered[] = [];
  let left = load.count;
  const feed = async (): Promise<void> => {
    while (left > 0) {
      left -= 1;
      triggered.push(await trigger(bench, project));
    }
  };
  await Promise.all(Array.from({ length: load.feeders }, feed));
  let lastEnd = 0;
  for (const { number } of triggered) lastEnd = Math.max(lastEnd, endOf(await passed(bench, project, number)));
  return (lastEnd - Math.min(...triggered.map(({ sentAt }) => sentAt))) / 1000;
}

/** When it ended, ms since the epoch. */
export function endOf(build: Build): number {
  if (build.finishedAt === null) throw new Error(`build ${build.project}/${build.number} has no end`);
  return Date.parse(build.finishedAt);
}

/**
 * Triggers one build over a plain connection, since fetch alone takes a good part of what is measured.
 * @returns its number and the time from the request until the whole answer is there, ms
 */
export async function timeTrigger(
  bench: Bench,
  project: string,
  agent: Agent,
): Promise<{ number: number; ms: number }> {
  const began = performance.now();
  const sent = request(bench.house.url + apiPath.builds(project), {
    method: 'POST',
    agent,
    headers: { 'content-type': 'application/json' },
  });
  sent.end('{}');
  const [answer] = (await once(sent, 'response')) as [AsyncIterable<Buffer> & { statusCode: number }];
  const parts: Buffer[] = [];
  for await (const part of answer) parts.push(part);
  const ms = performance.now() - began;
  const text = Buffer.concat(parts).toString('utf8');
  if (answer.statusCode !== 201)
    throw new Error(`the trigger of ${project} was answered ${answer.statusCode}: ${text}`);
  return { number: (JSON.parse(text) as Build).number, ms };
}
