// Owns the blueprints of clusters: what hosts they make on demand. Reading is open; changes need an operator of the cluster.
import { Router, type Request } from 'express';
import { listBlueprints, putBlueprint, removeBlueprint } from '../../adapters/store/blueprints';
import * as shapes from '../../domain/schemas/blueprints';
import { recordDone } from '../caller';
import type { ApiContext } from '../context';
import { notFound } from '../problem';
import { viewBlueprint } from '../view-hosts';
import { operate, requireCluster } from './clusters';

const ALL = '/v1/clusters/:cluster/blueprints';
const ONE = `${ALL}/:blueprint`;

export function blueprintRoutes(context: ApiContext): Router {
  const router = Router();
  const { db } = context;

  router.get('/v1/blueprints', async (_request, response) => {
    response.json({ blueprints: (await listBlueprints(db)).map(viewBlueprint) });
  });

  router.get(ALL, async (request, response) => {
    const { name } = await requireCluster(context, request.params.cluster);
    response.json({ blueprints: (await listBlueprints(db, name)).map(viewBlueprint) });
  });

  router.get(ONE, async (request, response) => {
    response.json(await requireBlueprint(context, request));
  });

  router.put(ONE, async (request, response) => {
    const { row, caller, intent } = await operate(context, request, 'blueprint.put');
    const name = shapes.BlueprintName.parse(request.params['blueprint']);
    const spec = shapes.PutBlueprint.parse(request.body);
    const isNew = await putBlueprint(db, { cluster: row.name, name }, spec);
    await recordDone(context, caller, { ...intent, detail: `blueprint ${name}: ${JSON.stringify(spec)}` });
    response.status(isNew ? 201 : 200).json(await requireBlueprint(context, request));
  });

  router.delete(ONE, async (request, response) => {
    const { row, caller, intent } = await operate(context, request, 'blueprint.remove');
    const { name } = await requireBlueprint(context, request);
    await removeBlueprint(db, { cluster: row.name, name });
    await recordDone(context, caller, { ...intent, detail: `blueprint ${name}` });
    response.status(204).end();
  });

  return router;
}

/** @throws Refusal 404 */
async function requireBlueprint(context: ApiContext, request: Request): Promise<shapes.Blueprint> {
  const [cluster, name] = [String(request.params['cluster']), String(request.params['blueprint'])];
  const [row] = await listBlueprints(context.db, cluster, name);
  if (!row) throw notFound(`blueprint ${name} of cluster ${cluster}`);
  return viewBlueprint(row);
}
