// Owns the page of one project: its builds, newest first, older ones on demand.
// Drawn by app.tsx at /projects/:project.
import { useMemo, useState } from 'preact/hooks';
import type { z } from 'zod';
import type { BuildList, BuildSummary } from '../../domain/schemas/api';
import { apiPath, pagePath } from '../../domain/names';
import { readJson, toLocalPath } from './api';
import { Age, Duration } from './clock';
import { CountsBar, CountsText } from './counts';
import { useHead } from './head';
import { usePolled, type PollOptions } from './poll';
import { Command, ListTable, Pending, Trail, TroubleBanner } from './shell-parts';
import { StatusBadge } from './status';

type Builds = z.infer<typeof BuildList>;

const POLLING: PollOptions<Builds> = {
  paceOf: ({ builds }) => (builds.some(({ state }) => state !== 'finished') ? 'live' : 'slow'),
  // Builds pushed off the first page by newer ones stay in the list, or a gap would open before the older pages.
  merge: (before, after) => ({ builds: mergeBuilds(before.builds, after.builds), next: before.next }),
};

/** Pages overlap when builds arrive meanwhile; the newest word about a build wins. Pure. */
export function mergeBuilds(older: BuildSummary[], newest: BuildSummary[]): BuildSummary[] {
  const byNumber = new Map([...older, ...newest].map((build) => [build.number, build]));
  return [...byNumber.values()].sort((a, b) => b.number - a.number);
}

interface Older {
  builds: BuildSummary[];
  /** `undefined` until the first older page is asked for. */
  next: string | null | undefined;
  complaint: string;
}

const NOTHING_OLDER: Older = { builds: [], next: undefined, complaint: '' };

async function readOlder(older: Older, url: string): Promise<Older> {
  const answer = await readJson<Builds>(toLocalPath(url), null, new AbortController().signal);
  if (answer.kind === 'trouble') return { ...older, complaint: `Older builds did not load. ${answer.trouble.detail}` };
  if (answer.kind === 'unchanged') return older;
  return { builds: mergeBuilds(older.builds, answer.data.builds), next: answer.data.next, complaint: '' };
}

export function BuildsPage({ project }: { project: string }) {
  const polled = usePolled<Builds>(apiPath.builds(project), POLLING);
  const [older, setOlder] = useState(NOTHING_OLDER);
  const newest = polled.data?.builds;
  const builds = useMemo(() => mergeBuilds(older.builds, newest ?? []), [older, newest]);
  useHead(project, builds[0]?.status ?? null);
  if (polled.data === null) return <Pending polled={polled} what={`project “${project}”`} />;
  const next = older.next === undefined ? polled.data.next : older.next;
  return (
    <>
      <TroubleBanner polled={polled} />
      <Trail links={[{ href: '/', text: 'Projects' }]} here={project} />
      <h1>{project}</h1>
      {builds.length === 0 ? <NoBuilds project={project} /> : <BuildTable builds={builds} />}
      {next === null ? null : (
        <p class="buttons">
          <button type="button" onClick={() => void readOlder(older, next).then(setOlder)}>
            Older builds
          </button>
          <span role="status">{older.complaint}</span>
        </p>
      )}
    </>
  );
}

function NoBuilds({ project }: { project: string }) {
  const url = location.origin + apiPath.builds(project);
  return (
    <section class="empty">
      <h2>No build yet</h2>
      <p>Start the first one:</p>
      <p>
        <Command text={`curl -X POST -H 'content-type: application/json' -d '{}' ${url}`} />
      </p>
    </section>
  );
}

function BuildTable({ builds }: { builds: BuildSummary[] }) {
  return (
    <ListTable
      columns={[
        'Build',
        'Status',
        'Trigger and reason',
        { name: 'Runs', class: 'wide-only' },
        { name: 'Duration', class: 'right wide-only' },
        { name: 'When', class: 'right' },
      ]}
    >
      {builds.map((build) => (
        <BuildRow key={build.number} build={build} />
      ))}
    </ListTable>
  );
}

function BuildRow({ build }: { build: BuildSummary }) {
  return (
    <tr>
      <th scope="row" class="number">
        <a href={pagePath.build(build.project, build.number)} data-item>
          #{build.number}
        </a>
      </th>
      <td>
        <StatusBadge status={build.status} />
      </td>
      <td class="reason">
        <span>{build.trigger}</span>
        {build.reason === '' ? null : <p class="muted clip">{build.reason}</p>}
      </td>
      <td class="runs wide-only">
        <CountsBar counts={build.counts} /> <CountsText counts={build.counts} />
      </td>
      <td class="right wide-only">
        <Duration span={build} />
      </td>
      <td class="right muted">
        <Age at={build.createdAt} />
      </td>
    </tr>
  );
}
