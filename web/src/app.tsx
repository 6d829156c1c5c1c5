// Owns the frame round every page: skip link, header, the page for the address, the list of keys, the live region.
// Called by main.tsx.
import type { RefObject } from 'preact';
import { useEffect, useMemo, useRef } from 'preact/hooks';
import { BuildPage } from './build-page';
import { BuildsPage } from './builds-page';
import { ClusterPage, ClustersPage } from './clusters-page';
import { HostsPage } from './hosts-page';
import { LeasesPage } from './leases-page';
import { useHead } from './head';
import { FIND_KEYS, ITEM_KEYS, useKeys } from './keys';
import { ProjectsPage } from './projects-page';
import { parseRoute, type Route } from './route';
import { takeOverLinks, usePlace } from './router';
import { RunPage } from './run-page';
import { Mark, NotFound } from './shell-parts';

const KEYS: ReadonlyArray<[keys: string, effect: string]> = [
  ['j  k', 'next, previous build or run in the list; Enter opens it'],
  ['← → ↑ ↓', 'walk the matrix, once a run has the focus'],
  ['/', 'filter runs, or search the log'],
  ['n  N', 'next, previous match in the log'],
  ['f', 'follow the log'],
  ['w', 'wrap long lines of the log'],
  ['Esc', 'clear the filter or the search; close this'],
  ['?', 'show these keys'],
];

/** Keyed by what the page is about, so that no state leaks from one build or run to another. */
function Page({ route }: { route: Route }) {
  switch (route.kind) {
    case 'projects':
      return <ProjectsPage />;
    case 'builds':
      return <BuildsPage key={route.project} project={route.project} />;
    case 'build':
      return <BuildPage key={`${route.project}/${route.number}`} project={route.project} number={route.number} />;
    case 'run':
      return <RunPage key={`${route.project}/${route.number}/${route.run}`} {...route} />;
    case 'clusters':
      return <ClustersPage />;
    case 'hosts':
      return <HostsPage />;
    case 'leases':
      return <LeasesPage />;
    case 'cluster':
      return <ClusterPage key={route.cluster} cluster={route.cluster} />;
    case 'unknown':
      return <UnknownPage />;
  }
}

function UnknownPage() {
  useHead('Not found', null);
  return (
    <NotFound
      what="There is no such page"
      detail={`Nothing is at ${location.pathname}. Check the address, or begin at the list of projects.`}
    />
  );
}

function KeysDialog({ dialog }: { dialog: RefObject<HTMLDialogElement | null> }) {
  return (
    <dialog ref={dialog} aria-labelledby="keys-title">
      <form method="dialog">
        <h2 id="keys-title">Keys</h2>
        <dl class="keys">
          {KEYS.map(([keys, effect]) => (
            <div key={keys}>
              <dt>
                {keys.split('  ').map((key) => (
                  <kbd key={key}>{key}</kbd>
                ))}
              </dt>
              <dd>{effect}</dd>
            </div>
          ))}
        </dl>
        <div class="buttons">
          <button autofocus>Close</button>
        </div>
      </form>
    </dialog>
  );
}

/** After a move the focus goes to the new page, so that a screen reader reads it and Tab goes on from there. */
function useFocusOnMove(path: string): RefObject<HTMLElement | null> {
  const main = useRef<HTMLElement>(null);
  const shownPath = useRef(path);
  useEffect(() => {
    if (shownPath.current === path) return;
    shownPath.current = path;
    main.current?.focus({ preventScroll: true });
  }, [path]);
  return main;
}

export function App() {
  const { path } = usePlace();
  const route = useMemo(() => parseRoute(path), [path]);
  const main = useFocusOnMove(path);
  const dialog = useRef<HTMLDialogElement>(null);
  useKeys({ ...ITEM_KEYS, ...FIND_KEYS, '?': () => dialog.current?.showModal() });
  useEffect(takeOverLinks, []);
  return (
    <>
      <a class="skip" href="#main">
        Skip to content
      </a>
      <header class="top">
        <a class="home" href="/">
          <Mark />
          Slipway
        </a>
        <nav aria-label="Pages">
          <a href="/">Projects</a> <a href="/clusters">Clusters</a> <a href="/hosts">Hosts</a>{' '}
          <a href="/leases">Leases</a>
        </nav>
        <button type="button" class="quiet" onClick={() => dialog.current?.showModal()}>
          Keys <kbd>?</kbd>
        </button>
      </header>
      <main id="main" ref={main} tabIndex={-1} class={`page-${route.kind}`}>
        <Page route={route} />
      </main>
      <KeysDialog dialog={dialog} />
      <p id="speaker" class="visually-hidden" role="status" aria-live="polite" />
    </>
  );
}
