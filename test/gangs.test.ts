// Proves how several hosts are chosen for one run: a different one for each wish or none at all, found whenever there is a way,
// kept for a run that has waited long, and asked of blueprints all at once. Pure; no process is started.
import fc from 'fast-check';
import { readProjectFile } from '../adapters/project-file';
import { askOf, matchesTag, tagsOf } from '../domain/host-tag';
import { planHosts, type BlueprintNow } from '../domain/on-demand';
import { chooseHost, type HostOffer } from '../domain/placement';
import { makePlan } from '../domain/plan';
import { decideGrant, whoIsNext, type GrantQuestion, type WaitingRun } from '../domain/queue-order';
import { PutBlueprint } from '../domain/schemas/blueprints';
import { whyWaiting } from '../domain/waiting';

const listed = (name: string, labels: string[], more: Partial<HostOffer> = {}): HostOffer => ({
  id: `local/${name}`,
  name,
  labels,
  slots: 1,
  busySlots: [],
  workerId: 'w1',
  notAccepting: null,
  reachedBy: 'any',
  servesOthers: true,
  ...more,
});
const busy = { busySlots: [1] };
const asks = (...tags: string[]): string => tags.join('\n');
const chosen = (hosts: HostOffer[], ask: string): string => {
  const choice = chooseHost(hosts, ask, 'w1');
  return choice.kind === 'none' ? choice.reason : [choice, ...choice.beside].map(({ host }) => host.name).join(' ');
};

test('H9 a run with hosts asks for its own and for each of them; line breaks in a tag do not make another', () => {
  const ask = askOf({ hostTag: 'a,\nb', resources: { cpus: 2 }, hosts: { x: 'board', y: 'c\nd' } });

  expect(tagsOf(ask)).toEqual(['a, b,cpus>=2', 'board', 'c d']);
  expect(tagsOf(askOf({ resources: {}, hosts: { x: 'board' } }))).toEqual([undefined, 'board']);
  expect(tagsOf(askOf({ resources: {} }))).toEqual([undefined]);
});

test('H9 each wish gets another host, also when the first of them could take the only one of a later one', () => {
  const hosts = [listed('a', ['x', 'y']), listed('b', ['x'])];

  expect(chosen(hosts, asks('x', 'y'))).toBe('b a');
  expect(chosen([listed('a', ['x'], { slots: 9 })], asks('x', 'x'))).toMatch(/too few$/);
});

test('H9 a host beside that of a run must be one that its worker gets to', () => {
  const machine = listed('machine', ['m'], { reachedBy: undefined, workerId: 'w2' });
  const box = listed('box', ['box'], { reachedBy: 'own', workerId: 'w2' });
  const board = listed('board', ['board']);

  expect(chosen([machine, board], asks('m', 'board'))).toBe('machine board');
  expect(chosen([machine, board], asks('board', 'm'))).toBe(
    'it needs 2 hosts at once; machine is the machine of a worker, and hosts beside that of a run must be listed or made by a blueprint',
  );
  expect(chosen([machine, box], asks('m', 'box'))).toBe('machine box');
  expect(chosen([board, box], asks('board', 'box'))).toMatch(/too few$/);
  expect(chosen([{ ...machine, servesOthers: false }, board], asks('m', 'board'))).toBe(
    'it needs 2 hosts at once; the worker of machine serves no other hosts, start it with SLIPWAY_SSH_KEY',
  );
});

test('C8 H9 what keeps the run waiting is the first of its hosts that it cannot have', () => {
  const hosts = [listed('a', ['x']), listed('b', ['y'], busy), listed('c', ['z'], { notAccepting: 'drained' })];

  expect(chosen(hosts, asks('x', 'y'))).toBe('it needs 2 hosts at once; for y: all 1 slots of host b are leased');
  expect(chosen(hosts, asks('x', 'z'))).toBe(
    'it needs 2 hosts at once; for z: no host takes new runs now: c (drained)',
  );
  expect(chosen(hosts, asks('x', 'q'))).toMatch(/^it needs 2 hosts at once; for q: no host matches host-tag "q"; near/);
});

/** Small, so that wishes collide. */
const anyHosts = fc
  .array(
    fc.record({
      labels: fc.subarray(['x', 'y', 'z']),
      isBusy: fc.boolean(),
      slots: fc.integer({ min: 1, max: 2 }),
      isDrained: fc.boolean(),
    }),
    { maxLength: 6 },
  )
  .map((hosts) =>
    hosts.map(({ labels, isBusy, slots, isDrained }, at) =>
      listed(`h${at}`, labels, {
        slots,
        busySlots: isBusy ? [1] : [],
        notAccepting: isDrained ? 'drained' : null,
      }),
    ),
  );
const anyTags = fc.array(fc.constantFrom('x', 'y', 'z', 'x,y', '*'), { minLength: 2, maxLength: 4 });

/** Tries every way. */
function canBeMet(hosts: readonly HostOffer[], tags: readonly string[]): boolean {
  const [tag, ...rest] = tags;
  if (tag === undefined) return true;
  return hosts.some(
    (host) =>
      host.notAccepting === null &&
      host.busySlots.length < host.slots &&
      matchesTag(host, tag) &&
      canBeMet(
        hosts.filter((other) => other !== host),
        rest,
      ),
  );
}

test('H9 all hosts are found exactly when there is a way, each fits its wish and is free, and none is taken twice', () => {
  fc.assert(
    fc.property(anyHosts, anyTags, (hosts, tags) => {
      const choice = chooseHost(hosts, asks(...tags), 'w1');
      expect(choice.kind === 'host').toBe(canBeMet(hosts, tags));
      if (choice.kind === 'none') return;
      const taken = [choice, ...choice.beside];
      expect(taken).toHaveLength(tags.length);
      expect(new Set(taken.map(({ host }) => host.id)).size).toBe(tags.length);
      taken.forEach(({ host, slot }, at) => {
        expect(matchesTag(host, tags[at])).toBe(true);
        expect([host.notAccepting, host.busySlots.includes(slot), slot <= host.slots]).toEqual([null, false, true]);
      });
    }),
    { numRuns: 2_000 },
  );
});

let made = 0;
const waits = (hostTag: string, more: Partial<WaitingRun> = {}): WaitingRun => ({
  id: `run-${++made}`,
  project: 'p',
  priority: 3,
  waitedMs: 1_000,
  hostTag,
  ...more,
});
const grant = (asker: WaitingRun, hosts: HostOffer[], more: Partial<GrantQuestion> = {}): string => {
  const choice = decideGrant({
    asker,
    worker: 'w1',
    waiting: [],
    hosts,
    holdings: new Map(),
    cluster: 'local',
    maxSlotsPerProject: null,
    ...more,
  });
  return choice.kind === 'none' ? choice.reason : choice.host.name;
};

describe('a run that needs several hosts and has waited long', () => {
  const hosts = [listed('board', ['board']), listed('server', ['server'], busy)];
  const gang = waits(asks('board', 'server'), { keepsHosts: true });

  test('H9 keeps those that are free, whoever else asks for them, until all are there', () => {
    const late = waits('board');

    expect(grant(late, hosts, { waiting: [{ ...gang, keepsHosts: false }] })).toBe('board');
    expect(grant(late, hosts, { waiting: [gang] })).toBe(
      'it waits for its turn: the hosts are kept for a run that needs several at once',
    );
    expect(whoIsNext([late, gang], { hosts, holdings: new Map(), maxSlotsPerProject: null })).toEqual([]);
    const free = hosts.map((host) => ({ ...host, busySlots: [] }));
    expect(whoIsNext([late, gang], { hosts: free, holdings: new Map(), maxSlotsPerProject: null })).toEqual([gang]);
    expect(grant(gang, free, { waiting: [late] })).toBe('board');
  });

  test('H9 keeps nothing from a run of a higher priority, and nothing while one of its hosts takes no runs at all', () => {
    expect(grant(waits('board', { priority: 1 }), hosts, { waiting: [gang] })).toBe('board');
    const [board, server] = hosts as [HostOffer, HostOffer];
    const broken = [board, { ...server, notAccepting: 'quarantined' }];
    expect(grant(waits('board'), broken, { waiting: [gang] })).toBe('board');
  });

  test('H9 of two of them the first keeps what it needs, and the other gets what is left when it is enough', () => {
    const three = [...hosts, listed('server-2', ['server-2'])];
    const other = waits(asks('server', 'server-2'), { keepsHosts: true, waitedMs: 500 });

    expect(whoIsNext([gang, other], { hosts: three, holdings: new Map(), maxSlotsPerProject: null })).toEqual([]);
    const freed = three.map((host) => ({ ...host, busySlots: [] }));
    expect(whoIsNext([gang, other], { hosts: freed, holdings: new Map(), maxSlotsPerProject: null })).toEqual([gang]);
  });

  test('C9 H9 all of its slots count to its project, and more than the cap allows is said at once', () => {
    const free = hosts.map((host) => ({ ...host, busySlots: [] }));

    expect(grant(gang, free, { maxSlotsPerProject: 2 })).toBe('board');
    expect(grant(gang, free, { maxSlotsPerProject: 2, holdings: new Map([['p', 1]]) })).toBe(
      'project p holds its 2 slots of cluster local',
    );
    expect(grant(gang, free, { maxSlotsPerProject: 1 })).toBe(
      'it needs 2 hosts at once, and a project may hold one slot of cluster local',
    );
  });
});

/**
 * Two hosts, each wanted all the time by runs of its own; whenever one ends, whoever is next gets it.
 * @returns after how many ends the run that needs both has them
 */
function endsUntilBoth(order: readonly number[], ageAfter: number): number {
  let hosts = [listed('board', ['board'], busy), listed('server', ['server'], busy)];
  for (const [at, ended] of order.entries()) {
    hosts = hosts.map((host, index) => (index === ended ? { ...host, busySlots: [] } : host));
    const both = waits(asks('board', 'server'), { waitedMs: 1_000 + at, keepsHosts: at >= ageAfter });
    const [next] = whoIsNext([waits('board'), waits('server'), both], {
      hosts,
      holdings: new Map(),
      maxSlotsPerProject: null,
    });
    if (next?.hostTag === both.hostTag) return at + 1;
    hosts = hosts.map((host) => (next && matchesTag(host, next.hostTag ?? undefined) ? { ...host, ...busy } : host));
  }
  return Infinity;
}

test('H9 whatever the order in which others end, a run that needs both hosts has them once each has ended since it keeps hosts', () => {
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom(0, 1), { maxLength: 8 }),
      fc.array(fc.constantFrom(0, 1), { maxLength: 8 }),
      (before, after) => {
        const order = [...before, ...after, 0, 1];
        expect(endsUntilBoth(order, before.length)).toBeLessThanOrEqual(order.length);
      },
    ),
  );
  const alternating = Array.from({ length: 100 }, (_, at) => at % 2);
  expect(endsUntilBoth(alternating, Infinity)).toBe(Infinity);
});

describe('blueprints', () => {
  const blueprint = (name: string, most = 10): BlueprintNow => ({
    id: name,
    name,
    spec: PutBlueprint.parse({ make: { kind: 'docker', image: 'x' }, most }),
    hosts: [],
    isResting: false,
    isRemoved: false,
  });
  const plan = (ask: string, hosts: HostOffer[], blueprints: BlueprintNow[]): string[] =>
    planHosts({ waiting: [waits(ask)], hosts, holdings: new Map(), maxSlotsPerProject: null }, blueprints).map(
      ({ name }) => name,
    );

  test('H2 H9 hosts are made for what is missing of several, all of it or nothing', () => {
    expect(plan(asks('gpu', 'board'), [listed('b', ['board'])], [blueprint('gpu')])).toEqual(['gpu']);
    expect(plan(asks('gpu', 'board'), [listed('b', ['board'], busy)], [blueprint('gpu')])).toEqual([]);
    expect(plan(asks('gpu', 'gpu', 'arm'), [], [blueprint('gpu'), blueprint('arm')])).toEqual(['gpu', 'gpu', 'arm']);
    expect(plan(asks('gpu', 'gpu'), [], [blueprint('gpu', 1)])).toEqual([]);
  });

  test('C8 H9 a blueprint is spoken of only when all that is missing can be made', () => {
    const run = { cluster: 'c', pinned: false, openNeeds: [], jobLimit: undefined, noted: null, place: undefined };
    const standing = { ...blueprint('gpu'), hosts: 0, isServed: true, restingUntil: null, fault: null };
    const said = (...hosts: HostOffer[]): string =>
      whyWaiting(
        { ...run, hostTag: asks('board', 'gpu') },
        { closed: null, strangerId: undefined, hosts, blueprints: [standing] },
      );

    expect(said(listed('b', ['board'], busy))).toMatch(/^it needs 2 hosts at once; for board: all 1 slots .* leased$/);
    const coming = listed('gpu-1', ['gpu'], { isComing: true, notAccepting: 'blueprint gpu is making it' });
    expect(said(listed('b', ['board']), coming)).toMatch(
      /for gpu: no host .* now: gpu-1 \(blueprint gpu is making it\)$/,
    );
    expect(said(listed('b', ['board']))).toMatch(/; for gpu: no host .*; blueprint gpu is about to make one$/);
  });
});

describe('the file', () => {
  const file = (hosts: string, more = ''): string => `timeout: 5
triggers:
  - name: main
    runs:
      - { name: work, container: x, script: work, hosts: ${hosts}${more} }
scripts: { work: 'true' }
`;
  const problems = (hosts: string, more = ''): string[] => {
    const read = readProjectFile(file(hosts, more));
    return read.kind === 'valid' ? [] : read.problems.map(({ path, message }) => `${path}: ${message}`);
  };

  test('H9 P3 hosts are named, one to five of them, and may take their tags from the axes', () => {
    const read = readProjectFile(
      file('{ board: "Board,{arch}", peer: linux }', ', matrix: { axes: { arch: [ARM64, amd64] } }'),
    );
    if (read.kind !== 'valid') throw new Error(JSON.stringify(read.problems));
    const made = makePlan(read.file, { params: {} });
    if (made.kind !== 'plan') throw new Error('refused');

    expect(made.plan.runs.map(({ hosts }) => hosts)).toEqual([
      { board: 'board,arm64', peer: 'linux' },
      { board: 'board,amd64', peer: 'linux' },
    ]);
  });

  test('H9 P2 what is wrong with hosts is said with its place', () => {
    const at = 'triggers[0].runs[0].hosts';

    expect(problems('{}')).toEqual([`${at}: name one host or more, e.g. {board: arm64}`]);
    expect(problems('{ a: x, b: x, c: x, d: x, e: x, f: x }')).toEqual([`${at}: name 5 hosts at most`]);
    expect(problems('{ "My Board": x }')[0]).toMatch(/name a host with a-z 0-9 -, a letter first/);
    expect(problems('{ board: "{arch}" }')[0]).toMatch(/hosts\.board: .*arch/);
    expect(problems('[board]')[0]).toMatch(/hosts: /);
  });
});
