// Owns what both kinds of Temporal worker share: the connection, waited for, and the SDK's logs in ours.
// Called by orchestrator.ts and cluster.ts.
import { setTimeout as sleep } from 'node:timers/promises';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { DefaultLogger, NativeConnection, Runtime, makeTelemetryFilterString } from '@temporalio/worker';
import type { Logger } from 'pino';
import type { TokenSigner } from '../adapters/cluster-keys';

const RETRY_MS = 500;

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
 * @param sign for a gateway in front of it: makes the token to show
 */
export async function connectToTemporal(
  log: Logger,
  sign?: TokenSigner,
): Promise<{ connection: NativeConnection; namespace: string }> {
  const { connectionOptions, namespace } = loadClientConnectConfig();
  for (let tries = 0; ; tries += 1) {
    try {
      const { address, tls, apiKey, metadata: given } = connectionOptions;
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
