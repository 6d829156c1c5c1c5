// Owns what the container of an attempt is made with: its image, mounts, environment, limits and log.
// Called by docker-engine.ts.
import { join } from 'node:path';
import type Dockerode from 'dockerode';
import { BEGIN, SCRIPT } from './docker-begin';
import { LABEL_NAME, LOG_DRIVER } from './docker-files';
import type { ContainerSpec } from './engine';

/**
 * A run is stopped long before its file is so large. The engine cuts it while nobody reads, as when the server is away; the
 * reader notices. Short lines take up to 15 times their size there.
 */
const LOG_FILE_PER_CAP = 16;
const LEAST_LOG_FILE_BYTES = 256 * 1024 * 1024;

/** `local` keeps bytes as they are. */
function logConfig({ logCapBytes = Infinity }: ContainerSpec): Dockerode.HostConfig['LogConfig'] {
  const bytes = Math.max(logCapBytes * LOG_FILE_PER_CAP, LEAST_LOG_FILE_BYTES);
  const size = Number.isFinite(bytes) ? String(bytes) : '1024g';
  return { Type: LOG_DRIVER, Config: { 'max-size': size, 'max-file': '1', compress: 'false' } };
}

/** Processes and threads of a container whose file does not say how many: a fork bomb is to end in it. */
const DEFAULT_PIDS = 4_096;

const SPOOL = '/slipway';
const FOLDERS = { H_REPO: '/repo', H_ARCHIVE: '/archive', H_SECRETS: '/secrets' };

/** Where a program is found that an image does not know. */
const spoolMounts = [
  ['in', `${SPOOL}/in`, true],
  ['out', `${SPOOL}/out`, false],
  ['bin/slipway', '/usr/local/bin/slipway', true],
] as const;

/** @param isTold its beginning is to be told */
export function optionsOf(spec: ContainerSpec, isTold: boolean): Dockerode.ContainerCreateOptions {
  const mount = (part: string, target: string, readOnly = false): Dockerode.MountSettings => ({
    Type: 'bind',
    Source: join(spec.runDir, part),
    Target: target,
    ReadOnly: readOnly,
  });
  const { cpus, memoryBytes, pids = DEFAULT_PIDS } = spec.resources;
  return {
    name: spec.name,
    Image: spec.image,
    Cmd: [isTold ? BEGIN : SCRIPT],
    Env: Object.entries({ ...spec.env, ...FOLDERS, ...(spec.hasSpool ? { SLIPWAY_SPOOL: SPOOL } : {}) }).map(
      ([key, value]) => `${key}=${value}`,
    ),
    Labels: { ...spec.labels, [LABEL_NAME]: spec.name },
    WorkingDir: '/repo',
    ...(spec.user === undefined ? {} : { User: spec.user }),
    ...(spec.entrypoint === undefined ? {} : { Entrypoint: spec.entrypoint === '' ? [] : [spec.entrypoint] }),
    HostConfig: {
      Init: true,
      Privileged: spec.privileged,
      CapAdd: spec.capAdd,
      CapDrop: spec.capDrop,
      ...(cpus === undefined ? {} : { NanoCpus: Math.round(cpus * 1e9) }),
      ...(memoryBytes === undefined ? {} : { Memory: memoryBytes, MemorySwap: memoryBytes }),
      PidsLimit: pids,
      LogConfig: logConfig(spec),
      Mounts: [
        mount('script', SCRIPT, true),
        ...(isTold ? [mount('begin', BEGIN, true)] : []),
        mount('repo', '/repo'),
        mount('archive', '/archive'),
        mount('secrets', '/secrets', true),
        ...(spec.hasSpool ? spoolMounts.map(([part, target, isReadOnly]) => mount(part, target, isReadOnly)) : []),
      ],
    },
  };
}
