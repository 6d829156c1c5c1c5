// Owns the taking down of a cluster for maintenance: preview, drain, undrain, and the cancel of all that runs there.
// The rows are written first; a durable workflow does the rest.
import { Router } from 'express';
import { cancelRunning, drainCluster, undrainCluster } from '../../adapters/store/maintenance';
import { planMoves } from '../../adapters/store/moves';
import { listRunning } from '../../adapters/store/clusters';
import { deliverCancels, startMaintenances } from '../../adapters/outbox';
import * as shapes from '../../domain/schemas/clusters';
import { recordDone } from '../caller';
import type { ApiContext } from '../context';
import { Refusal } from '../problem';
import { answerCluster, operate, requireCluster } from './clusters';

export function maintenanceRoutes(context: ApiContext): Router {
  const router = Router();
  const later = (work: Promise<unknown>, what: string): void => {
    work.catch((error: unknown) => context.log.warn({ error: String(error) }, `${what} is left to the sweep`));
  };

  router.get('/v1/clusters/:cluster/drain', async (request, response) => {
    response.json(await preview(context, request.params.cluster));
  });

  router.post('/v1/clusters/:cluster/drain', async (request, response) => {
    const { row, caller, intent } = await operate(context, request, 'cluster.drain');
    const { reason, deadline = null } = shapes.DrainRequest.parse(request.body);
    if (deadline !== null && Date.parse(deadline) <= Date.now()) {
      throw new Refusal(422, 'deadline-passed', `the deadline ${deadline} has passed; name a later one, or none`);
    }
    await drainCluster(context.db, row.name, { reason, deadline, by: caller.name });
    await recordDone(context, caller, { ...intent, detail: `${reason}${deadline ? `; until ${deadline}` : ''}` });
    later(startMaintenances(context), 'a maintenance');
    response.status(202).json(await answerCluster(context, row.name));
  });

  router.post('/v1/clusters/:cluster/undrain', async (request, response) => {
    const { row, caller, intent } = await operate(context, request, 'cluster.undrain');
    const ended = await undrainCluster(context.db, row.name);
    if (ended) {
      await recordDone(context, caller, intent);
      later(context.temporal.maintenanceChanged({ cluster: row.name, id: ended.id }), 'the end of a maintenance');
    }
    response.json(await answerCluster(context, row.name));
  });

  router.post('/v1/clusters/:cluster/cancel', async (request, response) => {
    const { row, caller, intent } = await operate(context, request, 'cluster.cancel');
    const count = await cancelRunning(context.db, row.name);
    await recordDone(context, caller, { ...intent, detail: `${count} runs` });
    later(deliverCancels(context), 'a cancel');
    response.status(202).json(await answerCluster(context, row.name));
  });

  return router;
}

async function preview(context: ApiContext, name: string): Promise<shapes.DrainPreview> {
  await requireCluster(context, name);
  const [{ moves, stays }, running] = await Promise.all([planMoves(context.db, name), listRunning(context.db, name)]);
  return {
    running,
    moves: moves.map(({ run, to }) => ({ run: run.place, to })),
    stays: stays.map(({ run, why }) => ({ run: run.place, why })),
  };
}
