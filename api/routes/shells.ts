// Owns shells into runs that are held: opening one needs an operator, and is put on record; whoever knows its id may use it.
// What people type and what they see passes through rows, so any copy of this server carries the next piece.
import { setTimeout as sleep } from 'node:timers/promises';
import { Router, type Response } from 'express';
import { z } from 'zod';
import { readOrganisation } from '../../adapters/store/projects';
import {
  endShell,
  isShellOf,
  markShellRead,
  openShell,
  readShell,
  resizeShell,
  takeShell,
  writeShell,
  type ShellNow,
  type ShellSide,
} from '../../adapters/store/shells';
import type { WorkerIdentity } from '../../adapters/worker-identity';
import { WorkerRefusal } from '../../adapters/worker-refusal';
import * as shapes from '../../domain/schemas/shells';
import { recordDone, requireOperator } from '../caller';
import type { ApiContext } from '../context';
import { notFound, Refusal } from '../problem';
import { requireBuild, requireRun } from './builds';

/** How long an answer waits for something to say, ms, and how often it looks: at first, and when nothing comes. */
const WAIT_MS = 20_000;
const LOOK_MS = { first: 25, most: 250 };

const Id = z.uuid();

/** For people. */
export function shellRoutes(context: ApiContext): Router {
  const router = Router();
  const { db } = context;

  router.post('/v1/projects/:project/builds/:number/runs/:run/shell', async (request, response) => {
    const wanted = shapes.OpenShell.parse(request.body ?? {});
    const build = await requireBuild(context, request.params);
    const run = await requireRun(context, request.params);
    const name = `${build.project}/${build.number}/${run.name}`;
    const owner = await readOrganisation(db, build.id);
    const intent = { action: 'run.shell', subject: `run ${name}`, owner };
    const caller = await requireOperator(context, request, intent);
    const opened = await openShell(db, run.id, { ...wanted, by: caller.name });
    if (opened.kind === 'not-held') {
      const detail = `run ${name} is not held, so there is nothing to open a shell in; rerun it with hold`;
      throw new Refusal(409, 'not-held', detail);
    }
    if (opened.kind === 'unserved') {
      const detail = `no worker serves host ${opened.host} of run ${name} now; try again once one is there`;
      throw new Refusal(409, 'not-served', detail);
    }
    const { id, queue } = opened;
    await recordDone(context, caller, { ...intent, detail: wanted.command.join(' ').slice(0, 500) || 'interactive' });
    try {
      await context.temporal.startShell({ shell: id, queue, run: name, by: caller.name });
    } catch (error) {
      await endShell(db, id, { exitCode: null, message: 'Temporal did not take it' });
      context.log.warn({ error: String(error) }, 'a shell could not be begun');
      throw new Refusal(503, 'temporal-away', 'Temporal does not answer now, so no shell was opened; try again');
    }
    response.status(201).json({ id });
  });

  router.get('/v1/shells/:id/output', async (request, response) => {
    const { from } = shapes.ShellQuery.parse(request.query);
    const now = await read(context, { id: Id.parse(request.params.id), side: 'output', from, response });
    const { exitCode, message, isEnded } = now;
    const ended = isEnded && now.bytes.length === 0 ? { exitCode, message } : null;
    response.json({ at: now.at, bytes: now.bytes.toString('base64'), ended });
  });

  router.post('/v1/shells/:id/input', async (request, response) => {
    const id = Id.parse(request.params.id);
    const { at, bytes, cols, rows } = shapes.ShellInput.parse(request.body);
    if (cols !== undefined && rows !== undefined) await resizeShell(db, id, { cols, rows });
    response.json({ bytes: (await write(context, id, { side: 'input', at, bytes })).bytes });
  });

  router.delete('/v1/shells/:id', async (request, response) => {
    await endShell(db, Id.parse(request.params.id), { exitCode: null, message: 'it was closed' });
    response.json({});
  });

  return router;
}

/** For workers, behind their own door. */
export function workerShellRoutes(context: ApiContext, workerOf: (response: Response) => WorkerIdentity): Router {
  const router = Router();
  const { db } = context;
  const requireOwn = async (id: string, response: Response): Promise<string> => {
    if (!(await isShellOf(db, Id.parse(id), workerOf(response)))) throw new WorkerRefusal('foreign-attempt', id);
    return id;
  };

  router.post('/v1/worker/shells/:id/take', async (request, response) => {
    const id = await requireOwn(request.params.id, response);
    const taken = await takeShell(db, id, workerOf(response));
    if (!taken) throw new Refusal(409, 'not-open', `shell ${id} was taken or has ended`);
    const { reach, ...orders } = taken;
    response.json({ ...orders, ...(reach ? { reach } : {}) });
  });

  router.post('/v1/worker/shells/:id/input', async (request, response) => {
    const { from } = shapes.ShellQuery.parse(request.query);
    const id = await requireOwn(request.params.id, response);
    const now = await read(context, { id, side: 'input', from, response });
    const { at, bytes, cols, rows, isEnded, isLeft } = now;
    response.json({ at, bytes: bytes.toString('base64'), cols, rows, isOver: isEnded || isLeft });
  });

  router.post('/v1/worker/shells/:id/output', async (request, response) => {
    const id = await requireOwn(request.params.id, response);
    response.json(await write(context, id, { side: 'output', ...shapes.ShellWritten.parse(request.body) }));
  });

  router.post('/v1/worker/shells/:id/end', async (request, response) => {
    const id = await requireOwn(request.params.id, response);
    await endShell(db, id, shapes.ShellResult.parse(request.body));
    response.json({});
  });

  return router;
}

async function write(
  { db }: ApiContext,
  id: string,
  { side, at, bytes }: { side: ShellSide; at: number; bytes: string },
): Promise<{ bytes: number; unread: number }> {
  const written = await writeShell(db, id, { side, at, bytes: Buffer.from(bytes, 'base64') });
  if (!written) throw notFound(`shell ${id}`);
  return written;
}

/** Waits for something to say: bytes, another size of the terminal, or the end. */
async function read(
  { db, stopping }: ApiContext,
  at: { id: string; side: ShellSide; from: number; response: Response },
): Promise<ShellNow> {
  const until = performance.now() + WAIT_MS;
  await markShellRead(db, at.id, at);
  let first: ShellNow | undefined;
  for (let lookMs = LOOK_MS.first; ; lookMs = Math.min(lookMs * 1.2, LOOK_MS.most)) {
    const now = await readShell(db, at.id, at);
    if (!now) throw notFound(`shell ${at.id}`);
    first ??= now;
    const isResized = at.side === 'input' && (now.cols !== first.cols || now.rows !== first.rows);
    const isNews = now.bytes.length > 0 || now.isEnded || now.isLeft || isResized;
    const isOver = performance.now() > until || stopping.aborted || at.response.destroyed;
    if (isNews || isOver) return now;
    await sleep(lookMs);
  }
}
