// Owns the schema of the record store, forward only: a migration that has been released is never edited.
// Run by connect.ts under kysely's lock; written in the subset that PostgreSQL 15 and the embedded database share.
import { sql, type Kysely, type Migration } from 'kysely';

const statements = (text: string): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    for (const statement of text.split(/;\s*\n/).filter((part) => part.trim() !== '')) {
      await sql.raw(statement).execute(db);
    }
  },
});

export const MIGRATIONS: Record<string, Migration> = {
  '0001-first': statements(`
    create table projects (
      name text primary key,
      description text not null,
      definition text not null,
      triggers jsonb not null,
      last_number bigint not null default 0,
      created_at timestamptz not null default now(),
      updated_at timestamptz not null default now()
    );
    create table builds (
      id uuid primary key,
      project text not null references projects (name),
      number integer not null,
      state text not null default 'queued',
      outcome text,
      cause text,
      trigger text not null,
      params jsonb not null,
      reason text not null,
      definition text not null,
      plan_jobs jsonb not null,
      plan_digest text not null,
      idempotency_key text,
      request_digest text not null,
      cancel_requested_at timestamptz,
      cancel_delivered_at timestamptz,
      dispatched_at timestamptz,
      created_at timestamptz not null default now(),
      started_at timestamptz,
      finished_at timestamptz,
      unique (project, number),
      unique (project, idempotency_key),
      check ((state = 'finished') = (outcome is not null and cause is not null and finished_at is not null))
    );
    create index builds_to_dispatch on builds (created_at) where dispatched_at is null;
    create index builds_to_cancel on builds (cancel_requested_at)
      where cancel_requested_at is not null and cancel_delivered_at is null;
    create table runs (
      id uuid primary key,
      build_id uuid not null references builds (id),
      position integer not null,
      name text not null,
      spec json not null,
      cluster text not null,
      state text not null default 'queued',
      outcome text,
      cause text,
      message text not null default '',
      waiting text,
      attempt integer not null default 0,
      cancel_requested_at timestamptz,
      cancel_delivered_at timestamptz,
      finished_at timestamptz,
      unique (build_id, name),
      check ((state = 'finished') = (outcome is not null and cause is not null and finished_at is not null))
    );
    create index runs_of_build on runs (build_id, position);
    create index runs_to_cancel on runs (cancel_requested_at)
      where cancel_requested_at is not null and cancel_delivered_at is null;
    create table attempts (
      run_id uuid not null references runs (id),
      number integer not null,
      state text not null,
      outcome text,
      cause text,
      message text not null default '',
      exit_code integer,
      host text,
      worker text,
      container_id text,
      image_digest text,
      log_bytes bigint not null default 0,
      log_complete boolean not null default false,
      log_index jsonb,
      created_at timestamptz not null default now(),
      starting_at timestamptz,
      started_at timestamptz,
      finished_at timestamptz,
      primary key (run_id, number),
      check ((state = 'finished') = (outcome is not null and cause is not null and finished_at is not null))
    );
    create index attempts_to_compress on attempts (finished_at) where log_index is null and log_bytes > 0;
    create table log_chunks (
      run_id uuid not null,
      attempt integer not null,
      start_byte bigint not null,
      size_bytes integer not null,
      blob text not null,
      primary key (run_id, attempt, start_byte),
      foreign key (run_id, attempt) references attempts (run_id, number)
    );
    create table artifacts (
      run_id uuid not null,
      attempt integer not null,
      path text not null,
      size_bytes bigint not null,
      digest text not null,
      content_type text not null,
      blob text not null,
      primary key (run_id, attempt, path),
      foreign key (run_id, attempt) references attempts (run_id, number)
    );
    create table clusters (
      name text primary key,
      allow_privileged boolean not null default false,
      created_at timestamptz not null default now()
    );
    create table hosts (
      id text primary key,
      cluster text not null references clusters (name),
      name text not null,
      worker text not null,
      labels jsonb not null,
      slots integer not null,
      version text not null,
      last_seen_at timestamptz not null default now(),
      unique (cluster, name)
    );
    create table leases (
      token bigint generated always as identity primary key,
      run_id uuid not null,
      attempt integer not null,
      host text not null references hosts (id),
      slot integer not null,
      state text not null default 'granted',
      granted_at timestamptz not null default now(),
      ended_at timestamptz,
      foreign key (run_id, attempt) references attempts (run_id, number)
    );
    create unique index one_live_lease_a_slot on leases (host, slot) where state in ('granted', 'active', 'releasing');
    create unique index one_live_lease_an_attempt on leases (run_id, attempt)
      where state in ('granted', 'active', 'releasing');
  `),
  '0002-goes-on': statements(`
    alter table builds add reruns integer not null default 0;
    alter table builds add rerun_at timestamptz;
    alter table builds add timeout_ms bigint;
    alter table builds add cancel_cause text;
    alter table builds add dispatch_tried_at timestamptz;
    alter table builds add checked_at timestamptz;
    create index builds_to_check on builds (checked_at nulls first) where state <> 'finished';
    alter table runs add base_attempt integer not null default 0;
    alter table attempts add last_output_at timestamptz;
    alter table attempts add log_gaps jsonb not null default '[]';
    alter table attempts add log_cap_bytes bigint not null default 536870912;
    alter table leases add deadline_at timestamptz not null default now() + interval '1 day';
  `),
  '0003-clusters': statements(`
    alter table clusters add description text not null default '';
    alter table clusters add maintainer text not null default '';
    alter table clusters add kind text not null default 'default' check (kind in ('default', 'specialised'));
    alter table clusters add weight integer not null default 100 check (weight between 0 and 100);
    alter table clusters add organisations jsonb not null default '[]';
    alter table clusters add owner text;
    alter table clusters add max_cpus double precision;
    alter table clusters add max_memory_bytes bigint;
    alter table clusters add max_slots_per_project integer;
    alter table clusters add active boolean not null default true;
    alter table clusters add enlist_automatically boolean not null default false;
    alter table clusters add drain jsonb;
    alter table clusters add drain_dispatched_at timestamptz;
    insert into clusters (name, description) values ('local', 'The cluster that comes with the server.')
      on conflict (name) do nothing;
    create table cluster_keys (
      cluster text not null references clusters (name) on delete cascade,
      kid text not null,
      x text not null,
      created_at timestamptz not null default now(),
      created_by text not null,
      expires_at timestamptz,
      revoked_at timestamptz,
      primary key (cluster, kid)
    );
    create table workers (
      id uuid not null,
      cluster text not null references clusters (name) on delete cascade,
      enlisted_at timestamptz,
      slots integer not null,
      version text not null,
      not_accepting text,
      load double precision,
      free_disk_bytes bigint,
      first_seen_at timestamptz not null default now(),
      last_seen_at timestamptz not null default now(),
      primary key (cluster, id)
    );
    insert into clusters (name) select distinct cluster from hosts on conflict (name) do nothing;
    alter table hosts add not_accepting text;
    create table tokens (
      id uuid primary key,
      name text not null,
      digest text not null unique,
      role text not null,
      organisation text,
      created_at timestamptz not null default now(),
      expires_at timestamptz not null,
      revoked_at timestamptz
    );
    create table audit (
      id bigint generated always as identity primary key,
      at timestamptz not null default now(),
      actor text not null,
      action text not null,
      subject text not null,
      allowed boolean not null,
      detail text not null
    );
    create index audit_of_subject on audit (subject, id);
    alter table projects add organisation text;
    alter table runs add placement jsonb not null default '{"reason": "the only cluster there was", "pinned": false}';
    alter table runs add moved_at timestamptz;
    alter table runs add move_delivered_at timestamptz;
    create index runs_to_move on runs (moved_at) where moved_at is not null and move_delivered_at is null;
    create index runs_of_cluster on runs (cluster) where state <> 'finished';
  `),
  '0004-fair-share': statements(`
    alter table runs add priority smallint not null default 3;
    alter table runs add host_tag text;
    alter table runs add waiting_since timestamptz;
    alter table runs add asked_at timestamptz;
    update runs set host_tag = spec ->> 'hostTag' where state <> 'finished' and spec ->> 'hostTag' is not null;
    create index runs_in_queue on runs (cluster, asked_at) where state = 'queued';
    create table lines (
      cluster text not null,
      project text not null,
      priority smallint not null,
      host_tag text not null,
      served_at timestamptz,
      raised_run uuid,
      primary key (cluster, project, priority, host_tag)
    );
  `),
  '0005-releases': statements(`
    alter table clusters add release jsonb;
    alter table workers add takes_releases boolean not null default false;
    alter table workers add release_digest text;
    alter table workers add release_since timestamptz;
    alter table workers add release_offered uuid;
    alter table workers add release_failure jsonb;
  `),
  '0006-hosts': statements(`
    alter table hosts alter column worker drop not null;
    alter table hosts add origin text not null default 'worker' check (origin in ('worker', 'listed', 'made'));
    alter table hosts add engine text not null default 'docker';
    alter table hosts add reach jsonb;
    alter table hosts add machine jsonb not null default '{"os": null, "arch": null, "cpus": null, "memoryBytes": null}';
    alter table hosts add drain jsonb;
    alter table hosts add faults integer not null default 0;
    alter table hosts add fault text;
    alter table hosts add quarantined_until timestamptz;
    alter table hosts add removed_at timestamptz;
    alter table hosts add check (case origin when 'worker' then reach is null when 'listed' then reach is not null else true end);
    update runs set host_tag = concat_ws(',', spec ->> 'hostTag',
      'cpus>=' || (spec -> 'resources' ->> 'cpus'), 'memory>=' || (spec -> 'resources' ->> 'memoryBytes'))
      where state <> 'finished' and (spec -> 'resources' ->> 'cpus' is not null or spec -> 'resources' ->> 'memoryBytes' is not null);
    alter table runs add woken_at timestamptz;
    alter table workers add serves_hosts_at timestamptz;
    alter table leases add holder text;
    alter table leases add why text;
    alter table leases add history jsonb not null default '[]';
    create table working_copies (
      host text not null references hosts (id) on delete cascade,
      url text not null,
      used_at timestamptz not null,
      primary key (url, host)
    );
    create index leases_of_host on leases (host, token);
    alter table workers add docker_engine text;
    create table blueprints (
      id uuid primary key,
      cluster text not null references clusters (name) on delete cascade,
      name text not null,
      spec jsonb not null,
      faults integer not null default 0,
      fault text,
      resting_until timestamptz,
      created_at timestamptz not null default now(),
      removed_at timestamptz
    );
    create unique index one_blueprint_a_name on blueprints (cluster, name) where removed_at is null;
    create table made_hosts (
      host text primary key references hosts (id) on delete cascade,
      blueprint uuid not null references blueprints (id) on delete cascade,
      spec jsonb not null,
      resource text,
      why text,
      intended_at timestamptz not null default now(),
      begun_at timestamptz,
      made_at timestamptz,
      ready_at timestamptz,
      ending_at timestamptz,
      end_told_at timestamptz,
      gone_at timestamptz
    );
    create index made_hosts_alive on made_hosts (blueprint) where gone_at is null;
    create function note_lease() returns trigger language plpgsql as $note$ begin if tg_op = 'INSERT' or new.state <> old.state or new.token <> old.token then new.history := (case when jsonb_array_length(new.history) >= 50 then new.history - 1 else new.history end) || jsonb_build_object('at', now(), 'token', new.token, 'state', new.state, 'by', new.holder, 'why', new.why); end if; return new; end $note$;
    create trigger note_lease before insert or update on leases for each row execute function note_lease();
  `),
  '0007-hosts-beside': statements(`
    alter table leases add held_until timestamptz;
    alter table builds add hold_ms integer;
    alter table leases add name text not null default '';
    drop index one_live_lease_an_attempt;
    create unique index one_live_lease_an_attempt on leases (run_id, attempt, name)
      where state in ('granted', 'active', 'releasing');
  `),
  '0008-shells': statements(`
    create table shells (
      id uuid primary key,
      run_id uuid not null,
      attempt integer not null,
      command jsonb not null,
      term text not null,
      cols integer not null,
      rows integer not null,
      opened_by text not null,
      created_at timestamptz not null default now(),
      taken_at timestamptz,
      seen_at timestamptz not null default now(),
      ended_at timestamptz,
      exit_code integer,
      message text not null default '',
      input_bytes bigint not null default 0,
      input_read bigint not null default 0,
      output_bytes bigint not null default 0,
      output_read bigint not null default 0,
      foreign key (run_id, attempt) references attempts (run_id, number)
    );
    create table shell_pieces (
      shell uuid not null references shells (id) on delete cascade,
      side text not null,
      start_byte bigint not null,
      bytes bytea not null,
      primary key (shell, side, start_byte)
    );
  `),
  '0009-commits': statements(`
    create table commits (
      build_id uuid not null references builds (id),
      url text not null,
      ref text not null,
      commit text not null,
      frozen_at timestamptz not null default now(),
      primary key (build_id, url, ref)
    );
  `),
  '0011-pollers': statements(`
    alter table workers add refused_at timestamptz;
    alter table workers add refusal text;
    alter table clusters add door_opened_at timestamptz;
  `),
  '0012-quarantine': statements(`
    alter table hosts add faulted_at timestamptz;
  `),
  '0013-artifacts': statements(`
    alter table clusters add max_artifact_bytes bigint;
    alter table attempts add not_stored jsonb;
    alter table attempts add artifact_bytes bigint not null default 0;
    alter table attempts add artifact_files integer not null default 0;
  `),
};
