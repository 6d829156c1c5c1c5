// Owns the hosts of clusters, and all leases: reading is open; changes need an operator of the cluster.
import { Router, type Request } from 'express';
import { createHost, editHost, listHosts, removeHost, setHostDrain, type HostRow } from '../../adapters/store/hosts';
import { endMadeHost } from '../../adapters/store/on-demand';
import { listLeases } from '../../adapters/store/lease-list';
import * as shapes from '../../domain/schemas/hosts';
import { recordDone } from '../caller';
import type { ApiContext } from '../context';
import { notFound, Refusal } from '../problem';
import { viewHost, viewLease } from '../view-hosts';
import { operate, requireCluster } from './clusters';

const ALL = '/v1/clusters/:cluster/hosts';
const ONE = `${ALL}/:host`;

export function hostRoutes(context: ApiContext): Router {
  const router = Router();
  const { db } = context;

  router.get('/v1/hosts', async (_request, response) => {
    response.json({ hosts: (await listHosts(db)).map(viewHost) });
  });

  router.get('/v1/leases', async (request, response) => {
    const { all, ...wish } = shapes.LeaseQuery.parse(request.query);
    const rows = await listLeases(db, { ...wish, all: all === 'true' });
    response.json({ leases: rows.map(viewLease) });
  });

  router.get(ALL, async (request, response) => {
    const { name } = await requireCluster(context, request.params.cluster);
    response.json({ hosts: (await listHosts(db, name)).map(viewHost) });
  });

  router.post(ALL, async (request, response) => {
    const { row, caller, intent } = await operate(context, request, 'host.create');
    const wanted = shapes.CreateHost.parse(request.body);
    if (!(await createHost(db, row.name, wanted))) {
      const detail = `cluster ${row.name} has a host ${wanted.name}; change it with PATCH, or choose another name`;
      throw new Refusal(409, 'name-taken', detail);
    }
    await recordDone(context, caller, { ...intent, detail: `host ${wanted.name}: ${JSON.stringify(wanted.reach)}` });
    const host = viewHost(await requireHost(context, row.name, wanted.name));
    response.status(201).json(host);
  });

  router.get(ONE, async (request, response) => {
    const { cluster, host } = request.params;
    response.json(viewHost(await requireHost(context, cluster, host)));
  });

  router.patch(ONE, async (request, response) => {
    const { at, host, done } = await operateHost(context, request, 'host.edit');
    const changes = shapes.EditHost.parse(request.body);
    requireListed(host, 'its worker says what it is (SLIPWAY_LABELS, SLIPWAY_SLOTS)');
    if (changes.reach && host.busy.length > 0) {
      throw new Refusal(
        409,
        'has-work',
        `host ${at.name} has ${host.busy.length} runs; drain it before its address changes`,
      );
    }
    await editHost(db, at, changes);
    response.json(await done(JSON.stringify(changes)));
  });

  router.delete(ONE, async (request, response) => {
    const { at, host, caller, record } = await operateHost(context, request, 'host.remove');
    const isRemoved = host.made
      ? await endMadeHost(db, { cluster: at.cluster, host: at.name, why: `${caller.name} removed it` })
      : await removeListed(context, host, at);
    if (!isRemoved) {
      throw new Refusal(409, 'has-work', `host ${at.name} has runs; drain it first, or cancel them`);
    }
    await record('');
    response.status(204).end();
  });

  return router.use(drainRoutes(context));
}

function drainRoutes(context: ApiContext): Router {
  const router = Router();
  const { db } = context;

  router.post(`${ONE}/drain`, async (request, response) => {
    const { at, caller, done } = await operateHost(context, request, 'host.drain');
    const { reason } = shapes.HostDrain.parse(request.body);
    await setHostDrain(db, at, { reason, by: caller.name, since: new Date().toISOString() });
    response.json(await done(reason));
  });

  router.post(`${ONE}/undrain`, async (request, response) => {
    const { at, done } = await operateHost(context, request, 'host.undrain');
    await setHostDrain(db, at, null);
    response.json(await done(''));
  });

  return router;
}

/** @returns false when it has work @throws Refusal 409 when its worker says what it is */
async function removeListed(
  { db }: ApiContext,
  host: HostRow,
  at: { cluster: string; name: string },
): Promise<boolean> {
  requireListed(host, 'it goes by itself when its worker does');
  return (await removeHost(db, at)) !== 'has-work';
}

async function requireHost(context: ApiContext, cluster: string, name: string): Promise<HostRow> {
  const [row] = await listHosts(context.db, cluster, name);
  if (!row) throw notFound(`host ${name} of cluster ${cluster}`);
  return row;
}

/** The host that a request names, for who may change its cluster. @throws Refusal 401, 403, 404 */
async function operateHost(context: ApiContext, request: Request, action: string) {
  const { row, caller, intent } = await operate(context, request, action);
  const host = await requireHost(context, row.name, String(request.params.host));
  const at = { cluster: row.name, name: host.name };
  const record = (detail: string): Promise<void> =>
    recordDone(context, caller, { ...intent, detail: `host ${host.name}${detail === '' ? '' : `: ${detail}`}` });
  /** Puts it on record. @returns how the host is now */
  const done = async (detail: string): Promise<shapes.HostSummary> => {
    await record(detail);
    return viewHost(await requireHost(context, at.cluster, at.name));
  };
  return { at, host, caller, record, done };
}

function requireListed({ origin, name, made }: HostRow, why: string): void {
  if (origin === 'listed') return;
  if (made) {
    throw new Refusal(
      409,
      'not-listed',
      `host ${name} is as its blueprint ${made.blueprint} says; change that, or drain it`,
    );
  }
  throw new Refusal(409, 'not-listed', `host ${name} is the machine of a worker: ${why}; it can be drained`);
}
