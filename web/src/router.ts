// Owns the address bar: moving between pages without reloading, and the query as page state.
// Called by the shell (app.tsx) and by pages that keep a choice in the address.
import { useEffect, useState } from 'preact/hooks';
import { parseRoute } from './route';

const MOVED = 'slipway:moved';

export interface Place {
  path: string;
  query: URLSearchParams;
  hash: string;
}

const readPlace = (): Place => ({
  path: location.pathname,
  query: new URLSearchParams(location.search),
  hash: location.hash,
});

/** Re-renders the caller whenever the address changes. */
export function usePlace(): Place {
  const [place, setPlace] = useState(readPlace);
  useEffect(() => {
    const update = () => setPlace(readPlace());
    const events = ['popstate', 'hashchange', MOVED];
    for (const event of events) window.addEventListener(event, update);
    update();
    return () => {
      for (const event of events) window.removeEventListener(event, update);
    };
  }, []);
  return place;
}

function announceMove(): void {
  window.dispatchEvent(new Event(MOVED));
}

export function navigate(href: string): void {
  history.pushState(null, '', href);
  scrollTo(0, 0);
  announceMove();
}

/** Replaces the hash without adding to the history and without letting the browser scroll to it. */
export function replaceHash(hash: string): void {
  history.replaceState(null, '', location.pathname + location.search + hash);
  announceMove();
}

/** Sets or (with null) removes query parameters in place: a choice that survives reload and can be shared. */
export function replaceQuery(changes: Record<string, string | null>): void {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === '') query.delete(name);
    else query.set(name, value);
  }
  const text = query.toString();
  history.replaceState(null, '', location.pathname + (text === '' ? '' : `?${text}`) + location.hash);
  announceMove();
}

/** Only a plain left click on a link to another of our pages is ours; everything else stays the browser's. */
function pageLinkOf(event: MouseEvent): HTMLAnchorElement | null {
  if (event.defaultPrevented || event.button !== 0) return null;
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return null;
  const link = event.target instanceof Element ? event.target.closest('a') : null;
  if (link === null || link.target !== '' || link.hasAttribute('download') || link.origin !== location.origin)
    return null;
  const isSamePlace = link.pathname === location.pathname && link.search === location.search;
  return isSamePlace || parseRoute(link.pathname).kind === 'unknown' ? null : link;
}

/** One listener for all links of the page; returns how to stop it. */
export function takeOverLinks(): () => void {
  const onClick = (event: MouseEvent) => {
    const link = pageLinkOf(event);
    if (link === null) return;
    event.preventDefault();
    navigate(link.href);
  };
  document.addEventListener('click', onClick);
  return () => document.removeEventListener('click', onClick);
}
