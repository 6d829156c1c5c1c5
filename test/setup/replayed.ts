// Owns the check that the histories of a Temporal server fit the workflow code of now: what does not replay is lost as soon
// as another orchestrator has to go on with it.
// Called by the soak at its end.
import { join, resolve } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { DefaultLogger, Runtime, Worker } from '@temporalio/worker';

const workflowBundle = { codePath: join(resolve(__dirname, '..', '..'), 'dist', 'workflow-bundle.js') };

/** @returns what does not replay, in words */
export async function replayAll(address: string): Promise<string[]> {
  Runtime.install({ logger: new DefaultLogger('ERROR') });
  const connection = await Connection.connect({ address });
  const client = new Client({ connection });
  const faults: string[] = [];
  for await (const { workflowId, error } of Worker.runReplayHistories({ workflowBundle }, historiesOf(client))) {
    if (error) faults.push(`history of ${workflowId}: ${error.message}`);
  }
  await connection.close();
  return faults;
}

async function* historiesOf({ workflow }: Client) {
  for await (const { workflowId, runId } of workflow.list()) {
    yield { workflowId, history: await workflow.getHandle(workflowId, runId).fetchHistory() };
  }
}
