// Owns doing the same for many, where one that fails must not hold up the others. Pure. Called by the sweeps.

/** @param atOnce how many are under way side by side @throws the first failure, once all are done */
export async function forAll<T>(
  all: readonly T[],
  body: (one: T) => Promise<unknown>,
  { atOnce = 1 }: { atOnce?: number } = {},
): Promise<void> {
  const failures: unknown[] = [];
  const queue = all.values();
  const work = async (): Promise<void> => {
    for (const one of queue) await body(one).catch((error: unknown) => failures.push(error));
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, all.length) }, work));
  if (failures.length > 0) throw failures[0];
}
