// Owns the messages of the workflows: their signals and queries, and how signals are read. Names are stored in histories: never
// renamed. Handled by build.ts, maintenance.ts and on-demand-host.ts; sent by adapters/temporal.ts under the same names.
// Anybody at Temporal can send a signal with anything in it. A handler that throws stops its workflow for ever, so what cannot
// be read is dropped.
import { defineQuery, defineSignal, log } from '@temporalio/workflow';
import type { RunProgress } from '../domain/schedule';
import { fieldOf, plainText } from '../domain/untrusted';

/** `{ run }` */
export const runCancelRequested = defineSignal<[unknown]>('runCancelRequested');
/** `{ runs }`: several at once; a signal each took 10 s for 100 runs. */
export const runsCancelRequested = defineSignal<[unknown]>('runsCancelRequested');
/** `{ run, cluster, move }`: a waiting run was given to another cluster. */
export const runMoved = defineSignal<[unknown]>('runMoved');
/** `{ run }`: there is a slot for a run that was told to wait; it is to ask now. */
export const runReady = defineSignal<[unknown]>('runReady');
/** The maintenance of a cluster was ended or changed: look at the rows now. */
export const maintenanceChanged = defineSignal('maintenanceChanged');
/** `{ why }`: an on-demand host takes no more runs and is to end. The first reason counts. */
export const hostEnds = defineSignal<[unknown]>('hostEnds');
export const buildView = defineQuery<{ run: string; progress: RunProgress }[]>('buildView');

/** Names of runs, of a message about one or about several; undefined: it cannot be read. */
export function readRuns(told: unknown): string[] | undefined {
  const run = fieldOf(told, 'run');
  const runs = run === undefined ? fieldOf(told, 'runs') : [run];
  return Array.isArray(runs) && runs.every((name) => typeof name === 'string') ? runs : undefined;
}

/** Where a run was moved to, and how often it was moved; undefined: it cannot be read. */
export function readMove(told: unknown): { cluster: string; move: number } | undefined {
  const [cluster, move] = [fieldOf(told, 'cluster'), fieldOf(told, 'move')];
  if (typeof cluster !== 'string' || cluster === '' || plainText(cluster, 100) !== cluster) return undefined;
  return Number.isSafeInteger(move) ? { cluster, move: move as number } : undefined;
}

/** Why a host ends; undefined: it cannot be read. */
export function readReason(told: unknown): string | undefined {
  return plainText(fieldOf(told, 'why')) || undefined;
}

/** Says in the log of the orchestrator that a signal cannot be read. */
export function dropped(signal: string): undefined {
  log.warn('a signal that cannot be read is dropped', { signal });
}
