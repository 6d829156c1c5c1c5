// Owns the gRPC half of the gateway: the few methods a worker needs, each checked, sent on to Temporal, and changed on the way back.
// Opened beside the HTTP half by the gateway's process; front.ts hands it the connections. Keeps nothing but open calls.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Duplex } from 'node:stream';
import {
  Metadata,
  Server,
  ServerCredentials,
  status,
  type sendUnaryData,
  type ServerUnaryCall,
  type ServiceError,
} from '@grpc/grpc-js';
import { temporal } from '@temporalio/proto';
import { Allowance, type AllowanceLimits } from './allowance';
import { Admission, statusOf, type RefusalRecord } from './admission';
import type { Identities, WorkerIdentity } from '../adapters/worker-identity';
import { WorkerRefusal } from '../adapters/worker-refusal';
import { makeRules, type Rule } from './rules';
import { guardStreams } from './stream-guard';
import type { TaskTokens } from './task-tokens';
import type { Upstream } from './upstream';

export interface GrpcProxyOptions {
  upstream: Upstream;
  identities: Identities;
  tokens: TaskTokens;
  /** Called for every refusal, however many there are. */
  audit: (refusal: RefusalRecord) => void;
  /** What must not happen, e.g. an answer of Temporal that cannot be read; the worker gets INTERNAL. */
  report: (error: unknown, method: string) => void;
  /** The first call of a connection that was let in, and each later one. */
  onAdmitted?: (peer: string, who: WorkerIdentity) => void;
  /** Shared with the HTTP half; left out: one of its own. */
  allowance?: Allowance;
  limits?: Partial<GrpcLimits>;
}

export interface GrpcLimits {
  /** Longest request; Temporal takes 4 MiB. */
  maxMessageBytes: number;
  maxStreamsPerConnection: number;
  arrivalMs?: number;
}

export interface GrpcProxy {
  /** Takes over a connection that speaks HTTP/2. */
  accept(connection: Duplex): void;
  /** Open calls, for metrics. */
  openCalls(): number;
  /** Ends long polls at once, waits a little for what is about to be answered, and closes every connection. */
  close(graceMs?: number): Promise<void>;
}

const DEFAULTS: GrpcLimits = {
  maxMessageBytes: (4 << 20) + (64 << 10),
  maxStreamsPerConnection: 256,
};

/** What a cluster may have open over both halves; of gRPC less, so that no cluster uses up the polls of Temporal. */
export function makeAllowance(limits: Partial<AllowanceLimits> = {}): Allowance {
  return new Allowance({ calls: 1_024, grpcCalls: 512, messageBytes: DEFAULTS.maxMessageBytes, ...limits });
}

/** Longest deadline that a call gets, ms: an SDK asks for 70 s when it polls. */
const MAX_DEADLINE_MS = 120_000;
/** A connection without calls is closed after, ms. A worker always has a poll open. */
const MAX_IDLE_MS = 60_000;

/** Headers of a worker that Temporal gets to see. */
const HEADERS = ['client-name', 'client-version', 'supported-server-versions', 'supported-features'];

type UnaryCall = ServerUnaryCall<Buffer, Buffer>;
type Answer = sendUnaryData<Buffer>;

export function openGrpcProxy(options: GrpcProxyOptions): GrpcProxy {
  const limits = { ...DEFAULTS, ...options.limits };
  const { allowance = makeAllowance() } = options;
  const admission = new Admission({ ...options, allowance, arrivalMs: limits.arrivalMs });
  const server = new Server({
    interceptors: [admission.interceptor],
    'grpc.max_receive_message_length': limits.maxMessageBytes,
    'grpc.max_concurrent_streams': limits.maxStreamsPerConnection,
    'grpc.max_connection_idle_ms': MAX_IDLE_MS,
    // A worker whose machine is gone must lose its polls, else tasks go to nobody.
    'grpc.keepalive_time_ms': 20_000,
    'grpc.keepalive_timeout_ms': 10_000,
    'grpc.enable_channelz': 0,
  });
  register(server, options, admission);
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  guardStreams(server, (peer, why) =>
    admission.record(new WorkerRefusal('broken-connection', why), { method: 'HTTP/2', peer }),
  );
  return {
    accept: (connection) => injector.injectConnection(connection),
    openCalls: () => admission.callsOf(),
    close: async (graceMs = 1_000) => {
      const until = Date.now() + graceMs;
      while (admission.callsOf((method) => !isPoll(method)) > 0 && Date.now() < until) await sleep(10);
      admission.close();
      server.forceShutdown();
      options.upstream.close();
    },
  };
}

const isPoll = (path: string): boolean => path.includes('/Poll');

/** Every method of Temporal has a handler, so that a refused one is on record; what Temporal does not know does not exist. */
function register(server: Server, options: GrpcProxyOptions, admission: Admission): void {
  const rules = makeRules({ namespace: options.upstream.namespace, tokens: options.tokens });
  const { workflowservice, operatorservice } = temporal.api;
  for (const service of [workflowservice.v1.WorkflowService, operatorservice.v1.OperatorService]) {
    // Of the classes that the types speak of there is only the reflection, which lists the methods.
    const { fullName, methods } = service as unknown as { fullName: string; methods: Record<string, unknown> };
    for (const name of Object.keys(methods)) {
      const path = `/${fullName.replace(/^\./, '')}/${name}`;
      const rule = service === workflowservice.v1.WorkflowService ? rules.get(name) : undefined;
      server.register(path, handlerOf({ path, rule, options, admission }), same, same, 'unary');
    }
  }
}

const same = (bytes: Buffer): Buffer => bytes;

interface Method {
  path: string;
  /** Left out: no worker may call it. */
  rule: Rule | undefined;
  options: GrpcProxyOptions;
  admission: Admission;
}

/** Nothing that is thrown here may get out: it would end the process. */
function handlerOf(method: Method): (call: UnaryCall, answer: Answer) => void {
  return (call, answer) => {
    try {
      forward(method, call, answer);
    } catch (error) {
      refuse(error, { method, call, answer });
    }
  };
}

function forward(method: Method, call: UnaryCall, answer: Answer): void {
  const { path, rule, options, admission } = method;
  const who = admission.callerOf(call.metadata);
  if (!rule) throw new WorkerRefusal('method-not-allowed', path.slice(path.lastIndexOf('/') + 1));
  const upstreamCall = {
    path,
    body: checkRequest(rule, who, call.request),
    headers: headersOf(call.metadata),
    deadline: Math.min(Number(call.getDeadline()), Date.now() + MAX_DEADLINE_MS),
  };
  const sent = options.upstream.call(upstreamCall, (error, body) => {
    try {
      if (error) answer(asSeenByWorkers(error));
      else answer(null, rule.response && body ? Buffer.from(rule.response(who, body)) : body);
    } catch (thrown) {
      options.report(thrown, path);
      answer({ code: status.INTERNAL, details: 'the gateway cannot read the answer of Temporal' });
    }
  });
  // A poll whose worker is gone must end, else a task goes to nobody.
  if (call.cancelled) sent.cancel();
  else call.on('cancelled', () => sent.cancel());
}

function checkRequest(rule: Rule, who: WorkerIdentity, body: Buffer): Buffer {
  try {
    return Buffer.from(rule.request(who, body));
  } catch (cause) {
    throw cause instanceof WorkerRefusal ? cause : new WorkerRefusal('malformed', undefined, { cause });
  }
}

function refuse(error: unknown, { method, call, answer }: { method: Method; call: UnaryCall; answer: Answer }): void {
  const { path, options, admission } = method;
  if (error instanceof WorkerRefusal) {
    admission.record(error, { method: path, peer: call.getPeer(), who: admission.callerOf(call.metadata) });
    return answer({ code: statusOf(error), details: error.message });
  }
  options.report(error, path);
  answer({ code: status.INTERNAL, details: 'the gateway has made a mistake' });
}

function headersOf(metadata: Metadata): Record<string, string> {
  const given = HEADERS.map((name) => [name, metadata.get(name)[0]] as const);
  return Object.fromEntries(given.flatMap(([name, value]) => (typeof value === 'string' ? [[name, value]] : [])));
}

const DETAILS = 'grpc-status-details-bin';

/** Temporal's own words and details. That it does not let the gateway in is no fault of the worker, which tries again. */
function asSeenByWorkers({ code, details, metadata }: ServiceError): Partial<ServiceError> {
  if (code === status.UNAUTHENTICATED || code === status.PERMISSION_DENIED) {
    return { code: status.UNAVAILABLE, details: `Temporal refuses the gateway: ${details}` };
  }
  const kept = new Metadata();
  for (const value of metadata.get(DETAILS)) kept.add(DETAILS, value);
  return { code, details, metadata: kept };
}
