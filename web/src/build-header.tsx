// Owns the verdict line of a build: status, cause, what started it, its commits, how long, where its traces are, and the cancel button.
// Used by build-page.tsx.
import type { Build } from '../../domain/schemas/api';
import { apiPath } from '../../domain/names';
import { shortCommit } from '../../domain/repository';
import { CancelButton } from './cancel';
import { Age, Duration } from './clock';
import { CountsBar } from './counts';
import { countOf, formatCount } from './format';
import { RerunButtons } from './rerun';
import { Fact } from './shell-parts';
import { StatusBadge } from './status';

export function BuildHeader({ build, onAsked }: { build: Build; onAsked: () => void }) {
  return (
    <header class="subject">
      <div class="subject-line">
        <h1>
          <StatusBadge status={build.status} /> {build.project} <span class="number">#{build.number}</span>
        </h1>
        <BuildLinks build={build} />
        {build.state === 'finished' ? (
          <RerunBuild build={build} onAsked={onAsked} />
        ) : (
          <CancelBuild build={build} onAsked={onAsked} />
        )}
      </div>
      {build.reason === '' ? null : <p class="reason">{build.reason}</p>}
      <dl class="facts">
        {build.cause === null || build.cause === 'ok' ? null : <Fact name="Cause">{build.cause}</Fact>}
        <Fact name="Duration">
          <Duration span={{ ...build, startedAt: build.rerunAt ?? build.startedAt }} />
        </Fact>
        {build.reruns === 0 ? null : <Fact name="Reruns">{formatCount(build.reruns)}</Fact>}
        <Fact name="Trigger">{build.trigger}</Fact>
        <Fact name="Accepted">
          <Age at={build.createdAt} />
        </Fact>
        <Fact name="Runs">{formatCount(build.counts.total)}</Fact>
        <Commits commits={build.commits} />
        <Params params={build.params} />
      </dl>
      <CountsBar counts={build.counts} />
    </header>
  );
}

/** The whole id and the repository are in the tooltip. */
function Commits({ commits }: Pick<Build, 'commits'>) {
  if (commits.length === 0) return null;
  return (
    <Fact name="Commit">
      {commits.map(({ url, ref, commit }) => (
        <code key={`${url} ${ref}`} class="param" title={`${commit} of ${url}`}>
          {shortCommit(commit)}
          {ref === commit ? '' : ` (${ref})`}
        </code>
      ))}
    </Fact>
  );
}

function Params({ params }: { params: Record<string, string> }) {
  const entries = Object.entries(params);
  if (entries.length === 0) return null;
  return (
    <Fact name="Parameters">
      {entries.map(([name, value]) => (
        <code key={name} class="param">
          {name}={value}
        </code>
      ))}
    </Fact>
  );
}

function BuildLinks({ build }: { build: Build }) {
  const self = apiPath.build(build.project, build.number);
  return (
    <nav class="links" aria-label="This build elsewhere">
      <a href={build.urls.trace} target="_blank" rel="noopener">
        Trace in Temporal
      </a>
      <a href={`${self}/plan`} title={build.planDigest}>
        Plan
      </a>
      <a href={self}>JSON</a>
    </nav>
  );
}

function RerunBuild({ build, onAsked }: { build: Build; onAsked: () => void }) {
  const failed = build.counts.total - build.counts.passed;
  const all = { text: 'Rerun all', runs: 'all' as const };
  const choices = failed === 0 ? [all] : [{ text: 'Rerun failed', runs: 'failed' as const }, all];
  return <RerunButtons choices={choices} selfUrl={apiPath.build(build.project, build.number)} onAsked={onAsked} />;
}

function CancelBuild({ build, onAsked }: { build: Build; onAsked: () => void }) {
  const { running, queued } = build.counts;
  return (
    <CancelButton
      what={`build ${build.number}`}
      consequence={`${countOf(running, 'running run')} will be stopped and ${countOf(queued, 'queued run')} will not start. Runs that passed stay passed. It cannot be undone.`}
      selfUrl={apiPath.build(build.project, build.number)}
      isCancelling={build.status === 'cancelling'}
      onAsked={onAsked}
    />
  );
}
