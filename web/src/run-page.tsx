// Owns the page of one run: verdict, log of the chosen attempt, artifacts, environment, script.
// Drawn by app.tsx at /projects/:project/builds/:number/runs/:run.
import type { Attempt, Run } from '../../domain/schemas/api';
import { sayGap } from '../../domain/log-gap';
import { apiPath, pagePath } from '../../domain/names';
import { LogView } from './log/log-view';
import { useHead } from './head';
import { usePolled, type PollOptions } from './poll';
import { usePlace } from './router';
import { RunArtifacts, RunEnvironment, RunFacts, RunScript } from './run-details';
import { RunHeader } from './run-header';
import { Pending, Trail, TroubleBanner } from './shell-parts';

const POLLING: PollOptions<Run> = { paceOf: ({ state }) => (state === 'finished' ? 'stop' : 'live') };

export interface RunName {
  project: string;
  number: number;
  run: string;
}

/** The attempt the address asks for, else the newest; null before the first. Pure. */
export function chosenAttempt(run: Pick<Run, 'attempts'>, asked: string | null): Attempt | null {
  return run.attempts.find(({ number }) => String(number) === asked) ?? run.attempts.at(-1) ?? null;
}

export function RunPage({ project, number, run: name }: RunName) {
  const polled = usePolled<Run>(apiPath.run(project, number, name), POLLING);
  const { query } = usePlace();
  const run = polled.data;
  useHead(`${name} · ${project} #${number}`, run?.status ?? null);
  if (run === null) return <Pending polled={polled} what={`run “${name}” in build ${number} of “${project}”`} />;
  const attempt = chosenAttempt(run, query.get('attempt'));
  return (
    <div class="run-page">
      <TroubleBanner polled={polled} />
      <Trail
        links={[
          { href: '/', text: 'Projects' },
          { href: pagePath.project(project), text: project },
          { href: pagePath.build(project, number), text: `#${number}` },
        ]}
        here={name}
      />
      <RunHeader run={run} attempt={attempt} onAsked={polled.refresh} />
      <LogGaps attempt={attempt} />
      <div class="run-body">
        <RunLog run={run} attempt={attempt} />
        <div class="run-details">
          <RunFacts run={run} attempt={attempt} />
          <RunArtifacts run={run} attempt={attempt} />
          <RunEnvironment run={run} />
          <RunScript run={run} />
        </div>
      </div>
    </div>
  );
}

/** What the log lacks: it must never look whole when it is not. */
function LogGaps({ attempt }: { attempt: Attempt | null }) {
  return (
    <>
      {attempt?.logGaps.map((gap) => (
        <p key={sayGap(gap)} class="verdict tone-errored" role="note">
          {sayGap(gap).replace(/^./, (first) => first.toUpperCase())}.
        </p>
      ))}
    </>
  );
}

/** Why an attempt, or a run without any, has no log and will get none for now; null when there is one to open. Pure. */
export function whyNoLog(run: Pick<Run, 'state'>, attempt: Attempt | null): string | null {
  if (attempt === null) {
    return run.state === 'finished' ? 'This run never started, so it has no log.' : 'It has not started yet.';
  }
  const hasNone = attempt.state === 'finished' && attempt.startedAt === null && attempt.logBytes === 0;
  return hasNone ? 'Its container was never started, so there is no log.' : null;
}

function RunLog({ run, attempt }: { run: Run; attempt: Attempt | null }) {
  const reason = whyNoLog(run, attempt);
  if (attempt !== null && reason === null) {
    return <LogView key={attempt.number} address={{ url: run.urls.log, attempt: attempt.number }} />;
  }
  return (
    <section class="log" aria-label="Log">
      <p class="log-empty">{reason}</p>
    </section>
  );
}
