// Owns the messages of the build workflow: its signals and queries. Names are stored in histories: never renamed.
// Handled by build.ts; sent by adapters/temporal.ts under the same names.
import { defineQuery, defineSignal } from '@temporalio/workflow';
import type { RunProgress } from '../domain/schedule';

export const runCancelRequested = defineSignal<[{ run: string }]>('runCancelRequested');
export const buildView = defineQuery<{ run: string; progress: RunProgress }[]>('buildView');
