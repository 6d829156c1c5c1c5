// Owns the check that nothing of ended builds is left anywhere.
// Called by the crash tests at their end.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { CrashRig } from './crash-rig';
import { waitFor } from './wait-for';

/** Containers, volumes, folders, leases and workflows: each sweep has to come round once. */
export async function expectNothingLeft(rig: CrashRig): Promise<void> {
  const { house, engine, db } = rig;
  await waitFor(
    async () => {
      const left = {
        containers: await engine.containers(),
        volumes: await engine.volumes(),
        folders: ['worker', 'second'].flatMap((name) => foldersIn(join(house.dir, name, 'runs'))),
        leases: await db
          .selectFrom('leases')
          .selectAll()
          .where('state', 'in', ['granted', 'active', 'releasing'])
          .execute(),
        workflows: openWorkflows(house.temporal.address),
      };
      const isNothing = Object.values(left).every((one) => one === 0 || (Array.isArray(one) && one.length === 0));
      if (!isNothing) throw new Error(JSON.stringify(left));
      return true;
    },
    { what: 'nothing is left', timeoutMs: 120_000, intervalMs: 1_000 },
  );
}

function foldersIn(dir: string): string[] {
  return existsSync(dir) ? readdirSync(dir) : [];
}

function openWorkflows(address: string): string[] {
  const args = ['workflow', 'list', '--address', address, '-o', 'json'];
  const query = ['--query', "ExecutionStatus = 'Running'"];
  const text = execFileSync(process.env.SLIPWAY_TEMPORAL_CLI ?? 'temporal', [...args, ...query], { encoding: 'utf8' });
  return (JSON.parse(text || '[]') as { execution: { workflowId: string } }[]).map((one) => one.execution.workflowId);
}
