// Owns the one error of everything that makes this machine ready: its message says what is missing and what to do.
// Thrown by temporal-cli.ts, docker-setup.ts, starter-image.ts and debian-packages.ts; printed without a stack.

export type SetupErrorReason = 'no-temporal-cli' | 'no-docker-engine' | 'no-starter-image' | 'install-failed';

export class SetupError extends Error {
  /** The scripts, which cannot import this class, print such an error without its stack. */
  readonly isForUsers = true;

  constructor(
    readonly reason: SetupErrorReason,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
