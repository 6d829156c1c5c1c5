// Owns a real Chromium for a test: pages in contexts of their own, and every complaint the browser made about them.
// Called by tests of the page; `npm test` finds or installs the browser and names it in SLIPWAY_CHROMIUM.
import { chromium, type Browser, type BrowserContextOptions, type Page } from 'playwright-core';

/** No sandbox, because tests may run as root in a container; the rest keeps it from talking to anybody but the test. */
const ARGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
const VIEWPORT = { width: 1280, height: 800 };

export interface PageOptions extends BrowserContextOptions {
  /** Complaints that the test provokes itself, e.g. of a server that it has killed. */
  tolerates?: RegExp;
}

export class TestBrowser {
  private complaints: string[] = [];

  private constructor(private readonly browser: Browser) {}

  /** It has a profile of its own, which goes with it. @param hosts names that it takes for this machine */
  static async open({ hosts = [] }: { hosts?: string[] } = {}): Promise<TestBrowser> {
    const executablePath = process.env.SLIPWAY_CHROMIUM ?? '/usr/bin/chromium';
    const rules = hosts.map((host) => `MAP ${host} 127.0.0.1`).join(', ');
    const args = hosts.length === 0 ? ARGS : [...ARGS, `--host-resolver-rules=${rules}`];
    return new TestBrowser(await chromium.launch({ executablePath, args }));
  }

  /** A page without a past. Nothing is bypassed: the Content-Security-Policy of the server is in force. */
  async page({ tolerates, ...options }: PageOptions = {}): Promise<Page> {
    const context = await this.browser.newContext({ viewport: VIEWPORT, ...options });
    const page = await context.newPage();
    const note = (what: string): void => {
      if (!tolerates?.test(what)) this.complaints.push(`${page.url()}: ${what}`);
    };
    page.on('pageerror', (error) => note(error.message));
    // Violations of the policy and files that are missing come as errors of the console too.
    page.on('console', (message) => {
      if (message.type() === 'error' || message.type() === 'warning')
        note(`${message.text()} ${message.location().url}`);
    });
    return page;
  }

  /** Closes all pages. @returns what the browser complained about since the last call */
  async closePages(): Promise<string[]> {
    await Promise.all(this.browser.contexts().map((context) => context.close()));
    return this.complaints.splice(0);
  }

  async close(): Promise<void> {
    await this.browser.close();
  }
}
