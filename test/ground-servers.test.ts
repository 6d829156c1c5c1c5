// Proves the servers that other tests stand on: Temporal with our flags, PostgreSQL in a folder of its own.
import { Client, Connection } from '@temporalio/client';
import pg from 'pg';
import { DYNAMIC_CONFIG, isTemporalReady, SEARCH_ATTRIBUTES } from '../adapters/temporal-dev-server';
import { startPostgres } from './setup/postgres';
import { startTemporal } from './setup/temporal';

describe('Temporal dev server', () => {
  it('is ready with our search attributes, keeps its file over SIGKILL, and is gone after stop', async () => {
    const temporal = await startTemporal();
    try {
      const connection = await Connection.connect({ address: temporal.address });
      const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace: 'default' });
      expect(Object.keys(customAttributes ?? {})).toEqual(expect.arrayContaining(Object.keys(SEARCH_ATTRIBUTES)));
      const client = new Client({ connection });
      await client.workflow.start('nobody', { workflowId: 'kept', taskQueue: 'nobody' });
      await connection.close();
      await temporal.kill9();
      expect(await isTemporalReady(temporal.address)).toBe(false);
      await temporal.restart();
      const again = await Connection.connect({ address: temporal.address });
      const kept = await new Client({ connection: again }).workflow.getHandle('kept').describe();
      expect(kept.status.name).toBe('RUNNING');
      await again.close();
    } finally {
      await temporal.stop();
    }
    expect(await isTemporalReady(temporal.address)).toBe(false);
  });

  it('has pushed cancellation, which needs both keys', async () => {
    expect(DYNAMIC_CONFIG).toMatchObject({
      'system.enableCancelActivityWorkerCommand': true,
      'frontend.WorkerCommandsEnabled': true,
    });
    const temporal = await startTemporal();
    try {
      const connection = await Connection.connect({ address: temporal.address });
      const { namespaceInfo } = await connection.workflowService.describeNamespace({ namespace: 'default' });
      expect(namespaceInfo?.capabilities).toMatchObject({ workerCommands: true });
      await connection.close();
    } finally {
      await temporal.stop();
    }
  });
});

describe('PostgreSQL', () => {
  it('makes databases that know nothing of each other', async () => {
    const postgres = await startPostgres();
    try {
      const [one, other] = [await postgres.createDatabase(), await postgres.createDatabase()];
      const client = new pg.Client({ connectionString: one });
      await client.connect();
      await client.query('create table only_here ()');
      await client.end();
      const second = new pg.Client({ connectionString: other });
      await second.connect();
      await expect(second.query('select from only_here')).rejects.toMatchObject({ code: '42P01' });
      await second.end();
    } finally {
      await postgres.stop();
    }
  });
});
