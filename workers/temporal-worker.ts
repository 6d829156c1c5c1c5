// Owns what both kinds of Temporal worker share: the connection, waited for, and the SDK's logs in ours.
// Called by orchestrator.ts and cluster.ts.
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { rootCertificates } from 'node:tls';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { DefaultLogger, NativeConnection, Runtime, makeTelemetryFilterString } from '@temporalio/worker';
import type { Logger } from 'pino';
import type { TokenSigner } from '../adapters/cluster-keys';
import type { Settings } from '../adapters/settings';

const RETRY_MS = 500;

type ConnectionOptions = ReturnType<typeof loadClientConnectConfig>['connectionOptions'];

/** Sends the SDK's own logs through ours. Signals are ours too: the SDK must not stop workers by itself. */
export function installRuntime(log: Logger): void {
  Runtime.install({
    logger: new DefaultLogger('WARN', ({ level, message, meta }) => {
      log[level === 'ERROR' ? 'error' : 'warn']({ sdk: meta?.['error'] ? String(meta['error']) : undefined }, message);
    }),
    telemetryOptions: { logging: { filter: makeTelemetryFilterString({ core: 'ERROR' }), forward: {} } },
    shutdownSignals: [],
  });
}

/** Signed anew so often, ms; a token lives for five minutes. */
const RESIGN_MS = 120_000;

/**
 * Connects by Temporal's own settings; a server that is not there yet is waited for.
 * @param through for a worker: what makes the token to show, and the gateway's URL, used where no address is set
 */
export async function connectToTemporal(
  log: Logger,
  { sign, gateway }: { sign?: TokenSigner; gateway?: string } = {},
): Promise<{ connection: NativeConnection; namespace: string }> {
  const { connectionOptions, namespace } = loadClientConnectConfig();
  // A gateway gets the worker's token alone: what else is set, or stands in a profile, is meant for Temporal's own door.
  const options = gateway === undefined || isDirect() ? connectionOptions : addressOf(gateway);
  for (let tries = 0; ; tries += 1) {
    try {
      const { address, tls, apiKey, metadata: given } = options;
      const metadata = sign ? { ...given, authorization: `Bearer ${await sign()}` } : given;
      const connection = await NativeConnection.connect({
        address,
        tls,
        ...(apiKey ? { apiKey } : {}),
        metadata: metadata as Record<string, string> | undefined,
      });
      if (sign) keepSigned(connection, { sign, log, metadata: given as Record<string, string> | undefined });
      return { connection, namespace: namespace ?? 'default' };
    } catch (error) {
      if (tries === 0) log.warn({ error: (error as Error).message }, 'Temporal does not answer yet; waiting for it');
      await sleep(RETRY_MS);
    }
  }
}

/** Temporal's own setting wins: without a gateway a worker may talk to the server itself. */
const isDirect = (): boolean => Boolean(process.env['TEMPORAL_ADDRESS']);

/** Whom a worker tells what it does: the gateway, by default that of this machine; without one, the API. */
export function serverOf({ SLIPWAY_SERVER: given, baseUrl, gatewayUrl }: Settings): string {
  return (given ?? (isDirect() ? baseUrl : gatewayUrl)).replace(/\/+$/, '');
}

function addressOf(gateway: string): ConnectionOptions {
  const { protocol, hostname, port } = new URL(gateway);
  const isSecure = protocol === 'https:';
  return { address: `${hostname}:${port || (isSecure ? 443 : 80)}`, tls: isSecure && trusted() };
}

/** As Node does for HTTPS: the usual authorities, and those of NODE_EXTRA_CA_CERTS. */
function trusted(): true | { serverRootCACertificate: Buffer } {
  const extra = process.env['NODE_EXTRA_CA_CERTS'];
  if (!extra) return true;
  return { serverRootCACertificate: Buffer.from([...rootCertificates, readFileSync(extra, 'utf8')].join('\n')) };
}

function keepSigned(
  connection: NativeConnection,
  { sign, log, metadata }: { sign: TokenSigner; log: Logger; metadata?: Record<string, string> },
): void {
  const resign = async (): Promise<void> =>
    connection.setMetadata({ ...metadata, authorization: `Bearer ${await sign()}` });
  const round = setInterval(() => {
    resign().catch((error: unknown) => log.warn({ error: String(error) }, 'the token could not be signed anew'));
  }, RESIGN_MS);
  round.unref();
}
