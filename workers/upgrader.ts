// Owns how a worker takes the release that its cluster is pinned to: fetched, verified, put on trial, and the process ended
// so that its service manager starts it again. Called by greeting.ts with what the server offers.
import { createWriteStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import type { Logger } from 'pino';
import { digestFile, ReleaseSignatureError, verifySigned } from '../adapters/release-signature';
import { installedReleases, ReleaseError, runningRelease, type Releases } from '../adapters/releases';
import type { Settings } from '../adapters/settings';
import type { WorkerApi } from '../adapters/worker-api';
import type { Hello, HelloReply, SignedRelease } from '../domain/schemas/worker-api';

type Offer = NonNullable<HelloReply['upgrade']>;

export interface UpgraderPorts {
  settings: Settings;
  api: WorkerApi;
  log: Logger;
  /** Lets go of everything and ends the process. */
  end: (why: string) => void;
}

export class Upgrader {
  private readonly releases: Releases;
  private underWay: Promise<void> | undefined;

  constructor(private readonly ports: UpgraderPorts) {
    this.releases = installedReleases(ports.settings.workerDir);
  }

  /** For the server; null: this worker takes no releases. */
  report(): Hello['release'] {
    if (this.ports.settings.releaseKeys.length === 0) return null;
    return { runs: runningRelease()?.digest ?? null, failed: this.releases.failed };
  }

  /** At once only one; the server offers again what was not taken. */
  consider(offer: Offer, signal: AbortSignal): void {
    if (this.ports.settings.releaseKeys.length === 0 || this.releases.failed?.id === offer.id) return;
    this.underWay ??= this.take(offer, signal).finally(() => (this.underWay = undefined));
  }

  private async take({ id, signed }: Offer, signal: AbortSignal): Promise<void> {
    const { log, end, settings } = this.ports;
    try {
      const release = await verifySigned(signed, settings.releaseKeys);
      log.info({ version: release.version, digest: release.digest }, 'this worker takes a release');
      await this.releases.take(await this.fetch(release, signal), { id, ...release });
      end(`to be started again as ${release.version}`);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ReleaseError) && !(error instanceof ReleaseSignatureError)) {
        return log.warn({ error: String(error) }, 'the release could not be fetched; it will be tried again');
      }
      log.error(`the release is refused: ${error.message}`);
      this.releases.fail(id, error.message.slice(0, 500));
    }
  }

  /** @returns the path of the archive */
  private async fetch({ version, digest, sizeBytes }: SignedRelease, signal: AbortSignal): Promise<string> {
    const path = this.releases.archivePath();
    await pipeline(await this.ports.api.openRelease(signal), atMost(sizeBytes), createWriteStream(path), { signal });
    const found = await digestFile(path);
    if (found.sizeBytes < sizeBytes) throw new Error(`only ${found.sizeBytes} of ${sizeBytes} bytes came`);
    if (found.digest === digest) return path;
    throw new ReleaseError(`the server sent other bytes for ${version} than were signed`);
  }
}

/** Bytes that nobody has signed do not fill the disk. */
const atMost = (limit: number) =>
  async function* (source: AsyncIterable<Uint8Array>) {
    let taken = 0;
    for await (const part of source) {
      taken += part.length;
      if (taken > limit) throw new ReleaseError(`the server sends more than the ${limit} bytes that were signed`);
      yield part;
    }
  };
