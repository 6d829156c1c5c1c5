// Owns every name that is minted: workflow ids, task queues, container names, URL paths.
// Pure. They are stored in histories and links, so a form is never changed; a new one is added beside it.

/**
 * Id of the workflow of a build; each rerun has one of its own, since a closed one cannot go on.
 * @param project a ProjectName @param number counts from 1 @param reruns 0 for the build as it was triggered
 */
export const buildWorkflowId = (project: string, number: number, reruns = 0): string =>
  `build/${project}/${number}${reruns === 0 ? '' : `/rerun-${reruns}`}`;

/** Id of the workflow that takes a cluster down and stays until it is up again. @param id of this maintenance alone */
export const maintenanceWorkflowId = (cluster: string, id: string): string => `maintenance/${cluster}/${id}`;

/** Id of the workflow of a host that is made on demand. @param host its name */
export const hostWorkflowId = (cluster: string, host: string): string => `host/${cluster}/${host}`;

/** Id of the workflow of a shell into a run that is held. */
export const shellWorkflowId = (shell: string): string => `shell/${shell}`;

/** Queue of workflows and of activities that keep records. */
export const ORCHESTRATOR_QUEUE = 'orchestrator';

/** Queue of new work for any worker of a cluster. */
export const clusterQueue = (cluster: string): string => `cluster.${cluster}`;

/** Queue of follow-ups to one worker process; its id is kept on disk, so a restarted worker serves the same queue. */
export const workerQueue = (cluster: string, workerId: string): string => `worker.${cluster}.${workerId}`;

/** The worker whose own queue it is; undefined: it is no such queue. */
export const readWorkerQueue = (queue: string): string | undefined =>
  /^worker\..+\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/.exec(queue)?.[1];

/** Whether it is the own queue of some worker of this cluster. */
export function isWorkerQueueOf(cluster: string, queue: unknown): queue is string {
  if (typeof queue !== 'string') return false;
  const worker = readWorkerQueue(queue);
  return worker !== undefined && queue === workerQueue(cluster, worker);
}

/**
 * Name of the container of one attempt: the same whoever asks, so it is created at most once.
 * @param beside by which the run calls a host that it has beside its own; absent: its own
 */
export const containerName = (runId: string, attempt: number, beside?: string): string =>
  `slipway-${runId}-${attempt}${beside === undefined ? '' : `-${beside}`}`;

/** The attempt that a container or a folder of this name belongs to; undefined: it is none of ours. */
export function readContainerName(name: string): { runId: string; attempt: number } | undefined {
  const [, runId, attempt] =
    /^slipway-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-([1-9]\d{0,8})(?:-[a-z][a-z0-9-]*)?(?:_shell-[0-9a-f]+)?$/.exec(
      name,
    ) ?? [];
  return runId === undefined ? undefined : { runId, attempt: Number(attempt) };
}

const segment = encodeURIComponent;

/** Paths of the API, relative to its base URL. */
export const apiPath = {
  cluster: (cluster: string): string => `/v1/clusters/${segment(cluster)}`,
  hosts: (cluster: string): string => `${apiPath.cluster(cluster)}/hosts`,
  host: (cluster: string, host: string): string => `${apiPath.hosts(cluster)}/${segment(host)}`,
  blueprints: (cluster: string): string => `${apiPath.cluster(cluster)}/blueprints`,
  blueprint: (cluster: string, name: string): string => `${apiPath.blueprints(cluster)}/${segment(name)}`,
  project: (project: string): string => `/v1/projects/${segment(project)}`,
  builds: (project: string): string => `/v1/projects/${segment(project)}/builds`,
  build: (project: string, number: number): string => `${apiPath.builds(project)}/${number}`,
  run: (project: string, number: number, run: string): string =>
    `${apiPath.build(project, number)}/runs/${segment(run)}`,
  log: (project: string, number: number, run: string): string => `${apiPath.run(project, number, run)}/log`,
  artifacts: (project: string, number: number, run: string): string => `${apiPath.run(project, number, run)}/artifacts`,
};

/** Paths of the pages for people, relative to the same base URL. */
export const pagePath = {
  cluster: (cluster: string): string => `/clusters/${segment(cluster)}`,
  project: (project: string): string => `/projects/${segment(project)}`,
  build: (project: string, number: number): string => `/projects/${segment(project)}/builds/${number}`,
  run: (project: string, number: number, run: string): string =>
    `${pagePath.build(project, number)}/runs/${segment(run)}`,
};

/** A path of an artifact or a file, to be put behind a URL: each part encoded, the slashes kept. */
export const encodePath = (path: string): string => path.split('/').map(segment).join('/');

/** The build's trace in the Temporal Web UI, to be put behind its base URL. */
export const tracePath = (namespace: string, workflowId: string): string =>
  `/namespaces/${segment(namespace)}/workflows/${segment(workflowId)}`;
