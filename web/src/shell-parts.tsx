// Owns the small parts that every page is built of: mark, breadcrumb, trouble banner, copyable command, empty states.
// Used by the pages and by app.tsx.
import type { ComponentChildren } from 'preact';
import { useRef, useState } from 'preact/hooks';
import type { Trouble } from './api';
import type { Polled } from './poll';

/** A hull on an inclined slip. */
export function Mark() {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
      <g transform="rotate(8 16 18)">
        <path class="mark-hull" d="M4 13.5h24l-4 7.4a4.2 4.2 0 0 1-3.7 2.3h-8.6a4.2 4.2 0 0 1-3.7-2.2z" />
        <path class="mark-mast" d="M16 5.5v8" />
      </g>
      <path class="mark-slip" d="M2 24.6l28 4" />
    </svg>
  );
}

/** The way up; the last part is where the reader is. */
export function Trail({ links, here }: { links: Array<{ href: string; text: string }>; here: string }) {
  return (
    <nav class="trail" aria-label="Breadcrumb">
      <ol>
        {links.map(({ href, text }) => (
          <li key={href}>
            <a href={href}>{text}</a>
          </li>
        ))}
        <li aria-current="page">{here}</li>
      </ol>
    </nav>
  );
}

function describe(trouble: Trouble, freshAtMs: number | null): string {
  const age = freshAtMs === null ? '' : ` What is shown is from ${new Date(freshAtMs).toLocaleTimeString()}.`;
  if (trouble.kind === 'unreachable') return `${trouble.detail}${age} Trying again every 5 s.`;
  return `${trouble.title}. ${trouble.detail}${age}`;
}

/** Said plainly above the data that is kept; nothing while all is well. */
export function TroubleBanner<T>({ polled }: { polled: Polled<T> }) {
  if (polled.trouble === null) return null;
  return (
    <div class="banner tone-late" role="alert">
      <p>{describe(polled.trouble, polled.freshAtMs)}</p>
      <button type="button" onClick={polled.refresh}>
        Try now
      </button>
    </div>
  );
}

export function NotFound({ what, detail }: { what: string; detail: string }) {
  return (
    <section class="not-found">
      <p class="not-found-code">404</p>
      <h1>{what}</h1>
      <p>{detail}</p>
      <p>
        <a href="/">All projects</a>
      </p>
    </section>
  );
}

/** What a page shows before its first answer: nothing found, trouble, or that it is loading. */
export function Pending<T>({ polled, what }: { polled: Polled<T>; what: string }) {
  const { trouble } = polled;
  if (trouble !== null && trouble.kind === 'refused' && trouble.status === 404) {
    return <NotFound what={`There is no ${what}`} detail={trouble.detail} />;
  }
  return trouble === null ? <p class="loading">Loading {what} …</p> : <TroubleBanner polled={polled} />;
}

/** Without a secure origin browsers have no clipboard for pages; then the text is selected instead. */
async function copyText(text: string, element: HTMLElement): Promise<string> {
  // The type says it is always there; on plain http it is not.
  const clipboard = navigator.clipboard as Clipboard | undefined;
  try {
    if (clipboard === undefined) throw new Error('no clipboard');
    await clipboard.writeText(text);
    return 'Copied';
  } catch {
    getSelection()?.selectAllChildren(element);
    return 'Selected';
  }
}

/** A command to run in a terminal, with a button that copies it. */
export function Command({ text }: { text: string }) {
  const code = useRef<HTMLElement>(null);
  const [label, setLabel] = useState('Copy');
  const onCopy = () => {
    if (code.current !== null) void copyText(text, code.current).then(setLabel);
  };
  return (
    <span class="command">
      <code ref={code}>{text}</code>
      <button
        type="button"
        class="quiet"
        onClick={onCopy}
        onBlur={() => setLabel('Copy')}
        aria-label={`${label}: ${text}`}
      >
        {label}
      </button>
    </span>
  );
}

/** One fact of a header: name above, value below. */
export function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div class="fact">
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

type Column = string | { name: string; class: string };

/** A table whose rows are things to open or to look at, under the names of its columns; it scrolls by itself when narrow. */
export function ListTable({ columns, children }: { columns: Column[]; children: ComponentChildren }) {
  return (
    <div class="scroll-x">
      <table class="list">
        <thead>
          <tr>
            {columns.map((column) => (
              <Heading key={typeof column === 'string' ? column : column.name} column={column} />
            ))}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

function Heading({ column }: { column: Column }) {
  if (typeof column === 'string') return <th scope="col">{column}</th>;
  return (
    <th scope="col" class={column.class}>
      {column.name}
    </th>
  );
}
