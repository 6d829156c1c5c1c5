// Owns the controls above a log: search, go to line, follow, wrap, raw, and what is loaded.
// Used by log-view.tsx.
import type { TargetedKeyboardEvent, TargetedSubmitEvent } from 'preact';
import { formatBytes, formatCount } from '../format';
import type { Matches } from './search';
import type { LogSession } from './session';

export interface ToolbarProps {
  session: LogSession;
  rawUrl: string;
  query: string;
  onQuery: (query: string) => void;
  matches: Matches;
  /** Position of the current match, from 1; 0 before the first step. */
  matchAt: number;
  onStep: (step: 1 | -1) => void;
  isWrapped: boolean;
  onWrap: () => void;
  isFollowing: boolean;
  onFollow: () => void;
  onStart: () => void;
}

function onSearchKey(event: TargetedKeyboardEvent<HTMLInputElement>, props: ToolbarProps): void {
  if (event.key === 'Enter') props.onStep(event.shiftKey ? -1 : 1);
  if (event.key !== 'Escape') return;
  props.onQuery('');
  event.currentTarget.blur();
}

function countText({ query, matches, matchAt }: ToolbarProps): string {
  if (query === '') return '';
  if (matches.ordinals.length === 0) return 'none in what is loaded';
  const total = `${formatCount(matches.ordinals.length)}${matches.isCut ? '+' : ''}`;
  return matchAt === 0 ? `${total} lines` : `${formatCount(matchAt)} of ${total}`;
}

function Search(props: ToolbarProps) {
  const hasNone = props.matches.ordinals.length === 0;
  return (
    <div class="log-search" role="search">
      <input
        class="find"
        type="search"
        value={props.query}
        placeholder="Search log  /"
        aria-label="Search the loaded part of the log"
        data-find
        onInput={(event) => props.onQuery(event.currentTarget.value)}
        onKeyDown={(event) => onSearchKey(event, props)}
      />
      <button
        type="button"
        class="plain"
        aria-label="Previous match"
        disabled={hasNone}
        onClick={() => props.onStep(-1)}
      >
        ↑
      </button>
      <button type="button" class="plain" aria-label="Next match" disabled={hasNone} onClick={() => props.onStep(1)}>
        ↓
      </button>
      <span class="muted number" role="status">
        {countText(props)}
      </span>
    </div>
  );
}

function GoToLine() {
  const onSubmit = (event: TargetedSubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    const number = Number(new FormData(event.currentTarget).get('line'));
    if (!Number.isInteger(number) || number < 1) return;
    // The same line again is still a wish to go there, so the hash must change.
    if (location.hash === `#L${number}`) window.dispatchEvent(new Event('hashchange'));
    else location.hash = `#L${number}`;
  };
  return (
    <form class="go-to-line" onSubmit={onSubmit}>
      <input
        name="line"
        inputMode="numeric"
        pattern="[0-9]*"
        placeholder="Line"
        aria-label="Go to line"
        autocomplete="off"
      />
    </form>
  );
}

function LoadedText({ session }: { session: LogSession }) {
  const { window: loaded, state } = session;
  if (state.countedBytes !== null) return <>counting lines, {formatBytes(state.countedBytes)} read …</>;
  if (loaded.startByte === 0 && session.isAtEnd) return <>{formatBytes(state.totalBytes)}</>;
  return (
    <>
      {formatBytes(loaded.endByte - loaded.startByte)} of {formatBytes(state.totalBytes)} loaded
      {loaded.zeroNumber !== null ? null : (
        <>
          {' · '}
          <button type="button" class="quiet" onClick={() => void session.countLines()}>
            number lines
          </button>
        </>
      )}
    </>
  );
}

const PHASES = { live: 'live', reconnecting: 'reconnecting …' } as const;

function State({ session }: { session: LogSession }) {
  const { live, isComplete, phase } = session.state;
  const word = live === 'off' ? (isComplete && phase === 'ready' ? 'complete' : '') : PHASES[live];
  return (
    <span class="log-state muted">
      {word === '' ? null : <span class={`live-word is-${live}`}>{word}</span>}
      {word === '' ? '' : ' · '}
      <LoadedText session={session} />
    </span>
  );
}

/** A log that grows can be followed; one that is complete only has an end to go to. */
function EndButton({ session, isFollowing, onFollow }: ToolbarProps) {
  const { isComplete } = session.state;
  return (
    <button type="button" class="plain" aria-pressed={isComplete ? undefined : isFollowing} onClick={onFollow}>
      {isComplete ? 'End' : 'Follow'}
    </button>
  );
}

export function LogToolbar(props: ToolbarProps) {
  return (
    <div class="log-toolbar">
      <Search {...props} />
      <GoToLine />
      <State session={props.session} />
      <div class="buttons">
        <button type="button" class="plain" onClick={props.onStart}>
          Start
        </button>
        <EndButton {...props} />
        <button type="button" class="plain" aria-pressed={props.isWrapped} onClick={props.onWrap}>
          Wrap
        </button>
        <a class="button plain" href={props.rawUrl} target="_blank" rel="noopener">
          Raw
        </a>
      </div>
    </div>
  );
}
