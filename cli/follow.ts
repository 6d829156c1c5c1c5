// Owns watching a build from the terminal: live lines of all its runs, one mark a change, the verdict at the end.
// Called by `slipway run` and `slipway up --example`.
import { setTimeout as sleep } from 'node:timers/promises';
import { sayGap } from '../domain/log-gap';
import type { Attempt, Build, RunSummary } from '../domain/schemas/api';
import { ClientError, type Client } from './client';
import type { Output } from './context';
import { elapsed, lineOfLog, oneLine, paint, paintStatus } from './print';

const LOOK_MS = 300;
/** Logs followed at once; the others follow as these end, whole all the same. */
const STREAMS = 16;
const LAST_LINES = 12;

/** Follows until the build is finished and every line is printed. A server that restarts is waited for. */
export async function followBuild(
  client: Client,
  build: { project: string; number: number; runs?: readonly RunSummary[] },
  output: Output,
): Promise<Build> {
  const streams = new Streams(client, build, output);
  // Of a rerun: what ended before it is no news, and neither are the attempts before it.
  const earlier = new Map(build.runs?.map((run) => [run.name, run.attempt]));
  const shown = new Map(build.runs?.filter((run) => run.state === 'finished').map((run) => [run.name, run.status]));
  for (;;) {
    const now = await client.build(build.project, build.number).catch(waitForServer);
    for (const run of now?.runs ?? []) {
      showChange(run, shown, output);
      if (run.attempt > (earlier.get(run.name) ?? 0)) streams.want(run.name, run.attempt);
    }
    if (now?.state === 'finished') {
      await streams.drained();
      return now;
    }
    await sleep(LOOK_MS);
  }
}

function waitForServer(error: unknown): undefined {
  if (error instanceof ClientError && (error.answer === undefined || error.answer.status >= 500)) return undefined;
  throw error;
}

function showChange(run: RunSummary, shown: Map<string, string>, output: Output): void {
  const word = run.state === 'queued' ? `queued: ${run.waiting ?? ''}` : run.state === 'finished' ? run.status : '';
  if (word === '' || shown.get(run.name) === word) return;
  const isFirst = !shown.has(run.name);
  shown.set(run.name, word);
  if (run.state === 'queued' && isFirst) return;
  const text = run.state === 'queued' ? paint('gray', oneLine(word)) : paintStatus(run.status);
  output.err(
    `${paint('bold', run.name)}  ${text}${run.state === 'finished' && run.message ? `  ${oneLine(run.message)}` : ''}`,
  );
}

/** Prints whole lines of several logs, each with the name of its run. */
class Streams {
  private readonly wanted = new Set<string>();
  private readonly waiting: { run: string; attempt: number }[] = [];
  private readonly open = new Map<string, Promise<void>>();

  constructor(
    private readonly client: Client,
    private readonly build: { project: string; number: number },
    private readonly output: Output,
  ) {}

  want(run: string, attempt: number): void {
    const key = `${run}/${attempt}`;
    if (this.wanted.has(key)) return;
    this.wanted.add(key);
    this.waiting.push({ run, attempt });
    this.fill();
  }

  async drained(): Promise<void> {
    while (this.open.size > 0) await Promise.all(this.open.values());
  }

  private fill(): void {
    while (this.open.size < STREAMS) {
      const next = this.waiting.shift();
      if (next === undefined) return;
      const key = `${next.run}/${next.attempt}`;
      const done = this.print(next)
        .catch((error: unknown) => this.output.err(`${key}: ${(error as Error).message}`))
        .finally(() => {
          this.open.delete(key);
          this.fill();
        });
      this.open.set(key, done);
    }
  }

  private async print({ run, attempt }: { run: string; attempt: number }): Promise<void> {
    const decoder = new TextDecoder();
    const name = paint('cyan', run);
    let rest = '';
    const { project, number } = this.build;
    for await (const bytes of this.client.follow({ project, number, run, attempt })) {
      const lines = (rest + decoder.decode(bytes, { stream: true })).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) this.output.out(`${name} | ${lineOfLog(line)}`);
    }
    if (rest !== '') this.output.out(`${name} | ${lineOfLog(rest)}`);
  }
}

/** The end of a build in words: the verdict, and for each run that went wrong why, its last lines and what to do next. */
export async function printVerdict(client: Client, build: Build, output: Output): Promise<void> {
  const bad = build.runs.filter((run) => !['passed', 'skipped'].includes(run.status));
  for (const run of bad.slice(0, 5)) await printFailure(client, build, { run, output });
  if (bad.length > 5) output.err(`… and ${bad.length - 5} more runs that did not pass`);
  const { counts } = build;
  const took = elapsed(build.rerunAt ?? build.createdAt, build.finishedAt);
  output.err('');
  output.err(
    `${build.project} #${build.number} ${paintStatus(build.status)}: ${counts.passed} of ${counts.total} runs passed in ${took}${build.reruns > 0 ? ` (rerun ${build.reruns})` : ''}`,
  );
  for (const { url, ref, commit } of build.commits) {
    output.err(`commit ${commit}${ref === commit ? '' : ` (${ref})`} of ${url}`);
  }
  output.err(`page   ${build.urls.page}`);
  output.err(`trace  ${build.urls.trace}`);
}

async function printFailure(
  client: Client,
  build: Build,
  { run, output }: { run: RunSummary; output: Output },
): Promise<void> {
  const place = `${build.project}/${build.number}/${run.name}`;
  const code = run.exitCode === null ? '' : `, exit code ${run.exitCode}`;
  output.err('');
  output.err(
    `${paint('bold', run.name)} ${paintStatus(run.status)} (${run.cause ?? 'unknown'}${code}): ${oneLine(run.message)}`,
  );
  const at = { project: build.project, number: build.number, run: run.name };
  const tail = await client.log(at, -4_000).catch(() => Buffer.alloc(0));
  const lines = tail.toString('utf8').trimEnd().split('\n').slice(-LAST_LINES);
  for (const line of lines) if (line !== '') output.err(`  ${lineOfLog(line)}`);
  const { attempts, heldUntil } = await client.run(at.project, at.number, at.run);
  sayGaps(attempts.at(-1), output);
  if (heldUntil !== null) {
    output.err(
      `  held:  on host ${run.host} until ${heldUntil}; give it back with: slipway hold ${quote(place)} --end`,
    );
  }
  output.err(`  page:  ${run.urls.page}`);
  output.err(`  log:   slipway log ${quote(place)}`);
  output.err(`  shell: slipway shell ${quote(place)}`);
  output.err(`  again: slipway rerun ${quote(place)}`);
}

/** As a shell takes it: names of runs may have blanks and stars. */
function quote(word: string): string {
  return /^[\w./:@%+=,-]+$/.test(word) ? word : `'${word}'`;
}

/** What the log of an attempt lacks, a line each. */
export function sayGaps(attempt: Attempt | undefined, output: Output): void {
  for (const gap of attempt?.logGaps ?? []) output.err(`slipway: ${sayGap(gap)}`);
}
