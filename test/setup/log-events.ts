// Owns a reader of a run's live log for tests: what a browser's EventSource does, with the offsets checked on the way.
// Called by tests of the live stream.
import { createParser } from 'eventsource-parser';

/** What was read until now; handed to the next `followLog`, it goes on from there. */
export interface Followed {
  bytes: Buffer;
  /** Offset behind the last byte, as the last event said it. */
  lastId: string | undefined;
  end: { bytes: number; status: string; attempt: number } | undefined;
}

export const nothingYet = (): Followed => ({ bytes: Buffer.alloc(0), lastId: undefined, end: undefined });

/**
 * Reads events until the stream ends. @param url of the log; @param followed is filled
 * @throws Error when an id is not the offset behind its bytes, or when the connection is cut
 */
export async function followLog(url: string, followed: Followed, signal?: AbortSignal): Promise<void> {
  const headers = followed.lastId === undefined ? undefined : { 'last-event-id': followed.lastId };
  const response = await fetch(`${url}/events`, { headers, signal });
  if (!response.ok || !response.body) throw new Error(`${response.status} ${await response.text()}`);
  const parser = createParser({
    onEvent: ({ event, id, data }) => {
      if (event === 'end') followed.end = JSON.parse(data) as Followed['end'];
      if (event !== 'chunk') return;
      followed.bytes = Buffer.concat([followed.bytes, Buffer.from(data, 'base64')]);
      followed.lastId = id;
      if (id !== String(followed.bytes.length)) throw new Error(`id ${id} after ${followed.bytes.length} bytes`);
    },
  });
  const decoder = new TextDecoder();
  for await (const part of response.body) parser.feed(decoder.decode(part as Uint8Array, { stream: true }));
}
