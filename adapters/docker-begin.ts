// Owns how a script begins in a container: by a small shell program of ours before it, which gives its output and its errors
// one pipe, and leaves a mark there that it was begun. Called by docker-engine.ts, docker-log.ts and remote-docker.ts.
import type Dockerode from 'dockerode';
import { createContainer, statusOf } from './docker-client';
import type { ContainerSpec } from './engine';

/** Where the program lies in a container. */
export const BEGIN = '/slipway/begin';
export const SCRIPT = '/slipway/script';

const SHELLS = ['sh', 'bash', 'dash', 'ash', 'ksh', 'mksh', 'zsh'];

/** What the first line of a script says that reads it: a path, and what follows. */
function readerOf(script: string): string[] {
  const [, line = ''] = /^#!([^\n]*)/.exec(script) ?? [];
  return line.trim().split(/[ \t]+/);
}

const baseOf = (path = ''): string => path.slice(path.lastIndexOf('/') + 1);

/** The shell that reads a script, as a first line has it without options; undefined: something else does. */
function shellOf(script: string): string | undefined {
  const [path = '', ...rest] = readerOf(script);
  if (SHELLS.includes(baseOf(path))) return path;
  const name = rest.find((word) => !word.startsWith('-'));
  return baseOf(path) === 'env' && name !== undefined && SHELLS.includes(name) ? `${path} ${name}` : undefined;
}

const begunMark = (name: string): string => `slipway has begun ${name}\n`;
const failedMark = (name: string): string => `slipway cannot begin ${name}\n`;

/**
 * The program, in the shell of the script where it has one: what it needs is then needed anyway. A shell that cannot
 * execute the script ends, and only then does its trap speak.
 */
export function beginProgram(name: string, script: string): string {
  return `#!${shellOf(script) ?? '/bin/sh'}
exec 2>&1
echo '${begunMark(name).trim()}'
trap "echo '${failedMark(name).trim()}'" 0
exec ${SCRIPT}
`;
}

type Begun = Pick<ContainerSpec, 'image' | 'entrypoint' | 'env' | 'script'>;

/** Knows which containers can begin by the program; asks its engine where the script does not tell. */
export class Beginning {
  private readonly shells = new Map<string, Promise<boolean>>();

  constructor(private readonly docker: Dockerode) {}

  /** @returns false: what is there would not understand the program, or reads the script itself */
  async isPossible({ image, entrypoint, env, script }: Begun): Promise<boolean> {
    if (script === undefined) return false;
    const found = await this.inspect(image);
    if (!found) return false;
    const first = entrypoint === undefined ? [found.Config.Entrypoint ?? []].flat() : [entrypoint].filter(Boolean);
    // Options of a shell hold for what it reads itself, and would hold for the program and not for the script.
    if (SHELLS.includes(baseOf(first[0])) && first.length > 1 && !first.some((word) => /^-\w*c$/.test(word)))
      return false;
    if (shellOf(script) !== undefined) return true;
    const reader = readerOf(script);
    // Without a first line it is for a shell, or for whatever the entrypoint is.
    if (!script.startsWith('#!')) return first.length === 0;
    const isReadByEntrypoint = first.length > 0 && reader.map(baseOf).includes(baseOf(first.at(-1)));
    // Shells pass on those variables alone whose names they take themselves.
    const names = [...Object.keys(env), ...(found.Config.Env ?? []).map((pair) => pair.split('=', 1)[0] ?? '')];
    const isEnvKept = names.every((name) => /^[A-Za-z_]\w*$/.test(name));
    return !isReadByEntrypoint && isEnvKept && (await this.hasShell(found.Id));
  }

  private async inspect(image: string): Promise<Dockerode.ImageInspectInfo | undefined> {
    try {
      return await this.docker.getImage(image).inspect();
    } catch (error) {
      // The container cannot be made either, and says why.
      if (statusOf(error) === 404) return undefined;
      throw error;
    }
  }

  /** An image never changes under its id. */
  private hasShell(imageId: string): Promise<boolean> {
    const known = this.shells.get(imageId) ?? this.lookForShell(imageId);
    this.shells.set(imageId, known);
    known.catch(() => this.shells.delete(imageId));
    return known;
  }

  private async lookForShell(imageId: string): Promise<boolean> {
    const container = await createContainer(this.docker, { Image: imageId, Cmd: [SCRIPT] });
    try {
      await container.infoArchive({ path: '/bin/sh' });
      return true;
    } catch (error) {
      if (statusOf(error) === 404) return false;
      throw error;
    } finally {
      await container.remove({ force: true, v: true }).catch(() => undefined);
    }
  }
}

/** After the mark that it was begun, the one that it was not can only come within these, bytes. */
const FAILED_WITHIN = 4096;

/** Takes the marks out of an output, which is given from its first byte on. */
export class BeginMarks {
  private held: Buffer = Buffer.alloc(0);
  private sought: 'begun' | 'failed' | 'none' = 'begun';
  private left = FAILED_WITHIN;
  hasBegun = false;
  private readonly begun: Buffer;
  private readonly failed: Buffer;

  constructor(name: string) {
    this.begun = Buffer.from(begunMark(name));
    this.failed = Buffer.from(failedMark(name));
  }

  read(part: Buffer): Buffer {
    if (this.sought === 'none') return part;
    const input = this.held.length > 0 ? Buffer.concat([this.held, part]) : part;
    return this.sought === 'begun' ? this.seekBegun(input) : this.seekFailed(input);
  }

  /** What was held back, in case it was a mark. */
  rest(): Buffer {
    return this.held;
  }

  private seekBegun(input: Buffer): Buffer {
    const at = input.indexOf(this.begun);
    if (at === -1) return this.passOn(input, this.begun);
    this.held = Buffer.alloc(0);
    this.hasBegun = true;
    this.sought = 'failed';
    return Buffer.concat([input.subarray(0, at), this.seekFailed(input.subarray(at + this.begun.length))]);
  }

  private seekFailed(input: Buffer): Buffer {
    const at = input.indexOf(this.failed);
    if (at !== -1 && at <= this.left) {
      this.sought = 'none';
      this.held = Buffer.alloc(0);
      this.hasBegun = false;
      return Buffer.concat([input.subarray(0, at), input.subarray(at + this.failed.length)]);
    }
    const output = this.passOn(input, this.failed);
    this.left -= output.length;
    if (this.left > 0) return output;
    this.sought = 'none';
    const { held } = this;
    this.held = Buffer.alloc(0);
    return Buffer.concat([output, held]);
  }

  /** All but an end that may be the beginning of the mark. */
  private passOn(input: Buffer, mark: Buffer): Buffer {
    let kept = Math.min(mark.length - 1, input.length);
    while (kept > 0 && !input.subarray(input.length - kept).equals(mark.subarray(0, kept))) kept -= 1;
    this.held = Buffer.from(input.subarray(input.length - kept));
    return input.subarray(0, input.length - kept);
  }
}
