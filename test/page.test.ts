// Proves the page in a real browser, on the real API, with builds that ran in real containers.
// Real Chromium, real Temporal, real Docker. Every page is also watched for console errors and policy violations.
import { execFileSync } from 'node:child_process';
import { Client, Connection } from '@temporalio/client';
import type { Page } from 'playwright-core';
import { TestBrowser, type PageOptions } from './setup/browser';
import { House, TEST_IMAGE } from './setup/house';
import { waitFor } from './setup/wait-for';

/** Generous: a page is late only when it does not come at all. */
const SHOWN = { timeout: 20_000 };
const GONE = { state: 'detached', timeout: 20_000 } as const;

let house: House;
let browser: TestBrowser;

beforeAll(async () => {
  [house, browser] = await Promise.all([House.open({ env: { SLIPWAY_STOP_GRACE_MS: '500' } }), TestBrowser.open()]);
  await house.project('ship', SHIP);
  await house.trigger('ship', { reason: 'the first of the day', params: { LEVEL: 'full' } });
  await house.finished('ship', 1);
}, 180_000);
afterEach(async () => {
  expect(await browser?.closePages()).toEqual([]);
});
afterAll(async () => {
  await browser?.close();
  await house?.stop();
}, 60_000);

const file = (runs: string, scripts: string): string =>
  `timeout: 10\ndescription: For the page\ntriggers:\n  - name: main\n    runs:\n${runs}scripts:\n${scripts}`;
const script = (name: string, text: string): string => `  ${name}: |\n${text.replace(/^/gm, '    ')}\n`;
const oneRun = (text: string): string =>
  file(`      - { name: work, container: '${TEST_IMAGE}', script: work }\n`, script('work', text));

const COLOURS = String.raw`#!/bin/sh
printf '\033[31mred\033[0m and \033[1;32mgreen\033[0m\n'
echo '<b>not bold</b> <img src=x onerror="document.title=1"> <script>document.title=2</script>'
echo "$LEVEL" > /archive/level.txt
exit 3`;

/** A matrix of 2 × 2 with one red cell, and a run that is skipped for it. */
const SHIP = file(
  `      - name: hull
        container: '${TEST_IMAGE}'
        script: quick
        matrix:
          axes: { system: [linux, plan9], version: ['20', '22'] }
          overrides:
            - match: { system: plan9, version: '22' }
              script: red
      - { name: launch, container: '${TEST_IMAGE}', script: quick, needs: [hull] }
`,
  script('quick', '#!/bin/sh\necho done') + script('red', COLOURS),
);

/** Speaks, waits to be let go by \`letGo\`, and says some more; with characters of several bytes, and no newline at last. */
const PATIENT = String.raw`#!/bin/sh
i=0
while [ $i -lt 40 ]; do i=$((i+1)); echo "before $i: ümlaut, 漢字, 🚢"; sleep 0.02; done
while [ ! -e /go ]; do sleep 0.05; done
printf 'half a line, '; sleep 0.5; echo 'and its end'
i=0
while [ $i -lt 40 ]; do i=$((i+1)); echo "after $i"; sleep 0.02; done
printf 'no newline'`;

async function open(path: string, options: PageOptions = {}): Promise<Page> {
  const page = await browser.page(options);
  await page.goto(house.url + path);
  return page;
}

/** A fresh build of one run that is running. */
async function beginPatient(project: string): Promise<{ letGo: () => void }> {
  await house.project(project, oneRun(PATIENT));
  const { number } = await house.trigger(project);
  const { containerId } = (await house.runIn('running', project, number, 'work')).attempts[0] ?? {};
  if (!containerId) throw new Error('no container id is shown');
  return { letGo: () => void execFileSync('docker', ['exec', containerId, 'touch', '/go']) };
}

const status = (page: Page, word: string) => page.locator(`h1 [data-status="${word}"]`);
const linesOf = (page: Page): Promise<string[]> => page.locator('.log .line-text').allTextContents();
const focused = (page: Page): Promise<string> => page.locator(':focus').innerText();
const background = (page: Page): Promise<string> =>
  page.evaluate<string>('getComputedStyle(document.body).backgroundColor');

const PAGES = [
  ['the projects', '/'],
  ['the builds of a project', '/projects/ship'],
  ['a build', '/projects/ship/builds/1'],
  ['its timeline', '/projects/ship/builds/1?view=timeline'],
  ['a run', '/projects/ship/builds/1/runs/hull-plan9-22'],
] as const;
/** What each of them has once it is drawn. */
const DRAWN = 'tbody tr, .cell, .bars, .line';

test('U1 projects, builds, build and run are reached by clicking, and the way back is the browser’s', async () => {
  const page = await open('/');

  await page.getByRole('link', { name: 'ship', exact: true }).click(SHOWN);
  await page.getByRole('link', { name: '#1' }).click(SHOWN);
  await page.getByRole('table').getByRole('link', { name: 'hull-plan9-22: failed' }).click(SHOWN);
  await page.locator('.line').first().waitFor(SHOWN);
  const atRun = { path: new URL(page.url()).pathname, title: await page.title() };
  await page.goBack();
  await page.locator('.cell').first().waitFor(SHOWN);

  expect(atRun).toEqual({
    path: '/projects/ship/builds/1/runs/hull-plan9-22',
    title: 'failed · hull-plan9-22 · ship #1 · Slipway',
  });
  expect(await page.title()).toBe('failed · ship #1 · Slipway');
});

test('U1 projects, builds, build and run are reached by the keyboard alone', async () => {
  const page = await open('/');
  const step = async (shown: string, ...keys: string[]): Promise<void> => {
    await page.locator(shown).first().waitFor(SHOWN);
    for (const key of keys) await page.keyboard.press(key);
  };

  await step('tbody tr', 'j', 'Enter');
  await step('tbody tr >> text=the first of the day', 'j', 'Enter');
  await step('.cell', '/', ...'plan9 22', 'Tab', 'Escape');
  await page.locator('.cell').nth(1).waitFor(GONE);
  const filtered = await page.locator('.cell').count();
  await step('.cell', 'j', 'j');
  const cell = await page.locator(':focus').getAttribute('aria-label');
  await step('.cell', 'Enter');
  await step('.line', '?');
  await page.getByRole('dialog', { name: 'Keys' }).waitFor(SHOWN);

  expect(filtered).toBe(1);
  expect(cell).toBe('hull-plan9-22: failed');
  expect(new URL(page.url()).pathname).toBe('/projects/ship/builds/1/runs/hull-plan9-22');
});
