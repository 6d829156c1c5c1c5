// Owns what a figure is: what it is given, and the lines of the report that it gives back.
// Read by main.ts, report.ts and every file in figures/. A new figure is one file there and one line in figures/index.ts.
import type Dockerode from 'dockerode';
import type { House, HouseOptions } from '../test/setup/house';

/** Slots of the one worker, and containers at once on the floor: what a machine of two cores carries best. */
export const SLOTS = 4;

export interface Bench {
  /** A whole Slipway of real processes with one worker of SLOTS slots. */
  house: House;
  /** Another one beside it, for a figure that needs one set otherwise; it is ended with the benchmark at the latest. */
  openHouse(options: HouseOptions): Promise<House>;
  docker: Dockerode;
  image: string;
  /** How often each side is measured. */
  repeats: number;
  /** Share of the real sizes, over 0 to 1; goals mean something at 1 only. */
  scale: number;
  /** How many measurements began while others kept the machine busy; those are worth less. */
  unrest: { count: number };
  /** Tells people what is going on. */
  say(line: string): void;
}

export type Unit = 's' | 'ms' | 'per-min' | 'MB';

/** What the median of ours has to be. A goal that names the floor has a row with one. */
export type Goal =
  | { kind: 'at-most'; value: number }
  | { kind: 'at-most-over-floor'; value: number }
  | { kind: 'ratio-at-most'; value: number }
  | { kind: 'ratio-at-least'; value: number };

/** One line of the report; several of them may belong to one figure. */
export interface Row {
  figure: string;
  /** What was measured, e.g. `trigger to container started`. */
  what: string;
  unit: Unit;
  /** One value a repeat. */
  ours: number[];
  /** The same on the bare engine, one value a repeat. */
  floor?: number[];
  /** Left out: a figure to know, without a promise. */
  goal?: Goal;
}

export interface Figure {
  /** As in the list of promises, e.g. F2. */
  id: string;
  /** Warms up, measures, and checks that what was measured was right. @throws when a build did not do what it should */
  measure(bench: Bench): Promise<Row[]>;
}

/** The real size by the scale, never less than `least`. */
export function sized(bench: Bench, real: number, least = 1): number {
  return Math.max(Math.round(real * bench.scale), least);
}
