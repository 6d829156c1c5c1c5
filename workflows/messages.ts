// Owns the messages of the workflows: their signals and queries. Names are stored in histories: never renamed.
// Handled by build.ts, maintenance.ts and on-demand-host.ts; sent by adapters/temporal.ts under the same names.
import { defineQuery, defineSignal } from '@temporalio/workflow';
import type { RunProgress } from '../domain/schedule';

export const runCancelRequested = defineSignal<[{ run: string }]>('runCancelRequested');
/** Several at once: a signal each took 10 s for 100 runs. */
export const runsCancelRequested = defineSignal<[{ runs: string[] }]>('runsCancelRequested');
/** A waiting run was given to another cluster; `move` counts the moves of the run, so that an old message is known as such. */
export const runMoved = defineSignal<[{ run: string; cluster: string; move: number }]>('runMoved');
/** There is a slot for a run that was told to wait: it is to ask now. */
export const runReady = defineSignal<[{ run: string }]>('runReady');
/** The maintenance of a cluster was ended or changed: look at the rows now. */
export const maintenanceChanged = defineSignal('maintenanceChanged');
/** An on-demand host takes no more runs: it is to end. The first reason counts. */
export const hostEnds = defineSignal<[{ why: string }]>('hostEnds');
export const buildView = defineQuery<{ run: string; progress: RunProgress }[]>('buildView');
