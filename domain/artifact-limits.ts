// Owns how much a run may leave as artifacts. Pure; asked by the API, which enforces it, and by the worker, which names the
// files that are left out.

export interface ArtifactLimits {
  /** Of one file. */
  fileBytes: number;
  /** Of all files of an attempt. */
  bytes: number;
  files: number;
}

const GIBIBYTE = 1024 ** 3;

/** Of a run of which neither its file nor its cluster says anything. */
const DEFAULT_ARTIFACT_LIMITS: ArtifactLimits = { fileBytes: 2 * GIBIBYTE, bytes: 8 * GIBIBYTE, files: 10_000 };

/** @param asked by the run, bytes @param most that its cluster lets a run store, bytes */
export function artifactLimitsOf(asked: number | null, most: number | null): ArtifactLimits {
  const bytes = Math.min(asked ?? DEFAULT_ARTIFACT_LIMITS.bytes, most ?? Infinity);
  const fileBytes = asked === null ? Math.min(DEFAULT_ARTIFACT_LIMITS.fileBytes, bytes) : bytes;
  return { ...DEFAULT_ARTIFACT_LIMITS, bytes, fileBytes };
}

/** Says why a further file may not be stored; undefined: it may. @param used by the other files of the attempt */
export function whyTooMuch(
  sizeBytes: number,
  used: Pick<ArtifactLimits, 'bytes' | 'files'>,
  limits: ArtifactLimits,
): string | undefined {
  if (sizeBytes > limits.fileBytes) return `it has ${sizeBytes} bytes, and one file may have ${limits.fileBytes}`;
  if (used.files + 1 > limits.files) return `a run may store ${limits.files} files`;
  if (used.bytes + sizeBytes > limits.bytes) return `all files of a run may have ${limits.bytes} bytes together`;
  return undefined;
}
