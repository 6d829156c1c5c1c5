// Owns the environment of the worker that `slipway up` starts: what it needs, and no credential but the key of its cluster
// and that of the hosts which the cluster lists.
// Called by up.ts. Pure.

/** Of the machine: how programs are found, and how the Docker engine is reached. */
const OF_THE_MACHINE =
  /^(?:PATH|HOME|USER|TMPDIR|TZ|LANG|LC_\w+|NODE_(?:OPTIONS|ENV|EXTRA_CA_CERTS)|DOCKER_(?:CERT_PATH|TLS_VERIFY))$/;
/** Of the worker, as a value or as the path of a file that holds it. */
const OF_THE_WORKER =
  /^SLIPWAY_(?:HOST|LABELS|SLOTS|SSH_KEY|MIN_FREE_BYTES|LOCAL_REPOSITORIES|RELEASE_KEYS|STOP_GRACE_MS|HEARTBEAT_TIMEOUT_MS|LOG_LEVEL)(?:_FILE)?$/;
/** No credential, and the gateway lets no worker through that names another one. */
const NAMESPACE = 'TEMPORAL_NAMESPACE';

export interface WorkerPlace {
  gatewayUrl: string;
  keyFile: string;
  /** Of its key for hosts, unless the environment names one. */
  sshKeyFile: string;
  /** Folder of its id and of the runs. */
  workerDir: string;
  dockerHost: string;
}

/** A list of what passes, so that what is added to the environment one day does not pass by itself. */
export function workerEnv(env: NodeJS.ProcessEnv, place: WorkerPlace): NodeJS.ProcessEnv {
  const passed = Object.entries(env).filter(
    ([name]) => OF_THE_MACHINE.test(name) || OF_THE_WORKER.test(name) || name === NAMESPACE,
  );
  return {
    SLIPWAY_SSH_KEY_FILE: place.sshKeyFile,
    ...Object.fromEntries(passed),
    SLIPWAY_SERVER: place.gatewayUrl,
    SLIPWAY_CLUSTER: 'local',
    SLIPWAY_CLUSTER_KEY_FILE: place.keyFile,
    SLIPWAY_WORKER_DIR: place.workerDir,
    DOCKER_HOST: place.dockerHost,
  };
}
