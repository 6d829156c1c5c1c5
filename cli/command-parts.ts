// Owns what groups of commands share: the option of the server, lists of values, and how a command ends.
// Used by cluster-commands.ts and host-commands.ts.
import type { Client } from './client';

export interface Server {
  server?: string;
}
export type MakeClient = (options: Server) => Client;
export type Finish = (code: number) => void;

export const SERVER = ['--server <url>', 'address of the API'] as const;
export const collect = (value: string, all: string[] = []): string[] => [...all, value];
