// Owns the one door to Temporal as a client: start, cancel and signal builds, and say whether the server answers.
// Called through outbox.ts by the API (at once, best effort) and by the orchestrator's sweep (until it is done).
import { Client, Connection, WorkflowNotFoundError } from '@temporalio/client';
import { SearchAttributeType, defineSearchAttributeKey } from '@temporalio/common';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { SEARCH_ATTRIBUTES } from './temporal-dev-server';
import { buildWorkflowId, ORCHESTRATOR_QUEUE } from '../domain/names';
import type { Plan } from '../domain/schemas/plan';
import { BUILD_WORKFLOW, DEFAULT_TIMING, type BuildInput, type BuildTiming } from '../domain/build-input';

const CALL_LIMIT_MS = 10_000;

/** Temporal's numbers for the types of search attributes that we use. */
const CODE = { Keyword: 2, Int: 3 };

export interface BuildToStart {
  id: string;
  project: string;
  number: number;
  trigger: string;
  plan: Pick<Plan, 'jobs' | 'runs'>;
  runIds: readonly string[];
  cluster: string;
}

export class Temporal {
  private constructor(
    private readonly client: Client,
    private readonly timing: BuildTiming,
  ) {}

  /** Connects lazily, by Temporal's own settings (TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TLS, API key). */
  static open(settings: { SLIPWAY_HEARTBEAT_TIMEOUT_MS: number; SLIPWAY_REATTACH_GRACE_MS: number }): Temporal {
    const timing = {
      ...DEFAULT_TIMING,
      heartbeatTimeoutMs: settings.SLIPWAY_HEARTBEAT_TIMEOUT_MS,
      reattachGraceMs: settings.SLIPWAY_REATTACH_GRACE_MS,
    };
    const config = loadClientConnectConfig();
    const connection = Connection.lazy(config.connectionOptions);
    return new Temporal(new Client({ connection, namespace: config.namespace ?? 'default' }), timing);
  }

  get namespace(): string {
    return this.client.options.namespace;
  }

  /** Starts the workflow of a build; started already is fine. */
  async startBuild(build: BuildToStart): Promise<void> {
    const input = makeInput(build, this.timing);
    await this.client
      .withDeadline(Date.now() + CALL_LIMIT_MS, () =>
        this.client.workflow.start(BUILD_WORKFLOW, {
          workflowId: buildWorkflowId(build.project, build.number),
          taskQueue: ORCHESTRATOR_QUEUE,
          args: [input],
          workflowIdConflictPolicy: 'USE_EXISTING',
          workflowIdReusePolicy: 'REJECT_DUPLICATE',
          staticSummary: `${build.project} #${build.number} (${build.trigger}), ${build.plan.runs.length} runs`,
          priority: { fairnessKey: build.project },
          typedSearchAttributes: [
            { key: defineSearchAttributeKey('SlipwayProject', SearchAttributeType.KEYWORD), value: build.project },
            { key: defineSearchAttributeKey('SlipwayBuild', SearchAttributeType.INT), value: build.number },
            { key: defineSearchAttributeKey('SlipwayTrigger', SearchAttributeType.KEYWORD), value: build.trigger },
            { key: defineSearchAttributeKey('SlipwayCluster', SearchAttributeType.KEYWORD), value: build.cluster },
          ],
        }),
      )
      .catch((error: unknown) => {
        if ((error as Error).name !== 'WorkflowExecutionAlreadyStartedError') throw error;
      });
  }

  /** Tells a build, or one of its runs, that it is cancelled; a workflow that is closed needs no telling. */
  async cancel(cancel: { project: string; number: number; run: string | null }): Promise<void> {
    const handle = this.client.workflow.getHandle(buildWorkflowId(cancel.project, cancel.number));
    const { run } = cancel;
    try {
      await this.client.withDeadline(Date.now() + CALL_LIMIT_MS, async () => {
        if (run === null) await handle.cancel();
        else await handle.signal('runCancelRequested', { run });
      });
    } catch (error) {
      if (!(error instanceof WorkflowNotFoundError)) throw error;
    }
  }

  /** Registers the search attributes of builds; there already is fine. Done by the orchestrator before it takes work. */
  async ensureSearchAttributes(): Promise<void> {
    const { operatorService } = this.client.connection as Connection;
    const { namespace } = this;
    const { customAttributes } = await operatorService.listSearchAttributes({ namespace });
    const missing = Object.entries(SEARCH_ATTRIBUTES).filter(([name]) => !(name in customAttributes));
    if (missing.length === 0) return;
    const searchAttributes = Object.fromEntries(missing.map(([name, type]) => [name, CODE[type]]));
    await operatorService.addSearchAttributes({ namespace, searchAttributes }).catch((error: unknown) => {
      if (!/already exists/i.test((error as Error).message)) throw error;
    });
  }

  /** @throws when the server does not answer in time */
  async check(): Promise<void> {
    await this.client.withDeadline(Date.now() + 2_000, () =>
      this.client.workflowService.describeNamespace({ namespace: this.namespace }),
    );
  }

  async close(): Promise<void> {
    await this.client.connection.close();
  }
}

/** Runs open at once in one build. */
const WINDOW = 100;

function makeInput(build: BuildToStart, timing: BuildTiming): BuildInput {
  const positions = new Map(build.plan.runs.map((run, at) => [run.name, at]));
  const runs = build.plan.runs.map((run, at) => ({
    id: build.runIds[at] ?? '',
    name: run.name,
    job: run.job,
    cluster: build.cluster,
    timeoutMs: run.timeoutMs,
    ...(run.needs.length === 0
      ? {}
      : { needs: run.needs.map((need) => positions.get(need) ?? -1), needsCondition: run.needsCondition }),
  }));
  return {
    buildId: build.id,
    project: build.project,
    number: build.number,
    runs,
    jobs: build.plan.jobs.filter((job) => job.failFast || job.maxParallel !== undefined),
    window: WINDOW,
    timing,
  };
}
