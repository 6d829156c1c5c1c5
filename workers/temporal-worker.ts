// Owns what both kinds of Temporal worker share: the connection, waited for, and the SDK's logs in ours.
// Called by orchestrator.ts and cluster.ts.
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { rootCertificates } from 'node:tls';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { DefaultLogger, NativeConnection, Runtime, makeTelemetryFilterString, type Worker } from '@temporalio/worker';
import type { Logger } from 'pino';
import { ShownToken, type TokenSigner } from '../adapters/cluster-keys';
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

/** Looked so often, ms, whether the token to show is another one, and whether a worker still polls. */
const LOOK_MS = 1_000;

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
  const token = sign && new ShownToken(sign);
  for (let tries = 0; ; tries += 1) {
    try {
      const { address, tls, apiKey, metadata: given } = options;
      const metadata = token ? { ...given, authorization: `Bearer ${await token.text()}` } : given;
      const connection = await NativeConnection.connect({
        address,
        tls,
        ...(apiKey ? { apiKey } : {}),
        metadata: metadata as Record<string, string> | undefined,
      });
      if (token) keepSigned(connection, { token, log, metadata: given as Record<string, string> | undefined });
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
  { token, log, metadata }: { token: ShownToken; log: Logger; metadata?: Record<string, string> },
): void {
  let shown = '';
  const resign = async (): Promise<void> => {
    const text = await token.text();
    if (text === shown) return;
    await connection.setMetadata({ ...metadata, authorization: `Bearer ${text}` });
    shown = text;
  };
  const round = setInterval(() => {
    resign().catch((error: unknown) => log.warn({ error: String(error) }, 'no further token could be signed'));
  }, LOOK_MS);
  round.unref();
}

/**
 * Runs workers until they are shut down. One that polls no more ends the process: its supervisor starts another, which
 * adopts what runs. The SDK tells of pollers that gave up by the state of the worker alone; its `run` waits for ever then.
 */
export function runWorkers(
  workers: readonly Pick<Worker, 'run' | 'getState'>[],
  { log, end = () => process.exit(1), lookMs = LOOK_MS }: { log: Logger; end?: () => void; lookMs?: number },
): Promise<void>[] {
  let isEnding = false;
  const fail = (why: string): void => {
    if (isEnding) return;
    isEnding = true;
    log.fatal({ why }, 'it polls Temporal no more, so this process ends; its supervisor starts another');
    end();
  };
  const running = workers.map((worker) => worker.run());
  for (const run of running) run.catch((error: unknown) => fail(String(error)));
  const round = setInterval(() => {
    if (workers.some((worker) => worker.getState() === 'FAILED')) fail('its pollers gave up');
  }, lookMs);
  round.unref();
  void Promise.allSettled(running).then(() => clearInterval(round));
  return running;
}
