// Owns the shape of every table as TypeScript sees it; migrations.ts makes the same in SQL.
// Used by the files of this folder only.
import type { ColumnType, Generated } from 'kysely';
import type { LogGap, NotStoredFiles } from '../../domain/schemas/api';
import type { PutBlueprint } from '../../domain/schemas/blueprints';
import type { Role } from '../../domain/schemas/clusters';
import type { MachineFacts, Reach } from '../../domain/schemas/hosts';
import type { Placement } from '../../domain/cluster-choice';
import type { Plan, PlannedRun } from '../../domain/schemas/plan';
import type { BuildState, Cause, Outcome, RunState } from '../../domain/schemas/words';

type Instant = ColumnType<Date, Date | undefined, Date>;
type NullableInstant = ColumnType<Date | null, Date | null | undefined, Date | null>;
/** bigint columns are read as numbers: pg is told so in connect.ts, and all of ours stay below 2^53. */
type Bigint = ColumnType<number, number | undefined, number>;

export interface Tables {
  projects: {
    name: string;
    description: string;
    definition: string;
    triggers: ColumnType<string[], string, string>;
    last_number: Bigint;
    organisation: string | null;
    created_at: Instant;
    updated_at: Instant;
  };
  builds: {
    id: string;
    project: string;
    number: number;
    state: BuildState;
    outcome: Outcome | null;
    cause: Cause | null;
    trigger: string;
    params: ColumnType<Record<string, string>, string, string>;
    reason: string;
    definition: string;
    plan_jobs: ColumnType<Plan['jobs'], string, string>;
    plan_digest: string;
    idempotency_key: string | null;
    request_digest: string;
    cancel_requested_at: NullableInstant;
    cancel_delivered_at: NullableInstant;
    cancel_cause: Cause | null;
    timeout_ms: number | null;
    /** For which the hosts of its failed runs are kept; null: as in their specs. */
    hold_ms: number | null;
    reruns: Generated<number>;
    rerun_at: NullableInstant;
    dispatch_tried_at: NullableInstant;
    checked_at: NullableInstant;
    dispatched_at: NullableInstant;
    created_at: Instant;
    started_at: NullableInstant;
    finished_at: NullableInstant;
  };
  commits: {
    build_id: string;
    url: string;
    ref: string;
    commit: string;
    frozen_at: Instant;
  };
  runs: {
    id: string;
    build_id: string;
    position: number;
    name: string;
    spec: ColumnType<PlannedRun, string, string>;
    cluster: string;
    placement: ColumnType<Placement, string | undefined, string>;
    moved_at: NullableInstant;
    move_delivered_at: NullableInstant;
    state: RunState;
    outcome: Outcome | null;
    cause: Cause | null;
    message: string;
    waiting: string | null;
    attempt: number;
    base_attempt: Generated<number>;
    /** As in the spec, so that a queue can be put in order without reading every spec. */
    priority: Generated<number>;
    host_tag: string | null;
    /** Since when it could have run, at the last time that it asked for a slot and got none. */
    waiting_since: NullableInstant;
    asked_at: NullableInstant;
    /** When it was last told that there may be a slot for it. */
    woken_at: NullableInstant;
    cancel_requested_at: NullableInstant;
    cancel_delivered_at: NullableInstant;
    finished_at: NullableInstant;
  };
  attempts: {
    run_id: string;
    number: number;
    state: RunState;
    outcome: Outcome | null;
    cause: Cause | null;
    message: string;
    exit_code: number | null;
    host: string | null;
    worker: string | null;
    container_id: string | null;
    image_digest: string | null;
    log_bytes: Bigint;
    log_complete: ColumnType<boolean, boolean | undefined, boolean>;
    log_index: ColumnType<LogIndex | null, string | null | undefined, string | null>;
    log_cap_bytes: Bigint;
    log_gaps: ColumnType<LogGap[], string | undefined, string>;
    /** What it left in /archive and is no artifact; null: nothing. */
    not_stored: ColumnType<NotStoredFiles | null, string | null | undefined, string | null>;
    /** Of its artifacts. */
    artifact_bytes: Bigint;
    artifact_files: Generated<number>;
    last_output_at: NullableInstant;
    created_at: Instant;
    starting_at: NullableInstant;
    started_at: NullableInstant;
    finished_at: NullableInstant;
  };
  log_chunks: { run_id: string; attempt: number; start_byte: number; size_bytes: number; blob: string };
  artifacts: {
    run_id: string;
    attempt: number;
    path: string;
    size_bytes: number;
    digest: string;
    content_type: string;
    blob: string;
  };
  clusters: {
    name: string;
    description: Generated<string>;
    maintainer: Generated<string>;
    kind: Generated<'default' | 'specialised'>;
    weight: Generated<number>;
    organisations: ColumnType<string[], string | undefined, string>;
    owner: string | null;
    allow_privileged: Generated<boolean>;
    max_cpus: number | null;
    max_memory_bytes: number | null;
    max_artifact_bytes: number | null;
    max_slots_per_project: number | null;
    active: Generated<boolean>;
    enlist_automatically: Generated<boolean>;
    drain: ColumnType<DrainFacts | null, string | null | undefined, string | null>;
    /** The workflow of its maintenance has been started. */
    drain_dispatched_at: NullableInstant;
    /** When one of its workers was heard again after none was for a while; null: never. */
    door_opened_at: NullableInstant;
    release: ColumnType<PinnedRelease | null, string | null | undefined, string | null>;
    created_at: Instant;
  };
  cluster_keys: {
    cluster: string;
    kid: string;
    x: string;
    created_at: Instant;
    created_by: string;
    expires_at: NullableInstant;
    revoked_at: NullableInstant;
  };
  workers: {
    id: string;
    cluster: string;
    enlisted_at: NullableInstant;
    slots: number;
    version: string;
    not_accepting: string | null;
    load: number | null;
    free_disk_bytes: number | null;
    /** When it last asked which hosts are its beside its own machine; null: it never serves any. */
    serves_hosts_at: NullableInstant;
    /** Id of the Docker engine that it can make hosts on; null: none. */
    docker_engine: string | null;
    takes_releases: Generated<boolean>;
    /** What it runs; null: what was installed there. */
    release_digest: string | null;
    /** When it first said hello with that. */
    release_since: NullableInstant;
    /** Id of the pin that it was told to take. */
    release_offered: string | null;
    release_failure: ColumnType<ReleaseFailure | null, string | null | undefined, string | null>;
    /** When it was last refused over a clock, and what it was told. */
    refused_at: NullableInstant;
    refusal: string | null;
    first_seen_at: Instant;
    last_seen_at: Instant;
  };
  tokens: {
    id: string;
    name: string;
    digest: string;
    role: Role;
    organisation: string | null;
    created_at: Instant;
    expires_at: Instant;
    revoked_at: NullableInstant;
  };
  audit: {
    id: Generated<number>;
    at: Instant;
    actor: string;
    action: string;
    subject: string;
    allowed: boolean;
    detail: string;
  };
  hosts: {
    id: string;
    cluster: string;
    name: string;
    /** Who serves it; null: nobody keeps it now. */
    worker: string | null;
    /** The machine of a worker, listed by hand, or made by a blueprint. */
    origin: Generated<'worker' | 'listed' | 'made'>;
    engine: Generated<'docker' | 'shell'>;
    /** Null: the machine of its worker, or one that is still being made. */
    reach: ColumnType<Reach | null, string | null | undefined, string | null>;
    machine: ColumnType<MachineFacts, string | undefined, string>;
    labels: ColumnType<string[], string, string>;
    slots: number;
    version: string;
    not_accepting: string | null;
    /** Its maintenance. */
    drain: ColumnType<HostDrainFacts | null, string | null | undefined, string | null>;
    /** In a row; 0: the last run, or the last probe, was well. */
    faults: Generated<number>;
    /** The newest one in words. */
    fault: string | null;
    /** When it failed last: what it was given before says nothing new of it. */
    faulted_at: NullableInstant;
    quarantined_until: NullableInstant;
    removed_at: NullableInstant;
    last_seen_at: Instant;
  };
  blueprints: {
    id: string;
    cluster: string;
    name: string;
    spec: ColumnType<PutBlueprint, string, string>;
    /** Hosts in a row that could not be made or did not get ready. */
    faults: Generated<number>;
    fault: string | null;
    resting_until: NullableInstant;
    created_at: Instant;
    removed_at: NullableInstant;
  };
  /** The ledger of on-demand hosts: a row is there before anything is made, and stays. */
  made_hosts: {
    host: string;
    blueprint: string;
    /** The blueprint as it was then. */
    spec: ColumnType<PutBlueprint, string, string>;
    /** What it is where it was made; null: not known. */
    resource: string | null;
    /** Why it ends. */
    why: string | null;
    intended_at: Instant;
    /** When its workflow was started. */
    begun_at: NullableInstant;
    made_at: NullableInstant;
    ready_at: NullableInstant;
    ending_at: NullableInstant;
    /** When its workflow was told of that. */
    end_told_at: NullableInstant;
    /** Nothing of it is left. */
    gone_at: NullableInstant;
  };
  /** On which hosts runs have worked on which repositories. */
  working_copies: { host: string; url: string; used_at: Instant };
  /** Queued runs of a cluster that differ in nothing but their age; domain/priority.ts says what for. */
  lines: {
    cluster: string;
    project: string;
    priority: number;
    /** Empty: any host. */
    host_tag: string;
    /** When it got its newest slot. */
    served_at: NullableInstant;
    /** The one that is offered with a higher priority, while it is queued. */
    raised_run: string | null;
  };
  leases: {
    token: Generated<number>;
    run_id: string;
    attempt: number;
    /** By which the run calls a host that it has beside its own; empty: its own, whose token is that of the attempt. */
    name: Generated<string>;
    host: string;
    slot: number;
    state: 'granted' | 'active' | 'releasing' | 'released' | 'expired';
    granted_at: Instant;
    deadline_at: Instant;
    ended_at: NullableInstant;
    /** Until when what its run left is kept; null: it is not. */
    held_until: NullableInstant;
    /** Id of the worker that supervises, or did last. */
    holder: string | null;
    /** What its newest change was for. */
    why: string | null;
    /** Written by a trigger at every change of state or token. */
    history: ColumnType<LeaseEvent[], never, never>;
  };
}

export interface LeaseEvent {
  /** ISO 8601, as PostgreSQL writes it. */
  at: string;
  token: number;
  state: string;
  by: string | null;
  why: string | null;
}

export interface HostDrainFacts {
  reason: string;
  by: string;
  /** ISO 8601. */
  since: string;
}

/** Maintenance of a cluster, as it was asked for. Instants are ISO 8601 texts. */
export interface DrainFacts {
  /** Of this maintenance alone; its workflow carries it. */
  id: string;
  reason: string;
  by: string;
  since: string;
  deadline: string | null;
}

/** The release that the workers of a cluster are to run. */
export interface PinnedRelease {
  /** Of this pin alone: the same release pinned again is a new try. */
  id: string;
  /** What its maker signed, as a compact JWS. */
  signed: string;
  version: string;
  digest: string;
  sizeBytes: number;
  blob: string;
  canaries: number;
  holdMs: number;
  by: string;
  /** ISO 8601. */
  since: string;
}

export interface ReleaseFailure {
  /** Id of the pin. */
  id: string;
  reason: string;
}

/** Where the blocks of a compressed log lie: one entry a block, in order. */
export interface LogIndex {
  blob: string;
  blocks: { startByte: number; sizeBytes: number; firstLine: number; blobOffset: number; blobBytes: number }[];
}
