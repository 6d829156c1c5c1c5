// Owns the page of hosts: what machines there are, how they are, changing those that are listed, and what blueprints make.
// Drawn by app.tsx at /hosts. Changes go through host-form.tsx and need a token of an operator.
import { useState } from 'preact/hooks';
import type { z } from 'zod';
import type { Blueprint, BlueprintList } from '../../domain/schemas/blueprints';
import type { HostList, HostSummary } from '../../domain/schemas/hosts';
import { pagePath } from '../../domain/names';
import { Age } from './clock';
import { formatBytes, joinFacts } from './format';
import { useHead } from './head';
import { HostDialog, type HostWish } from './host-form';
import { usePolled } from './poll';
import { Command, ListTable, Pending, TroubleBanner } from './shell-parts';

const POLLING = { paceOf: () => 'slow' as const };

export function HostsPage() {
  const polled = usePolled<z.infer<typeof HostList>>('/v1/hosts', POLLING);
  const [wish, setWish] = useState<HostWish | null>(null);
  useHead('Hosts', null);
  if (polled.data === null) return <Pending polled={polled} what="list of hosts" />;
  const { hosts } = polled.data;
  const onDone = () => {
    setWish(null);
    polled.refresh();
  };
  return (
    <>
      <TroubleBanner polled={polled} />
      <h1>Hosts</h1>
      {hosts.length === 0 ? <NoHosts /> : <HostTable hosts={hosts} onWish={setWish} />}
      <p class="buttons">
        <button type="button" class="plain" onClick={() => setWish({ kind: 'create' })}>
          List a host
        </button>
      </p>
      <Blueprints />
      {wish === null ? null : <HostDialog key={keyOf(wish)} wish={wish} onDone={onDone} />}
    </>
  );
}

const keyOf = (wish: HostWish): string =>
  wish.kind === 'create' ? wish.kind : `${wish.kind} ${wish.host.cluster}/${wish.host.name}`;

function NoHosts() {
  return (
    <section class="empty">
      <h2>No host yet</h2>
      <p>A host is a machine that runs go to: that of a worker, or one that its worker reaches over SSH.</p>
      <p>
        <Command text="npx slipway worker" />
      </p>
    </section>
  );
}

interface Wishing {
  onWish: (wish: HostWish) => void;
}

function HostTable({ hosts, onWish }: { hosts: HostSummary[] } & Wishing) {
  return (
    <ListTable
      columns={[
        'Host',
        'State',
        'Runs are',
        { name: 'Machine', class: 'wide-only' },
        'Labels',
        { name: 'Slots', class: 'right' },
        { name: 'Last seen', class: 'right wide-only' },
        'Change',
      ]}
    >
      {hosts.map((host) => (
        <HostRow key={`${host.cluster}/${host.name}`} host={host} onWish={onWish} />
      ))}
    </ListTable>
  );
}

function HostRow({ host, onWish }: { host: HostSummary } & Wishing) {
  const { cluster, name, state, why, engine, machine, labels, lastSeenAt } = host;
  const { os, arch, cpus, memoryBytes } = machine;
  return (
    <tr>
      <th scope="row">
        {name}
        <p class="muted">
          <a href={pagePath.cluster(cluster)}>{cluster}</a>, {sayReach(host)}
        </p>
      </th>
      <td>
        {state}
        {why === null ? null : <p class="muted reason">{why}</p>}
      </td>
      <td>{engine === 'docker' ? 'containers' : 'processes'}</td>
      <td class="wide-only">
        {joinFacts(
          [os, arch, cpus === null ? null : `${cpus} cores`, memoryBytes === null ? null : formatBytes(memoryBytes)],
          ', ',
        )}
      </td>
      <td>{labels.join(', ')}</td>
      <td class="right">
        {host.busySlots} of {host.slots}
      </td>
      <td class="right muted wide-only">{lastSeenAt === null ? 'never' : <Age at={lastSeenAt} />}</td>
      <td>
        <HostButtons host={host} onWish={onWish} />
      </td>
    </tr>
  );
}

function sayReach({ reach, made }: HostSummary): string {
  const by = made === null ? '' : `by ${made.blueprint}, used ${made.uses} times: `;
  if (reach === null) return made === null ? 'its worker’s own' : `${by}not there yet`;
  if (reach.kind === 'container') return `${by}container ${reach.container}`;
  const user = reach.kind === 'docker-tls' ? '' : `${reach.user}@`;
  return `${by}${user}${reach.address}:${reach.port}`;
}

function HostButtons({ host, onWish }: { host: HostSummary } & Wishing) {
  const wishes: [text: string, wish: HostWish][] = [
    host.drain === null ? ['Drain', { kind: 'drain', host }] : ['Undrain', { kind: 'undrain', host }],
  ];
  if (host.origin === 'made') wishes.push(['Remove', { kind: 'remove', host }]);
  if (host.origin === 'listed') wishes.push(['Edit', { kind: 'edit', host }], ['Remove', { kind: 'remove', host }]);
  return (
    <span class="links">
      {wishes.map(([text, wish]) => (
        <button key={text} type="button" class="quiet" aria-label={`${text} ${host.name}`} onClick={() => onWish(wish)}>
          {text}
        </button>
      ))}
    </span>
  );
}

/** Absent where there are none: most have no use for them. */
function Blueprints() {
  const polled = usePolled<z.infer<typeof BlueprintList>>('/v1/blueprints', POLLING);
  const { blueprints } = polled.data ?? { blueprints: [] };
  if (blueprints.length === 0) return null;
  return (
    <>
      <h2>Made on demand</h2>
      <ListTable
        columns={[
          'Blueprint',
          'Makes',
          'Hosts',
          { name: 'Kept ready', class: 'right wide-only' },
          { name: 'Costs an hour', class: 'right' },
        ]}
      >
        {blueprints.map((one) => (
          <BlueprintRow key={`${one.cluster}/${one.name}`} blueprint={one} />
        ))}
      </ListTable>
    </>
  );
}

function BlueprintRow({ blueprint }: { blueprint: Blueprint }) {
  const { cluster, name, make, hosts, most, minReady, costPerHourNow, costPerHour, fault, restingUntil } = blueprint;
  const what = make.kind === 'docker' ? `containers of ${make.image}` : `${make.type} in ${make.region}`;
  return (
    <tr>
      <th scope="row">
        {name}
        <p class="muted">
          <a href={pagePath.cluster(cluster)}>{cluster}</a>
        </p>
      </th>
      <td>{what}</td>
      <td>
        {hosts.ready} ready, {hosts.starting} starting, {hosts.ending} ending, of {most}
        {fault === null ? null : (
          <p class="muted reason">
            {restingUntil === null ? fault : `makes none until ${restingUntil}, because ${fault}`}
          </p>
        )}
      </td>
      <td class="right wide-only">{minReady}</td>
      <td class="right">
        {costPerHourNow.toFixed(2)} now, {costPerHour} each
      </td>
    </tr>
  );
}
