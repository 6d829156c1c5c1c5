// Proves when hosts are made and when they end: by the runs that wait and the limits of blueprints. Pure; nothing is started.
import fc from 'fast-check';
import {
  hostOf,
  planEnds,
  planHosts,
  sayBlueprint,
  type BlueprintNow,
  type Demand,
  type MadeNow,
} from '../domain/on-demand';
import type { HostOffer } from '../domain/placement';
import type { WaitingRun } from '../domain/queue-order';
import { PutBlueprint } from '../domain/schemas/blueprints';

const blueprint = (name: string, spec: object = {}, more: Partial<BlueprintNow> = {}): BlueprintNow => ({
  id: name,
  name,
  spec: PutBlueprint.parse({ make: { kind: 'docker', image: 'x' }, most: 10, ...spec }),
  hosts: [],
  isResting: false,
  isRemoved: false,
  ...more,
});
const made = (id: string, more: Partial<MadeNow> = {}): MadeNow => ({
  id,
  phase: 'ready',
  ageSeconds: 100,
  idleSeconds: 10,
  liveLeases: 0,
  uses: 0,
  drained: null,
  faults: 0,
  fault: null,
  ...more,
});
const offer = (id: string, labels: string[], more: Partial<HostOffer> = {}): HostOffer => ({
  id,
  name: id,
  labels,
  slots: 1,
  busySlots: [],
  workerId: 'w',
  notAccepting: null,
  isBare: true,
  ...more,
});
const run = (id: string, hostTag: string | null, project = 'p'): WaitingRun => ({
  id,
  project,
  priority: 3,
  waitedMs: 0,
  hostTag,
});
const demand = (more: Partial<Demand>): Demand => ({
  waiting: [],
  hosts: [],
  holdings: new Map(),
  maxSlotsPerProject: null,
  ...more,
});
const names = (all: readonly BlueprintNow[]): string[] => all.map(({ name }) => name);
const many = (count: number, hostTag: string): WaitingRun[] =>
  Array.from({ length: count }, (_, at) => run(`r${at}`, hostTag));

test('H2 each waiting run that no slot is there for gets a host, as many runs to a host as it has slots, and never above most', () => {
  const two = blueprint('small', { slots: 2 });

  expect(names(planHosts(demand({ waiting: many(5, 'small') }), [two]))).toEqual(['small', 'small', 'small']);
  expect(planHosts(demand({ waiting: many(50, 'small') }), [two])).toHaveLength(10);
  expect(planHosts(demand({ waiting: many(50, 'small') }), [blueprint('small', { most: 0 })])).toEqual([]);
});

test('H2 hosts that are free or coming count first, and those that end count against most', () => {
  const hosts = [offer('a', ['small']), offer('b', ['small'], { busySlots: [1] })];
  const some = blueprint('small', { most: 3 }, { hosts: [made('a'), made('b'), made('c', { phase: 'ending' })] });

  expect(planHosts(demand({ waiting: many(1, 'small'), hosts }), [some])).toEqual([]);
  expect(planHosts(demand({ waiting: many(9, 'small'), hosts }), [some])).toEqual([]);
});

test('H2 the cheapest blueprint that fits makes the host; one that rests, was removed or does not fit makes none', () => {
  const dear = blueprint('dear', { costPerHour: 3, labels: ['gpu'] });
  const cheap = blueprint('cheap', { costPerHour: 1, labels: ['gpu'], machine: { cpus: 2 } });
  const waiting = [run('any', 'gpu'), run('large', 'gpu,cpus>=4'), run('none', 'fpga')];

  expect(names(planHosts(demand({ waiting }), [dear, cheap]))).toEqual(['cheap', 'dear']);
  expect(names(planHosts(demand({ waiting: [run('any', 'gpu')] }), [dear, { ...cheap, isResting: true }]))).toEqual([
    'dear',
  ]);
  expect(planHosts(demand({ waiting }), [{ ...dear, isRemoved: true }])).toEqual([]);
});

test('H2 a run that asks for nothing wants containers, so no bare host is made for it', () => {
  expect(planHosts(demand({ waiting: [run('plain', null)] }), [blueprint('small')])).toEqual([]);
});

test('H2 idle hosts are kept ready beside those that runs are about to take', () => {
  const kept = blueprint('small', { minReady: 2 });

  expect(planHosts(demand({}), [kept])).toHaveLength(2);
  expect(planHosts(demand({ waiting: many(1, 'small') }), [kept])).toHaveLength(3);
  const hosts = [offer('a', ['small'])];
  expect(planHosts(demand({ hosts }), [{ ...kept, hosts: [made('a')] }])).toHaveLength(1);
});

test('H2 what a project may hold limits what is made for it', () => {
  const waiting = many(5, 'small');

  expect(planHosts(demand({ waiting, maxSlotsPerProject: 2 }), [blueprint('small')])).toHaveLength(2);
  expect(
    planHosts(demand({ waiting, maxSlotsPerProject: 2, holdings: new Map([['p', 2]]) }), [blueprint('small')]),
  ).toEqual([]);
});

test('H2 never more hosts than most, nor than waiting runs and those kept ready need', () => {
  fc.assert(
    fc.property(
      fc.record({
        waiting: fc.integer({ min: 0, max: 30 }),
        slots: fc.integer({ min: 1, max: 4 }),
        most: fc.integer({ min: 0, max: 20 }),
        ready: fc.integer({ min: 0, max: 5 }),
      }),
      ({ waiting, slots, most, ready }) => {
        const minReady = Math.min(ready, most);
        const plan = planHosts(demand({ waiting: many(waiting, 'small') }), [
          blueprint('small', { slots, most, minReady }),
        ]);
        expect(plan).toHaveLength(Math.min(most, Math.ceil(waiting / slots) + minReady));
      },
    ),
  );
});

const ends = (spec: object, hosts: MadeNow[], more: Partial<BlueprintNow> = {}) =>
  planEnds(blueprint('small', spec, { hosts, ...more })).map(({ id, why }) => [id, why]);

test.each<[what: string, given: { spec: object; host: Partial<MadeNow>; why: string | null }]>([
  ['idle for long enough', { spec: { idleSeconds: 10 }, host: { idleSeconds: 10 }, why: 'it had no run for 10 s' }],
  ['idle, not yet for long enough', { spec: { idleSeconds: 10 }, host: { idleSeconds: 9 }, why: null }],
  ['idle, with a run', { spec: { idleSeconds: 10 }, host: { idleSeconds: 10, liveLeases: 1 }, why: null }],
  ['used up', { spec: { maxUses: 1 }, host: { uses: 1 }, why: 'it has taken its one run' }],
  ['used up, with its last run', { spec: { maxUses: 2 }, host: { uses: 2, liveLeases: 1 }, why: null }],
  ['too old', { spec: { maxAgeSeconds: 60 }, host: { ageSeconds: 61 }, why: 'it is older than 60 s' }],
  ['drained', { spec: {}, host: { drained: 'drained by me: dust' }, why: 'drained by me: dust' }],
  ['failed once', { spec: {}, host: { faults: 1, fault: 'disk' }, why: null }],
  ['failed twice', { spec: {}, host: { faults: 2, fault: 'disk' }, why: 'it is broken: disk' }],
  ['beginning', { spec: { startSeconds: 600 }, host: { phase: 'starting', ageSeconds: 599 }, why: null }],
  [
    'not ready in time',
    {
      spec: { startSeconds: 600 },
      host: { phase: 'starting', ageSeconds: 600, fault: 'refused' },
      why: 'it did not take runs within 600 s; last: refused',
    },
  ],
  ['ending already', { spec: { maxUses: 1 }, host: { uses: 1, phase: 'ending' }, why: null }],
])('H2 a host that is %s', (_, { spec, host, why }) => {
  expect(ends(spec, [made('a', host)])).toEqual(why === null ? [] : [['a', why]]);
});

test('H2 as many idle hosts stay as are to be kept ready: those that were used last', () => {
  const hosts = [1_000, 3_000, 2_000].map((idleSeconds) => made(`idle-${idleSeconds}`, { idleSeconds }));

  expect(ends({ minReady: 1 }, hosts).map(([id]) => id)).toEqual(['idle-3000', 'idle-2000']);
  expect(ends({ minReady: 1 }, hosts, { isRemoved: true })).toHaveLength(3);
});

test('H2 what a blueprint will make can be asked for by its labels, its name and its size', () => {
  const host = hostOf(blueprint('small', { labels: ['gpu'], machine: { os: 'linux', cpus: 4 } }));

  expect(host).toMatchObject({ labels: ['gpu', 'small'], machine: { os: 'linux', arch: null, cpus: 4 } });
});

test.each<[more: object, said: string | null]>([
  [{}, 'blueprint small is about to make one'],
  [{ hosts: 10 }, 'blueprint small has its 10 hosts'],
  [{ restingUntil: '2026-01-01', fault: 'no quota' }, 'blueprint small makes none until 2026-01-01, because no quota'],
  [{ isServed: false }, 'no worker of the cluster can make hosts of blueprint small; start one with SLIPWAY_SSH_KEY'],
  [{ name: 'other' }, null],
])('C8 H2 what a blueprint does for a run that waits is said: %p', (more, said) => {
  const { name, spec } = blueprint('small');
  const standing = { name, spec, hosts: 0, isServed: true, restingUntil: null, fault: null, ...more };

  expect(sayBlueprint(standing, 'small')).toBe(said);
});

test('H2 hosts of EC2 may bring containers, and then take runs that ask for nothing', () => {
  const ec2 = { kind: 'ec2', region: 'eu-central-1', image: 'ami-12345678', type: 't3.micro', user: 'admin' };
  const cloud = (containers: boolean) => blueprint('cloud', { make: { ...ec2, containers } });

  expect(planHosts(demand({ waiting: [run('plain', null)] }), [cloud(true)])).toHaveLength(1);
  expect(planHosts(demand({ waiting: [run('plain', null)] }), [cloud(false)])).toEqual([]);
});
