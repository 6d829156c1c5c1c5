// Owns how the rows of clusters, keys, workers and tokens become answers. Pure.
// Called by the routes of clusters and tokens.
import type { ClusterRow, KeyRow } from '../adapters/store/clusters';
import type { TokenRow } from '../adapters/store/tokens';
import type { PinnedRelease } from '../adapters/store/tables';
import type { WorkerRow } from '../adapters/store/workers';
import { apiPath, clusterQueue } from '../domain/names';
import type { Rollout } from '../domain/rollout';
import type * as shapes from '../domain/schemas/clusters';
import { version } from '../package.json';
import { SILENT_AFTER_MS } from '../adapters/store/hosts';
import type { Links } from './views';

const iso = (at: Date | null): string | null => at?.toISOString() ?? null;

export function viewCluster(row: ClusterRow, links: Links): shapes.ClusterSummary {
  const { name, description, maintainer, kind, weight, organisations, owner, active, drain } = row;
  return {
    name,
    description,
    maintainer,
    kind,
    weight,
    organisations,
    owner,
    active,
    enlistAutomatically: row.enlist_automatically,
    policy: {
      allowPrivileged: row.allow_privileged,
      maxCpus: row.max_cpus,
      maxMemoryBytes: row.max_memory_bytes,
      maxArtifactBytes: row.max_artifact_bytes,
      maxSlotsPerProject: row.max_slots_per_project,
    },
    queue: clusterQueue(name),
    status: statusOf(row),
    drain: drain && { reason: drain.reason, by: drain.by, since: drain.since, deadline: drain.deadline },
    runs: { waiting: row.waiting, running: row.running },
    slots: { total: row.slots, busy: row.busy_slots },
    workers: { connected: row.connected, toEnlist: row.to_enlist },
    createdAt: row.created_at.toISOString(),
    urls: { self: links.base + apiPath.cluster(name) },
  };
}

/** Slots that are still held count as work: their containers may live. */
export function statusOf(row: ClusterRow): string {
  const left = Math.max(row.running, row.busy_slots);
  if (row.drain) return left > 0 ? `draining (${left} left)` : 'drained';
  return row.active ? 'active' : 'inactive';
}

export function viewKey({ kid, x, ...row }: KeyRow): shapes.Cluster['keys'][number] {
  return {
    kid,
    x,
    createdAt: row.created_at.toISOString(),
    createdBy: row.created_by,
    expiresAt: iso(row.expires_at),
    revokedAt: iso(row.revoked_at),
  };
}

export function viewRelease(pin: PinnedRelease, { state }: Rollout): shapes.Release {
  const { version, digest, sizeBytes, canaries, holdMs, by, since } = pin;
  return { version, digest, sizeBytes, canaries, holdMs, by, since, state };
}

/** @param pin what the cluster is pinned to: of other pins it does not matter who could not take them */
export function viewFleet(row: WorkerRow, pin: PinnedRelease | null): shapes.FleetWorker {
  return {
    id: row.id,
    host: row.host,
    enlisted: row.enlisted_at !== null,
    slots: row.slots,
    busySlots: row.busy_slots,
    version: row.version,
    isSameVersion: row.version === version,
    notAccepting: row.not_accepting,
    load: row.load,
    freeDiskBytes: row.free_disk_bytes,
    takesReleases: row.takes_releases,
    upgradeFailure: row.release_failure && row.release_failure.id === pin?.id ? row.release_failure.reason : null,
    connected: row.silent_ms < SILENT_AFTER_MS,
    firstSeenAt: row.first_seen_at.toISOString(),
    lastSeenAt: row.last_seen_at.toISOString(),
  };
}

export function viewToken(row: TokenRow): shapes.TokenSummary {
  return {
    id: row.id,
    name: row.name,
    role: row.role,
    organisation: row.organisation,
    createdAt: row.created_at.toISOString(),
    expiresAt: row.expires_at.toISOString(),
    revokedAt: iso(row.revoked_at),
  };
}
