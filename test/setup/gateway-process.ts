// Owns a gateway in a process of its own, so that a test can kill it and weigh it. Its keys come from the test, by messages.
// Compiled to dist/ with the program; started by gateway.ts of this folder, which reads what it sends.
import { openFront } from '../../gateway/front';
import type { AllowanceLimits } from '../../gateway/allowance';
import { makeAllowance, openGrpcProxy } from '../../gateway/grpc-proxy';
import type { GrpcLimits } from '../../gateway/grpc-proxy';
import type { GuestLimits } from '../../gateway/guests';
import { Identities } from '../../adapters/worker-identity';
import type { ClusterKey } from '../../adapters/access-cache';
import { TaskTokens } from '../../gateway/task-tokens';
import { openUpstream } from '../../gateway/upstream';

/** In the environment, as JSON. */
export interface GatewaySettings {
  /** 0: any. */
  port: number;
  /** Hex. */
  secret: string;
  limits?: Partial<GrpcLimits & GuestLimits & AllowanceLimits>;
  tls?: { cert: string; key: string };
}

export interface GatewayWeight {
  rssBytes: number;
  cpuMs: number;
  openCalls: number;
  connections: number;
}

/** Keys as they come through JSON: dates are texts. */
type WrittenKey = Omit<ClusterKey, 'expiresAt' | 'revokedAt'> & { expiresAt: string | null; revokedAt: string | null };

interface Order {
  keys?: Record<string, WrittenKey[]>;
  weigh?: string;
  close?: true;
}

const { port, secret, limits, tls } = JSON.parse(process.env.TEST_GATEWAY ?? '{}') as GatewaySettings;
let keys: Record<string, WrittenKey[]> = {};

const tell = (message: object): void => void process.send?.(message);
const dateOf = (text: string | null): Date | null => (text === null ? null : new Date(text));

async function serve(): Promise<void> {
  const proxy = openGrpcProxy({
    upstream: openUpstream(),
    identities: new Identities({
      accessOf: (cluster) =>
        Promise.resolve({ keys: (keys[cluster] ?? []).map(readKey), enlisted: { has: () => true } }),
    }),
    tokens: new TaskTokens(Buffer.from(secret, 'hex')),
    audit: (refusal) => tell({ refusal }),
    report: (error, method) => tell({ fault: `${method}: ${String(error)}` }),
    onAdmitted: (peer, { cluster }) => front.prove(peer, cluster),
    allowance: makeAllowance(limits),
    limits,
  });
  const front = await openFront({
    host: '127.0.0.1',
    port,
    tls,
    limits,
    grpc: (connection) => proxy.accept(connection),
    http: (request, response) => response.end(`${request.method} ${request.url}`),
  });
  const weigh = (): GatewayWeight => {
    const { user, system } = process.cpuUsage();
    const used = { rssBytes: process.memoryUsage.rss(), cpuMs: (user + system) / 1_000 };
    return { ...used, openCalls: proxy.openCalls(), connections: front.connections() };
  };
  const close = async (): Promise<void> => {
    front.stop();
    await proxy.close();
    front.destroy();
    process.exit(0);
  };
  process.on('message', (order: Order) => {
    if (order.keys) keys = order.keys;
    if (order.weigh) tell({ weighed: order.weigh, weight: weigh() });
    if (order.close) void close();
  });
  process.on('disconnect', () => process.exit(1));
  tell({ port: front.port });
}

function readKey({ expiresAt, revokedAt, ...key }: WrittenKey): ClusterKey {
  return { ...key, expiresAt: dateOf(expiresAt), revokedAt: dateOf(revokedAt) };
}

// Not before it knows keys: a worker that comes first would be told that it is a stranger, which it does not try again.
process.once('message', (order: Order) => {
  keys = order.keys ?? {};
  void serve();
});
