// Owns "what is wrong": the runs that failed, first to end first, with their last lines and commands, no click needed.
// Used by build-page.tsx.
import { useEffect, useState } from 'preact/hooks';
import type { BuildSummary, RunSummary } from '../../domain/schemas/api';
import { pagePath } from '../../domain/names';
import { Duration } from './clock';
import { countOf, formatCount } from './format';
import { htmlOfLine } from './log/ansi';
import { decodeText, toVisible } from './log/lines';
import { readLog } from './log/source';
import { Command } from './shell-parts';
import { isWrong, StatusBadge } from './status';

/** The first to fail is most often the reason for the others; more are one click away. */
const SHOWN_AT_FIRST = 5;
const WITH_LAST_LINES = 3;
const LAST_LINES = 8;
const TAIL_BYTES = 16_384;
const MAX_PREVIEW_CHARS = 400;

/** Those to look at, first to end first. Pure. */
export const wrongRuns = (runs: RunSummary[]): RunSummary[] =>
  runs.filter(isWrong).sort((a, b) => (a.finishedAt ?? '').localeCompare(b.finishedAt ?? ''));

/** A message that says the exit code and nothing else; the code stands beside it already. Pure. */
export const saysExitCode = ({ exitCode, message }: Pick<RunSummary, 'exitCode' | 'message'>): boolean =>
  exitCode !== null && message === `exited with code ${exitCode}`;

export const runAddress = (build: Pick<BuildSummary, 'project' | 'number'>, run: string): string =>
  `${build.project}/${build.number}/${run}`;

async function readLastLines(run: RunSummary, signal: AbortSignal): Promise<string[]> {
  const slice = await readLog({ url: run.urls.log, attempt: run.attempt }, { offset: -TAIL_BYTES }, signal);
  const lines = decodeText(slice.bytes).split('\n').map(toVisible);
  // The first line of a tail has lost its beginning.
  const whole = slice.startByte > 0 ? lines.slice(1) : lines;
  return whole.filter((line) => line.trim() !== '').slice(-LAST_LINES);
}

function LastLines({ run }: { run: RunSummary }) {
  const [lines, setLines] = useState<string[]>([]);
  useEffect(() => {
    const controller = new AbortController();
    // The link to the log stands beside it, and the log page says what is wrong; a preview may just stay empty.
    readLastLines(run, controller.signal).then(setLines, () => setLines([]));
    return () => controller.abort();
  }, [run.urls.log, run.attempt, run.logBytes]);
  if (lines.length === 0) return null;
  return (
    <pre class="last-lines">
      {lines.map((line, index) => (
        // ansi_up escapes the text of the line; see log/ansi.ts.
        <span
          key={index}
          dangerouslySetInnerHTML={{ __html: `${htmlOfLine('', line.slice(0, MAX_PREVIEW_CHARS))}\n` }}
        />
      ))}
    </pre>
  );
}

/** What ended it, how long it ran, and which attempt it was; only what there is. */
function FailureFacts({ run }: { run: RunSummary }) {
  return (
    <span class="muted">
      {run.exitCode === null ? run.cause : `exit code ${run.exitCode}`}
      {run.startedAt === null ? null : (
        <>
          {' · '}
          <Duration span={run} />
        </>
      )}
      {run.attempt > 1 ? ` · attempt ${run.attempt}` : null}
    </span>
  );
}

function Failure({ build, run, hasLines }: { build: BuildSummary; run: RunSummary; hasLines: boolean }) {
  const page = pagePath.run(build.project, build.number, run.name);
  const hasLog = hasLines && run.logBytes > 0;
  return (
    <li class={`failure is-${run.status}`}>
      <p class="failure-head">
        <StatusBadge status={run.status} />{' '}
        <a href={page} data-item>
          {run.name}
        </a>
        <FailureFacts run={run} />
      </p>
      {run.message === '' || saysExitCode(run) ? null : <p class="failure-message">{run.message}</p>}
      {hasLog ? <LastLines run={run} /> : null}
      {hasLog ? <Command text={`slipway log ${runAddress(build, run.name)}`} /> : null}
    </li>
  );
}

export function Failures({ build, runs }: { build: BuildSummary; runs: RunSummary[] }) {
  const [isComplete, setComplete] = useState(false);
  const wrong = wrongRuns(runs);
  if (wrong.length === 0) return null;
  const shown = isComplete ? wrong : wrong.slice(0, SHOWN_AT_FIRST);
  return (
    <section class="wrong" aria-labelledby="wrong-title">
      <h2 id="wrong-title">
        What is wrong{' '}
        <span class="muted">
          {countOf(wrong.length, 'run')}
          {wrong.length > 1 ? ', first to end first' : null}
        </span>
      </h2>
      <ol class="failures">
        {shown.map((run, index) => (
          <Failure key={run.name} build={build} run={run} hasLines={index < WITH_LAST_LINES} />
        ))}
      </ol>
      {shown.length === wrong.length ? null : (
        <button type="button" onClick={() => setComplete(true)}>
          Show {formatCount(wrong.length - shown.length)} more
        </button>
      )}
    </section>
  );
}
