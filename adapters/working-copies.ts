// Owns the checkout of a repository into the folder of a run, from the mirror that its host keeps.
// Called by the engines. What is done on the host is in working-copy/: shell texts that are sent along.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { hideCredentials, isCommitId } from '../domain/repository';
import type { Checkout } from '../domain/schemas/plan';
import { EngineError } from './engine';
import type { Shell } from './shell';

const textOf = (name: string): string => readFileSync(join(__dirname, 'working-copy', `${name}.sh`), 'utf8');
const [CHECKOUT, FETCH, TREE] = [textOf('checkout'), textOf('fetch'), textOf('tree')];

/** A mirror that nobody used for so many days goes, and the least used ones above a size of all of a host, KiB. */
const KEPT = { days: 30, kib: 50 * 1024 * 1024 };
/** Lines of git that a message has at most: the first ones, which say what happened, and the last ones. */
const LINES_KEPT = { first: 2, last: 2 };
/** Said on standard error before a second try. */
const NEXT_TRY = '\f';

export interface CheckOutOptions {
  /** Folder of the mirrors, and that of the tree: paths on the machine. */
  mirrors: string;
  repo: string;
  /** `ref` may also be the full id of a commit that no branch has any longer. */
  checkout: Checkout;
  signal: AbortSignal;
  /** Folders of the machine, and its own addresses, that repositories may come from; default: none. */
  local?: readonly string[];
  kept?: typeof KEPT;
}

/**
 * Puts a clean tree into `repo`, a path on the machine of `shell`. May be repeated. @returns the commit
 * @throws EngineError `checkout-failed` with what git said
 */
export async function checkOut(shell: Shell, options: CheckOutOptions): Promise<string> {
  const { url, ref } = options.checkout;
  const command = [shell.shell, '-c', CHECKOUT, 'slipway', FETCH, TREE, ...argumentsOf(options)];
  try {
    const opened = await shell.open(command, { signal: options.signal, keepsInput: true });
    const said: Buffer[] = [];
    for await (const piece of opened.output) said.push(piece);
    const { code, errors } = await opened.ended;
    const commit = Buffer.concat(said).toString().trim().split('\n').at(-1) ?? '';
    if (code === 0 && /^[0-9a-f]{40,64}$/.test(commit)) return commit;
    const why = reasonIn(errors) || `git ended with code ${code}`;
    const reason = /no space left on device/i.test(errors) ? 'disk-full' : 'checkout-failed';
    throw new EngineError(reason, hideCredentials(`cannot check out ${ref} of ${url}: ${why}`));
  } catch (error) {
    if (error instanceof EngineError) throw error;
    throw new EngineError('engine-unavailable', hideCredentials((error as Error).message), { cause: error });
  }
}

function argumentsOf({ mirrors, repo, checkout, local = [], kept = KEPT }: CheckOutOptions): string[] {
  const { url, ref, submodules, lfs } = checkout;
  const flag = (isOn: boolean): string => (isOn ? '1' : '0');
  return [
    mirrors,
    repo,
    url,
    isCommitId(ref) ? ref.toLowerCase() : ref,
    flag(submodules),
    flag(lfs),
    String(kept.days),
    String(kept.kib),
    local.join('\n'),
  ];
}

/** What the last try said, in one line. Servers have their words in it, so nothing in it may steer a terminal. */
export function reasonIn(errors: string): string {
  const { first, last } = LINES_KEPT;
  const lines = (errors.split(NEXT_TRY).at(-1) ?? '')
    .split('\n')
    .map((line) => line.replace(/\p{Cc}+/gu, ' ').trim())
    .filter((line) => line !== '');
  const kept = lines.length > first + last ? [...lines.slice(0, first), '…', ...lines.slice(-last)] : lines;
  return kept.join('; ');
}
