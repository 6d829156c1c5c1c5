// Owns where the Docker engine of this machine keeps files of a container: it does not say so, but names others beside them.
// Called by docker-engine.ts.
import { dirname, join } from 'node:path';
import type Dockerode from 'dockerode';

export const LOG_DRIVER = 'local';
/** Of a container, as it was made: its own name may be changed by hand. */
export const LABEL_NAME = 'dev.slipway.name';

/** The engine does not name this file, since its form is its own affair; the reader checks what it finds there. */
export function logFileOf(found: Dockerode.ContainerInspectInfo): string | null {
  if (found.HostConfig.LogConfig?.Type !== LOG_DRIVER || !found.HostnamePath) return null;
  return join(dirname(found.HostnamePath), 'local-logs', 'container.log');
}

/** The engine does not name this folder either, but one beside it: that of the container's network. */
export function pipesDirOf({
  Id,
  NetworkSettings: { SandboxKey: network },
}: Dockerode.ContainerInspectInfo): string | null {
  return network ? join(dirname(dirname(network)), 'containerd', Id) : null;
}
