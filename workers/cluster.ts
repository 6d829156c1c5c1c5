// Owns the start of a worker's process: the release that it has taken by itself, if any, or what is installed.
// Started by `slipway worker`, `slipway up`, docker-compose or systemd; a release is loaded by this file of the installed one.
import { readSettings, type Settings } from '../adapters/settings';
import { installedReleases, runningRelease } from '../adapters/releases';

const entry = runningRelease() ? undefined : choose();
if (entry === undefined) require('./cluster-worker');
else require(entry);

/** Settings that cannot be read are told by the role itself. */
function choose(): string | undefined {
  let settings: Settings;
  try {
    settings = readSettings();
  } catch {
    return undefined;
  }
  return settings.releaseKeys.length > 0 ? installedReleases(settings.workerDir).choose() : undefined;
}
