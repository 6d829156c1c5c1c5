// Owns the wall clock of processes of a test: they read how far it is off from a file, so a test can move it while they run.
// Called by tests of clocks that are wrong or jump. The monotonic clock of a process stays as it is, as in a machine that slept.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Loaded into each process before its program. A file that cannot be read moves nothing. */
const PRELOAD = `
const { readFileSync } = require('node:fs');
const RealDate = Date;
const offsetMs = () => { try { return Number(readFileSync(process.env.TEST_CLOCK_FILE, 'utf8')) || 0; } catch { return 0; } };
globalThis.Date = class extends RealDate {
  constructor(...given) { if (given.length > 0) super(...given); else super(RealDate.now() + offsetMs()); }
  static now() { return RealDate.now() + offsetMs(); }
};
`;

export class MovedClock {
  private readonly file: string;
  /** Of the processes whose clock it is. */
  readonly env: { NODE_OPTIONS: string; TEST_CLOCK_FILE: string };

  /** @param dir a folder of the test @param name tells several clocks apart */
  constructor(dir: string, name: string) {
    this.file = join(dir, `${name}.offset`);
    const preload = join(dir, `${name}-clock.cjs`);
    writeFileSync(preload, PRELOAD);
    this.env = { NODE_OPTIONS: `--require ${preload}`, TEST_CLOCK_FILE: this.file };
    this.moveTo(0);
  }

  /** From now on the clock is so far ahead of the true time; negative: behind it. */
  moveTo(offsetMs: number): void {
    writeFileSync(this.file, String(offsetMs));
  }
}
