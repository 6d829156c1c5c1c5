// Owns the shells into runs that are held: what each side has written and the other has not read yet, so that any copy of the
// API may carry the next piece. Called by the API, and by the orchestrator when a worker is gone.
import { randomUUID } from 'node:crypto';
import { sql, type RawBuilder } from 'kysely';
import { workerQueue } from '../../domain/names';
import { plainText } from '../../domain/untrusted';
import type { Reach } from '../../domain/schemas/hosts';
import type { OpenShell, ShellResult } from '../../domain/schemas/shells';
import type { Database } from './connect';
import { isHeld } from './holds';

/** Of one answer, bytes. */
const MOST_BYTES = 192 * 1024;
/** Nobody reads it any more: whoever opened it is gone, s. */
const LEFT_AFTER_S = 60;

export type ShellOpening =
  { kind: 'opened'; id: string; queue: string } | { kind: 'not-held' } | { kind: 'unserved'; host: string };

/** Begins a shell into the newest attempt of a run that is held. */
export async function openShell(
  db: Database,
  runId: string,
  { by, command, term, cols, rows: lines }: OpenShell & { by: string },
): Promise<ShellOpening> {
  const { rows } = await sql<{ attempt: number; host: string; cluster: string; worker: string | null }>`
    select l.attempt, h.name as host, h.cluster, h.worker from leases l join hosts h on h.id = l.host
    where l.run_id = ${runId}::uuid and l.name = '' and ${isHeld('l')} order by l.attempt desc limit 1`.execute(db);
  const [held] = rows;
  if (!held) return { kind: 'not-held' };
  if (held.worker === null) return { kind: 'unserved', host: held.host };
  const id = randomUUID();
  await sql`
    insert into shells (id, run_id, attempt, command, term, cols, rows, opened_by)
    values (${id}::uuid, ${runId}::uuid, ${held.attempt}, ${JSON.stringify(command)}::jsonb, ${term}, ${cols}, ${lines}, ${by})
    `.execute(db);
  return { kind: 'opened', id, queue: workerQueue(held.cluster, held.worker) };
}

export interface TakenShell {
  runId: string;
  attempt: number;
  token: number;
  host: string;
  reach: Reach | null;
  command: string[];
  term: string;
  cols: number;
  rows: number;
}

/** What the worker that serves the host is to open; once, since what was typed is gone. @returns undefined: it is not its to open */
export async function takeShell(
  db: Database,
  id: string,
  who: { cluster: string; worker: string },
): Promise<TakenShell | undefined> {
  const { rows } = await sql<TakenShell>`
    update shells s set taken_at = now() from leases l join hosts h on h.id = l.host
    where s.id = ${id}::uuid and s.taken_at is null and s.ended_at is null and l.run_id = s.run_id
      and l.attempt = s.attempt and l.name = '' and ${isHeld('l')} and h.cluster = ${who.cluster} and h.worker = ${who.worker}
    returning s.run_id as "runId", s.attempt, l.token, h.name as host, h.reach, s.command, s.term, s.cols, s.rows`.execute(
    db,
  );
  return rows[0];
}

/** Whether it is this worker's: of a host that it serves. */
export async function isShellOf(db: Database, id: string, who: { cluster: string; worker: string }): Promise<boolean> {
  const { rows } = await sql`
    select 1 from shells s join leases l on l.run_id = s.run_id and l.attempt = s.attempt and l.name = ''
    join hosts h on h.id = l.host where s.id = ${id}::uuid and h.cluster = ${who.cluster} and h.worker = ${who.worker}
    `.execute(db);
  return rows.length > 0;
}

export type ShellSide = 'input' | 'output';

const lengthOf = (side: ShellSide): RawBuilder<number> => sql.raw(`${side}_bytes`);

/** Adds bytes to what one side has written. @returns how much it is then, and how much of it is unread; undefined: there is no such shell */
export async function writeShell(
  db: Database,
  id: string,
  { side, at, bytes }: { side: ShellSide; at: number; bytes: Buffer },
): Promise<{ bytes: number; unread: number } | undefined> {
  return db.transaction().execute(async (tx) => {
    const length = lengthOf(side);
    const { rows } = await sql<{ bytes: number; read: number; ended: boolean }>`
      select ${length} as bytes, ${sql.raw(`${side}_read`)} as read, ended_at is not null as ended from shells
      where id = ${id}::uuid for update`.execute(tx);
    const [now] = rows;
    if (!now) return undefined;
    const unread = now.bytes - now.read;
    const fresh = bytes.subarray(Math.max(now.bytes - at, 0));
    if (at > now.bytes || fresh.length === 0 || (now.ended && side === 'input')) return { bytes: now.bytes, unread };
    await sql`insert into shell_pieces (shell, side, start_byte, bytes)
      values (${id}::uuid, ${side}, ${now.bytes}, ${fresh})`.execute(tx);
    await sql`update shells set ${length} = ${now.bytes + fresh.length} where id = ${id}::uuid`.execute(tx);
    return { bytes: now.bytes + fresh.length, unread: unread + fresh.length };
  });
}

export interface ShellNow {
  at: number;
  bytes: Buffer;
  cols: number;
  rows: number;
  isEnded: boolean;
  /** Whoever opened it does not read any more. */
  isLeft: boolean;
  exitCode: number | null;
  message: string;
}

/** Says how far one side was read: what is before that goes. */
export async function markShellRead(
  db: Database,
  id: string,
  { side, from }: { side: ShellSide; from: number },
): Promise<void> {
  const read = sql.raw(`${side}_read`);
  const seen = side === 'output' ? sql`, seen_at = now()` : sql``;
  await sql`
    with gone as (
      delete from shell_pieces where shell = ${id}::uuid and side = ${side} and start_byte + length(bytes) <= ${from}
    )
    update shells set ${read} = greatest(${read}, least(${from}::bigint, ${lengthOf(side)})) ${seen}
    where id = ${id}::uuid`.execute(db);
}

/** What one side has written from an offset on. @returns undefined: there is no such shell */
export async function readShell(
  db: Database,
  id: string,
  { side, from }: { side: ShellSide; from: number },
): Promise<ShellNow | undefined> {
  const { rows } = await sql<Omit<ShellNow, 'at' | 'bytes'> & { pieces: { start: number; bytes: string }[] }>`
    select cols, rows, ended_at is not null as "isEnded", exit_code as "exitCode", message,
      seen_at < now() - ${LEFT_AFTER_S} * interval '1 second' as "isLeft", (
        select coalesce(jsonb_agg(jsonb_build_object('start', start_byte, 'bytes', encode(bytes, 'base64')) order by start_byte), '[]')
        from shell_pieces where shell = ${id}::uuid and side = ${side} and start_byte + length(bytes) > ${from}
          and start_byte < ${from + MOST_BYTES}) as pieces
    from shells where id = ${id}::uuid`.execute(db);
  const [row] = rows;
  if (!row) return undefined;
  const { pieces, ...now } = row;
  const bytes = Buffer.concat(
    pieces.map(({ start, bytes: text }) => Buffer.from(text, 'base64').subarray(Math.max(from - start, 0))),
  );
  return { ...now, at: from, bytes: bytes.subarray(0, MOST_BYTES) };
}

/** Of those that ended long ago nobody reads the rest. */
export async function forgetShells(db: Database): Promise<void> {
  await sql`delete from shell_pieces using shells s
    where s.id = shell_pieces.shell and s.ended_at < now() - interval '1 hour'`.execute(db);
}

export async function resizeShell(
  db: Database,
  id: string,
  { cols, rows }: { cols: number; rows: number },
): Promise<void> {
  await sql`update shells set cols = ${cols}, rows = ${rows} where id = ${id}::uuid`.execute(db);
}

/** The first end counts. */
export async function endShell(db: Database, id: string, { exitCode, message }: ShellResult): Promise<void> {
  await sql`update shells set ended_at = now(), exit_code = ${exitCode}, message = ${plainText(message)}
    where id = ${id}::uuid and ended_at is null`.execute(db);
}
