// Owns keeping one answer of the API fresh, and keeping the last data when asking fails.
// Called by every page through usePolled.
import { useEffect, useMemo, useState } from 'preact/hooks';
import { readJson, type Trouble } from './api';
import { nextPollMs, type Pace } from './pace';

export interface PollOptions<T> {
  paceOf: (data: T) => Pace;
  /** Keeps what did not change by reference, so that only what did is drawn again. */
  merge?: (before: T, after: T) => T;
}

interface View<T> {
  data: T | null;
  trouble: Trouble | null;
  /** Local instant of the last good answer, for "as of". */
  freshAtMs: number | null;
}

export interface Polled<T> extends View<T> {
  refresh: () => void;
}

/** States: asking → waiting → asking …, until stopped or the pace says `stop`. One question is open at most. */
class Poller<T> {
  private view: View<T> = { data: null, trouble: null, freshAtMs: null };
  private etag: string | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private open: AbortController | null = null;

  constructor(
    private readonly url: string,
    private readonly options: PollOptions<T>,
    private readonly onView: (view: View<T>) => void,
  ) {}

  start(): void {
    document.addEventListener('visibilitychange', this.onVisible);
    void this.ask();
  }

  stop(): void {
    document.removeEventListener('visibilitychange', this.onVisible);
    clearTimeout(this.timer);
    this.open?.abort();
    this.open = null;
  }

  refresh = (): void => {
    clearTimeout(this.timer);
    this.open?.abort();
    void this.ask();
  };

  private readonly onVisible = (): void => {
    if (!document.hidden && this.delayMs() !== null) this.refresh();
  };

  private async ask(): Promise<void> {
    const controller = new AbortController();
    this.open = controller;
    const answer = await readJson<T>(this.url, this.etag, controller.signal);
    // Stopped, or asked again meanwhile: this answer belongs to nobody.
    if (this.open !== controller) return;
    if (answer.kind === 'trouble') this.show({ ...this.view, trouble: answer.trouble });
    else if (answer.kind === 'data') this.take(answer.data, answer.etag);
    else this.show({ ...this.view, trouble: null, freshAtMs: Date.now() });
    const delayMs = this.delayMs();
    if (delayMs !== null) this.timer = setTimeout(() => void this.ask(), delayMs);
  }

  private take(after: T, etag: string | null): void {
    const before = this.view.data;
    this.etag = etag;
    const data = before === null || this.options.merge === undefined ? after : this.options.merge(before, after);
    this.show({ data, trouble: null, freshAtMs: Date.now() });
  }

  private show(view: View<T>): void {
    const isSame = view.data === this.view.data && view.trouble === null && this.view.trouble === null;
    this.view = view;
    if (!isSame) this.onView(view);
  }

  private delayMs(): number | null {
    const { data, trouble } = this.view;
    const pace = data === null ? 'live' : this.options.paceOf(data);
    return nextPollMs({ pace, isHidden: document.hidden, hasTrouble: trouble !== null });
  }
}

/** Asks `url` again and again while the component lives. `options` must be stable (a constant of the module). */
export function usePolled<T>(url: string, options: PollOptions<T>): Polled<T> {
  const [shown, setShown] = useState<{ url: string; view: View<T> } | null>(null);
  const poller = useMemo(() => new Poller<T>(url, options, (view) => setShown({ url, view })), [url, options]);
  useEffect(() => {
    poller.start();
    return () => poller.stop();
  }, [poller]);
  // After a change of address the old answer must not be drawn under the new title.
  const view = shown !== null && shown.url === url ? shown.view : { data: null, trouble: null, freshAtMs: null };
  return { ...view, refresh: poller.refresh };
}
