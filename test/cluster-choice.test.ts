// Proves the choice of clusters for any clusters and any run: nothing is placed on, or moved to, a cluster that is not its
// to use. Each fault that was seen in the fallback of another orchestrator has a case of its own. Pure.
import fc from 'fast-check';
import {
  chooseByHost,
  chooseCluster,
  chooseMove,
  drawAt,
  isOpen,
  movedFrom,
  whyForbidden,
  type Asking,
  type ClusterAsk,
  type ClusterChoice,
  type ClusterOffer,
  type Placement,
} from '../domain/cluster-choice';
import { matchesTag } from '../domain/host-tag';

const ORGANISATIONS = ['acme', 'other', 'third'];

function offer(name: string, more: Partial<ClusterOffer> = {}): ClusterOffer {
  return {
    name,
    kind: 'default',
    weight: 100,
    organisations: [],
    active: true,
    drain: null,
    allowPrivileged: false,
    maxCpus: null,
    maxArtifactBytes: null,
    maxMemoryBytes: null,
    hosts: [],
    ...more,
  };
}
const run = (more: Partial<ClusterAsk> = {}): ClusterAsk => ({
  name: 'work',
  privileged: false,
  capAdd: [],
  resources: {},
  ...more,
});
const NOBODY = { organisation: null };
const place = (
  all: ClusterOffer[],
  ...[what = run(), asking = NOBODY, at = 0.5]: [ClusterAsk?, Asking?, number?]
): ClusterChoice => chooseCluster(all, what, { asking, draw: at });
const isClosed = { active: false };
const isDrained = { drain: 'drained by ops: new disks' };

const labels = fc.subarray(['arm', 'gpu', 'slow']);
const cluster: fc.Arbitrary<Omit<ClusterOffer, 'name'>> = fc.record({
  kind: fc.constantFrom('default' as const, 'specialised' as const),
  weight: fc.constantFrom(0, 0, 1, 30, 100),
  organisations: fc.subarray(ORGANISATIONS),
  active: fc.boolean(),
  drain: fc.constantFrom(null, 'drained'),
  allowPrivileged: fc.boolean(),
  maxCpus: fc.constantFrom(null, 1, 4),
  maxArtifactBytes: fc.constant(null),
  maxMemoryBytes: fc.constantFrom(null, 1_000),
  hosts: fc.array(labels, { maxLength: 2 }).map((all) => all.map((some, at) => ({ name: `h${at}`, labels: some }))),
});
const clusters = fc
  .array(cluster, { maxLength: 6 })
  .map((all): ClusterOffer[] => all.map((one, at) => ({ name: `c${at}`, ...one })));
const asked: fc.Arbitrary<ClusterAsk> = fc
  .record({
    hostTag: fc.constantFrom(undefined, 'arm', 'gpu', 'h0', 'nowhere'),
    privileged: fc.boolean(),
    capAdd: fc.subarray(['NET_ADMIN']),
    cpus: fc.constantFrom(undefined, 1, 2, 8),
    memoryBytes: fc.constantFrom(undefined, 500, 5_000),
    cluster: fc.constantFrom(undefined, undefined, 'c0', 'c1', 'nowhere'),
  })
  .map(({ cpus, memoryBytes, ...rest }) => run({ ...rest, resources: { cpus, memoryBytes } }));
const organisation = fc.constantFrom(null, ...ORGANISATIONS, 'unheard');
const draw = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

const any = { all: clusters, what: asked, org: organisation, at: draw };

/** Written anew from the rules for people, not from the code. */
function mayRun(one: ClusterOffer, what: ClusterAsk, org: string | null): boolean {
  const serves =
    one.kind === 'default'
      ? one.organisations.length === 0 || (org !== null && one.organisations.includes(org))
      : org !== null && one.organisations.includes(org);
  const needsPrivilege = what.privileged || what.capAdd.length > 0;
  const { cpus = 0, memoryBytes = 0 } = what.resources;
  return (
    serves &&
    (one.allowPrivileged || !needsPrivilege) &&
    cpus <= (one.maxCpus ?? Infinity) &&
    memoryBytes <= (one.maxMemoryBytes ?? Infinity)
  );
}
const hasHost = (one: ClusterOffer, tag: string | undefined): boolean =>
  tag !== undefined && one.hosts.some((host) => matchesTag(host, tag));

describe('whatever clusters there are', () => {
  test('C4 C5 a run is placed only where it is authorised and within the policy, whether it names a cluster or not', () => {
    fc.assert(
      fc.property(fc.record(any), ({ all, what, org, at }) => {
        const choice = chooseCluster(all, what, { asking: { organisation: org }, draw: at });
        if (choice.kind === 'refused') return;
        const chosen = all.find(({ name }) => name === choice.cluster)!;
        expect(mayRun(chosen, what, org)).toBe(true);
        expect(whyForbidden(chosen, what, { organisation: org })).toBeUndefined();
        expect(choice.placement.pinned).toBe(what.cluster !== undefined);
        expect(choice.placement.reason).not.toBe('');
        if (what.cluster !== undefined) expect(choice.cluster).toBe(what.cluster);
      }),
      { numRuns: 2_000 },
    );
  });

  test('C5 C6 a waiting run is moved only to another cluster that is open, authorised and within the policy', () => {
    fc.assert(
      fc.property(fc.record({ ...any, from: fc.nat(5) }), ({ all, what, org, at, from }) => {
        const moved = chooseMove(all, what, { asking: { organisation: org }, from: `c${from}`, draw: at });
        if (!moved) return;
        const chosen = all.find(({ name }) => name === moved.cluster)!;
        expect(moved.cluster).not.toBe(`c${from}`);
        expect(isOpen(chosen)).toBe(true);
        expect(mayRun(chosen, what, org)).toBe(true);
      }),
      { numRuns: 2_000 },
    );
  });

  test('C4 a run that waits for a host moves only from a cluster without such a host to one that has it and may take it', () => {
    fc.assert(
      fc.property(fc.record({ ...any, from: fc.nat(5) }), ({ all, what, org, at, from }) => {
        const moved = chooseByHost(all, what, { asking: { organisation: org }, from: `c${from}`, draw: at });
        if (!moved) return;
        const [own, chosen] = [`c${from}`, moved.cluster].map((name) => all.find((one) => one.name === name));
        const canServe = (one: ClusterOffer | undefined): boolean =>
          one?.hosts.some((host) => what.hostTag === undefined || matchesTag(host, what.hostTag)) === true;
        expect([canServe(own), canServe(chosen)]).toEqual([false, true]);
        expect(isOpen(chosen!) && mayRun(chosen!, what, org)).toBe(true);
      }),
      { numRuns: 2_000 },
    );
  });

  test('C4 a cluster of weight 0 and a specialised one are never drawn; labels alone lead to a specialised one', () => {
    fc.assert(
      fc.property(fc.record(any), ({ all, what: named, org, at }) => {
        const what = { ...named, cluster: undefined };
        const choice = chooseCluster(all, what, { asking: { organisation: org }, draw: at });
        const moved = chooseMove(all, what, { asking: { organisation: org }, from: 'c0', draw: at });
        for (const name of [choice.kind === 'placed' ? choice.cluster : undefined, moved?.cluster]) {
          const chosen = all.find((one) => one.name === name);
          if (!chosen) continue;
          if (chosen.kind === 'default') expect(chosen.weight).toBeGreaterThan(0);
          else expect(hasHost(chosen, what.hostTag)).toBe(true);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test('C4 a run that names no cluster is placed as soon as one default may take it, open or not, and open before closed', () => {
    fc.assert(
      fc.property(fc.record(any), ({ all, what: named, org, at }) => {
        const what = { ...named, cluster: undefined };
        const takers = all.filter((one) => one.kind === 'default' && one.weight > 0 && mayRun(one, what, org));
        const choice = chooseCluster(all, what, { asking: { organisation: org }, draw: at });
        if (takers.length > 0) expect(choice.kind).toBe('placed');
        if (choice.kind !== 'placed' || !takers.some(isOpen)) return;
        expect(isOpen(all.find(({ name }) => name === choice.cluster)!)).toBe(true);
      }),
      { numRuns: 2_000 },
    );
  });

  test('C4 runs of one build are shared by weight, wherever the draw begins', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 100 }), { minLength: 1, maxLength: 5 }),
        draw,
        (weights, start) => {
          const all = weights.map((weight, at) => offer(`c${at}`, { weight }));
          const counts = new Map<string, number>();
          for (let position = 0; position < 1_000; position += 1) {
            const choice = place(all, run(), NOBODY, drawAt(start, position));
            if (choice.kind === 'placed') counts.set(choice.cluster, (counts.get(choice.cluster) ?? 0) + 1);
          }
          const sum = weights.reduce((total, weight) => total + weight, 0);
          weights.forEach((weight, at) => {
            expect(Math.abs((counts.get(`c${at}`) ?? 0) / 1_000 - weight / sum)).toBeLessThan(0.01);
          });
        },
      ),
      { numRuns: 50 },
    );
  });

  test('C6 a run that was moved remembers every cluster once, and how often it went', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('a', 'b', 'c'), { minLength: 1, maxLength: 8 }), (way) => {
        let placement: Placement = { reason: 'drawn', pinned: false };
        for (const from of way) placement = movedFrom({ cluster: from, placement }, { reason: 'drawn' }, 'drained');
        expect(placement).toMatchObject({ moves: way.length, pinned: false });
        expect(placement.before!.toSorted()).toEqual([...new Set(way)].toSorted());
      }),
    );
  });
});

describe('what goes wrong elsewhere', () => {
  const foreign = offer('private', { kind: 'specialised', organisations: ['other'] });

  test('C5 a closed private cluster does not fall back to the private cluster of another organisation', () => {
    const mine = offer('mine', { kind: 'specialised', organisations: ['acme'], ...isClosed });
    expect(
      chooseMove([mine, foreign], run(), { asking: { organisation: 'acme' }, from: 'mine', draw: 0 }),
    ).toBeUndefined();
    const labelled = { ...foreign, hosts: [{ name: 'h', labels: ['gpu'] }] };
    const byLabel = run({ hostTag: 'gpu' });
    expect(
      chooseMove([mine, labelled], byLabel, { asking: { organisation: 'acme' }, from: 'mine', draw: 0 }),
    ).toBeUndefined();
    expect(place([labelled], byLabel, { organisation: 'acme' })).toMatchObject({ kind: 'refused', code: 'no-cluster' });
  });

  test.each([
    ['closed', isClosed],
    ['drained', isDrained],
    ['closed and drained', { ...isClosed, ...isDrained }],
  ])('C6 the only cluster %s: a run that names it and one that does not are placed there, and wait', (_how, state) => {
    const only = offer('only', state);

    expect(place([only], run({ cluster: 'only' }))).toMatchObject({ cluster: 'only', placement: { pinned: true } });
    expect(place([only])).toMatchObject({ cluster: 'only', placement: { pinned: false } });
    expect(chooseMove([only], run(), { asking: NOBODY, from: 'only', draw: 0 })).toBeUndefined();
  });

  test('C4 a name without a cluster is refused with that name, and never becomes an empty one', () => {
    for (const named of ['nowhere', '']) {
      expect(place([offer('a')], run({ cluster: named }))).toMatchObject({ kind: 'refused', code: 'unknown-cluster' });
    }
    expect(place([])).toMatchObject({ kind: 'refused', code: 'no-cluster' });
  });

  test('C4 the caller has the last word over the file, and pins the run', () => {
    const all = [offer('a'), offer('b')];
    expect(place(all, run({ cluster: 'a' }), { organisation: null, cluster: 'b' })).toMatchObject({
      cluster: 'b',
      placement: { reason: 'the request names it', pinned: true },
    });
  });

  test('C5 naming the private cluster of another organisation is refused in its name, also when it is the only one', () => {
    const choice = place([foreign], run({ cluster: 'private' }), { organisation: 'acme' });
    expect(choice).toMatchObject({
      kind: 'refused',
      code: 'not-authorised',
      detail: expect.stringContaining('private'),
    });
  });

  test('C4 a host label leads to a default cluster that has such a host before a specialised one, and before weight', () => {
    const gpu = [{ name: 'h', labels: ['gpu'] }];
    const special = offer('special', { kind: 'specialised', organisations: ['acme'], hosts: gpu });
    const light = offer('light', { weight: 1, hosts: gpu });
    const heavy = offer('heavy', { weight: 100 });
    const wish = run({ hostTag: 'gpu' });
    for (const at of [0, 0.5, 0.999]) {
      expect(place([special, light, heavy], wish, { organisation: 'acme' }, at)).toMatchObject({ cluster: 'light' });
      expect(place([special, heavy], wish, { organisation: 'acme' }, at)).toMatchObject({ cluster: 'special' });
      expect(place([special, heavy], wish, { organisation: 'other' }, at)).toMatchObject({ cluster: 'heavy' });
    }
  });

  test('C4 a cluster that only differs by case, or begins alike, is another one', () => {
    expect(place([offer('prod')], run({ cluster: 'prod-2' })).kind).toBe('refused');
    const serves = offer('a', { kind: 'specialised', organisations: ['acme-labs'] });
    expect(place([serves], run({ cluster: 'a' }), { organisation: 'acme' }).kind).toBe('refused');
  });
});
