// Owns the little statistics of the report: median, range, percentile. Pure.
// Called by report.ts and by figures that reduce many values to one a repeat.

export interface Spread {
  median: number;
  least: number;
  most: number;
  count: number;
}

/** @throws RangeError without a value */
export function spreadOf(values: readonly number[]): Spread {
  return {
    median: percentile(values, 0.5),
    least: percentile(values, 0),
    most: percentile(values, 1),
    count: values.length,
  };
}

/** The value below which `share` (0 to 1) of the values lie, between neighbours in proportion. @throws RangeError */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const place = (sorted.length - 1) * share;
  const below = sorted[Math.floor(place)];
  const above = sorted[Math.ceil(place)];
  if (below === undefined || above === undefined) throw new RangeError('a percentile needs one value or more');
  return below + (above - below) * (place - Math.floor(place));
}
