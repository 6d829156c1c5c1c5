// Owns the life of a log session inside a component: opening at the address's line, re-rendering, closing.
// Used by log-view.tsx.
import { useEffect, useMemo, useReducer } from 'preact/hooks';
import { LogSession } from './session';
import type { LogAddress } from './source';
import { targetOf } from './target';

export function useLog({ url, attempt }: LogAddress): LogSession {
  const [, redraw] = useReducer((count: number) => count + 1, 0);
  const session = useMemo(() => new LogSession({ url, attempt }, () => redraw(undefined)), [url, attempt]);
  useEffect(() => {
    session.open(targetOf(location.hash));
    const onHash = () => {
      const target = targetOf(location.hash);
      if (target.kind !== 'end') session.open(target);
    };
    window.addEventListener('hashchange', onHash);
    return () => {
      window.removeEventListener('hashchange', onHash);
      session.close();
    };
  }, [session]);
  return session;
}
