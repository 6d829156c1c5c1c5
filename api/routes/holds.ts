// Owns what people do with a run that is held: keep what it left for longer, or give its hosts back.
import { Router, type Request } from 'express';
import { changeHold } from '../../adapters/store/holds';
import * as shapes from '../../domain/schemas/api';
import { nameCaller, recordDone } from '../caller';
import type { ApiContext } from '../context';
import { Refusal } from '../problem';
import { answerRun, requireRun, type RunPath } from './builds';

export function holdRoutes(context: ApiContext): Router {
  const router = Router();
  const path = '/v1/projects/:project/builds/:number/runs/:run/hold';

  router.post(path, async (request, response) => {
    const { minutes } = shapes.HoldRequest.parse(request.body ?? {});
    await change(context, request, { ...request.params, minutes });
    response.json(await answerRun(context, request.params));
  });

  router.delete(path, async (request, response) => {
    await change(context, request, { ...request.params, minutes: 0 });
    response.json(await answerRun(context, request.params));
  });

  return router;
}

/** Keeps what a failed run left for so long from now on; 0: no longer. */
async function change(context: ApiContext, request: Request, at: RunPath & { minutes: number }): Promise<void> {
  const { minutes } = at;
  const name = `run ${at.project}/${at.number}/${at.run}`;
  const row = await requireRun(context, at);
  const intent = { action: 'run.hold', subject: name };
  const caller = await nameCaller(context, request, intent);
  if (!(await changeHold(context.db, row.id, minutes))) {
    const how = 'trigger or rerun it with hold, or write hold: into its file';
    throw new Refusal(409, 'not-held', `${name} is not held, so there is nothing to keep; ${how}`);
  }
  const detail = minutes === 0 ? 'given back' : `kept for ${minutes} min from now on`;
  await recordDone(context, caller, { ...intent, detail });
}
