// Owns the one door to Temporal as a client: start, cancel, signal and restart builds, and say whether the server answers.
// Called through outbox.ts by the API (at once, best effort) and by the orchestrator's sweep (until it is done).
import {
  Client,
  Connection,
  WorkflowNotFoundError,
  type WorkflowHandle,
  type WorkflowStartOptions,
} from '@temporalio/client';
import { SearchAttributeType, defineSearchAttributeKey } from '@temporalio/common';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import type { Settings } from './settings';
import { SEARCH_ATTRIBUTES } from './temporal-dev-server';
import {
  buildWorkflowId,
  hostWorkflowId,
  maintenanceWorkflowId,
  ORCHESTRATOR_QUEUE,
  shellWorkflowId,
} from '../domain/names';
import type { PlannedJob, PlannedRun } from '../domain/schemas/plan';
import type { Outcome } from '../domain/schemas/words';
import type { BuildKey, Cancel } from './store/deliveries';
import {
  BUILD_WORKFLOW,
  DEFAULT_TIMING,
  MAINTENANCE_WORKFLOW,
  ON_DEMAND_WORKFLOW,
  SHELL_WORKFLOW,
  type BuildInput,
  type BuildRun,
  type BuildTiming,
  type MaintenanceInput,
  type OnDemandInput,
  type ShellInput,
} from '../domain/build-input';

const CALL_LIMIT_MS = 10_000;

/**
 * So many times in a row a task of a workflow has to fail before it counts as stuck: more than a minute by Temporal's
 * back-off, and more often than orchestrators die with one and the same task in their hands.
 */
const STUCK_AFTER = 6;

/** Temporal's numbers for the types of search attributes that we use. */
const CODE = { Keyword: 2, Int: 3 };

export interface BuildToStart extends BuildKey {
  id: string;
  trigger: string;
  jobs: readonly PlannedJob[];
  /** In plan order. */
  runs: readonly RunToStart[];
  timeoutMs: number | null;
}

export interface RunToStart {
  id: string;
  spec: PlannedRun;
  cluster: string;
  /** How often it was moved between clusters. */
  moves: number;
  /** Ended in an earlier workflow of the build and not run again; null: it is to be run. */
  outcome: Outcome | null;
  /** Attempts before this rerun. */
  attemptsBefore: number;
}

type TimingSettings = Pick<
  Settings,
  'SLIPWAY_HEARTBEAT_TIMEOUT_MS' | 'SLIPWAY_REATTACH_GRACE_MS' | 'SLIPWAY_AGE_STEP_MS'
>;

/**
 * What became of the workflow of a build that is not finished; `stuck`: no orchestrator can go on with it; `unknown`: there
 * is none, or what has its id is of another build.
 */
export type WorkflowFate = 'open' | 'stuck' | 'terminated' | 'ended' | 'unknown';

export class Temporal {
  private constructor(
    private readonly client: Client,
    private readonly timing: BuildTiming,
  ) {}

  /** Connects lazily, by Temporal's own settings (TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TLS, API key). */
  static open(settings: TimingSettings): Temporal {
    const timing = {
      ...DEFAULT_TIMING,
      heartbeatTimeoutMs: settings.SLIPWAY_HEARTBEAT_TIMEOUT_MS,
      reattachGraceMs: settings.SLIPWAY_REATTACH_GRACE_MS,
      ageStepMs: settings.SLIPWAY_AGE_STEP_MS,
    };
    const config = loadClientConnectConfig();
    const connection = Connection.lazy(config.connectionOptions);
    return new Temporal(new Client({ connection, namespace: config.namespace ?? 'default' }), timing);
  }

  get namespace(): string {
    return this.client.options.namespace;
  }

  /** Starts the workflow of a build; started already is fine. One that has its id and is of another build gives way. */
  async startBuild(build: BuildToStart): Promise<void> {
    try {
      await this.begin(build, {
        starts: 1,
        workflowIdConflictPolicy: 'FAIL',
        workflowIdReusePolicy: 'REJECT_DUPLICATE',
      });
    } catch (error) {
      if ((error as Error).name !== 'WorkflowExecutionAlreadyStartedError') throw error;
      const { fate } = await this.lookAt(build);
      // The rows are older than Temporal: its number was given before, to a build that no row knows any more.
      if (fate === 'unknown') await this.startAgain(build, { starts: 1 });
    }
  }

  /**
   * Starts the workflow of a build in place of whatever has its id, which is terminated. What is finished or under way it
   * learns from the rows; signals that the former one got are not told to it. @param at.starts with this one
   */
  async startAgain(build: BuildToStart, at: { starts: number; why?: string }): Promise<void> {
    await this.begin(build, {
      ...at,
      workflowIdConflictPolicy: 'TERMINATE_EXISTING',
      workflowIdReusePolicy: 'ALLOW_DUPLICATE',
    });
  }

  private async begin(
    build: BuildToStart,
    {
      starts,
      why,
      ...policies
    }: { starts: number; why?: string } & Pick<
      WorkflowStartOptions,
      'workflowIdConflictPolicy' | 'workflowIdReusePolicy'
    >,
  ): Promise<void> {
    const again = starts > 1 ? `; start ${starts}: ${why}` : '';
    await this.client.withDeadline(Date.now() + CALL_LIMIT_MS, () =>
      this.client.workflow.start(BUILD_WORKFLOW, {
        ...policies,
        workflowId: idOf(build),
        taskQueue: ORCHESTRATOR_QUEUE,
        args: [makeInput(build, this.timing)],
        memo: { buildId: build.id, starts } satisfies BuildMemo,
        staticSummary: summarize(build) + again,
        priority: { fairnessKey: build.project },
        typedSearchAttributes: [
          { key: defineSearchAttributeKey('SlipwayProject', SearchAttributeType.KEYWORD), value: build.project },
          { key: defineSearchAttributeKey('SlipwayBuild', SearchAttributeType.INT), value: build.number },
          { key: defineSearchAttributeKey('SlipwayTrigger', SearchAttributeType.KEYWORD), value: build.trigger },
          {
            key: defineSearchAttributeKey('SlipwayCluster', SearchAttributeType.KEYWORD),
            value: build.runs[0]?.cluster ?? '',
          },
        ],
      }),
    );
  }

  /** Tells a build, or some of its runs, that it is cancelled; a workflow that is closed needs no telling. */
  async cancel(cancel: Cancel): Promise<void> {
    const handle = this.client.workflow.getHandle(idOf(cancel));
    const { runs } = cancel;
    try {
      await this.client.withDeadline(Date.now() + CALL_LIMIT_MS, async () => {
        if (runs === null) await handle.cancel();
        else if (runs.length === 1) await handle.signal('runCancelRequested', { run: runs[0] });
        else await handle.signal('runsCancelRequested', { runs });
      });
    } catch (error) {
      if (!(error instanceof WorkflowNotFoundError)) throw error;
    }
  }

  /** Tells a build that one of its waiting runs belongs to another cluster now. */
  async moveRun({
    run,
    cluster,
    move,
    ...build
  }: BuildKey & { run: string; cluster: string; move: number }): Promise<void> {
    await this.signal(idOf(build), 'runMoved', { run, cluster, move });
  }

  /** Has a waiting run ask for its slot now. */
  async wakeRun({ run, ...build }: BuildKey & { run: string }): Promise<void> {
    await this.signal(idOf(build), 'runReady', { run });
  }

  /** Starts the workflow of a cluster's maintenance; started already is fine. */
  async startMaintenance(input: MaintenanceInput, summary: string): Promise<void> {
    const workflowId = maintenanceWorkflowId(input.cluster, input.id);
    await this.client
      .withDeadline(Date.now() + CALL_LIMIT_MS, () =>
        this.client.workflow.start(MAINTENANCE_WORKFLOW, {
          workflowId,
          taskQueue: ORCHESTRATOR_QUEUE,
          args: [input],
          workflowIdConflictPolicy: 'USE_EXISTING',
          workflowIdReusePolicy: 'REJECT_DUPLICATE',
          staticSummary: summary,
          typedSearchAttributes: [
            { key: defineSearchAttributeKey('SlipwayCluster', SearchAttributeType.KEYWORD), value: input.cluster },
          ],
        }),
      )
      .catch((error: unknown) => {
        if ((error as Error).name !== 'WorkflowExecutionAlreadyStartedError') throw error;
      });
  }

  /** Has the workflow of a maintenance look at the rows now; it does so by itself as well. */
  async maintenanceChanged({ cluster, id }: MaintenanceInput): Promise<void> {
    await this.signal(maintenanceWorkflowId(cluster, id), 'maintenanceChanged');
  }

  /** Starts the workflow of an on-demand host; started already is fine. */
  async startHost(input: OnDemandInput, by: string): Promise<void> {
    await this.client
      .withDeadline(Date.now() + CALL_LIMIT_MS, () =>
        this.client.workflow.start(ON_DEMAND_WORKFLOW, { ...startOfHost(input, by), args: [input] }),
      )
      .catch((error: unknown) => {
        if ((error as Error).name !== 'WorkflowExecutionAlreadyStartedError') throw error;
      });
  }

  /** Tells the workflow of an on-demand host to end it; one that somebody has ended begins again for that. */
  async endHost(input: OnDemandInput, at: { by: string; why: string }): Promise<void> {
    await this.client.withDeadline(Date.now() + CALL_LIMIT_MS, () =>
      this.client.workflow.signalWithStart(ON_DEMAND_WORKFLOW, {
        ...startOfHost(input, at.by),
        args: [{ ...input, why: at.why }],
        signal: 'hostEnds',
        signalArgs: [{ why: at.why }],
      }),
    );
  }

  /** Starts the workflow of a shell into a run that is held. @throws when Temporal does not answer */
  async startShell({ run, by, ...input }: ShellInput & { run: string; by: string }): Promise<void> {
    await this.client.withDeadline(Date.now() + CALL_LIMIT_MS, () =>
      this.client.workflow.start(SHELL_WORKFLOW, {
        workflowId: shellWorkflowId(input.shell),
        taskQueue: ORCHESTRATOR_QUEUE,
        args: [input],
        staticSummary: `shell into ${run}, opened by ${by}`,
      }),
    );
  }

  /** A workflow that is closed needs no telling. */
  private async signal(workflowId: string, name: string, ...args: unknown[]): Promise<void> {
    const handle = this.client.workflow.getHandle(workflowId);
    try {
      await this.client.withDeadline(Date.now() + CALL_LIMIT_MS, () => handle.signal(name, ...args));
    } catch (error) {
      if (!(error instanceof WorkflowNotFoundError)) throw error;
    }
  }

  /** Asks what became of the workflow of a build. @throws when Temporal does not answer */
  async lookAt(build: BuildKey & { id: string }): Promise<{ fate: WorkflowFate; starts: number }> {
    const handle = this.client.workflow.getHandle(idOf(build));
    try {
      const { memo, ...now } = await this.client.withDeadline(Date.now() + CALL_LIMIT_MS, () => handle.describe());
      // Workflows of earlier versions have no memo.
      const { buildId = build.id, starts = 1 } = (memo ?? {}) as Partial<BuildMemo>;
      return { fate: buildId === build.id ? fateOf(now) : 'unknown', starts };
    } catch (error) {
      if (error instanceof WorkflowNotFoundError) return { fate: 'unknown', starts: 0 };
      throw error;
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

/** What a workflow bears so that it is known whose it is: a number may be given twice when rows were lost, an id never. */
interface BuildMemo {
  buildId: string;
  /** How often it was started, each time from the rows. */
  starts: number;
}

type Description = Awaited<ReturnType<WorkflowHandle['describe']>>;

function fateOf({ status, raw }: Pick<Description, 'status' | 'raw'>): WorkflowFate {
  if (status.name === 'PAUSED') return 'open';
  if (status.name === 'RUNNING') return (raw.pendingWorkflowTask?.attempt ?? 1) < STUCK_AFTER ? 'open' : 'stuck';
  return status.name === 'TERMINATED' ? 'terminated' : 'ended';
}

/** Runs open at once in one build. */
const WINDOW = 100;

const idOf = ({ project, number, reruns }: BuildKey): string => buildWorkflowId(project, number, reruns);

function startOfHost({ host: { cluster, host } }: OnDemandInput, by: string) {
  return {
    workflowId: hostWorkflowId(cluster, host),
    taskQueue: ORCHESTRATOR_QUEUE,
    workflowIdConflictPolicy: 'USE_EXISTING' as const,
    staticSummary: `host ${host} of cluster ${cluster}, by blueprint ${by}`,
    typedSearchAttributes: [
      { key: defineSearchAttributeKey('SlipwayCluster', SearchAttributeType.KEYWORD), value: cluster },
    ],
  };
}

function summarize({ project, number, reruns, trigger, runs }: BuildToStart): string {
  const count = runs.filter((run) => run.outcome === null).length;
  return `${project} #${number}${reruns === 0 ? '' : `, rerun ${reruns}`} (${trigger}), ${count} runs`;
}

function makeRun(
  { id, spec, cluster, moves, outcome, attemptsBefore }: RunToStart,
  positions: Map<string, number>,
): BuildRun {
  return {
    id,
    name: spec.name,
    job: spec.job,
    cluster,
    timeoutMs: spec.timeoutMs,
    waitingTimeoutMs: spec.waitingTimeoutMs,
    startTimeoutMs: spec.startTimeoutMs,
    priority: spec.priority,
    retry: spec.retry,
    ...(moves === 0 ? {} : { moves }),
    ...(attemptsBefore === 0 ? {} : { firstAttempt: attemptsBefore + 1 }),
    ...(outcome === null ? {} : { endedAs: outcome }),
    ...(spec.needs.length === 0
      ? {}
      : { needs: spec.needs.map((need) => positions.get(need) ?? -1), needsCondition: spec.needsCondition }),
  };
}

function makeInput(build: BuildToStart, timing: BuildTiming): BuildInput {
  const positions = new Map(build.runs.map(({ spec }, at) => [spec.name, at]));
  const runs = build.runs.map((run) => makeRun(run, positions));
  return {
    buildId: build.id,
    project: build.project,
    number: build.number,
    runs,
    ...(build.timeoutMs === null ? {} : { timeoutMs: build.timeoutMs }),
    jobs: build.jobs.filter((job) => job.failFast || job.maxParallel !== undefined),
    window: WINDOW,
    timing,
  };
}
