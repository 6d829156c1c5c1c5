// Owns the gateway's connections to Temporal, by Temporal's own settings; the credentials in them never leave this side.
// Called by grpc-proxy.ts for every call that was let through.
import { Client, credentials, Metadata, type ChannelCredentials, type ServiceError } from '@grpc/grpc-js';
import { loadClientConnectConfig } from '@temporalio/envconfig';

const CHANNELS = 4;
/** Answers of Temporal: a task's input is at most one request of a few MiB. */
const MAX_ANSWER_BYTES = 16 << 20;

export interface UpstreamCall {
  path: string;
  body: Buffer;
  /** Headers that go on; the gateway's own credentials are added. */
  headers: Readonly<Record<string, string>>;
  deadline: Date | number;
}

export interface Upstream {
  readonly namespace: string;
  call(call: UpstreamCall, done: (error: ServiceError | null, body?: Buffer) => void): { cancel(): void };
  close(): void;
}

type ConnectionOptions = ReturnType<typeof loadClientConnectConfig>['connectionOptions'];

/** Connects lazily (TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TLS, API key), and again by itself after an outage. */
export function openUpstream(): Upstream {
  const { connectionOptions: options, namespace = 'default' } = loadClientConnectConfig();
  const own = ownHeaders(options);
  const channels = Array.from({ length: CHANNELS }, () => openChannel(options));
  let turn = 0;
  return {
    namespace,
    call: ({ path, body, headers, deadline }, done) => {
      turn = (turn + 1) % CHANNELS;
      const metadata = new Metadata();
      for (const [name, value] of Object.entries({ ...headers, ...own })) metadata.set(name, value);
      return channels[turn]!.makeUnaryRequest(path, same, same, body, metadata, { deadline }, done);
    },
    close: () => channels.forEach((channel) => channel.close()),
  };
}

const same = (bytes: Buffer): Buffer => bytes;

function openChannel({
  address = 'localhost:7233',
  apiKey,
  tls = apiKey ? true : undefined,
}: ConnectionOptions): Client {
  const override = typeof tls === 'object' && tls ? tls.serverNameOverride : undefined;
  return new Client(address, credentialsOf(tls), {
    // Each with a connection of its own: one carries a limited number of polls.
    'grpc.use_local_subchannel_pool': 1,
    'grpc.max_receive_message_length': MAX_ANSWER_BYTES,
    'grpc.initial_reconnect_backoff_ms': 200,
    'grpc.max_reconnect_backoff_ms': 2_000,
    // Temporal allows one ping in 10 s.
    'grpc.keepalive_time_ms': 15_000,
    'grpc.keepalive_timeout_ms': 10_000,
    ...(override ? { 'grpc.ssl_target_name_override': override, 'grpc.default_authority': override } : {}),
  });
}

function credentialsOf(tls: ConnectionOptions['tls']): ChannelCredentials {
  if (!tls) return credentials.createInsecure();
  if (tls === true) return credentials.createSsl();
  const { serverRootCACertificate: root, clientCertPair: pair } = tls;
  const bytes = (pem: Uint8Array | undefined): Buffer | null => (pem ? Buffer.from(pem) : null);
  return credentials.createSsl(bytes(root), bytes(pair?.key), bytes(pair?.crt));
}

function ownHeaders({ apiKey, metadata }: ConnectionOptions): Record<string, string> {
  return {
    ...(metadata as Record<string, string> | undefined),
    ...(typeof apiKey === 'string' ? { authorization: `Bearer ${apiKey}` } : {}),
  };
}
