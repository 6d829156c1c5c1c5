// Owns how the rows of hosts and leases become answers. Pure.
// Called by the routes of hosts.
import type { BlueprintRow } from '../adapters/store/blueprints';
import { SILENT_AFTER_MS, whyRefused, type HostRow, type MadeFacts } from '../adapters/store/hosts';
import type { LeaseRow } from '../adapters/store/lease-list';
import type { Blueprint } from '../domain/schemas/blueprints';
import type * as shapes from '../domain/schemas/hosts';
import type { MadePhase } from '../domain/schemas/hosts';

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
    made: row.made && viewMade(row.made),
  };
}

function viewMade({ blueprint, spec, phase, resource, uses, ageSeconds }: MadeFacts): shapes.HostSummary['made'] {
  const since = new Date(Date.now() - ageSeconds * 1000).toISOString();
  return { blueprint, phase, resource, uses, since, cost: (ageSeconds / 3600) * spec.costPerHour };
}

export function viewBlueprint(row: BlueprintRow): Blueprint {
  const count = (...phases: MadePhase[]): number => row.phases.filter((phase) => phases.includes(phase)).length;
  return {
    cluster: row.cluster,
    name: row.name,
    ...row.spec,
    hosts: { starting: count('intended', 'starting'), ready: count('ready'), ending: count('ending') },
    costPerHourNow: row.cost_per_hour,
    faults: row.faults,
    fault: row.fault,
    restingUntil: row.resting_until?.toISOString() ?? null,
  };
}

function stateOf(row: HostRow): shapes.HostState {
  if (row.made && row.made.phase !== 'ready') return row.made.phase === 'ending' ? 'ending' : 'starting';
  if (row.drain) return row.busy.length > 0 ? 'draining' : 'drained';
  if (row.is_quarantined) return 'quarantined';
  if (row.silent_ms >= SILENT_AFTER_MS) return 'offline';
  return row.not_accepting === null && row.refusal === null ? 'ready' : 'refusing';
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
    name: row.name || null,
    state: row.is_held ? 'held' : state,
    heldUntil: row.held_until?.toISOString() ?? null,
    worker: holder,
    why,
    grantedAt: row.granted_at.toISOString(),
    deadlineAt: row.deadline_at.toISOString(),
    endedAt: row.ended_at?.toISOString() ?? null,
    history: row.history.map((event) => ({ ...event, at: new Date(event.at).toISOString() })),
  };
}
