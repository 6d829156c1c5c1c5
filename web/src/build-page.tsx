// Owns the page of one build: verdict, what is wrong, what waits, and every run as matrix or timeline.
// Drawn by app.tsx at /projects/:project/builds/:number.
import { useMemo } from 'preact/hooks';
import type { Build, RunSummary } from '../../domain/schemas/api';
import { apiPath, pagePath } from '../../domain/names';
import { Failures } from './failures';
import { BuildHeader } from './build-header';
import { useHead } from './head';
import { keepUnchangedRuns, matchesText } from './matrix';
import { Matrix } from './matrix-view';
import { usePolled, type PollOptions } from './poll';
import { replaceQuery, usePlace } from './router';
import { countIn, presentGroups } from './counts';
import { countOf, formatCount } from './format';
import { Pending, Trail, TroubleBanner } from './shell-parts';
import { groupOf, StatusIcon, toneOf } from './status';
import { TimelineView } from './timeline-view';

const POLLING: PollOptions<Build> = {
  paceOf: ({ state }) => (state === 'finished' ? 'stop' : 'live'),
  merge: (before, after) => ({ ...after, runs: keepUnchangedRuns(before.runs, after.runs) }),
};

export function BuildPage({ project, number }: { project: string; number: number }) {
  const polled = usePolled<Build>(apiPath.build(project, number), POLLING);
  const build = polled.data;
  useHead(`${project} #${number}`, build?.status ?? null);
  if (build === null) return <Pending polled={polled} what={`build ${number} of project “${project}”`} />;
  return (
    <>
      <TroubleBanner polled={polled} />
      <Trail
        links={[
          { href: '/', text: 'Projects' },
          { href: pagePath.project(project), text: project },
        ]}
        here={`#${number}`}
      />
      <BuildHeader build={build} onAsked={polled.refresh} />
      <Failures build={build} runs={build.runs} />
      <Waiting runs={build.runs} />
      <Runs build={build} />
    </>
  );
}

/** One line per reason, the most common first: 800 runs waiting for the same thing are one fact. */
function Waiting({ runs }: { runs: RunSummary[] }) {
  const reasons = new Map<string, number>();
  for (const { waiting } of runs) if (waiting !== null) reasons.set(waiting, (reasons.get(waiting) ?? 0) + 1);
  if (reasons.size === 0) return null;
  const sorted = [...reasons].sort(([, a], [, b]) => b - a);
  return (
    <section aria-labelledby="waiting-title">
      <h2 id="waiting-title">Waiting</h2>
      <ul class="waiting">
        {sorted.map(([reason, count]) => (
          <li key={reason}>
            <span class="number">{countOf(count, 'run')}</span>
            <span class="waiting-reason" title={reason}>
              {reason}
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Runs({ build }: { build: Build }) {
  const { query } = usePlace();
  const group = query.get('status') ?? '';
  const text = query.get('find') ?? '';
  const view = query.get('view') === 'timeline' ? 'timeline' : 'matrix';
  const runs = useMemo(
    () => build.runs.filter((run) => (group === '' || groupOf(run.status) === group) && matchesText(run, text)),
    [build.runs, group, text],
  );
  return (
    <section aria-labelledby="runs-title">
      <div class="section-head">
        <h2 id="runs-title">
          Runs{' '}
          <span class="muted">
            {runs.length === build.runs.length
              ? ''
              : `${formatCount(runs.length)} of ${formatCount(build.runs.length)}`}
          </span>
        </h2>
        <GroupFilter build={build} group={group} />
        <TextFilter text={text} />
        <ViewSwitch view={view} />
      </div>
      {runs.length === 0 ? (
        <NoRuns />
      ) : view === 'matrix' ? (
        <Matrix build={build} runs={runs} />
      ) : (
        <TimelineView build={build} runs={runs} />
      )}
    </section>
  );
}

function NoRuns() {
  return (
    <p class="muted">
      No run matches.{' '}
      <button type="button" class="quiet" onClick={() => replaceQuery({ status: null, find: null })}>
        Show all
      </button>
    </p>
  );
}

function GroupFilter({ build, group }: { build: Build; group: string }) {
  return (
    <div class="chips" role="group" aria-label="Filter by status">
      {presentGroups(build.counts).map((each) => (
        <button
          key={each}
          type="button"
          class={`chip tone-${toneOf(each)}`}
          aria-pressed={group === each}
          onClick={() => replaceQuery({ status: group === each ? null : each })}
        >
          <StatusIcon status={each} />
          {formatCount(countIn(build.counts, each))} {each}
        </button>
      ))}
    </div>
  );
}

function TextFilter({ text }: { text: string }) {
  return (
    <input
      class="find"
      type="search"
      value={text}
      placeholder="Filter runs  /"
      aria-label="Filter runs by name, axis=value, host, cause or message"
      data-find
      onInput={(event) => replaceQuery({ find: event.currentTarget.value })}
      onKeyDown={(event) => {
        if (event.key !== 'Escape') return;
        replaceQuery({ find: null });
        event.currentTarget.blur();
      }}
    />
  );
}

function ViewSwitch({ view }: { view: 'matrix' | 'timeline' }) {
  return (
    <div class="switch" role="group" aria-label="View">
      <button type="button" aria-pressed={view === 'matrix'} onClick={() => replaceQuery({ view: null })}>
        Matrix
      </button>
      <button type="button" aria-pressed={view === 'timeline'} onClick={() => replaceQuery({ view: 'timeline' })}>
        Timeline
      </button>
    </div>
  );
}
