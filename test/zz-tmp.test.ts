import { sql } from 'kysely';
import { migrate, openStore } from '../adapters/store/connect';
import { recordHost, recordProgress, recordResult, requestLease } from '../adapters/store/leases';
import { closeRuns, closeAttempt } from '../adapters/store/runs';
import { requestBuildCancel } from '../adapters/store/builds';
import { makeBuild, STORES } from './setup/stores';
test('deadlocks', async () => {
  const store = await STORES[1]![1]();
  const db = openStore(store.url, 12);
  await migrate(db);
  const errors: Record<string, number> = {};
  for (let i = 0; i < 150; i++) {
    const { row, runIds, cluster } = await makeBuild(db);
    const worker = crypto.randomUUID();
    await recordHost(db, { cluster, name: 'h', worker, labels: [], slots: 4, version: '' }, 1000);
    const l = await requestLease(db, { runId: runIds[0]!, attempt: 1, worker, silentAfterMs: 60000 });
    const holder = { runId: runIds[0]!, attempt: 1, token: (l as {token:number}).token };
    const all = await Promise.allSettled([
      recordProgress(db, holder, { state: 'running', starting: true }),
      recordResult(db, holder, { cause: 'ok', message: '', exitCode: 0, final: true }),
      closeRuns(db, [{ runId: runIds[0]!, cause: 'host-lost', message: '' }]),
      closeAttempt(db, { runId: runIds[0]!, number: 1, cause: 'host-lost', message: '' }),
      requestBuildCancel(db, row.id),
      requestLease(db, { runId: runIds[0]!, attempt: 1, worker, silentAfterMs: 60000 }),
      recordProgress(db, holder, { state: 'collecting', starting: true }),
    ]);
    all.forEach((one, at) => { if (one.status === 'rejected') { if (one.reason.name === 'FencedError') return; const k = `${at} ${one.reason.name} ${one.reason.message.slice(0, 40)}`; errors[k] = (errors[k] ?? 0) + 1; } });
  }
  console.log(errors);
  await db.destroy(); await store.stop();
}, 100000);
