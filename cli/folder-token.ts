// Owns the admin token that lies in the folder of a Slipway on this machine: whoever may read it may operate that server.
// It is shown to that server alone, by the addresses that `slipway up` has written beside it. Called by main.ts and up.ts.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { urlHere, type Settings } from '../adapters/settings';
import { adminTokenFile } from './local-cluster';

type Folder = Pick<Settings, 'dataDir' | 'baseUrl' | 'SLIPWAY_LISTEN'>;

const addressFile = (dataDir: string): string => join(dataDir, 'api-urls');

/** Called once the API of this folder listens there. */
export function writeAddresses(settings: Folder): void {
  writeFileSync(addressFile(settings.dataDir), addressesOf(settings).join('\n'), { mode: 0o600 });
}

const addressesOf = ({ baseUrl, SLIPWAY_LISTEN: listen }: Folder): string[] => [baseUrl, urlHere(listen)];

/** @param server that is asked @returns undefined: there is none, or it is not for that server */
export function folderToken(server: string, settings: Folder): string | undefined {
  const file = adminTokenFile(settings.dataDir);
  if (!existsSync(file)) return undefined;
  const written = addressFile(settings.dataDir);
  const own = existsSync(written) ? readFileSync(written, 'utf8').split('\n') : addressesOf(settings);
  return own.some((address) => originOf(address) === originOf(server)) ? readFileSync(file, 'utf8').trim() : undefined;
}

/** Two names of this machine are one. */
function originOf(address: string): string {
  const url = new URL(address);
  if (url.hostname === 'localhost' || url.hostname === '[::1]') url.hostname = '127.0.0.1';
  return url.origin;
}
