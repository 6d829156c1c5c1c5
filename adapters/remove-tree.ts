// Owns the removal of a folder that a run filled, whatever the depth, the names and the modes of what lies in it.
// Called by docker-engine.ts; bare-program.ts holds its shell function.
import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { promisify } from 'node:util';

/**
 * A shell function for one folder. A tree may be deeper than a path may be long, and not every `rm` can follow it there.
 * Then what lies deep is moved up, since a rename asks nothing of what is below, and `rm` tries again.
 */
export const REMOVE_TREE = String.raw`
remove_tree() {
  rm -rf "$1" 2>/dev/null && return 0
  chmod -R u+rwX "$1" 2>/dev/null
  pass=0
  until why=$(rm -rf "$1" 2>&1); do
    pass=$((pass + 1))
    for depth in 1000 200 40 12; do
      moved=$(find "$1" -mindepth $depth -maxdepth $depth -type d -exec sh -c '
        top=$1 pass=$2 number=0
        shift 2
        for folder; do
          number=$((number + 1))
          mv "$folder" "$top/.deep-$pass-$$-$number" && echo moved
        done' sh "$1" "$pass" {} + 2>/dev/null | tail -n 1)
      [ -z "$moved" ] || break
    done
    [ -n "$moved" ] || { printf '%s\n' "$why" | head -n 3 | cut -c 1-300 >&2; return 1; }
  done
}
`;

/** Removes a folder of this machine; gone already is fine. @throws Error with what could not be removed */
export async function removeTree(dir: string): Promise<void> {
  try {
    await rm(dir, { recursive: true, force: true });
  } catch {
    const program = `${REMOVE_TREE}remove_tree "$1"`;
    await promisify(execFile)('/bin/sh', ['-c', program, 'slipway', dir]).catch(({ stderr, message }) => {
      throw new Error(String(stderr).trim() || message);
    });
  }
}
