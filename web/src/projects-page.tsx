// Owns the first page: every project with its last build.
// Drawn by app.tsx at /.
import type { z } from 'zod';
import type { ProjectList, ProjectSummary } from '../../domain/schemas/api';
import { pagePath } from '../../domain/names';
import { Age, Duration } from './clock';
import { CountsBar, CountsText } from './counts';
import { useHead } from './head';
import { usePolled, type PollOptions } from './poll';
import { Command, ListTable, Pending, TroubleBanner } from './shell-parts';
import { StatusBadge } from './status';

type Projects = z.infer<typeof ProjectList>;

const POLLING: PollOptions<Projects> = {
  paceOf: ({ projects }) =>
    projects.some(({ lastBuild }) => lastBuild !== null && lastBuild.state !== 'finished') ? 'live' : 'slow',
};

export function ProjectsPage() {
  const polled = usePolled<Projects>('/v1/projects', POLLING);
  useHead('Projects', null);
  if (polled.data === null) return <Pending polled={polled} what="list of projects" />;
  const { projects } = polled.data;
  return (
    <>
      <TroubleBanner polled={polled} />
      <h1>Projects</h1>
      {projects.length === 0 ? <NoProjects /> : <ProjectTable projects={projects} />}
    </>
  );
}

function NoProjects() {
  return (
    <section class="empty">
      <h2>No project yet</h2>
      <p>A project is a name and a file that says what to run. Run one from a folder that holds such a file:</p>
      <p>
        <Command text="npx slipway run examples/hello" />
      </p>
    </section>
  );
}

function ProjectTable({ projects }: { projects: ProjectSummary[] }) {
  return (
    <ListTable
      columns={[
        'Project',
        'Last build',
        { name: 'Runs', class: 'wide-only' },
        { name: 'Duration', class: 'right wide-only' },
        { name: 'When', class: 'right' },
      ]}
    >
      {projects.map((project) => (
        <ProjectRow key={project.name} project={project} />
      ))}
    </ListTable>
  );
}

function ProjectRow({ project }: { project: ProjectSummary }) {
  const build = project.lastBuild;
  return (
    <tr>
      <th scope="row">
        <a href={pagePath.project(project.name)} data-item>
          {project.name}
        </a>
        {project.description === '' ? null : <p class="muted">{project.description}</p>}
      </th>
      {build === null ? (
        <td colSpan={4} class="muted">
          no build yet
        </td>
      ) : (
        <>
          <td>
            <a class="plain-link" href={pagePath.build(build.project, build.number)}>
              <StatusBadge status={build.status} /> <span class="number">#{build.number}</span>
            </a>
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
        </>
      )}
    </tr>
  );
}
