// Owns the live end of a log: an EventSource that delivers bytes with their offsets, and closes when nobody looks.
// Called by session.ts once the loaded window reaches the end of an unfinished log.
import { logUrl, type LogAddress } from './source';

export interface LiveHandlers {
  /** `startByte` is where in the log these bytes begin. */
  onBytes: (startByte: number, bytes: Uint8Array) => void;
  onEnd: (totalBytes: number) => void;
  onConnection: (isConnected: boolean) => void;
  /** First byte wanted, asked again at every new connection. */
  nextByte: () => number;
}

const RECONNECT_MS = 2_000;

export function decodeBase64(text: string): Uint8Array {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at += 1) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

function endOf(data: string): number {
  // Written by our API: {"bytes":N,"status":"passed"}.
  return (JSON.parse(data) as { bytes: number }).bytes;
}

/**
 * States: connected ↔ paused (tab hidden) ↔ waiting to reconnect → ended.
 * A hidden tab holds no connection: browsers allow six to one HTTP/1.1 server, over all tabs.
 */
export class LiveLog {
  private source: EventSource | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly address: LogAddress,
    private readonly handlers: LiveHandlers,
  ) {
    document.addEventListener('visibilitychange', this.onVisibility);
    this.onVisibility();
  }

  close(): void {
    document.removeEventListener('visibilitychange', this.onVisibility);
    this.disconnect();
  }

  private readonly onVisibility = (): void => {
    if (document.hidden) this.disconnect();
    else if (this.source === null) this.connect();
  };

  private disconnect(): void {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  private connect(): void {
    this.disconnect();
    const url = logUrl(this.address, { offset: this.handlers.nextByte() }).replace('?', '/events?');
    const source = new EventSource(url);
    this.source = source;
    source.onopen = () => this.handlers.onConnection(true);
    source.onerror = () => this.onError(source);
    source.addEventListener('chunk', (event) => this.onChunk(event));
    source.addEventListener('end', (event) => {
      this.close();
      this.handlers.onEnd(endOf(event.data));
    });
  }

  private onChunk(event: MessageEvent<string>): void {
    const bytes = decodeBase64(event.data);
    this.handlers.onBytes(Number(event.lastEventId) - bytes.length, bytes);
  }

  /** The browser reconnects by itself with Last-Event-ID, except after an answer that is no event stream. */
  private onError(source: EventSource): void {
    this.handlers.onConnection(false);
    if (source.readyState === EventSource.CLOSED) this.timer = setTimeout(() => this.connect(), RECONNECT_MS);
  }
}
