// Owns what the workflow of a shell says to the worker that serves it, and to the store.
// Stored in histories, so fields are only ever added. Types alone.

export interface ShellActivities {
  /** Opens it and carries what is typed and shown, until it ends. @returns how, in words */
  serveShell(input: { shell: string }): Promise<string>;
}

/** Done by the orchestrator. Idempotent. */
export interface ShellRecords {
  /** Nobody serves it any more. */
  shellEnds(end: { shell: string; message: string }): Promise<void>;
}
