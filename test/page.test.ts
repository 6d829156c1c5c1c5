// Proves the page in a real browser, on the real API, with builds that ran in real containers.
// Real Chromium, real Temporal, real Docker. Every page is also watched for console errors and policy violations.
import { execFileSync } from 'node:child_process';
import { Client, Connection } from '@temporalio/client';
import type { Page } from 'playwright-core';
import { TestBrowser, type PageOptions } from './setup/browser';
import { ADMIN_TOKEN, House, TEST_IMAGE } from './setup/house';
import { waitFor } from './setup/wait-for';

/** Generous: a page is late only when it does not come at all. */
const SHOWN = { timeout: 30_000 };
const GONE = { state: 'detached', timeout: 30_000 } as const;

let house: House;
let browser: TestBrowser;

beforeAll(async () => {
  [house, browser] = await Promise.all([House.open({ env: { SLIPWAY_STOP_GRACE_MS: '500' } }), TestBrowser.open()]);
  await house.project('ship', SHIP);
  await house.trigger('ship', { reason: 'the first of the day', params: { LEVEL: 'full' } });
  await house.finished('ship', 1, 120_000);
}, 240_000);
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
const background = (page: Page): Promise<string> =>
  page.evaluate<string>('getComputedStyle(document.body).backgroundColor');

const PAGES = [
  ['the projects', '/'],
  ['the builds of a project', '/projects/ship'],
  ['a build', '/projects/ship/builds/1'],
  ['its timeline', '/projects/ship/builds/1?view=timeline'],
  ['a run', '/projects/ship/builds/1/runs/hull-plan9-22'],
  ['the hosts', '/hosts'],
  ['the leases', '/leases?all'],
] as const;
/** What each of them has once it is drawn. */
const DRAWN = 'tbody tr, .cell, .bars, .line';

test('U1 H1 a host is listed, edited, taken out of use and removed on the page; what is refused is said', async () => {
  const page = await open('/hosts', { tolerates: /401/ });
  const form = page.getByRole('dialog');
  const row = page.getByRole('row').filter({ hasText: 'board-1' });
  const fill = async (values: Record<string, string>): Promise<void> => {
    for (const [label, value] of Object.entries(values)) await form.getByLabel(label, { exact: true }).fill(value);
  };
  const send = (name: string): Promise<void> => form.getByRole('button', { name, exact: true }).click(SHOWN);

  await page.getByRole('row').filter({ hasText: 'test-host' }).getByText('ready').waitFor(SHOWN);
  await page.getByRole('button', { name: 'List a host' }).click(SHOWN);
  await fill({ Name: 'board-1', Address: '127.0.0.1', Port: '9', User: 'ci', Labels: 'board, gpu', Slots: '2' });
  await fill({ 'Host keys': `SHA256:${'A'.repeat(43)}`, Token: 'no-token-of-an-operator' });
  await send('List a host');
  await form.getByRole('alert').filter({ hasText: 'this token is not known here' }).waitFor(SHOWN);
  await fill({ Token: ADMIN_TOKEN });
  await send('List a host');
  await row.getByText('board, gpu').waitFor(SHOWN);
  await row.getByText('offline').waitFor(SHOWN);
  await row.getByText('no worker of the cluster serves it').waitFor(SHOWN);

  await page.getByRole('button', { name: 'Edit board-1' }).click(SHOWN);
  await fill({ Labels: 'board', Slots: '3' });
  await send('Edit board-1');
  await row.getByText('0 of 3').waitFor(SHOWN);
  await page.getByRole('button', { name: 'Drain board-1', exact: true }).click(SHOWN);
  await fill({ Why: 'new disk' });
  await send('Drain board-1');
  await row.getByText('drained by the admin token: new disk').waitFor(SHOWN);
  await page.getByRole('button', { name: 'Undrain board-1' }).click(SHOWN);
  await send('Undrain board-1');
  await row.getByText('offline').waitFor(SHOWN);
  await page.getByRole('button', { name: 'Remove board-1' }).click(SHOWN);
  await send('Remove board-1');
  await row.waitFor(GONE);
}, 120_000);

test('U1 H1 H2 a Docker engine is listed on the page, and what blueprints make is shown', async () => {
  const image = 'slipway-test/none:1';
  await house.operated('PUT', '/v1/clusters/local/blueprints/burst', { make: { kind: 'docker', image }, most: 0 });
  const page = await open('/hosts');
  const form = page.getByRole('dialog');
  const row = page.getByRole('row').filter({ hasText: 'engine-1' });
  await page.getByRole('row').filter({ hasText: 'burst' }).getByText(`containers of ${image}`).waitFor(SHOWN);
  await page.getByRole('button', { name: 'List a host' }).click(SHOWN);
  await form.getByLabel('Runs are', { exact: true }).selectOption('docker-tls');
  const fields = { Name: 'engine-1', Address: '127.0.0.1', Port: '9', Token: ADMIN_TOKEN };
  for (const [label, value] of Object.entries(fields)) await form.getByLabel(label, { exact: true }).fill(value);

  expect(await form.getByLabel('Host keys', { exact: true }).count()).toBe(0);
  await form.getByRole('button', { name: 'List a host', exact: true }).click(SHOWN);
  await row.getByText('127.0.0.1:9').waitFor(SHOWN);
  await row.getByText('containers').waitFor(SHOWN);
  await house.operated('DELETE', '/v1/clusters/local/hosts/engine-1');
  await house.operated('DELETE', '/v1/clusters/local/blueprints/burst');
}, 120_000);

test('U1 the leases say who held what and what became of it', async () => {
  const page = await open('/leases');
  await page.getByRole('link', { name: 'Those that have ended as well' }).click(SHOWN);
  const row = page.getByRole('row').filter({ has: page.getByRole('link', { name: 'ship #1 hull-linux-20' }) });
  await row.getByText('nothing of it is left on the host').waitFor(SHOWN);

  for (const state of ['granted', 'active', 'releasing', 'released']) {
    expect(
      await row
        .getByRole('listitem')
        .filter({ hasText: ` ${state}, token ` })
        .count(),
    ).toBe(1);
  }
});

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
  await step('.cell', '/');
  await page.keyboard.type('plan9 22');
  await page.keyboard.press('Tab');
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

test('U1 a matrix of two axes is a table of 2 × 2, each cell named, coloured and worded by its status', async () => {
  const page = await open('/projects/ship/builds/1');
  await page.locator('table.matrix').waitFor(SHOWN);
  const texts = (selector: string): Promise<string[]> => page.locator(`table.matrix ${selector}`).allInnerTexts();

  expect(await texts('thead th')).toEqual(['20', '22']);
  expect(await texts('tbody th')).toEqual(['linux', 'plan9']);
  expect(
    await Promise.all((await page.locator('table.matrix td a').all()).map((cell) => cell.getAttribute('aria-label'))),
  ).toEqual(['hull-linux-20: passed', 'hull-linux-22: passed', 'hull-plan9-20: passed', 'hull-plan9-22: failed']);
  expect(await page.getByRole('link', { name: 'launch: skipped' }).count()).toBe(1);
  expect(await texts('td a >> nth=3')).toEqual(['failed']);
});

test('U1 a failed run is listed first, with its exit code and its last lines', async () => {
  const page = await open('/projects/ship/builds/1');
  await page.locator('.last-lines').waitFor(SHOWN);

  const wrong = page.getByRole('main').locator('section').first();
  const text = await wrong.innerText();

  expect(await wrong.getByRole('listitem').count()).toBe(1);
  for (const part of ['hull-plan9-22', 'exit code 3', '<b>not bold</b>']) expect(text).toContain(part);
});

test('U1 a run whose image is missing says so in the list of what is wrong and on its own page, in place of a log', async () => {
  // A registry that refuses at once, whatever network there is.
  const nowhere = oneRun('#!/bin/sh').replace(TEST_IMAGE, '127.0.0.1:1/nobody/nothing:1');
  await house.project('broken', nowhere);
  await house.trigger('broken');
  await house.finished('broken', 1, 120_000);
  const { message, status: word } = await house.run('broken', 1, 'work');
  const build = await open('/projects/broken/builds/1');
  const run = await open('/projects/broken/builds/1/runs/work');

  await build.locator('.failure', { hasText: message }).waitFor(SHOWN);
  await run.locator('.verdict', { hasText: message }).waitFor(SHOWN);
  await run.getByText('Its container was never started, so there is no log.').waitFor(SHOWN);
  expect(message).toContain('127.0.0.1:1/nobody/nothing:1');
  expect(word).toBe('errored');
});

test('U1 colours of a log are shown, and HTML in it stays text', async () => {
  const page = await open('/projects/ship/builds/1/runs/hull-plan9-22');
  const line = page.locator('.log .line-text');
  await line.nth(1).waitFor(SHOWN);

  const [plain, ...spans] = await page.evaluate<[colour: string, weight: string][]>(
    `[...document.querySelectorAll('.log .line-text, .log .line-text span')].slice(0, 3)
      .map((element) => getComputedStyle(element)).map(({ color, fontWeight }) => [color, fontWeight])`,
  );

  expect(await line.first().textContent()).toBe('red and green');
  expect(new Set([plain, ...spans].map((style) => style?.[0])).size).toBe(3);
  expect(spans.map(([, weight]) => weight)).toEqual([plain?.[1], '700']);
  expect(await line.nth(1).textContent()).toBe(
    '<b>not bold</b> <img src=x onerror="document.title=1"> <script>document.title=2</script>',
  );
  expect(await page.locator('.log :is(b, img, script)').count()).toBe(0);
});

test('U1 artifacts, parameters, environment and script of a run are on its page', async () => {
  const page = await open('/projects/ship/builds/1/runs/hull-plan9-22');
  const link = page.getByRole('link', { name: 'level.txt' });
  const [download] = await Promise.all([page.waitForEvent('download', SHOWN), link.click(SHOWN)]);
  const chunks: Buffer[] = [];
  for await (const chunk of await download.createReadStream()) chunks.push(chunk as Buffer);

  expect(Buffer.concat(chunks).toString()).toBe('full\n');
  expect(await page.locator('.environment').innerText()).toMatch(/LEVEL\s+full/);
  expect(await page.locator('.script').innerText()).toContain('echo "$LEVEL" > /archive/level.txt');
});

test('U1 the timeline draws a bar for every run that ran', async () => {
  const page = await open('/projects/ship/builds/1');
  await page.getByRole('button', { name: 'Timeline' }).click(SHOWN);
  await page.locator('.bars').waitFor(SHOWN);

  const widths = await page.evaluate<number[]>(
    `[...document.querySelectorAll('.took')].map((bar) => bar.getBoundingClientRect().width)`,
  );

  expect(await page.locator('.timeline-names li').count()).toBe(5);
  expect(widths).toHaveLength(4);
  expect(Math.min(...widths)).toBeGreaterThan(1);
});

test('U4 the trace link names the workflow of the build, and Temporal knows it', async () => {
  const page = await open('/projects/ship/builds/1');
  const href = await page.getByRole('link', { name: 'Trace in Temporal' }).getAttribute('href', SHOWN);
  const [, namespace, id] = /\/namespaces\/([^/]+)\/workflows\/([^/]+)$/.exec(href ?? '') ?? [];
  const connection = await Connection.connect({ address: house.temporal.address });
  try {
    const client = new Client({ connection, namespace });
    const { status: state, workflowId } = await client.workflow.getHandle(decodeURIComponent(id ?? '')).describe();

    expect({ workflowId, state: state.name }).toEqual({ workflowId: 'build/ship/1', state: 'COMPLETED' });
  } finally {
    await connection.close();
  }
});

/** Tall enough for all lines of a patient run to be drawn. */
const TALL = { width: 1280, height: 3000 };

async function expectWholeLog(page: Page, project: string): Promise<void> {
  await page.locator('.log-state', { hasText: 'complete' }).waitFor(SHOWN);
  const bytes = await house.logOf(project, 1, 'work');
  expect(bytes).toMatch(/^before 1: ümlaut, 漢字, 🚢\n[^]*\nhalf a line, and its end\n[^]*\nno newline$/);
  // Lines are drawn within a frame or two of their bytes.
  const shown = await waitFor(async () => (await linesOf(page)).at(-1) === 'no newline' && linesOf(page), {
    what: 'the last line is drawn',
  });
  expect(shown.join('\n')).toBe(bytes);
}

test('R2 a log is seen while its container runs, and is the API’s bytes to the end', async () => {
  const { letGo } = await beginPatient('live');
  const page = await open('/projects/live/builds/1/runs/work', { viewport: TALL });
  await page.locator('.line', { hasText: 'before 40:' }).waitFor(SHOWN);
  const whileRunning = {
    state: (await house.run('live', 1, 'work')).state,
    word: await status(page, 'running').count(),
  };

  letGo();

  await expectWholeLog(page, 'live');
  await status(page, 'passed').waitFor(SHOWN);
  expect(whileRunning).toEqual({ state: 'running', word: 1 });
});

test('B4 the API is killed and started again under open pages: they say so, and go on without a reload', async () => {
  const { letGo } = await beginPatient('restart');
  const tolerates = /net::ERR_|status of 503/;
  const run = await open('/projects/restart/builds/1/runs/work', { viewport: TALL, tolerates });
  const build = await open('/projects/restart/builds/1', { tolerates });
  await run.locator('.line', { hasText: 'before 40:' }).waitFor(SHOWN);
  await build.locator('.cell').waitFor(SHOWN);

  await house.kill9('api');
  await Promise.all([run, build].map((page) => page.getByRole('alert').waitFor(SHOWN)));
  const kept = await build.locator('.cell').count();
  letGo();
  await house.start('api');

  await Promise.all([run, build].map((page) => page.getByRole('alert').waitFor(GONE)));
  await Promise.all([run, build].map((page) => status(page, 'passed').waitFor(SHOWN)));
  await expectWholeLog(run, 'restart');
  expect(kept).toBe(1);
}, 120_000);

test('B8 a build is run again through the page: the failed cell gets a second attempt, log and artifacts of the first stay', async () => {
  const flaky = '#!/bin/sh\necho "attempt $H_ATTEMPT" | tee /archive/said\n[ $H_ATTEMPT -gt 1 ]';
  await house.project('again', oneRun(flaky));
  await house.trigger('again');
  await house.finished('again', 1);
  const page = await open('/projects/again/builds/1');
  await page.getByRole('button', { name: 'Rerun failed' }).click(SHOWN);
  await status(page, 'passed').waitFor(SHOWN);
  const failed = page.getByRole('button', { name: 'Rerun failed' });
  await failed.waitFor(GONE);

  const run = await open('/projects/again/builds/1/runs/work?attempt=1');
  await run.getByText('attempt 1', { exact: true }).waitFor(SHOWN);
  const link = run.getByRole('link', { name: 'said' });
  await link.waitFor(SHOWN);
  const first = await (await house.request('GET', (await link.getAttribute('href')) ?? '')).text();

  expect(first).toBe('attempt 1\n');
  expect((await house.run('again', 1, 'work')).attempts.map((one) => one.outcome)).toEqual(['failed', 'passed']);
}, 120_000);

test('B7 a running build is cancelled through the page, after a question', async () => {
  await beginPatient('stopped');
  const page = await open('/projects/stopped/builds/1');
  const ask = page.getByRole('button', { name: 'Cancel build 1' });
  const question = page.getByRole('dialog', { name: 'Cancel build 1?' });

  await ask.click(SHOWN);
  await question.getByRole('button', { name: 'Keep it' }).click(SHOWN);
  const kept = (await house.build('stopped', 1)).status;
  await ask.click(SHOWN);
  await question.getByRole('button', { name: 'Cancel build 1' }).click(SHOWN);
  await status(page, 'cancelled').waitFor(SHOWN);

  expect(kept).toBe('running');
  expect((await house.build('stopped', 1)).status).toBe('cancelled');
  expect(await ask.count()).toBe(0);
  const left = ['ps', '-q', '--filter', 'label=dev.slipway.project=stopped'];
  expect(execFileSync('docker', left, { encoding: 'utf8' })).toBe('');
});

const numbers = (prefix: string, count: number): string[] =>
  Array.from({ length: count }, (_, at) => `${prefix}${String(at + 1).padStart(2, '0')}`);

test('U1 a build of 1,000 runs is shown with all its cells, filtered, and scrolls inside its own frame on a phone', async () => {
  const boards = numbers('board-', 37);
  const runs = `      - { name: first, container: '${TEST_IMAGE}', script: red }
      - name: boot
        container: '${TEST_IMAGE}'
        script: red
        needs: [first]
        matrix: { axes: { board: [${boards.join()}], config: [${numbers('config-', 27).join()}] } }
`;
  await house.project('thousand', file(runs, script('red', '#!/bin/sh\nexit 1')));
  await house.trigger('thousand');
  await house.finished('thousand', 1, 120_000);
  const page = await open('/projects/thousand/builds/1');
  await page
    .locator('.cell')
    .nth(999)
    .waitFor({ ...SHOWN, state: 'attached' });
  const all = await page.locator('.cell').count();
  await page.setViewportSize({ width: 360, height: 740 });
  const width = await page.evaluate('document.documentElement.scrollWidth');
  const lastOfRow = page.getByRole('link', { name: /board-01-config-27:/ });
  await lastOfRow.scrollIntoViewIfNeeded(SHOWN);
  const right = await lastOfRow.boundingBox().then((box) => box && box.x + box.width);

  await page.getByRole('searchbox').fill('board-07 config-2');
  await page.locator('.cell').nth(8).waitFor(GONE);
  const ofBoard = await page.locator('.cell').count();
  await page.getByRole('searchbox').fill('');
  await page.getByRole('button', { name: '1 failed' }).click(SHOWN);
  await page.locator('.cell').nth(1).waitFor(GONE);

  expect({ all, ofBoard, width }).toEqual({ all: 1000, ofBoard: 8, width: 360 });
  expect(right).toBeLessThanOrEqual(360);
  expect(await page.locator('.cell').getAttribute('aria-label')).toBe('first: failed');
  expect(new URL(page.url()).search).toBe('?status=failed');
}, 240_000);

test('U1 a log of 1,000,000 lines opens at its last line with at most 2,000 nodes, and goes to any line', async () => {
  const tail = 'the quick brown fox jumps over the lazy dog and goes on to the next line, where it does it again';
  await house.project('long', oneRun(`#!/bin/sh\nawk 'BEGIN { for (i = 1; i <= 1000000; i++) print i, "${tail}" }'`));
  await house.trigger('long');
  await house.finished('long', 1, 180_000);
  const page = await open('/projects/long/builds/1/runs/work');
  const line = (number: number) => page.locator('.line', { hasText: `${number} ${tail}` });
  await line(1_000_000).waitFor(SHOWN);
  const nodes = await page.locator('*').count();

  await page.getByRole('textbox', { name: 'Go to line' }).fill('654321');
  await page.keyboard.press('Enter');
  await line(654_321).waitFor({ timeout: 60_000 });

  expect(nodes).toBeLessThanOrEqual(2_000);
  expect(await page.locator('*').count()).toBeLessThanOrEqual(2_000);
  expect(await line(654_321).locator('.line-number').textContent()).toBe('654321');
  await page.getByRole('button', { name: 'Start' }).click();
  await line(1).first().waitFor(SHOWN);
  await page.getByRole('button', { name: 'End' }).click();
  await line(1_000_000).waitFor(SHOWN);
}, 300_000);

test.each(PAGES)('U1 %s has no sideways scroll at 200 % zoom and on a phone', async (_, path) => {
  const sizes = [
    { viewport: { width: 640, height: 400 }, deviceScaleFactor: 2 },
    { viewport: { width: 360, height: 740 }, deviceScaleFactor: 3, hasTouch: true, isMobile: true },
  ];
  for (const size of sizes) {
    const page = await open(path, size);
    await page
      .locator(DRAWN)
      .first()
      .waitFor({ ...SHOWN, state: 'attached' });
    const widths = await page.evaluate('[document.documentElement.scrollWidth, document.body.scrollWidth]');
    expect(widths).toEqual([size.viewport.width, size.viewport.width]);
  }
});

/** Texts whose contrast with what is behind them is below 4.5, WCAG's AA. Runs in the browser. */
const FAINT_TEXTS = `(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const over = (colour, ground) => {
    for (const fill of [ground, colour]) { canvas.fillStyle = fill; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const css = ([r, g, b]) => 'rgb(' + [r, g, b].join() + ')';
  const groundOf = (element) => element === null ? [255, 255, 255]
    : over(getComputedStyle(element).backgroundColor, css(groundOf(element.parentElement)));
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== '');
  return [...document.querySelectorAll('body *')].filter((element) => hasText(element) && element.checkVisibility())
    .map((element) => {
      const ground = groundOf(element);
      const style = getComputedStyle(element);
      const ink = element instanceof SVGElement ? style.fill : style.color;
      const [low, high] = [light(ground), light(over(ink, css(ground)))].sort((a, b) => a - b);
      return { text: element.textContent, contrast: (high + 0.05) / (low + 0.05) };
    }).filter(({ contrast }) => contrast < 4.5);
})()`;

test.each(PAGES)('U1 %s is light or dark as the reader wishes, with readable text in both', async (_, path) => {
  const light = await open(path, { colorScheme: 'light' });
  const dark = await open(path, { colorScheme: 'dark' });
  for (const page of [light, dark]) {
    await page
      .locator(DRAWN)
      .first()
      .waitFor({ ...SHOWN, state: 'attached' });
    expect(await page.evaluate(FAINT_TEXTS)).toEqual([]);
  }
  const brightness = async (page: Page): Promise<number> => Number(/\d+/.exec(await background(page))?.[0]);

  expect(await brightness(light)).toBeGreaterThan(200);
  expect(await brightness(dark)).toBeLessThan(60);
});

test.each([
  ['/projects/ship/builds/99', 'There is no build 99 of project “ship”'],
  ['/projects/ship/builds/1/runs/nobody', 'There is no run “nobody” in build 1 of “ship”'],
  ['/projects/nowhere', 'There is no project “nowhere”'],
  ['/projects/ship/builds/soon', 'There is no such page'],
])('U1 %s says that there is nothing, and leads back', async (path, heading) => {
  const page = await open(path, { tolerates: /status of 404.*\/v1\// });

  await page.getByRole('heading', { name: heading }).waitFor(SHOWN);
  await page.getByRole('link', { name: 'All projects' }).click();
  await page.getByRole('link', { name: 'ship', exact: true }).waitFor(SHOWN);
});

test('U1 without JavaScript the page says where verdict and log are, and they are there', async () => {
  const path = '/projects/ship/builds/1/runs/hull-plan9-22';
  // A browser asks for an icon of every page, also of one that is JSON.
  const page = await open(path, { javaScriptEnabled: false, tolerates: /favicon\.ico/ });
  const words = await page.locator('noscript').innerText();
  const json = await house.call<{ status: string }>('GET', `/v1${path}`);
  await page.getByRole('link', { name: '/v1/projects' }).click();

  expect(words).toContain('put /v1 in front of the path of this page');
  expect(json.status).toBe('failed');
  expect(await house.request('GET', `/v1${path}/log`).then((answer) => answer.text())).toContain('<b>not bold</b>');
  expect(await page.locator('body').innerText()).toContain('"name":"ship"');
});
