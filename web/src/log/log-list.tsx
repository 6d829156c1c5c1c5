// Owns the lines on screen: drawing the visible ones, loading more near the ends, and leaving follow mode on scrolling up.
// Used by log-view.tsx.
import type { RefObject } from 'preact';
import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';
import { formatBytes, formatCount } from '../format';
import { htmlOfLine } from './ansi';
import { markVisible } from './marks';
import { patternOf } from './search';
import type { LogSession } from './session';
import { logUrl, type LogAddress } from './source';
import { escapeBefore } from './styles';
import { useRows, type Rows } from './use-rows';

/** More of a line is not drawn: one line of 1 MB would freeze the page. All of it is one click away. */
const MAX_DRAWN_CHARS = 4_000;
/** Distance from an end of the loaded part, in CSS pixels, at which the next part is loaded. */
const NEAR_END_PX = 1_500;
const UNFOLLOW_PX = 40;

export interface LogListProps {
  session: LogSession;
  address: LogAddress;
  isWrapped: boolean;
  isFollowing: boolean;
  onUnfollow: () => void;
  query: string;
  /** Ordinal of the match that search stands on. */
  matchOrdinal: number | null;
  /** Ordinal of the line the address names. */
  targetOrdinal: number | null;
}

interface LineProps {
  session: LogSession;
  address: LogAddress;
  index: number;
  isMatch: boolean;
  isTarget: boolean;
}

function LineNumber({ session, index, startByte }: { session: LogSession; index: number; startByte: number }) {
  const number = session.window.numberOf(index);
  const ordinal = session.window.firstOrdinal + index;
  const text = number !== null ? String(number) : ordinal >= 0 ? `+${ordinal}` : `−${-ordinal}`;
  const title =
    number !== null ? undefined : `Counted from where the log was opened, at byte ${formatCount(startByte)}`;
  return (
    <a class="line-number" href={number === null ? `#B${startByte}` : `#L${number}`} title={title} tabIndex={-1}>
      {text}
    </a>
  );
}

function Line({ session, address, index, isMatch, isTarget }: LineProps) {
  const { text, startByte, endByte } = session.window.line(index);
  const html = htmlOfLine(escapeBefore(session.window, index), text.slice(0, MAX_DRAWN_CHARS));
  return (
    <>
      <LineNumber session={session} index={index} startByte={startByte} />
      <span
        class={`line-text${isMatch ? ' is-match' : ''}${isTarget ? ' is-target' : ''}`}
        // Escaped by ansi_up; see ansi.ts.
        dangerouslySetInnerHTML={{ __html: html }}
      />
      {text.length <= MAX_DRAWN_CHARS ? null : (
        <a
          class="line-more"
          href={logUrl(address, { offset: startByte, limit: endByte - startByte })}
          target="_blank"
          rel="noopener"
        >
          … whole line, {formatBytes(endByte - startByte)}
        </a>
      )}
    </>
  );
}

/** Goes where the session says, once for every jump. */
function useJump(session: LogSession, rows: Rows): void {
  const { jump } = session.state;
  useLayoutEffect(() => {
    if (jump !== null) rows.scrollToIndex(jump.index, { align: jump.isEnd ? 'end' : 'center' });
  }, [jump, rows]);
}

function loadNearEnds(scroller: HTMLDivElement, session: LogSession): void {
  const below = scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop;
  if (scroller.scrollTop < NEAR_END_PX) session.loadEarlier();
  else if (below < NEAR_END_PX) session.loadLater();
}

const UPWARD_KEYS = ['ArrowUp', 'PageUp', 'Home'];

/**
 * Scrolling up by hand ends follow mode. The wheel, keys and fingers are heard before they scroll, because a new line in
 * between would scroll down again first; a dragged scroll bar is seen by its effect. New lines never move upwards.
 */
function useUnfollow(scroller: RefObject<HTMLDivElement | null>, rows: Rows, props: LogListProps): void {
  const { isFollowing, onUnfollow } = props;
  useEffect(() => {
    const element = scroller.current;
    if (element === null || !isFollowing) return undefined;
    const stop = new AbortController();
    const listening = { signal: stop.signal, passive: true };
    const unfollow = () => {
      rows.cancelScroll();
      onUnfollow();
    };
    let lastTop = element.scrollTop;
    const onScroll = () => {
      const below = element.scrollHeight - element.clientHeight - element.scrollTop;
      if (element.scrollTop < lastTop - 1 && below > UNFOLLOW_PX) unfollow();
      lastTop = element.scrollTop;
    };
    element.addEventListener('scroll', onScroll, listening);
    element.addEventListener('wheel', (event) => event.deltaY < 0 && unfollow(), listening);
    element.addEventListener('keydown', (event) => UPWARD_KEYS.includes(event.key) && unfollow(), listening);
    element.addEventListener('touchmove', unfollow, listening);
    return () => stop.abort();
  }, [scroller, rows, isFollowing, onUnfollow]);
}

function useLoadingOn(scroller: RefObject<HTMLDivElement | null>, session: LogSession): void {
  useEffect(() => {
    const element = scroller.current;
    if (element === null) return undefined;
    const onScroll = () => {
      if (session.state.phase === 'ready') loadNearEnds(element, session);
    };
    element.addEventListener('scroll', onScroll, { passive: true });
    return () => element.removeEventListener('scroll', onScroll);
  }, [scroller, session]);
}

/** Wrapped lines have different heights, so they are measured; forgetting them all is how the list is told. */
function useWrapping(rows: Rows, isWrapped: boolean): void {
  const before = useRef(isWrapped);
  useLayoutEffect(() => {
    if (before.current === isWrapped) return;
    before.current = isWrapped;
    rows.measure();
  }, [rows, isWrapped]);
}

export function LogList(props: LogListProps) {
  const { session, isWrapped, isFollowing, matchOrdinal, targetOrdinal } = props;
  const scroller = useRef<HTMLDivElement>(null);
  const { lineCount, firstOrdinal } = session.window;
  const rows = useRows({ scroller, count: lineCount, firstOrdinal, isFollowing });
  useJump(session, rows);
  useUnfollow(scroller, rows, props);
  useLoadingOn(scroller, session);
  useWrapping(rows, isWrapped);
  useEffect(() => {
    if (isFollowing && lineCount > 0) rows.scrollToEnd();
  }, [isFollowing, lineCount, rows]);
  useEffect(() => {
    if (matchOrdinal !== null) rows.scrollToIndex(matchOrdinal - session.window.firstOrdinal, { align: 'center' });
  }, [matchOrdinal, rows, session]);
  useLayoutEffect(() => markVisible(scroller.current, props.query === '' ? null : patternOf(props.query, 'gi')));
  const digits = String(session.window.numberOf(lineCount) ?? lineCount).length + 1;
  return (
    <div
      ref={scroller}
      class={`log-scroller${isWrapped ? ' is-wrapped' : ''}`}
      tabIndex={0}
      role="region"
      aria-label="Log"
    >
      <div class="log-sizer" style={{ height: `${rows.getTotalSize()}px`, '--digits': String(Math.max(4, digits)) }}>
        {rows.getVirtualItems().map(({ key, index, start }) => (
          <div
            key={String(key)}
            class="line"
            data-index={index}
            ref={isWrapped ? rows.measureElement : undefined}
            style={{ transform: `translateY(${start}px)` }}
          >
            <Line
              session={session}
              address={props.address}
              index={index}
              isMatch={firstOrdinal + index === matchOrdinal}
              isTarget={firstOrdinal + index === targetOrdinal}
            />
          </div>
        ))}
      </div>
    </div>
  );
}
