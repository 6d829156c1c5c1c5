// Owns how the rows of hosts and leases become answers. Pure.
// Called by the routes of hosts.
import { SILENT_AFTER_MS, whyRefused, type HostRow } from '../adapters/store/hosts';
import type { LeaseRow } from '../adapters/store/lease-list';
import type * as shapes from '../domain/schemas/hosts';

export function viewHost(row: HostRow): shapes.HostSummary {
  return {
    cluster: row.cluster,
    name: row.name,
    origin: row.origin,
    state: stateOf(row),
    why: whyRefused(row, SILENT_AFTER_MS),
    engine: row.engine,
    reach: row.reach,
    labels: row.labels,
    machine: row.machine,
    slots: row.slots,
    busySlots: row.busy.length,
    worker: row.worker,
    drain: row.drain,
    faults: row.faults,
    quarantinedUntil: row.is_quarantined ? (row.quarantined_until?.toISOString() ?? null) : null,
    lastSeenAt: row.last_seen_at.getTime() === 0 ? null : row.last_seen_at.toISOString(),
  };
}

function stateOf(row: HostRow): shapes.HostState {
  if (row.drain) return row.busy.length > 0 ? 'draining' : 'drained';
  if (row.is_quarantined) return 'quarantined';
  if (row.silent_ms >= SILENT_AFTER_MS) return 'offline';
  return row.not_accepting === null ? 'ready' : 'refusing';
}

export function viewLease(row: LeaseRow): shapes.LeaseSummary {
  const { token, cluster, host, slot, project, build, run, attempt, state, holder, why } = row;
  return {
    token,
    cluster,
    host,
    slot,
    project,
    build,
    run,
    attempt,
    state,
    worker: holder,
    why,
    grantedAt: row.granted_at.toISOString(),
    deadlineAt: row.deadline_at.toISOString(),
    endedAt: row.ended_at?.toISOString() ?? null,
    history: row.history.map((event) => ({ ...event, at: new Date(event.at).toISOString() })),
  };
}
