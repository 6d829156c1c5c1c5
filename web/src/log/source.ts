// Owns reading a range of a log's bytes over HTTP.
// Called by session.ts and failures.tsx; live bytes come through live.ts.
import { refusalOf, toLocalPath, unreachable } from '../api';

export interface LogAddress {
  /** `urls.log` of the run. */
  url: string;
  attempt: number;
}

export interface LogSlice {
  bytes: Uint8Array;
  startByte: number;
  /** Bytes the log had when it was read. */
  totalBytes: number;
  /** Nothing will be added any more. */
  isComplete: boolean;
}

/** The log could not be read; the message is for the reader of the page. */
export class LogReadError extends Error {
  override readonly name = 'LogReadError';
}

export function logUrl(address: LogAddress, query: Record<string, number>): string {
  const parameters = new URLSearchParams({ attempt: String(address.attempt) });
  for (const [name, value] of Object.entries(query)) parameters.set(name, String(value));
  return `${toLocalPath(address.url)}?${parameters.toString()}`;
}

const numberHeader = (response: Response, name: string): number => Number(response.headers.get(name) ?? 0);

async function fetchLog(url: string, signal: AbortSignal): Promise<Response> {
  try {
    return await fetch(url, { cache: 'no-cache', signal });
  } catch (error) {
    throw new LogReadError(`The log could not be read. ${unreachable(error).detail}`, { cause: error });
  }
}

/** `offset` may be negative: that many bytes from the end, or the whole log when it is shorter. */
export async function readLog(
  address: LogAddress,
  range: { offset: number; limit?: number },
  signal: AbortSignal,
): Promise<LogSlice> {
  const response = await fetchLog(logUrl(address, { ...range }), signal);
  if (!response.ok) throw new LogReadError(`The log could not be read. ${(await refusalOf(response)).detail}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const totalBytes = numberHeader(response, 'slipway-log-bytes');
  const startByte = range.offset >= 0 ? range.offset : Math.max(0, totalBytes + range.offset);
  return {
    bytes,
    startByte,
    totalBytes: Math.max(totalBytes, startByte + bytes.length),
    isComplete: response.headers.get('slipway-log-complete') === 'true',
  };
}
