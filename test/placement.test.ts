// Proves the choice of a host: whose slot is taken, what a host-tag means, and what is said when there is none.
// Pure; no process is started.
import fc from 'fast-check';
import { chooseHost, type HostOffer } from '../domain/placement';

const host = (name: string, more: Partial<HostOffer> = {}): HostOffer => ({
  id: `local/${name}`,
  name,
  labels: [],
  slots: 2,
  busySlots: [],
  workerId: `worker-of-${name}`,
  notAccepting: null,
  ...more,
});
const chosen = (hosts: HostOffer[], hostTag?: string, asking = 'nobody'): string => {
  const choice = chooseHost(hosts, hostTag, asking);
  return choice.kind === 'host' ? `${choice.host.name}/${choice.slot}` : choice.reason;
};
const matches = (name: string, hostTag: string, labels: string[] = []): boolean =>
  chooseHost([host(name, { labels })], hostTag, 'nobody').kind === 'host';

test('the host of the worker that asks is taken first, even when another is less used', () => {
  const hosts = [host('a'), host('b', { slots: 4, busySlots: [1, 2, 3] })];

  expect(chosen(hosts, undefined, 'worker-of-b')).toBe('b/4');
});

test('else the least used host is taken, by share and not by number, and by name among equals', () => {
  const half = host('half', { slots: 4, busySlots: [1, 2] });
  const third = host('third', { slots: 12, busySlots: [1, 2, 3, 4] });

  expect(chosen([half, third])).toBe('third/5');
  expect(chosen([host('b'), host('a')])).toBe('a/1');
});

test('a full host of the worker that asks is passed over, and the lowest free slot is given', () => {
  const hosts = [host('a', { busySlots: [1, 2] }), host('b', { slots: 3, busySlots: [1, 3] })];

  expect(chosen(hosts, undefined, 'worker-of-a')).toBe('b/2');
});

test('the list of hosts that is handed in stays as it is', () => {
  const hosts = [host('b'), host('a')];
  chooseHost(hosts, undefined, 'nobody');

  expect(hosts.map((one) => one.name)).toEqual(['b', 'a']);
});

test.each<[glob: string, name: string, isMatch: boolean]>([
  ['build-1', 'build-1', true],
  ['build-1', 'Build-1', true],
  ['BUILD-1', 'build-1', true],
  ['build-1', 'build-12', false],
  ['build', 'my-build', false],
  ['*', 'anything', true],
  ['build-*', 'build-', true],
  ['build-*', 'other-1', false],
  ['*-arm*', 'mac-arm-3', true],
  ['build-?', 'build-7', true],
  ['build-?', 'build-', false],
  ['build-?', 'build-77', false],
  ['build-[1-3]', 'build-2', true],
  ['build-[1-3]', 'build-4', false],
  ['build-[!1-3]', 'build-4', true],
  ['build-[!1-3]', 'build-2', false],
  ['build-[ab]', 'build-b', true],
  ['build-[a-]', 'build--', true],
  ['build-[]x]', 'build-]', true],
  ['build-[!]]', 'build-a', true],
  ['build-[!]]', 'build-]', false],
  ['build-[3-1]', 'build-2', false],
  ['build-[1', 'build-[1', true],
  ['a.c', 'abc', false],
  ['a.c', 'a.c', true],
  ['(x|y)+$', '(x|y)+$', true],
  ['\\d', '\\d', true],
  ['\\d', '1', false],
  ['?', '😀', true],
])('host-tag %s on host %s: %s', (glob, name, isMatch) => {
  expect(matches(name, glob)).toBe(isMatch);
});

test('a host-tag matches a label as well as the name', () => {
  expect(matches('one', 'linux-*', ['gpu', 'Linux-x64'])).toBe(true);
  expect(matches('one', 'linux-*', ['gpu', 'windows'])).toBe(false);
});

test('any text can be a host-tag: it never throws, and what has no special character and no comma matches itself alone', () => {
  const texts = fc.string({ maxLength: 12 });
  const plain = texts.filter((text) => text !== '' && text === text.trim() && !/[*?[,]/.test(text));
  fc.assert(fc.property(texts, texts, (glob, name) => typeof matches(name, glob) === 'boolean'));
  fc.assert(
    fc.property(plain, plain, (glob, name) => matches(name, glob) === (glob.toLowerCase() === name.toLowerCase())),
  );
});

test('a glob made of a text by putting stars and question marks into it matches that text', () => {
  const parts = fc.array(
    fc.record({ char: fc.constantFrom('a', 'b', '-', '.', '1'), as: fc.constantFrom('self', '?', '*') }),
    { minLength: 1, maxLength: 20 },
  );
  fc.assert(
    fc.property(parts, (made) => {
      const name = made.map((part) => part.char).join('');
      const glob = made.map((part) => (part.as === 'self' ? part.char : part.as)).join('');

      expect(matches(name, glob)).toBe(true);
    }),
  );
});

test('a host-tag full of stars is answered: the search does not grow without bound', () => {
  expect(matches('a'.repeat(200), `${'*?'.repeat(100)}x`)).toBe(false);
  expect(matches('a'.repeat(200), `${'*a'.repeat(100)}*`)).toBe(true);
});

test('C8 without any host it says so and what to do', () => {
  expect(chosen([])).toBe('no host of the cluster is connected; start a worker there');
});

test('C8 a host-tag that nothing matches is answered with the hosts that are there, three at most', () => {
  const hosts = ['a', 'b', 'c', 'd'].map((name) => host(name, { labels: name === 'a' ? ['linux', 'x64'] : [] }));

  expect(chosen(hosts.slice(0, 1), 'mac*')).toBe('no host matches host-tag "mac*"; nearest: a (linux, x64) lacks mac*');
  expect(chosen(hosts, 'mac*')).toBe(
    'no host matches host-tag "mac*"; nearest: a (linux, x64) lacks mac*; b (no labels) lacks mac*; c (no labels) lacks mac*; …',
  );
});

const linux = { os: 'linux', arch: 'amd64', cpus: 4, memoryBytes: 8 * 1024 ** 3 };

test.each<[hostTag: string, isMatch: boolean]>([
  ['linux', true],
  ['LINUX, amd64', true],
  ['linux,arm64', false],
  ['role=build,cpus>=4', true],
  ['role=build,cpus>=4.5', false],
  ['memory>=8g', true],
  ['memory>=8193m', false],
  ['memory>=8589934592', true],
  ['box-*,role=*,amd*', true],
  [',,linux,', true],
  ['cpus>=', false],
])('H3 host-tag %s asks for all of its terms: %s', (hostTag, isMatch) => {
  expect(chosen([host('box-1', { labels: ['role=build'], machine: linux })], hostTag) === 'box-1/1').toBe(isMatch);
});

test('H3 a host that says nothing of its size is not refused for it', () => {
  const unknown = { os: null, arch: null, cpus: null, memoryBytes: null };

  expect(chosen([host('a', { machine: unknown })], 'cpus>=64,memory>=1024g')).toBe('a/1');
  expect(chosen([host('a')], 'cpus>=64')).toBe('a/1');
});

test('H3 of several hosts that do not match the nearest is named first, with what it lacks', () => {
  const hosts = [
    host('far'),
    host('near', { labels: ['gpu'], machine: { ...linux, cpus: 2 } }),
    host('bare', { isBare: true, labels: ['gpu'], machine: linux }),
  ];

  expect(chosen(hosts, 'gpu,arm64,cpus>=4')).toBe(
    'no host matches host-tag "gpu,arm64,cpus>=4"; nearest: bare (gpu, linux, amd64, 4 cores, 8192m of memory) lacks arm64; ' +
      'far (no labels) lacks gpu and arm64; near (gpu, linux, amd64, 2 cores, 8192m of memory) lacks arm64 and cpus>=4',
  );
});

test('H1 a host without containers is for runs that ask for it by name or label, and for no others', () => {
  const bare = [host('mac-1', { isBare: true, labels: ['xcode'], machine: { ...linux, os: 'darwin' } })];

  expect(chosen(bare)).toBe(
    'no host has containers; nearest: mac-1 (xcode, darwin, amd64, 4 cores, 8192m of memory) lacks containers',
  );
  for (const tag of ['*', 'darwin', 'cpus>=2']) expect(chosen(bare, tag)).toMatch(/lacks containers$/);
  for (const tag of ['xcode', 'mac-*', 'darwin,XCODE']) expect(chosen(bare, tag)).toBe('mac-1/1');
});

test('C8 when all matching slots are leased, only the matching ones are counted', () => {
  const full = { slots: 2, busySlots: [1, 2] };
  const hosts = [host('a', full), host('b', full), host('free')];

  expect(chosen(hosts, 'a')).toBe('all 2 slots of host a are leased');
  expect(chosen(hosts, '[ab]')).toBe('all 4 slots of 2 matching hosts are leased');
});
