// Owns what somebody may do by hand, or by mistake, to the workflows of open builds. Called by tests of faults from outside.
import { execFileSync } from 'node:child_process';

const OPEN_BUILDS = `WorkflowType="build" AND ExecutionStatus="Running"`;

const temporal = (address: string, ...args: string[]): string =>
  execFileSync(process.env.SLIPWAY_TEMPORAL_CLI ?? 'temporal', [...args, '--address', address], { encoding: 'utf8' });

/** Ids of the workflows of all builds that are open. */
export function openBuildWorkflows(address: string): string[] {
  const listed = temporal(address, 'workflow', 'list', '--query', OPEN_BUILDS, '--output', 'json');
  const found = JSON.parse(listed || '[]') as { execution: { workflowId: string } }[];
  return found.map(({ execution }) => execution.workflowId);
}

/** Takes the workflow back to its first task, as people do in Temporal's Web UI. */
export function resetWorkflow(address: string, id: string): void {
  temporal(address, 'workflow', 'reset', '-w', id, '--type', 'FirstWorkflowTask', '--reason', 'a test');
}

/** Sends each signal that a build knows, with nothing in it. */
export function poisonWorkflow(address: string, id: string): void {
  for (const name of ['runReady', 'runMoved', 'runCancelRequested', 'runsCancelRequested']) {
    temporal(address, 'workflow', 'signal', '-w', id, '--name', name, '--input', 'null');
  }
}
