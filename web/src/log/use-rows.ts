// Owns the virtual list: which lines of the window are in the DOM, and keeping the reader's place while it grows.
// Used by log-list.tsx; wraps @tanstack/virtual-core for preact.
import {
  elementScroll,
  observeElementOffset,
  observeElementRect,
  Virtualizer,
  type VirtualizerOptions,
} from '@tanstack/virtual-core';
import type { RefObject } from 'preact';
import { useLayoutEffect, useReducer, useState } from 'preact/hooks';

/** Height of an unwrapped line in CSS pixels; log.css sets the same. */
export const LINE_PX = 18;
const OVERSCAN = 12;

export type Rows = Virtualizer<HTMLDivElement, HTMLDivElement>;

export interface RowsOptions {
  scroller: RefObject<HTMLDivElement | null>;
  count: number;
  /** Ordinal of the first line: the keys of lines stay the same when lines are added above. */
  firstOrdinal: number;
  isFollowing: boolean;
}

export function useRows({ scroller, count, firstOrdinal, isFollowing }: RowsOptions): Rows {
  const [, redraw] = useReducer((state: number) => state + 1, 0);
  const options: VirtualizerOptions<HTMLDivElement, HTMLDivElement> = {
    count,
    overscan: OVERSCAN,
    getScrollElement: () => scroller.current,
    estimateSize: () => LINE_PX,
    getItemKey: (index) => firstOrdinal + index,
    // Anchored to the end, added lines above leave the reader where they are, and lines below may be followed.
    anchorTo: 'end',
    followOnAppend: isFollowing,
    scrollEndThreshold: LINE_PX * 2,
    observeElementRect,
    observeElementOffset,
    scrollToFn: elementScroll,
    onChange: () => redraw(undefined),
  };
  const [rows] = useState(() => new Virtualizer(options));
  rows.setOptions(options);
  useLayoutEffect(() => rows._didMount(), [rows]);
  useLayoutEffect(() => rows._willUpdate());
  return rows;
}
