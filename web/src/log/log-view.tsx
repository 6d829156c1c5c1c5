// Owns a log on a page: the list of lines with its toolbar, search, follow and wrap modes, and what is said when it fails.
// Used by run-page.tsx, once per attempt.
import { useEffect, useMemo, useState } from 'preact/hooks';
import { useKeys } from '../keys';
import { replaceHash, usePlace } from '../router';
import { LogList } from './log-list';
import { LogToolbar } from './log-toolbar';
import { LogSearch, NO_MATCHES, stepMatch, type Matches } from './search';
import type { LogSession } from './session';
import { logUrl, type LogAddress } from './source';
import { targetOf } from './target';
import { useLog } from './use-log';

const WRAP_KEY = 'slipway:wrap';
/** Typing a word asks once, not once a letter. */
const SEARCH_DELAY_MS = 150;

/** Storage may be forbidden by the browser; then the choice lasts as long as the page. */
function stored(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function store(key: string, value: string): void {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Nothing to do: see stored().
  }
}

function useWrap(): [boolean, () => void] {
  const [isWrapped, setWrapped] = useState(() => stored(WRAP_KEY) === 'yes');
  const toggle = () => {
    store(WRAP_KEY, isWrapped ? 'no' : 'yes');
    setWrapped(!isWrapped);
  };
  return [isWrapped, toggle];
}

/** Follow mode: on from the start unless the address names a line; off by scrolling up; on again by the button. */
function useFollow(session: LogSession) {
  const [isFollowing, setFollowing] = useState(() => targetOf(location.hash).kind === 'end');
  session.isFollowing = isFollowing;
  const follow = () => {
    if (location.hash !== '') replaceHash('');
    setFollowing(true);
    if (!session.isAtEnd || session.state.phase !== 'ready') session.open({ kind: 'end' });
  };
  const unfollow = useMemo(() => () => setFollowing(false), []);
  const toStart = () => {
    unfollow();
    session.open({ kind: 'start' });
  };
  return { isFollowing, follow, unfollow, toStart };
}

interface Found {
  matches: Matches;
  /** Ordinal of the match in view. */
  current: number | null;
  step: (step: 1 | -1) => void;
}

function useSearch(session: LogSession, query: string): Found {
  const [search, setSearch] = useState<LogSearch | null>(null);
  const [current, setCurrent] = useState<number | null>(null);
  useEffect(() => {
    const timer = setTimeout(() => {
      setSearch(query === '' ? null : new LogSearch(query));
      setCurrent(null);
    }, SEARCH_DELAY_MS);
    return () => clearTimeout(timer);
  }, [query]);
  const { endByte, startByte } = session.window;
  // What is loaded is part of the question: new lines may match too.
  const matches = useMemo(() => search?.matches(session.window) ?? NO_MATCHES, [search, session, endByte, startByte]);
  return { matches, current, step: (step) => setCurrent(stepMatch(matches, current, step)) };
}

function useTargetOrdinal(session: LogSession): number | null {
  const target = targetOf(usePlace().hash);
  const { window: loaded } = session;
  if (target.kind === 'byte')
    return loaded.lineCount === 0 ? null : loaded.firstOrdinal + loaded.indexOfByte(target.byte);
  if (target.kind === 'line' && loaded.zeroNumber !== null) return target.number - loaded.zeroNumber;
  return null;
}

function Placeholder({ session }: { session: LogSession }) {
  const { phase, isComplete, complaint } = session.state;
  if (phase === 'opening') return <p class="log-empty">Opening the log …</p>;
  if (phase === 'failed') {
    return (
      <p class="log-empty" role="alert">
        {complaint}{' '}
        <button type="button" onClick={() => session.open(targetOf(location.hash))}>
          Try again
        </button>
      </p>
    );
  }
  return <p class="log-empty">{isComplete ? 'The log is empty: the container printed nothing.' : 'No output yet.'}</p>;
}

/** A line named by the address is read, not followed; a later click on a line number ends follow mode too. */
function useHashUnfollow(unfollow: () => void): void {
  const { hash } = usePlace();
  useEffect(() => {
    if (targetOf(hash).kind !== 'end') unfollow();
  }, [hash, unfollow]);
}

export function LogView({ address }: { address: LogAddress }) {
  const session = useLog(address);
  const [query, setQuery] = useState('');
  const [isWrapped, toggleWrap] = useWrap();
  const { isFollowing, follow, unfollow, toStart } = useFollow(session);
  const { matches, current, step } = useSearch(session, query);
  const targetOrdinal = useTargetOrdinal(session);
  useHashUnfollow(unfollow);
  const stepAndStay = (by: 1 | -1) => {
    unfollow();
    step(by);
  };
  useKeys({ n: () => stepAndStay(1), N: () => stepAndStay(-1), f: follow, w: toggleWrap });
  const hasLines = session.state.phase === 'ready' && session.window.lineCount > 0;
  return (
    <section class="log" aria-label="Log">
      <LogToolbar
        session={session}
        rawUrl={logUrl(address, {})}
        query={query}
        onQuery={setQuery}
        matches={matches}
        matchAt={current === null ? 0 : matches.ordinals.indexOf(current) + 1}
        onStep={stepAndStay}
        isWrapped={isWrapped}
        onWrap={toggleWrap}
        isFollowing={isFollowing}
        onFollow={follow}
        onStart={toStart}
      />
      {hasLines && session.state.complaint !== '' ? (
        <p class="log-complaint" role="alert">
          {session.state.complaint}
        </p>
      ) : null}
      {hasLines ? (
        <LogList
          session={session}
          address={address}
          isWrapped={isWrapped}
          isFollowing={isFollowing}
          onUnfollow={unfollow}
          query={query}
          matchOrdinal={current}
          targetOrdinal={targetOrdinal}
        />
      ) : (
        <Placeholder session={session} />
      )}
    </section>
  );
}
