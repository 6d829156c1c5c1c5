// Owns the shapes of shells into runs that are held, as they cross HTTP: between people and the API, and the API and workers.
import { z } from 'zod';
import { Reach } from './hosts';

const count = z.number().int().nonnegative();
const columns = z.number().int().min(1).max(1000);
/** Of one piece of input or output, bytes: a call carries no more. */
export const MOST_PIECE_BYTES = 256 * 1024;
const bytes = z
  .base64()
  .max((MOST_PIECE_BYTES * 4) / 3 + 4)
  .describe('base64, 256 KiB at most');

const size = { cols: columns.default(80), rows: columns.default(24) };
export const OpenShell = z.strictObject({
  command: z
    .array(z.string().max(32_768))
    .max(100)
    .default([])
    .describe('what to run there, and its arguments; none: a shell'),
  term: z
    .string()
    .regex(/^[A-Za-z0-9._+-]{1,64}$/, 'name a terminal such as xterm-256color')
    .default('xterm'),
  ...size,
});
export type OpenShell = z.infer<typeof OpenShell>;
export const OpenedShell = z.strictObject({ id: z.uuid().describe('whoever knows it may use the shell') });

export const ShellInput = z.strictObject({
  at: count.describe('offset of the first byte; what is there already is passed over'),
  bytes,
  cols: columns.optional(),
  rows: columns.optional(),
});
export type ShellInput = z.infer<typeof ShellInput>;
export const ShellQuery = z.object({ from: z.coerce.number().int().nonnegative().default(0) });

/** What one side has written, from an offset on; it comes once there is something, or after twenty seconds. */
export const ShellOutput = z.strictObject({
  at: count.describe('offset of the first byte'),
  bytes,
  ended: z
    .strictObject({
      exitCode: z.number().int().nullable().describe('null: it was cut off'),
      message: z.string().describe('why it ended, where that is not by itself'),
    })
    .nullable()
    .describe('set once it is over and all of it was read'),
});
export type ShellOutput = z.infer<typeof ShellOutput>;

/** What a worker is to open. */
export const ShellOrders = z.object({
  runId: z.uuid(),
  attempt: z.number().int().positive(),
  token: count,
  host: z.string(),
  reach: Reach.optional(),
  command: z.array(z.string()),
  term: z.string(),
  cols: columns,
  rows: columns,
});
export type ShellOrders = z.infer<typeof ShellOrders>;
export const ShellTyped = z.object({
  at: count,
  bytes,
  cols: columns,
  rows: columns,
  isOver: z.boolean().describe('nobody wants it any more: end it'),
});
export type ShellTyped = z.infer<typeof ShellTyped>;
export const ShellWritten = z.strictObject({ at: count, bytes });
export const ShellTaken = z.object({ bytes: count, unread: count.describe('bytes that nobody has read yet') });
export const ShellResult = z.strictObject({ exitCode: z.number().int().nullable(), message: z.string().max(2000) });
export type ShellResult = z.infer<typeof ShellResult>;
