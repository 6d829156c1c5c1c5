// Proves who may drive the API from a browser: by which names it answers, and whose pages may change something.
// Pure: requests are given by what their headers say.
import { readSettings } from '../adapters/settings';
import { readOwnAddress, requireOwnAddress, whyForeign, type Approach } from '../api/own-address';

const own = readOwnAddress(
  readSettings({
    SLIPWAY_URL: 'https://ci.example.org',
    SLIPWAY_LISTEN: 'build-box:7333',
    SLIPWAY_ALLOWED_HOSTS: 'api, Second',
  }),
);
const HOST = '127.0.0.1:7333';
const answer = (approach: Partial<Approach>): string => {
  const refusal = whyForeign({ method: 'GET', host: HOST, origin: undefined, site: undefined, ...approach }, own);
  return refusal ? `${refusal.status} ${refusal.code}` : 'passes';
};

test.each([
  ['127.0.0.1:7333'],
  ['localhost:7333'],
  ['LOCALHOST'],
  ['localhost.:7333'],
  ['[::1]:7333'],
  ['ci.example.org'],
  ['build-box:7333'],
  ['api:7333'],
  ['second'],
  ['10.1.2.3:7333'],
  // Health checks of some proxies speak HTTP/1.0.
  [undefined],
])('U10 the server answers to %s', (host) => {
  expect([answer({ host }), answer({ host, method: 'POST' })]).toEqual(['passes', 'passes']);
});

test.each([
  'evil.example',
  'evil.example:7333',
  '127.0.0.1.evil.example:7333',
  'ci.example.org.evil.example',
  'xci.example.org',
  '[evil.example]:7333',
  '[::1].evil.example',
  'api@evil.example',
  'localhost:7333:7333',
  '',
])('U10 under the name %j, which a name server can point here, nothing is read or changed', (host) => {
  expect([answer({ host }), answer({ host, method: 'POST' })]).toEqual(['421 unknown-host', '421 unknown-host']);
});

test('U10 the refusal of a name says which setting takes it', () => {
  const refusal = whyForeign({ method: 'GET', host: 'new-name', origin: undefined, site: undefined }, own);

  expect(refusal?.detail).toContain('"new-name"');
  expect(refusal?.detail).toContain('SLIPWAY_ALLOWED_HOSTS');
});

test.each<Partial<Approach>>([
  { origin: `http://${HOST}`, site: 'same-origin' },
  { origin: `http://${HOST}` },
  { site: 'none' },
  // Behind a proxy that ends TLS and gives the request a host of its own.
  { host: 'api:7333', origin: 'https://ci.example.org', site: 'same-origin' },
  { host: 'ci.example.org', origin: 'https://ci.example.org' },
])('U10 a page of the server itself may change something: %j', (approach) => {
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE']) expect(answer({ method, ...approach })).toBe('passes');
});

test.each<Partial<Approach>>([
  { origin: 'http://evil.example' },
  { origin: 'http://127.0.0.1:18080', site: 'same-site' },
  { origin: `http://${HOST}.evil.example` },
  { origin: 'https://ci.example.org.evil.example' },
  { origin: 'null' },
  { origin: '' },
  { origin: `http://${HOST}`, site: 'cross-site' },
  { site: 'cross-site' },
  { site: 'same-site' },
])('U10 any other page changes nothing: %j', (approach) => {
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE']) {
    expect(answer({ method, ...approach })).toBe('403 foreign-page');
  }
  expect(answer(approach)).toBe('passes');
});

test('U10 a fleet may know the server by any name: what workers say is covered by their token', () => {
  const next = jest.fn();
  const request = { path: '/v1/worker/hello', method: 'POST', headers: { host: 'slipway-api:7333' } };

  requireOwnAddress(own)(request as never, {} as never, next);

  expect(next).toHaveBeenCalledWith();
});
