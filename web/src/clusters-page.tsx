// Owns the pages of clusters: the list, and one cluster with its fleet, its keys and its policy.
// Drawn by app.tsx at /clusters and /clusters/:cluster. To look at only: changes are made by the command line.
import type { z } from 'zod';
import type { Cluster, ClusterList, ClusterSummary, FleetWorker } from '../../domain/schemas/clusters';
import { apiPath, pagePath } from '../../domain/names';
import { Age } from './clock';
import { formatBytes, joinFacts } from './format';
import { useHead } from './head';
import { usePolled } from './poll';
import { Command, Fact, ListTable, Pending, Trail, TroubleBanner } from './shell-parts';

type Clusters = z.infer<typeof ClusterList>;
const POLLING = { paceOf: () => 'slow' as const };

export function ClustersPage() {
  const polled = usePolled<Clusters>('/v1/clusters', POLLING);
  useHead('Clusters', null);
  if (polled.data === null) return <Pending polled={polled} what="list of clusters" />;
  const { clusters } = polled.data;
  return (
    <>
      <TroubleBanner polled={polled} />
      <h1>Clusters</h1>
      {clusters.length === 0 ? <NoClusters /> : <ClusterTable clusters={clusters} />}
    </>
  );
}

function NoClusters() {
  return (
    <section class="empty">
      <h2>No cluster yet</h2>
      <p>A cluster is a set of machines with a task queue and a key of their own. Register one:</p>
      <p>
        <Command text="npx slipway cluster create lab" />
      </p>
    </section>
  );
}

function ClusterTable({ clusters }: { clusters: ClusterSummary[] }) {
  return (
    <ListTable
      columns={[
        'Cluster',
        'Status',
        { name: 'Takes', class: 'wide-only' },
        'Workers',
        { name: 'Slots', class: 'right' },
        { name: 'Runs', class: 'right' },
      ]}
    >
      {clusters.map((cluster) => (
        <ClusterRow key={cluster.name} cluster={cluster} />
      ))}
    </ListTable>
  );
}

function ClusterRow({ cluster }: { cluster: ClusterSummary }) {
  const { name, description, workers, slots, runs } = cluster;
  return (
    <tr>
      <th scope="row">
        <a href={pagePath.cluster(name)} data-item>
          {name}
        </a>
        {description === '' ? null : <p class="muted">{description}</p>}
      </th>
      <td>{cluster.status}</td>
      <td class="wide-only">{takes(cluster)}</td>
      <td>
        {joinFacts(
          [`${workers.connected} connected`, workers.toEnlist > 0 ? `${workers.toEnlist} to enlist` : null],
          ', ',
        )}
      </td>
      <td class="right">
        {slots.busy} of {slots.total}
      </td>
      <td class="right">
        {joinFacts([`${runs.running} running`, runs.waiting > 0 ? `${runs.waiting} waiting` : null], ', ')}
      </td>
    </tr>
  );
}

/** Which runs a cluster gets. */
function takes({ kind, weight, organisations }: ClusterSummary): string {
  const whose = organisations.length === 0 ? '' : ` of ${organisations.join(', ')}`;
  if (kind === 'specialised') return `runs${whose} that name it or need its labels`;
  return weight === 0 ? `runs${whose} that name it` : `any runs${whose}, weight ${weight}`;
}

export function ClusterPage({ cluster: name }: { cluster: string }) {
  const polled = usePolled<Cluster>(apiPath.cluster(name), POLLING);
  useHead(`Cluster ${name}`, null);
  if (polled.data === null) return <Pending polled={polled} what={`cluster “${name}”`} />;
  const cluster = polled.data;
  return (
    <>
      <TroubleBanner polled={polled} />
      <Trail links={[{ href: '/clusters', text: 'Clusters' }]} here={name} />
      <h1>{name}</h1>
      {cluster.description === '' ? null : <p>{cluster.description}</p>}
      <ClusterFacts cluster={cluster} />
      <h2>Workers</h2>
      {cluster.fleet.length === 0 ? (
        <p>
          None yet. Start one: <Command text={`npx slipway worker --cluster ${name}`} />
        </p>
      ) : (
        <FleetTable cluster={cluster} />
      )}
      <h2>Keys</h2>
      {cluster.keys.length === 0 ? (
        <p>
          None yet. Make one: <Command text={`npx slipway cluster key ${name}`} />
        </p>
      ) : (
        <KeyTable keys={cluster.keys} />
      )}
    </>
  );
}

function ClusterFacts({ cluster }: { cluster: Cluster }) {
  const { policy, drain } = cluster;
  const limit = (value: number | string | null): string => (value === null ? 'no limit' : `${value}`);
  return (
    <dl class="facts is-list">
      <Fact name="Status">{cluster.status}</Fact>
      {drain === null ? null : (
        <Fact name="Drained">
          {drain.reason}, by {drain.by}, since <Age at={drain.since} />
          {drain.deadline === null ? null : `, until ${new Date(drain.deadline).toLocaleString()}`}
        </Fact>
      )}
      <Fact name="Takes">{takes(cluster)}</Fact>
      <Fact name="Runs">
        {cluster.runs.running} running, {cluster.runs.waiting} waiting
      </Fact>
      <Fact name="Maintainer">{cluster.maintainer || 'nobody named'}</Fact>
      <Fact name="Owner">{cluster.owner ?? 'the server'}</Fact>
      <Fact name="Privileged">{policy.allowPrivileged ? 'allowed' : 'not allowed'}</Fact>
      <Fact name="Cores a run">{limit(policy.maxCpus)}</Fact>
      <Fact name="Memory a run">
        {limit(policy.maxMemoryBytes === null ? null : formatBytes(policy.maxMemoryBytes))}
      </Fact>
      <Fact name="Artifacts a run">
        {limit(policy.maxArtifactBytes === null ? null : formatBytes(policy.maxArtifactBytes))}
      </Fact>
      <Fact name="Slots a project">{limit(policy.maxSlotsPerProject)}</Fact>
      {cluster.release ? (
        <Fact name="Release">
          {cluster.release.version}, {cluster.release.state}
        </Fact>
      ) : null}
      <Fact name="Task queue">
        <code>{cluster.queue}</code>
      </Fact>
    </dl>
  );
}

function FleetTable({ cluster }: { cluster: Cluster }) {
  return (
    <ListTable
      columns={[
        'Host',
        'State',
        { name: 'Slots', class: 'right' },
        'Version',
        { name: 'Load, free disk', class: 'wide-only' },
        { name: 'Last seen', class: 'right' },
      ]}
    >
      {cluster.fleet.map((worker) => (
        <WorkerRow key={worker.id} worker={worker} cluster={cluster.name} />
      ))}
    </ListTable>
  );
}

function WorkerRow({ worker, cluster }: { worker: FleetWorker; cluster: string }) {
  const { load, freeDiskBytes } = worker;
  return (
    <tr>
      <th scope="row">
        {worker.host ?? 'none yet'}
        <p class="muted">{worker.id}</p>
      </th>
      <td>
        {stateOf(worker)}
        {worker.enlisted ? null : <Command text={`npx slipway cluster enlist ${cluster} ${worker.id}`} />}
      </td>
      <td class="right">
        {worker.busySlots} of {worker.slots}
      </td>
      <td>
        {worker.version}
        {worker.isSameVersion ? null : <p class="muted">the server has another</p>}
        {worker.upgradeFailure === null ? null : <p class="muted">cannot upgrade: {worker.upgradeFailure}</p>}
      </td>
      <td class="wide-only">
        {joinFacts(
          [load === null ? null : load.toFixed(1), freeDiskBytes === null ? null : formatBytes(freeDiskBytes)],
          ', ',
        )}
      </td>
      <td class="right muted">
        <Age at={worker.lastSeenAt} />
      </td>
    </tr>
  );
}

function stateOf({ enlisted, connected, notAccepting }: FleetWorker): string {
  if (!enlisted) return 'to be enlisted';
  if (!connected) return 'silent';
  return notAccepting ?? 'connected';
}

function KeyTable({ keys }: { keys: Cluster['keys'] }) {
  return (
    <ListTable columns={['Key', 'State', 'Made by', { name: 'When', class: 'right' }]}>
      {keys.map((key) => (
        <tr key={key.kid}>
          <th scope="row">
            <code>{key.kid}</code>
          </th>
          <td>{key.revokedAt === null ? countedUntil(key.expiresAt) : 'revoked'}</td>
          <td>{key.createdBy}</td>
          <td class="right muted">
            <Age at={key.createdAt} />
          </td>
        </tr>
      ))}
    </ListTable>
  );
}

const countedUntil = (expiresAt: string | null): string =>
  expiresAt === null ? 'valid' : `until ${new Date(expiresAt).toLocaleString()}`;
