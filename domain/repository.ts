// Owns what the words for a repository mean: URLs, refs, ids of commits, and which checkout the parameters of a run ask for.
// Pure; called by the plan, by the API and by the worker's activities.
import type { Values } from './matrix';
import type { Checkout } from './schemas/plan';
import type { RepositoryEntry } from './schemas/project-file';

/** Whether it is the whole id of a commit, SHA-1 or SHA-256. Anything shorter may be the name of a branch as well. */
export const isCommitId = (text: string): boolean => /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/i.test(text);

/** Enough of a commit to know it by. */
export const shortCommit = (commit: string): string => commit.slice(0, 10);

const URL_FORM = /^(?:(?:https?|ssh|git|file):\/\/|[\w.-]+@[\w.-]+:)[^\s\p{Cc}\p{Surrogate}]+$/u;
const HOST = String.raw`(?:\[[\da-f:.]+\]|[^/?#@:[\]]+)(?::\d*)?(?=[/?#]|$)`;
/** Of ssh and git the user is a name alone. What is no port behind a colon may be a password with a slash in it. */
const HIDES_NOTHING = new RegExp(`^(?:https?://${HOST}|(?:ssh|git)://(?:[^/?#@:]+@)?${HOST}|file:|[\\w.-]+@)`, 'i');
const MAX_URL_CHARACTERS = 2048;
const MAX_REF_CHARACTERS = 256;

/** Why it is no URL of a repository that a host may be given; never quotes it. Undefined: it is one. */
export function sayUrlFault(url: string): string | undefined {
  if (url.length > MAX_URL_CHARACTERS) return `use ${MAX_URL_CHARACTERS} characters at most`;
  if (!URL_FORM.test(url)) return 'write https://…, ssh://…, git://…, file://… or user@host:path';
  if (HIDES_NOTHING.test(url)) return undefined;
  return 'holds a password, or a user that may be a token, which everybody who sees the build would read; leave it out, and give the hosts credentials of their own (an SSH key, or a credential helper of git)';
}

/** Takes out all that may be a secret before the host of each URL, also a user that is a token; that of SSH and git stays. */
export function hideCredentials(text: string): string {
  return text.replace(/\b([a-z][a-z0-9+.-]*):\/\/([^\s'"]+)/gi, (whole: string, scheme: string, rest: string) => {
    const authority = /^[^/?#]*/.exec(rest)?.[0] ?? '';
    // A password may have a slash in it, which no URL allows: what looks like a port is none then.
    const isCut = authority.includes(':') && !/:\d*$/.test(authority) && !authority.includes('@');
    const end = isCut ? rest.lastIndexOf('@') : authority.lastIndexOf('@');
    if (end === -1) return whole;
    const user = rest.slice(0, end).split(':')[0] ?? '';
    const shown = /^https?$/i.test(scheme) ? '***' : rest.slice(0, end).includes(':') ? `${user}:***` : user;
    return `${scheme}://${shown}@${rest.slice(end + 1)}`;
  });
}

/**
 * Why git takes no such name for a branch, a tag or a ref; undefined: it does.
 * @see https://git-scm.com/docs/git-check-ref-format with --allow-onelevel; a leading `-`, which no branch has, is refused too
 */
export function sayRefFault(ref: string): string | undefined {
  if (ref.length > MAX_REF_CHARACTERS) return `use ${MAX_REF_CHARACTERS} characters at most`;
  const isName =
    !/[\0-\x20\x7f~^:?*[\\\p{Surrogate}]|\.\.|@\{|^@$|^-|\.$/u.test(ref) &&
    ref.split('/').every((part) => part !== '' && !part.startsWith('.') && !part.endsWith('.lock'));
  if (isName) return undefined;
  return 'git takes no such name; write a branch, a tag, the id of a commit, or a whole ref such as refs/pull/7/head';
}

/** What is wrong with `repository` of a file, by its key. */
export function checkRepository({ url, ref }: RepositoryEntry): { key: 'url' | 'ref'; message: string }[] {
  const faults = [
    { key: 'url' as const, message: sayUrlFault(url) },
    { key: 'ref' as const, message: ref === undefined ? undefined : sayRefFault(ref) },
  ];
  return faults.flatMap(({ key, message }) => (message === undefined ? [] : [{ key, message }]));
}

/** What decides about the checkout of a run: `repository` of the file, `checkout` of the run, and its parameters. */
export interface CheckoutWish {
  repository?: RepositoryEntry;
  checkout?: boolean;
  /** As they reach the script. */
  find: (name: string) => string | undefined;
}

/** The parameter that cannot be obeyed, and why; undefined: all of them can. Only those of a run that has a checkout matter. */
export function checkCheckout(wish: CheckoutWish): { name: string; message: string } | undefined {
  if (wish.checkout === false) return undefined;
  const url = wish.find('GIT_URL');
  const ref = wish.find('GIT_REF');
  const commit = wish.find('GIT_SHA');
  const faults: [string, string | undefined][] = [
    ['GIT_URL', url === undefined ? undefined : sayUrlFault(url)],
    ['GIT_SHA', commit === undefined ? undefined : sayCommitFault(commit, url ?? wish.repository?.url)],
    ['GIT_REF', ref === undefined || (url ?? wish.repository) === undefined ? undefined : sayRefFault(ref)],
  ];
  const [fault] = faults.flatMap(([name, why]) => (why === undefined ? [] : [{ name, message: `${name}: ${why}` }]));
  return fault;
}

function sayCommitFault(commit: string, url: string | undefined): string | undefined {
  if (!isCommitId(commit)) return 'write the whole id of a commit, 40 or 64 of 0-9 a-f; a branch or a tag is GIT_REF';
  if (url !== undefined) return undefined;
  return 'names a commit, and nothing says of which repository; add repository to the file or the parameter GIT_URL, or checkout: false to the run';
}

/**
 * The checkout of a run that {@link checkCheckout} found nothing wrong with, and its variables; the parameters win over the
 * file, so whoever triggers a build says what it is of. A commit stands in place of the ref.
 */
export function planCheckout({ repository, checkout, find }: CheckoutWish): { env: Values; checkout?: Checkout } {
  const url = find('GIT_URL') ?? repository?.url;
  if (checkout === false || url === undefined) return { env: {} };
  const { submodules = true, lfs = true } = repository ?? {};
  const ref = find('GIT_REF') ?? repository?.ref ?? 'HEAD';
  const wanted = find('GIT_SHA') ?? ref;
  return {
    env: { GIT_URL: url, GIT_REF: ref },
    checkout: { url, ref: isCommitId(wanted) ? wanted.toLowerCase() : wanted, submodules, lfs },
  };
}

/**
 * What a script finds in its environment so that git works with its tree, which belongs to the user of the worker; what
 * `env` sets for git in the same way stays. All folders: a submodule is one of its own, and nobody else has any there.
 * @see https://git-scm.com/docs/git-config#ENVIRONMENT
 */
export function trusting(env: Readonly<Record<string, string>>): Record<string, string> {
  const { GIT_CONFIG_COUNT: count = '0' } = env;
  if (!/^\d{1,4}$/.test(count)) return {};
  return {
    GIT_CONFIG_COUNT: String(Number(count) + 1),
    [`GIT_CONFIG_KEY_${Number(count)}`]: 'safe.directory',
    [`GIT_CONFIG_VALUE_${Number(count)}`]: '*',
  };
}
