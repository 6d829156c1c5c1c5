// Owns figure F5: a log of 100 MB in a million lines, complete, while somebody follows it; and the memory that it takes.
// Called through figures/index.ts.
import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Client } from '../../cli/client';
import { waitFor } from '../../test/setup/wait-for';
import { alternate, comeToRest } from '../alternate';
import { endOf, makeProject, passed, RUN, trigger } from '../builds';
import { sized, type Bench, type Figure, type Row } from '../figure';
import { runContainer } from '../floor';
import { watchGrowth } from '../memory';

const PROJECT = 'large-log';
const LINES = 1_000_000;
const LINE_BYTES = 100;
/** The log is packed some seconds after its end, which would slow down the next measurement. */
const PACK_LIMIT_MS = 120_000;

interface Sum {
  bytes: number;
  sha256: string;
}

export const largeLog: Figure = {
  id: 'F5',
  async measure(bench) {
    const lines = sized(bench, LINES, 1000);
    const expected = sumOf(expectedParts(lines));
    await makeProject(bench, `${PROJECT}-small`, scriptOf(1000));
    await makeProject(bench, PROJECT, scriptOf(lines));
    await runContainer(bench);
    await measureOnce(bench, `${PROJECT}-small`, sumOf(expectedParts(1000)));
    await comeToRest(bench);
    const grown = (['api', 'worker'] as const).map((name) => ({ name, by: watchGrowth(bench.house.pid(name)) }));
    const { ours, floor } = await alternate(bench, {
      ours: () => measureOnce(bench, PROJECT, expected),
      floor: async () => (await runContainer(bench, ['sh', '-c', `${generator(lines)} > /tmp/log`])).wholeS,
    });
    const size = `log of ${(expected.bytes / 1e6).toFixed(0)} MB`;
    const goal = { kind: 'at-most', value: 5 } as const;
    const rows: Row[] = [
      { figure: 'F5', what: `${size}, build ended`, unit: 's', ours: ours.map((one) => one.endedS), floor, goal },
      { figure: 'F5', what: `${size}, live follower has all`, unit: 's', ours: ours.map((one) => one.followedS), goal },
    ];
    for (const { name, by } of grown) {
      const what = `${size}, memory of ${name} grown by`;
      if (by) rows.push({ figure: 'F5', what, unit: 'MB', ours: [by()], goal: { kind: 'at-most', value: 50 } });
    }
    return rows;
  },
};

/** One build, followed live and read again afterwards: both must be every byte once. */
async function measureOnce(
  bench: Bench,
  project: string,
  expected: Sum,
): Promise<{ endedS: number; followedS: number }> {
  const { number, sentAt } = await trigger(bench, project);
  const client = new Client(bench.house.url);
  const place = { project, number, run: RUN };
  requireSame('the followed log', await sumOfAsync(client.follow(place)), expected);
  const followedAt = Date.now();
  const endedAt = endOf(await passed(bench, project, number));
  requireSame('the stored log', sumOf([await client.log(place)]), expected);
  const packed = { what: 'the log is packed', timeoutMs: PACK_LIMIT_MS, intervalMs: 250 };
  await waitFor(() => isPacked(join(bench.house.dir, 'blobs', 'logs')), packed);
  return { endedS: (endedAt - sentAt) / 1000, followedS: (followedAt - sentAt) / 1000 };
}

const generator = (lines: number): string => `awk 'BEGIN{for(i=0;i<${lines};i++)printf("%0${LINE_BYTES - 1}d\\n",i)}'`;
const scriptOf = (lines: number): string => `#!/bin/sh\n${generator(lines)}`;

function* expectedParts(lines: number): Generator<Buffer> {
  const PART = 10_000;
  for (let from = 0; from < lines; from += PART) {
    const numbers = Array.from({ length: Math.min(PART, lines - from) }, (_, at) => from + at);
    yield Buffer.from(numbers.map((number) => `${String(number).padStart(LINE_BYTES - 1, '0')}\n`).join(''));
  }
}

function sumOf(parts: Iterable<Buffer>): Sum {
  const hash = createHash('sha256');
  let bytes = 0;
  for (const part of parts) {
    hash.update(part);
    bytes += part.length;
  }
  return { bytes, sha256: hash.digest('hex') };
}

async function sumOfAsync(parts: AsyncIterable<Buffer>): Promise<Sum> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const part of parts) {
    hash.update(part);
    bytes += part.length;
  }
  return { bytes, sha256: hash.digest('hex') };
}

function requireSame(what: string, found: Sum, expected: Sum): void {
  if (found.bytes === expected.bytes && found.sha256 === expected.sha256) return;
  throw new Error(`${what} is not what was printed: ${found.bytes} of ${expected.bytes} bytes, sha256 ${found.sha256}`);
}

/** True once no chunk is left, only packed logs. */
function isPacked(logsDir: string): boolean {
  const files = readdirSync(logsDir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return files.every(({ name }) => name.endsWith('.gz'));
}
