// Owns /v1/clusters: the registry of clusters, their keys and their fleets. Reading is open; changes need an operator.
import { Router, type Request } from 'express';
import { z } from 'zod';
import {
  addKey,
  createCluster,
  deleteCluster,
  editCluster,
  listClusters,
  listKeys,
  revokeKey,
  type ClusterRow,
} from '../../adapters/store/clusters';
import { readRollout } from '../../adapters/store/releases';
import { listWorkers, setEnlisted } from '../../adapters/store/workers';
import * as shapes from '../../domain/schemas/clusters';
import { recordDone, requireOperator, type Caller } from '../caller';
import type { ApiContext } from '../context';
import { notFound, Refusal } from '../problem';
import { SILENT_AFTER_MS } from '../../adapters/store/hosts';
import { viewCluster, viewFleet, viewKey, viewRelease } from '../view-clusters';

const WorkerId = z.uuid();

export function clusterRoutes(context: ApiContext): Router {
  const router = Router();

  router.get('/v1/clusters', async (_request, response) => {
    const rows = await listClusters(context.db, SILENT_AFTER_MS);
    response.json({ clusters: rows.map((row) => viewCluster(row, context.links)) });
  });

  router.post('/v1/clusters', async (request, response) => {
    const wanted = shapes.CreateCluster.parse(request.body);
    const intent = { action: 'cluster.create', subject: `cluster ${wanted.name}`, owner: wanted.owner };
    const caller = await requireOperator(context, request, intent);
    checkFields(caller, wanted);
    if (!(await createCluster(context.db, wanted, caller.name))) {
      throw new Refusal(409, 'name-taken', `cluster ${wanted.name} exists; change it with PATCH`);
    }
    await recordDone(context, caller, { ...intent, detail: describe(wanted) });
    const answer = await answerCluster(context, wanted.name);
    response.status(201).location(answer.urls.self).json(answer);
  });

  router.get('/v1/clusters/:cluster', async (request, response) => {
    response.json(await answerCluster(context, request.params.cluster));
  });

  router.patch('/v1/clusters/:cluster', async (request, response) => {
    const { row, caller, intent } = await operate(context, request, 'cluster.edit');
    const changes = shapes.EditCluster.parse(request.body);
    checkFields(caller, { ...fieldsOf(row), ...changes });
    await editCluster(context.db, row.name, changes);
    await recordDone(context, caller, { ...intent, detail: describe(changes) });
    response.json(await answerCluster(context, row.name));
  });

  router.delete('/v1/clusters/:cluster', async (request, response) => {
    const { row, caller, intent } = await operate(context, request, 'cluster.delete');
    if ((await deleteCluster(context.db, row.name)) === 'has-work') {
      throw new Refusal(
        409,
        'has-work',
        `cluster ${row.name} has ${row.running} running and ${row.waiting} waiting runs, or hosts made on demand; drain it first, cancel runs, remove blueprints`,
      );
    }
    if (row.release) await context.blobs.remove(row.release.blob);
    await recordDone(context, caller, intent);
    response.status(204).end();
  });

  return router.use(keyRoutes(context), fleetRoutes(context));
}

function keyRoutes(context: ApiContext): Router {
  const router = Router();

  router.post('/v1/clusters/:cluster/keys', async (request, response) => {
    const { row, caller, intent } = await operate(context, request, 'cluster.add-key');
    const key = shapes.PublicKey.parse(request.body);
    if (!(await addKey(context.db, row.name, { key, by: caller.name }))) {
      throw new Refusal(409, 'name-taken', `cluster ${row.name} has a key ${key.kid} already; make another one`);
    }
    await recordDone(context, caller, { ...intent, detail: `key ${key.kid}` });
    response.status(201).json(await answerCluster(context, row.name));
  });

  router.post('/v1/clusters/:cluster/keys/:kid/revoke', async (request, response) => {
    const { row, caller, intent } = await operate(context, request, 'cluster.revoke-key');
    const { kid } = request.params;
    if (!(await revokeKey(context.db, row.name, kid))) throw notFound(`key ${kid} of cluster ${row.name}`);
    await recordDone(context, caller, { ...intent, detail: `key ${kid}` });
    response.json(await answerCluster(context, row.name));
  });

  return router;
}

function fleetRoutes(context: ApiContext): Router {
  const router = Router();
  for (const [path, isEnlisted] of [
    ['enlist', true],
    ['dismiss', false],
  ] as const) {
    router.post(`/v1/clusters/:cluster/workers/:id/${path}`, async (request, response) => {
      const { row, caller, intent } = await operate(context, request, `cluster.${path}`);
      const id = WorkerId.parse(request.params.id);
      if (!(await setEnlisted(context.db, { cluster: row.name, id }, isEnlisted))) {
        throw notFound(`worker ${id} of cluster ${row.name}`);
      }
      await recordDone(context, caller, { ...intent, detail: `worker ${id}` });
      response.json(await answerCluster(context, row.name));
    });
  }
  return router;
}

/** The cluster that a request names, and who may change it. @throws Refusal 401, 403, 404 */
export async function operate(context: ApiContext, request: Request, action: string) {
  const row = await requireCluster(context, String(request.params.cluster));
  const intent = { action, subject: `cluster ${row.name}`, owner: row.owner };
  return { row, intent, caller: await requireOperator(context, request, intent) };
}

export async function requireCluster(context: ApiContext, name: string): Promise<ClusterRow> {
  const [row] = await listClusters(context.db, SILENT_AFTER_MS, name);
  if (!row) throw notFound(`cluster ${name}`);
  return row;
}

type Fields = Pick<shapes.CreateCluster, 'kind' | 'organisations' | 'owner'>;

function fieldsOf({ kind, organisations, owner }: ClusterRow): Fields {
  return { kind, organisations, owner };
}

/** A cluster of one organisation must not draw the work of others. */
function checkFields({ organisation }: Caller, { kind, organisations, owner }: Fields): void {
  if (kind === 'specialised' && organisations.length === 0) {
    const detail = 'a specialised cluster serves the organisations that it lists; name one or more in organisations';
    throw new Refusal(422, 'no-organisations', detail);
  }
  if (organisation === null) return;
  const isOwn = kind === 'specialised' && owner === organisation && organisations.every((one) => one === organisation);
  if (isOwn) return;
  throw new Refusal(
    403,
    'not-allowed',
    `an admin of organisation ${organisation} keeps specialised clusters of that organisation alone: kind "specialised", owner "${organisation}", organisations ["${organisation}"]`,
  );
}

const describe = (fields: object): string => JSON.stringify({ ...fields, keys: undefined });

export async function answerCluster(context: ApiContext, name: string): Promise<shapes.Cluster> {
  const [row, keys, workers] = await Promise.all([
    requireCluster(context, name),
    listKeys(context.db, name),
    listWorkers(context.db, name),
  ]);
  const { release: pin } = row;
  const rollout = pin && (await readRollout(context.db, { cluster: name, pin, silentAfterMs: SILENT_AFTER_MS }));
  return {
    ...viewCluster(row, context.links),
    release: pin && rollout && viewRelease(pin, rollout),
    keys: keys.map(viewKey),
    fleet: workers.map((worker) => viewFleet(worker, pin)),
  };
}
