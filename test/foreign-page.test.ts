// Proves that a page of another origin, opened by somebody who runs Slipway on the same machine, drives nothing.
// Real Chromium and a real API. All addresses are this machine; one name is pointed at it as a hostile name server would.
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Page } from 'playwright-core';
import { TestBrowser } from './setup/browser';
import { House, oneRun } from './setup/house';

const EVIL = 'evil.example';

/** What the page does: each attack gives \`refused\`, \`opaque\` (it may not see the answer), or what it got to see. */
const ATTACK = `
  const json = { 'content-type': 'application/json' };
  const ask = (path, init) => fetch(path, init).then(
    async (response) => response.type === 'opaque' ? 'opaque' : response.status + ' ' + (await response.text()),
    () => 'refused',
  );
  const frame = (url) => new Promise((done) => {
    const made = document.createElement('iframe');
    made.onload = () => done(made.contentDocument ? made.contentDocument.body.innerText : 'refused');
    made.src = url;
    document.body.append(made);
  });
  const attack = async (api) => [
    await ask(api + '/v1/projects/owned/builds', { method: 'POST', mode: 'no-cors' }),
    await ask(api + '/v1/projects/owned/builds', { method: 'POST', mode: 'no-cors', body: '{}' }),
    await ask(api + '/v1/projects/owned/builds', { method: 'POST', headers: json, body: '{}' }),
    await ask(api + '/v1/projects/owned/builds/1/cancel', { method: 'POST', mode: 'no-cors' }),
    await ask(api + '/v1/projects/owned', { method: 'PUT', headers: json, body: '{}' }),
    await ask(api + '/v1/projects', {}),
    await frame(api + '/'),
  ];
  const submit = (action) => {
    const form = document.createElement('form');
    Object.assign(form, { method: 'post', action, enctype: 'text/plain' });
    document.body.append(form);
    form.submit();
  };`;

let house: House;
let browser: TestBrowser;
let evil: Server;
let evilPort: number;

beforeAll(async () => {
  evil = createServer((_request, response) =>
    response.setHeader('content-type', 'text/html').end(`<script>${ATTACK}</script><p>hello`),
  );
  await new Promise<void>((done) => evil.listen(0, '127.0.0.1', done));
  evilPort = (evil.address() as AddressInfo).port;
  [house, browser] = await Promise.all([
    House.open({ without: ['worker', 'orchestrator'] }),
    TestBrowser.open({ hosts: [EVIL] }),
  ]);
  await house.project('owned', oneRun('true'));
}, 120_000);
afterAll(async () => {
  await browser?.close();
  evil?.close();
  await house?.stop();
}, 60_000);

const openPage = async (url: string): Promise<Page> => {
  const page = await browser.page({ tolerates: /./ });
  await page.goto(url);
  return page;
};
/** What is left of it, as anybody would see it. */
const standing = async (): Promise<unknown> => {
  const { projects } = await house.call<{ projects: { name: string; lastBuild: unknown }[] }>('GET', '/v1/projects');
  return projects.map(({ name, lastBuild }) => [name, lastBuild]);
};

test.each([
  ['another site', () => `http://${EVIL}:${evilPort}/`],
  ['another port of this machine', () => `http://127.0.0.1:${evilPort}/`],
])(
  'U10 a page of %s triggers, cancels and changes nothing, frames nothing and reads nothing',
  async (_where, url) => {
    const page = await openPage(url());

    const answers: string[] = await page.evaluate(`attack('${house.url}')`);
    await page.evaluate(`submit('${house.url}/v1/projects/owned/builds')`);
    await page.waitForURL(`${house.url}/**`);

    expect(answers.filter((answer) => answer !== 'refused' && answer !== 'opaque')).toEqual([]);
    expect(await page.textContent('body')).toContain('may change nothing here');
    expect(await standing()).toEqual([['owned', null]]);
  },
  60_000,
);

test('U10 a name that is pointed at this machine is no way in: its page sees the refusal, and makes no project', async () => {
  const page = await openPage(house.url.replace('127.0.0.1', EVIL));

  const answers = await page.evaluate(`${ATTACK} attack('')`);

  expect(await page.textContent('body')).toContain('SLIPWAY_ALLOWED_HOSTS');
  for (const answer of (answers as string[]).slice(0, 6)) expect(answer).toMatch(/^421 /);
  expect(await standing()).toEqual([['owned', null]]);
}, 60_000);
