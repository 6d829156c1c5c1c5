// Owns the way back of an attempt whose script was never begun, for the sake of its host: its run waits again, with the same
// attempt, and no budget has paid. Called by the API for workers.
import { sql } from 'kysely';
import type { HandBack } from '../../domain/schemas/worker-api';
import type { Database } from './connect';
import { FencedError, isHostFault, requireLive, type Holder } from './holders';
import { LIVE } from './hosts';
import { failed, isGrantedSince } from './quarantine';

/** Hosts that an attempt is given at most, one after the other: a host that only seems well must not keep a run for ever. */
const MOST_GRANTS = 5;

/**
 * Gives the slot back and lets the run wait, in one step: said only after nothing of the attempt is left on the host.
 * @returns false when the attempt had its share of hosts, or has hosts beside its own, and is to be ended @throws FencedError
 */
export async function handBack(db: Database, holder: Holder, { cause, message }: HandBack): Promise<boolean> {
  await requireLive(db, holder);
  const { runId, attempt, token } = holder;
  const { rows } = await sql<{ grants: number; hasBeside: boolean; isTaken: boolean }>`
    with locked as (
      select 1 from runs where id = ${runId}::uuid for update
    ), grants as (
      select count(*)::int as grants from leases where run_id = ${runId}::uuid and attempt = ${attempt} and name = ''
    ), beside as (
      select 1 from leases where run_id = ${runId}::uuid and attempt = ${attempt} and name <> '' and state in ${LIVE}
    ), back as (
      update leases set state = 'released', ended_at = now(), why = ${`its script was not begun: ${cause}`}::text
      where token = ${token} and state in ('granted', 'active') and exists (select 1 from locked)
        and (select grants from grants) < ${MOST_GRANTS} and not exists (select 1 from beside)
      returning host, granted_at
    ), blamed as (
      update hosts set ${failed(sql`${message}::text`)} from back
      where ${isHostFault(cause)} and hosts.id = back.host and ${isGrantedSince(sql`back.granted_at`)}
    ), begun_again as (
      update attempts set state = 'queued', host = null, worker = null, container_id = null, starting_at = null,
        message = ${message}
      where run_id = ${runId}::uuid and number = ${attempt} and state <> 'finished' and exists (select 1 from back)
    ), waits as (
      update runs set state = 'queued', waiting = ${message}, asked_at = case when ${isHostFault(cause)} then now() end
      where id = ${runId}::uuid and attempt = ${attempt} and state <> 'finished' and exists (select 1 from back)
    )
    select grants, exists (select 1 from beside) as "hasBeside", exists (select 1 from back) as "isTaken" from grants`.execute(
    db,
  );
  const [answer] = rows;
  if (answer && !answer.isTaken && !answer.hasBeside && answer.grants < MOST_GRANTS) throw new FencedError(holder);
  return answer?.isTaken ?? false;
}
