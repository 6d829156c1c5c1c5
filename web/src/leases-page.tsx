// Owns the page of leases: who holds which slot of which host, for what, and what became of it.
// Drawn by app.tsx at /leases; with ?all those that have ended are there as well.
import type { z } from 'zod';
import type { LeaseList, LeaseSummary } from '../../domain/schemas/hosts';
import { pagePath } from '../../domain/names';
import { Age } from './clock';
import { useHead } from './head';
import { usePolled } from './poll';
import { usePlace } from './router';
import { ListTable, Pending, TroubleBanner } from './shell-parts';

const POLLING = { paceOf: () => 'slow' as const };

export function LeasesPage() {
  const isAll = usePlace().query.has('all');
  const polled = usePolled<z.infer<typeof LeaseList>>(`/v1/leases?all=${isAll}`, POLLING);
  useHead('Leases', null);
  if (polled.data === null) return <Pending polled={polled} what="list of leases" />;
  const { leases } = polled.data;
  return (
    <>
      <TroubleBanner polled={polled} />
      <h1>Leases</h1>
      <p>
        {isAll ? <a href="/leases">Only those under way</a> : <a href="/leases?all">Those that have ended as well</a>}
      </p>
      {leases.length === 0 ? <p>{isAll ? 'None yet.' : 'None is under way now.'}</p> : <LeaseTable leases={leases} />}
    </>
  );
}

function LeaseTable({ leases }: { leases: LeaseSummary[] }) {
  return (
    <ListTable
      columns={[
        { name: 'Token', class: 'right' },
        'Host',
        'State',
        'Run',
        { name: 'What became of it', class: 'wide-only' },
        { name: 'Granted', class: 'right' },
      ]}
    >
      {leases.map((lease) => (
        <LeaseRow key={lease.token} lease={lease} />
      ))}
    </ListTable>
  );
}

function LeaseRow({ lease }: { lease: LeaseSummary }) {
  const { project, build, run, attempt } = lease;
  return (
    <tr>
      <td class="right">{lease.token}</td>
      <th scope="row">
        {lease.host}, slot {lease.slot}
        <p class="muted">{lease.cluster}</p>
      </th>
      <td>
        {lease.state}
        {lease.why === null ? null : <p class="muted reason">{lease.why}</p>}
      </td>
      <td>
        <a href={pagePath.run(project, build, run)} data-item>
          {project} #{build} {run}
        </a>
        {attempt === 1 ? null : `, attempt ${attempt}`}
        {lease.name === null ? null : `, as ${lease.name}`}
      </td>
      <td class="wide-only muted">
        <ol class="plain-list">
          {lease.history.map((event) => (
            <li key={`${event.token} ${event.state}`}>
              <time dateTime={event.at}>{new Date(event.at).toLocaleTimeString()}</time> {event.state}, token{' '}
              {event.token}
            </li>
          ))}
        </ol>
      </td>
      <td class="right muted">
        <Age at={lease.grantedAt} />
      </td>
    </tr>
  );
}
