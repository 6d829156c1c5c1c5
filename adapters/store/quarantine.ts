// Owns what becomes of a host that has failed: it takes nothing until it has proven that it works, and then one run at a time.
//
//   well ──run or probe failed──> quarantined ──proof, undrain, or its time is over──> on trial ──a script of it runs──> well
//            (faults + 1)          ^     └─proof failed: for longer                        │ one run at a time
//                                  └───────────────── that run failed ─────────────────────┘
//
// Called by the API for workers, and inside the statements of holders.ts and kept-hosts.ts.
import { sql, type RawBuilder } from 'kysely';
import type { Proof } from '../../domain/schemas/worker-api';
import type { Database } from './connect';

/** How long what failed is left alone, as SQL of its own `faults`: 10 s, twice as long each time, an hour at most. */
const backOffOf = (faults: RawBuilder<unknown>) =>
  sql`least(10 * power(2, least(${faults}, 10)), 3600) * interval '1 second'`;
export const BACK_OFF = sql`now() + ${backOffOf(sql`faults`)}`;

/** Longer than a worker takes to hear of the fault, to try the host and to tell, seconds: a proof ends it, not its time. */
const LEAST_S = 30;
/** The same for one that is tried again and again, seldom while nobody waits. */
const TRIED_S = 150;
/** How often a host in quarantine is tried while runs wait, and while none does, ms. */
const PROVE_MS = { wanted: 5_000, idle: 60_000 };

/** A host has failed what it was given. @param message what went wrong */
export const failed = (message: RawBuilder<unknown>) => sql`fault = ${message}, faults = faults + 1, faulted_at = now(),
  quarantined_until = greatest(${BACK_OFF}, now() + ${LEAST_S} * interval '1 second')`;

/** It was well since, or its fault is older than the time for which it was to be left alone. */
const IS_NEW_FAULT = sql`(hosts.faults = 0 or hosts.faulted_at is null
  or hosts.faulted_at + ${backOffOf(sql`hosts.faults - 1`)} < now())`;

/** A host has failed when it was tried. It counts once for each time that it was to be left alone. */
export const failedProof = (message: RawBuilder<unknown>) => sql`fault = ${message},
  faults = hosts.faults + case when ${IS_NEW_FAULT} then 1 else 0 end,
  faulted_at = case when ${IS_NEW_FAULT} then now() else hosts.faulted_at end,
  quarantined_until = greatest(hosts.quarantined_until, ${BACK_OFF}, now() + ${TRIED_S} * interval '1 second')`;

/** Whether a lease was granted after the last fault of its host: runs that fail together tell of one. As SQL of `hosts`. */
export const isGrantedSince = (grantedAt: RawBuilder<unknown>) =>
  sql`${grantedAt} > coalesce(hosts.faulted_at, 'epoch')`;

/** How often a host is to be tried now, ms; null: it is not in quarantine. As SQL of `hosts`. */
export const PROVE_EVERY_MS = sql<number | null>`case when hosts.quarantined_until > now() then
  case when exists (select 1 from runs r where r.cluster = hosts.cluster and r.state = 'queued' and r.asked_at is not null)
  then ${PROVE_MS.wanted}::int else ${PROVE_MS.idle}::int end end`;

/** What came of trying a host. One that began before its last fault says nothing. */
export async function recordProof(
  db: Database,
  at: { cluster: string; worker: string; host: string },
  { fault, beganMsAgo }: Proof,
): Promise<void> {
  const isIt = sql`cluster = ${at.cluster} and worker = ${at.worker} and name = ${at.host}
    and hosts.quarantined_until is not null
    and coalesce(hosts.faulted_at, 'epoch') < now() - ${beganMsAgo} * interval '1 millisecond'`;
  if (fault === null) await sql`update hosts set quarantined_until = null where ${isIt}`.execute(db);
  else await sql`update hosts set ${failedProof(sql`${fault}::text`)} where ${isIt}`.execute(db);
}
