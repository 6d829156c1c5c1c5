// Owns the Range header: which bytes are meant, and the 206 or 416 that follows. Called by the log and artifact routes.
import type { Request, Response } from 'express';
import { Refusal } from '../problem';

/**
 * Takes the first range that is asked for (what Express's `request.range` gives) and sets status and Content-Range.
 * @returns the whole when no usable range is given @throws Refusal 416 when it lies outside
 */
export function parseRange(
  ranges: ReturnType<Request['range']>,
  response: Response,
  sizeBytes: number,
): { startByte: number; endByte: number } {
  const whole = { startByte: 0, endByte: sizeBytes };
  if (ranges === undefined || ranges === -2) return whole;
  // A unit that we do not know is to be ignored (RFC 9110, 14.2).
  if (ranges !== -1 && ranges.type !== 'bytes') return whole;
  const [range] = ranges === -1 ? [] : ranges;
  if (!range) {
    response.set('content-range', `bytes */${sizeBytes}`);
    throw new Refusal(416, 'range', `the range lies outside the ${sizeBytes} bytes there are`);
  }
  response.status(206).set('content-range', `bytes ${range.start}-${range.end}/${sizeBytes}`);
  return { startByte: range.start, endByte: range.end + 1 };
}
