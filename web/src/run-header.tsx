// Owns the verdict of a run: status, cause in words, attempts, links, the cancel button, and commands when it went wrong.
// Used by run-page.tsx.
import type { Attempt, Run } from '../../domain/schemas/api';
import type { Status } from '../../domain/schemas/words';
import { apiPath, pagePath } from '../../domain/names';
import { toLocalPath } from './api';
import { CancelButton } from './cancel';
import { Duration } from './clock';
import { runAddress, saysExitCode } from './failures';
import { joinFacts } from './format';
import { HoldNote } from './hold';
import { RerunButtons } from './rerun';
import { Command } from './shell-parts';
import { isWrong, StatusBadge, StatusIcon, toneOf } from './status';

interface RunHeaderProps {
  run: Run;
  attempt: Attempt | null;
  onAsked: () => void;
}

/** Cause, exit code and message as one sentence; each part only where it adds something. */
function verdictOf(run: Run): string {
  const cause = run.cause === 'ok' || run.cause === 'exit-code' ? null : run.cause;
  const exit = run.exitCode === null || run.exitCode === 0 ? null : `exit code ${run.exitCode}`;
  const message = saysExitCode(run) ? '' : run.message;
  return joinFacts([joinFacts([cause, exit], ', '), message], ': ');
}

export function RunHeader({ run, attempt, onAsked }: RunHeaderProps) {
  const verdict = verdictOf(run);
  return (
    <header class="subject">
      <div class="subject-line">
        <h1>
          <StatusBadge status={run.status} /> {run.name} {run.startedAt === null ? null : <Duration span={run} />}
        </h1>
        <AttemptSwitch run={run} attempt={attempt} />
        <RunLinks run={run} />
        {run.state === 'finished' ? (
          <RerunRun run={run} onAsked={onAsked} />
        ) : (
          <CancelRun run={run} onAsked={onAsked} />
        )}
      </div>
      {verdict === '' ? null : <p class={`verdict tone-${toneOf(run.status)}`}>{verdict}</p>}
      {run.waiting === null ? null : (
        <p class="waiting-reason" title={run.waiting}>
          Waiting: {run.waiting}
        </p>
      )}
      <HoldNote run={run} onAsked={onAsked} />
      {isWrong(run) && run.logBytes > 0 ? (
        <p class="commands">
          <Command text={`slipway log -f ${runAddress({ project: run.project, number: run.build }, run.name)}`} />
        </p>
      ) : null}
    </header>
  );
}

function RunLinks({ run }: { run: Run }) {
  return (
    <nav class="links" aria-label="This run elsewhere">
      <a href={run.trace} target="_blank" rel="noopener">
        Trace in Temporal
      </a>
      <a href={toLocalPath(run.urls.self)}>JSON</a>
    </nav>
  );
}

function RerunRun({ run, onAsked }: { run: Run; onAsked: () => void }) {
  const selfUrl = apiPath.build(run.project, run.build);
  return <RerunButtons choices={[{ text: 'Rerun run', runs: [run.name] }]} selfUrl={selfUrl} onAsked={onAsked} />;
}

function CancelRun({ run, onAsked }: { run: Run; onAsked: () => void }) {
  return (
    <CancelButton
      what="run"
      consequence="Its container will be stopped; the other runs of the build go on, except those that need it. It cannot be undone."
      selfUrl={apiPath.run(run.project, run.build, run.name)}
      isCancelling={run.status === 'cancelling'}
      onAsked={onAsked}
    />
  );
}

/** An attempt that is finished always has an outcome; `errored` stands for the impossible case, which must not look fine. */
function statusOf({ outcome, state }: Attempt): Status {
  return outcome ?? (state === 'finished' ? 'errored' : state);
}

function AttemptSwitch({ run, attempt }: { run: Run; attempt: Attempt | null }) {
  if (run.attempts.length < 2) return null;
  const page = pagePath.run(run.project, run.build, run.name);
  return (
    <nav class="attempts" aria-label="Attempts">
      <span class="muted">Attempt</span>
      {run.attempts.map((each) => (
        <a
          key={each.number}
          class={`chip tone-${toneOf(statusOf(each))}`}
          href={`${page}?attempt=${each.number}`}
          aria-current={each.number === attempt?.number ? 'true' : undefined}
          title={joinFacts([statusOf(each), each.cause, each.message], ': ')}
        >
          <StatusIcon status={statusOf(each)} />
          {each.number}
        </a>
      ))}
    </nav>
  );
}
