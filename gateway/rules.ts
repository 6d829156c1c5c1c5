// Owns what a worker may ask of Temporal: one entry a method, with what is checked on the way in and changed on the way out.
// Called by grpc-proxy.ts. Pure but for the seals, which follow from the secret alone.
import { temporal } from '@temporalio/proto';
import { Reader, Writer } from 'protobufjs/minimal';
import { clusterQueue, workerQueue } from '../domain/names';
import type { WorkerIdentity } from '../adapters/worker-identity';
import { WorkerRefusal } from '../adapters/worker-refusal';
import type { TaskTokens, TokenKind } from './task-tokens';
import { firstField, joinFields, splitFields } from './wire';

const service = temporal.api.workflowservice.v1;
const { WorkerCommand } = temporal.api.worker.v1;

export interface Rule {
  /** @returns what Temporal gets @throws WorkerRefusal; anything else that is thrown means that the bytes are malformed */
  readonly request: (who: WorkerIdentity, body: Buffer) => Uint8Array;
  /** Left out: the answer goes through as it is. */
  readonly response?: (who: WorkerIdentity, body: Buffer) => Uint8Array;
}

export interface RuleContext {
  /** The one namespace that workers may name. */
  namespace: string;
  tokens: TaskTokens;
}

/**
 * The methods that a worker without workflows calls; every other is refused. What goes to Temporal is written anew from
 * the fields that were read: what was not checked is not there, and no two readers can differ about what it says. So
 * worker versioning is left out, by which a poll could start Temporal's own deployment workflows, and rate limits of queues.
 * Payloads go on unread.
 *
 * What remains: a worker may report as many workers of its own queues as it likes (Temporal bounds what it keeps of them),
 * and may push no cancel but sees those of its own tasks.
 */
export function makeRules(context: RuleContext): ReadonlyMap<string, Rule> {
  return new Map<string, Rule>([
    ['GetSystemInfo', { request: () => service.GetSystemInfoRequest.encode({}).finish() }],
    ['DescribeNamespace', describeNamespace(context)],
    ['PollActivityTaskQueue', pollActivities(context)],
    ['RecordActivityTaskHeartbeat', report(context, { ...ACTIVITY, kept: [DETAILS] })],
    ['RespondActivityTaskCompleted', report(context, { ...ACTIVITY, kept: [RESULT], change: onePayload })],
    [
      'RespondActivityTaskFailed',
      report(context, { ...ACTIVITY, kept: [FAILURE, LAST_DETAILS], change: readableFailure }),
    ],
    ['RespondActivityTaskCanceled', report(context, { ...ACTIVITY, kept: [DETAILS] })],
    ['PollNexusTaskQueue', pollCommands(context)],
    ['RespondNexusTaskCompleted', report(context, { ...NEXUS, kept: [NEXUS_RESPONSE] })],
    ['RespondNexusTaskFailed', report(context, { ...NEXUS, kept: [NEXUS_ERROR, NEXUS_FAILURE] })],
    ['RecordWorkerHeartbeat', recordHeartbeats(context)],
    ['ShutdownWorker', shutDown(context)],
  ]);
}

/** Answers with what an SDK looks at; owner, e-mail and settings of the namespace are none of a worker's business. */
function describeNamespace({ namespace }: RuleContext): Rule {
  return {
    request: (_who, body) => {
      const asked = read(service.DescribeNamespaceRequest, body);
      requireNamespace(namespace, asked.namespace);
      if (asked.id) throw new WorkerRefusal('namespace-not-allowed', 'by id');
      return service.DescribeNamespaceRequest.encode({ namespace }).finish();
    },
    response: (_who, body) => {
      const { namespaceInfo } = service.DescribeNamespaceResponse.decode(body);
      const { name, state, capabilities, limits } = namespaceInfo ?? {};
      return service.DescribeNamespaceResponse.encode({
        namespaceInfo: { name, state, capabilities, limits },
      }).finish();
    },
  };
}

function pollActivities({ namespace, tokens }: RuleContext): Rule {
  return {
    request: (who, body) => {
      const asked = read(service.PollActivityTaskQueueRequest, body);
      requireNamespace(namespace, asked.namespace);
      const control = asked.workerControlTaskQueue;
      return service.PollActivityTaskQueueRequest.encode({
        namespace,
        taskQueue: { name: ownQueue(who, asked.taskQueue), kind: TASK_QUEUE_KIND_NORMAL },
        identity: nameOf(who),
        workerInstanceKey: aliasOf(tokens, who, asked.workerInstanceKey),
        ...(control ? { workerControlTaskQueue: ownCommandQueue({ namespace, tokens }, who, control) } : {}),
      }).finish();
    },
    response: (who, body) => {
      const { taskToken } = service.PollActivityTaskQueueResponse.decode(body);
      if (taskToken.length === 0) return body;
      // Of two fields with one number the last counts, so the seal needs no second encoding of the whole task.
      const sealed = tokens.seal('activity', who, taskToken);
      return Buffer.concat([body, Writer.create().uint32(TASK_TOKEN_TAG).bytes(sealed).finish()]);
    },
  };
}

/** Field 1, bytes: `task_token` in the answers to polls. */
const TASK_TOKEN_TAG = 10;
const { TASK_QUEUE_KIND_NORMAL, TASK_QUEUE_KIND_WORKER_COMMANDS } = temporal.api.enums.v1.TaskQueueKind;

/** Where a report about one task has what; the numbers are those of Temporal's messages. */
interface ReportFields {
  kind: TokenKind;
  taskToken: number;
  identity: number;
  namespace: number;
  /** Go on as they are. */
  kept: readonly number[];
  /** Makes of the fields what an orchestrator can read. */
  change?: (fields: Map<number, Uint8Array>) => void;
}

const ACTIVITY = { kind: 'activity', taskToken: 1, identity: 3, namespace: 4 } as const;
const [RESULT, DETAILS, FAILURE, LAST_DETAILS] = [2, 2, 2, 5] as const;
const NEXUS = { kind: 'nexus', namespace: 1, identity: 2, taskToken: 3 } as const;
const [NEXUS_RESPONSE, NEXUS_ERROR, NEXUS_FAILURE] = [4, 4, 5] as const;

function report({ namespace, tokens }: RuleContext, at: ReportFields): Rule {
  return {
    request: (who, body) => {
      const fields = splitFields(body);
      requireNamespace(namespace, Buffer.from(fields.get(at.namespace) ?? []).toString());
      const token = tokens.open(at.kind, who, fields.get(at.taskToken) ?? new Uint8Array());
      at.change?.(fields);
      return joinFields([
        [at.taskToken, token],
        [at.identity, Buffer.from(nameOf(who))],
        [at.namespace, Buffer.from(namespace)],
        ...at.kept.flatMap((number) => (fields.has(number) ? [[number, fields.get(number)!] as const] : [])),
      ]);
    },
  };
}

const [PAYLOADS_PAYLOAD, FAILURE_CAUSE] = [1, 4] as const;

/** Any other number of payloads ends each task of the workflow with a fatal error in the SDK's core. */
function onePayload(fields: Map<number, Uint8Array>): void {
  const first = firstField(fields.get(RESULT) ?? new Uint8Array(), PAYLOADS_PAYLOAD);
  if (first) fields.set(RESULT, joinFields([[PAYLOADS_PAYLOAD, first]]));
  else fields.delete(RESULT);
}

/** Far below the hundred levels that an orchestrator reads of a history, and more than any SDK writes. */
const MAX_CAUSES = 20;

/** A deeper failure would be a history that no orchestrator can read. @throws Error when it is no protobuf */
function readableFailure(fields: Map<number, Uint8Array>): void {
  let failure: Uint8Array | undefined = fields.get(FAILURE) ?? new Uint8Array();
  fields.set(FAILURE, failure);
  for (let depth = 0; failure; depth += 1) {
    if (depth > MAX_CAUSES) throw new WorkerRefusal('malformed', `a failure with more than ${MAX_CAUSES} causes`);
    // Throws where a cause comes twice: readers would make one of both.
    failure = splitFields(failure).get(FAILURE_CAUSE);
  }
}

/** The queue by which Temporal pushes commands to a worker, cancellations above all. */
function pollCommands(context: RuleContext): Rule {
  const { namespace, tokens } = context;
  return {
    request: (who, body) => {
      const asked = read(service.PollNexusTaskQueueRequest, body);
      requireNamespace(namespace, asked.namespace);
      const { name, kind } = requireKind(asked.taskQueue, TASK_QUEUE_KIND_WORKER_COMMANDS);
      return service.PollNexusTaskQueueRequest.encode({
        namespace,
        taskQueue: { name: ownCommandQueue(context, who, name), kind },
        identity: nameOf(who),
        workerInstanceKey: aliasOf(tokens, who, asked.workerInstanceKey),
        workerHeartbeat: ownHeartbeats(context, who, asked.workerHeartbeat),
      }).finish();
    },
    response: (who, body) => {
      const task = service.PollNexusTaskQueueResponse.decode(body);
      if (task.taskToken.length === 0) return body;
      const payload = task.request?.startOperation?.payload;
      if (payload?.data) payload.data = sealCommands(payload.data, (token) => tokens.seal('activity', who, token));
      task.taskToken = tokens.seal('nexus', who, task.taskToken);
      return service.PollNexusTaskQueueResponse.encode(task).finish();
    },
  };
}

/** Commands name tasks by Temporal's tokens; the worker knows the sealed ones. */
function sealCommands(data: Uint8Array, seal: (token: Uint8Array) => Uint8Array): Uint8Array {
  // ExecuteCommandsRequest { repeated WorkerCommand commands = 1 }, which @temporalio/proto lacks.
  const reader = Reader.create(data);
  const writer = Writer.create();
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag !== COMMANDS_TAG) {
      reader.skipType(tag & 7);
      continue;
    }
    const command = WorkerCommand.decode(reader.bytes());
    const { cancelActivity } = command;
    if (cancelActivity?.taskToken) cancelActivity.taskToken = seal(cancelActivity.taskToken);
    writer.uint32(tag).bytes(WorkerCommand.encode(command).finish());
  }
  return writer.finish();
}

const COMMANDS_TAG = 10;

function recordHeartbeats(context: RuleContext): Rule {
  return {
    request: (who, body) => {
      const asked = read(service.RecordWorkerHeartbeatRequest, body);
      requireNamespace(context.namespace, asked.namespace);
      return service.RecordWorkerHeartbeatRequest.encode({
        namespace: context.namespace,
        identity: nameOf(who),
        workerHeartbeat: ownHeartbeats(context, who, asked.workerHeartbeat),
      }).finish();
    },
  };
}

/** Ends the open polls of one worker; the alias of its key sees to it that they are the caller's own. */
function shutDown(context: RuleContext): Rule {
  const { namespace, tokens } = context;
  return {
    request: (who, body) => {
      const asked = read(service.ShutdownWorkerRequest, body);
      requireNamespace(namespace, asked.namespace);
      return service.ShutdownWorkerRequest.encode({
        namespace,
        identity: nameOf(who),
        reason: asked.reason.slice(0, 200),
        taskQueue: asked.taskQueue && ownReportedQueue(context, who, asked.taskQueue),
        taskQueueTypes: asked.taskQueueTypes,
        workerInstanceKey: aliasOf(tokens, who, asked.workerInstanceKey),
        workerHeartbeat: asked.workerHeartbeat && ownHeartbeats(context, who, [asked.workerHeartbeat])[0],
      }).finish();
    },
  };
}

type Heartbeat = temporal.api.worker.v1.IWorkerHeartbeat;

/** What a worker may say of itself at once; an SDK says one for each queue. */
const MAX_HEARTBEATS = 64;

function ownHeartbeats(context: RuleContext, who: WorkerIdentity, heartbeats: Heartbeat[]): Heartbeat[] {
  if (heartbeats.length > MAX_HEARTBEATS) throw new WorkerRefusal('foreign-heartbeat', `${heartbeats.length} at once`);
  return heartbeats.map((heartbeat) => ({
    ...heartbeat,
    deploymentVersion: null,
    workerIdentity: nameOf(who),
    workerInstanceKey: aliasOf(context.tokens, who, heartbeat.workerInstanceKey),
    taskQueue: ownReportedQueue(context, who, heartbeat.taskQueue ?? ''),
    hostInfo: heartbeat.hostInfo && {
      ...heartbeat.hostInfo,
      workerGroupingKey: aliasOf(context.tokens, who, heartbeat.hostInfo.workerGroupingKey),
    },
  }));
}

function ownReportedQueue(context: RuleContext, who: WorkerIdentity, name: string): string {
  if (isOwnQueue(who, name)) return name;
  if (name.startsWith(COMMAND_QUEUES)) return ownCommandQueue(context, who, name);
  throw new WorkerRefusal('foreign-heartbeat', name);
}

const COMMAND_QUEUES = 'temporal-sys/worker-commands/';
const SDK_KEY = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/**
 * The SDK calls its queue `temporal-sys/worker-commands/<namespace>/<key>`, names it in every poll for activities, and
 * makes the key up anew in each process, so there is nothing to compare it with. Instead Temporal gets to know an alias
 * that follows from cluster, worker and key: it pushes the cancels of a task to the alias of who took it, and whoever
 * polls with a key of somebody else polls a queue that nothing is ever sent to.
 */
function ownCommandQueue({ namespace, tokens }: RuleContext, who: WorkerIdentity, name: string): string {
  const prefix = `${COMMAND_QUEUES}${namespace}/`;
  const key = name.slice(prefix.length);
  if (!name.startsWith(prefix) || !SDK_KEY.test(key)) throw new WorkerRefusal('queue-not-allowed', name);
  return prefix + tokens.alias(who, key);
}

/** Keys by which Temporal tells workers apart: an alias for each caller, so that none can speak of another's. */
function aliasOf(tokens: TaskTokens, who: WorkerIdentity, key: string | null | undefined): string {
  return key ? tokens.alias(who, key) : '';
}

const isOwnQueue = ({ cluster, worker }: WorkerIdentity, name: string): boolean =>
  name === clusterQueue(cluster) || name === workerQueue(cluster, worker);

type Queue = temporal.api.taskqueue.v1.ITaskQueue | null | undefined;
type QueueKind = temporal.api.enums.v1.TaskQueueKind;

function ownQueue(who: WorkerIdentity, queue: Queue): string {
  const { name } = requireKind(queue, TASK_QUEUE_KIND_NORMAL);
  if (!isOwnQueue(who, name)) throw new WorkerRefusal('queue-not-allowed', name);
  return name;
}

/** Sticky queues belong to workers of workflows. */
function requireKind(queue: Queue, wanted: QueueKind): { name: string; kind: QueueKind } {
  const { name, kind, normalName } = queue ?? {};
  const isOther = kind && kind !== wanted;
  if (isOther || normalName) throw new WorkerRefusal('queue-not-allowed', `${name} of kind ${kind}`);
  return { name: name ?? '', kind: wanted };
}

function requireNamespace(own: string, asked: string): void {
  if (asked !== own) throw new WorkerRefusal('namespace-not-allowed', asked);
}

/** What Temporal shows of who took a task: the worker that the token vouches for, whatever its SDK calls itself. */
const nameOf = ({ cluster, worker }: WorkerIdentity): string => workerQueue(cluster, worker);

/** Longest message without payloads, bytes: it is read whole, and an SDK writes a few hundred. */
const MAX_SMALL_BYTES = 64 << 10;

function read<T>(type: { decode(reader: Reader): T }, body: Buffer): T {
  if (body.length > MAX_SMALL_BYTES) throw new WorkerRefusal('malformed', `${body.length} bytes`);
  const reader = Reader.create(body);
  reader.discardUnknown = true;
  return type.decode(reader);
}
