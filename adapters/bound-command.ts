// Owns "this program ends when we do": the kernel's parent-death signal, for programs that do not watch us themselves.
// Called by workers/supervised-child.ts and by tests that start servers.
import { execFileSync } from 'node:child_process';

export interface BoundCommand {
  command: string;
  args: string[];
}

let isSupported: boolean | undefined;

/**
 * The same command, sent TERM by the kernel when the process that spawns it dies, even by SIGKILL.
 * Where the system has no such thing (it needs Linux and util-linux) the command comes back as it is.
 */
export function boundCommand(command: string, args: string[]): BoundCommand {
  isSupported ??= process.platform === 'linux' && canSetParentDeathSignal();
  // setpriv executes the command in its own place, so the process id is the command's.
  return isSupported
    ? { command: 'setpriv', args: ['--pdeathsig', 'TERM', '--', command, ...args] }
    : { command, args };
}

function canSetParentDeathSignal(): boolean {
  try {
    execFileSync('setpriv', ['--pdeathsig', 'TERM', '--', 'true'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
