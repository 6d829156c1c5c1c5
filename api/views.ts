// Owns how rows become answers: statuses, counts, URLs. Pure.
// Called by the routes; nothing else makes these shapes.
import { apiPath, buildWorkflowId, encodePath, pagePath, tracePath } from '../domain/names';
import { buildStatus, isBad, runStatus } from '../domain/verdict';
import type * as api from '../domain/schemas/api';
import { Outcome } from '../domain/schemas/words';
import type { AttemptBeside } from '../adapters/store/beside';
import type { BuildRow } from '../adapters/store/builds';
import { SILENT_AFTER_MS, type HostRow } from '../adapters/store/hosts';
import type { ProjectRow } from '../adapters/store/projects';
import type { ArtifactRow, AttemptRow, RunRow } from '../adapters/store/runs';

/** Where links lead: the API's own base URL and Temporal's Web UI. */
export interface Links {
  base: string;
  temporalUi: string;
  namespace: string;
}

const iso = (at: Date | null): string | null => at?.toISOString() ?? null;

export function viewBuild(row: BuildRow, links: Links): api.BuildSummary {
  const anyNotPassed = Outcome.options.some((outcome) => isBad(outcome) && (row.counts[outcome] ?? 0) > 0);
  const { project, number, state, outcome } = row;
  return {
    project,
    number,
    state,
    outcome,
    cause: row.cause,
    status: buildStatus({ state, outcome, cancelRequested: row.cancel_requested_at !== null, anyNotPassed }),
    trigger: row.trigger,
    reason: row.reason,
    params: row.params,
    planDigest: row.plan_digest,
    commits: row.commits,
    counts: viewCounts(row.counts),
    reruns: row.reruns,
    rerunAt: iso(row.rerun_at),
    createdAt: row.created_at.toISOString(),
    startedAt: iso(row.started_at),
    finishedAt: iso(row.finished_at),
    urls: {
      self: links.base + apiPath.build(project, number),
      page: links.base + pagePath.build(project, number),
      trace: links.temporalUi + tracePath(links.namespace, buildWorkflowId(project, number, row.reruns)),
    },
  };
}

function viewCounts(counts: Record<string, number>): api.RunCounts {
  const of = (...words: string[]): number => words.reduce((sum, word) => sum + (counts[word] ?? 0), 0);
  return {
    total: Object.values(counts).reduce((sum, count) => sum + count, 0),
    queued: of('queued'),
    running: of('leasing', 'preparing', 'running', 'collecting'),
    passed: of('passed'),
    failed: of('failed'),
    errored: of('errored'),
    cancelled: of('cancelled'),
    timedOut: of('timed-out'),
    skipped: of('skipped'),
  };
}

export interface RunPlace {
  project: string;
  build: number;
  /** Why each waiting run waits, by its name. */
  waiting: ReadonlyMap<string, string>;
}

export function viewRun(row: RunRow, place: RunPlace, links: Links): api.RunSummary {
  const { project, build } = place;
  return {
    name: row.name,
    job: row.spec.job,
    cell: row.spec.cell,
    state: row.state,
    outcome: row.outcome,
    cause: row.cause,
    status: runStatus({ state: row.state, outcome: row.outcome, cancelRequested: row.cancel_requested_at !== null }),
    message: row.message,
    waiting: place.waiting.get(row.name) ?? null,
    attempt: row.attempt,
    exitCode: row.exit_code,
    commit: row.commit,
    cluster: row.cluster,
    placement: row.placement,
    host: row.host,
    logBytes: row.log_bytes ?? 0,
    startedAt: iso(row.started_at),
    finishedAt: iso(row.finished_at),
    urls: {
      self: links.base + apiPath.run(project, build, row.name),
      page: links.base + pagePath.run(project, build, row.name),
      log: links.base + apiPath.log(project, build, row.name),
      artifacts: links.base + apiPath.artifacts(project, build, row.name),
    },
  };
}

/** @param beside of all attempts of its run */
export function viewAttempt(row: AttemptRow, beside: readonly AttemptBeside[]): api.Attempt {
  return {
    number: row.number,
    state: row.state,
    outcome: row.outcome,
    cause: row.cause,
    message: row.message,
    exitCode: row.exit_code,
    host: row.host,
    hostsBeside: beside.flatMap(({ attempt, name, host }) => (attempt === row.number ? [{ name, host }] : [])),
    worker: row.worker,
    containerId: row.container_id,
    imageDigest: row.image_digest,
    logBytes: row.log_bytes,
    logComplete: row.log_complete,
    logGaps: row.log_gaps,
    notStored: row.not_stored,
    createdAt: row.created_at.toISOString(),
    startedAt: iso(row.started_at),
    finishedAt: iso(row.finished_at),
  };
}

export function viewArtifact(
  row: ArtifactRow,
  place: { project: string; build: number; run: string; attempt: number },
  links: Links,
): api.Artifact {
  const folder = apiPath.artifacts(place.project, place.build, place.run);
  return {
    path: row.path,
    sizeBytes: row.size_bytes,
    digest: row.digest,
    contentType: row.content_type,
    attempt: place.attempt,
    url: `${links.base}${folder}/${encodePath(row.path)}?attempt=${place.attempt}`,
  };
}

export function viewProject(row: ProjectRow, lastBuild: BuildRow | undefined, links: Links): api.ProjectSummary {
  return {
    name: row.name,
    description: row.description,
    organisation: row.organisation,
    createdAt: row.created_at.toISOString(),
    updatedAt: row.updated_at.toISOString(),
    lastBuild: lastBuild ? viewBuild(lastBuild, links) : null,
    urls: {
      self: links.base + apiPath.project(row.name),
      page: links.base + pagePath.project(row.name),
      builds: links.base + apiPath.builds(row.name),
    },
  };
}

export function viewWorker(row: HostRow): api.WorkerSummary {
  return {
    id: row.worker ?? '',
    cluster: row.cluster,
    host: row.name,
    labels: row.labels,
    slots: row.slots,
    busySlots: row.busy.length,
    version: row.version,
    connected: row.silent_ms < SILENT_AFTER_MS,
    lastSeenAt: row.last_seen_at.toISOString(),
  };
}
