// Owns what terminals have in common, wherever they are: the shell that is opened, and bytes in both directions of a stream.
// Called by the shells and by docker-terminal.ts.
import type { Duplex, Readable, Writable } from 'node:stream';
import type { Terminal } from './engine';

/** The shell that people like best, of those that are there. */
export const ANY_SHELL = ['/bin/sh', '-c', 'exec "$(command -v bash || echo /bin/sh)"'];

/** The command once its terminal has its size: an engine gives it only after the start. */
export const sized = (command: readonly string[], { cols, rows }: { cols: number; rows: number }): string[] => [
  '/bin/sh',
  '-c',
  `stty cols ${cols} rows ${rows} 2>/dev/null; exec "$@"`,
  'sh',
  ...command,
];

/** The bytes of a terminal behind a stream, or behind one for each direction. */
export function carried(shown: Readable, typed: Writable = shown as Duplex): Pick<Terminal, 'output' | 'write'> {
  // What is destroyed has ended, and nobody types for what has ended: no fault.
  for (const stream of [shown, typed]) stream.on('error', () => undefined);
  const output = (async function* () {
    try {
      for await (const bytes of shown as AsyncIterable<Buffer>) yield bytes;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ERR_STREAM_PREMATURE_CLOSE') throw error;
    }
  })();
  const write = (bytes: Buffer): Promise<void> =>
    new Promise((done) => {
      if (!typed.writable) done();
      else typed.write(bytes, () => done());
    });
  return { output, write };
}
