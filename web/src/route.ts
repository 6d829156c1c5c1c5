// Owns which page a path is. Pure.
// Called by the shell (app.tsx) and the router.
export type Route =
  | { kind: 'projects' }
  | { kind: 'builds'; project: string }
  | { kind: 'build'; project: string; number: number }
  | { kind: 'run'; project: string; number: number; run: string }
  | { kind: 'clusters' }
  | { kind: 'hosts' }
  | { kind: 'leases' }
  | { kind: 'cluster'; cluster: string }
  | { kind: 'unknown' };

const PATTERN = /^\/projects\/([^/]+)(?:\/builds\/([1-9]\d{0,14})(?:\/runs\/([^/]+))?)?\/?$/;

const LISTS = /^\/(clusters|hosts|leases)\/?$/;
const CLUSTER = /^\/clusters\/([^/]+)\/?$/;

/** Pure. A path that is no page, or is badly encoded, is `unknown`. */
export function parseRoute(path: string): Route {
  if (path === '/' || path === '/projects' || path === '/projects/') return { kind: 'projects' };
  const [, list] = LISTS.exec(path) ?? [];
  if (list !== undefined) return { kind: list as 'clusters' | 'hosts' | 'leases' };
  const [, cluster] = CLUSTER.exec(path) ?? [];
  const [, project, number, run] = PATTERN.exec(path) ?? [];
  if (project === undefined && cluster === undefined) return { kind: 'unknown' };
  try {
    if (project === undefined) return { kind: 'cluster', cluster: decodeURIComponent(cluster ?? '') };
    const name = decodeURIComponent(project);
    if (number === undefined) return { kind: 'builds', project: name };
    if (run === undefined) return { kind: 'build', project: name, number: Number(number) };
    return { kind: 'run', project: name, number: Number(number), run: decodeURIComponent(run) };
  } catch {
    return { kind: 'unknown' };
  }
}
