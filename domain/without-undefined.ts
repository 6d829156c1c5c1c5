// Owns the leaving out of what is not given. Pure. Called wherever an absent key means something else than an undefined one.

/** Absent keys are really absent, so that a value equals its own JSON, and what is not given is not changed. */
export function withoutUndefined<T extends object>(value: T): T {
  // The cast holds: only keys whose type allows undefined are left out.
  return Object.fromEntries(Object.entries(value).filter(([, entry]) => entry !== undefined)) as T;
}
