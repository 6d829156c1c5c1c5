// Owns the checkout of a repository into the folder of a run, from the mirror that its host keeps.
// Called by the engines.
import type { Checkout } from '../domain/schemas/plan';
import { EngineError } from './engine';
import type { Shell } from './shell';
import { WORKING_COPY_PROGRAM } from './working-copy-program';

/** A mirror that nobody used for so many days goes, and the least used ones above a size of all of a host, KiB. */
const KEPT = { days: 30, kib: 50 * 1024 * 1024 };

export interface CheckOutOptions {
  /** Folder of the mirrors, and that of the tree: paths on the machine. */
  mirrors: string;
  repo: string;
  checkout: Checkout;
  signal: AbortSignal;
  kept?: typeof KEPT;
}

/**
 * Puts a clean tree into `repo`, a path on the machine of `shell`. May be repeated. @returns the commit
 * @throws EngineError `checkout-failed` with what git said
 */
export async function checkOut(
  shell: Shell,
  { mirrors, repo, checkout, signal, kept = KEPT }: CheckOutOptions,
): Promise<string> {
  const { url, ref, submodules, lfs } = checkout;
  const flag = (isOn: boolean): string => (isOn ? '1' : '0');
  const args = [mirrors, repo, url, ref, flag(submodules), flag(lfs), String(kept.days), String(kept.kib)];
  const command = [shell.shell, '-c', WORKING_COPY_PROGRAM, 'slipway', ...args];
  const opened = await shell.open(command, { signal, keepsInput: true }).catch((error: unknown) => fail(error));
  const said: Buffer[] = [];
  try {
    for await (const piece of opened.output) said.push(piece);
    const { code, errors } = await opened.ended;
    const commit = Buffer.concat(said).toString().trim().split('\n').at(-1) ?? '';
    if (code === 0 && /^[0-9a-f]{40,64}$/.test(commit)) return commit;
    const why = errors.trim().split('\n').slice(-3).join('; ') || `git ended with code ${code}`;
    const reason = /no space left on device/i.test(errors) ? 'disk-full' : 'checkout-failed';
    throw new EngineError(reason, `cannot check out ${ref} of ${url}: ${why}`);
  } catch (error) {
    return fail(error);
  }
}

function fail(error: unknown): never {
  if (error instanceof EngineError) throw error;
  throw new EngineError('engine-unavailable', (error as Error).message, { cause: error });
}
