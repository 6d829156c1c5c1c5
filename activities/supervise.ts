// Owns one attempt on a host, from its lease to its release: start once, follow, judge, collect, clean.
//
//   leased ─ find ─┬─ none, may have started ──────────────> container-lost
//                  ├─ none ─ create (pull) ── (intent) ──┐
//                  ├─ created ─────────────── (intent) ──┴─ start ┐
//                  └─ running or exited (adopted) ──────────────┴─ follow ─ exit ─ collect ─ result ─ remove ─ release
//
// Called by job.ts inside a Temporal activity; may be killed at any point and run again.
import { containerName } from '../domain/names';
import type { HolderKey, Lease } from '../domain/schemas/worker-api';
import type { ContainerExit, OutputFact } from '../adapters/engine';
import { giveBack, HostsBeside, type HostBesideError } from './hosts-beside';
import { collect } from './collect';
import { isFenced, judge, judgeError, letGoIf, type Orders, type Verdict } from './judge';
import { ageOf, watchLimits } from './limits';
import { capOf } from './log-cap';
import { ShippedLog } from './shipped-log';
import { startOnce, type Named, type SupervisePorts } from './start';

/**
 * Carries one attempt to its end, from wherever it is.
 * @returns the verdict, recorded and cleaned up, or what lets its run wait for another host; undefined when the lease was fenced: another took over, or nobody needs
 *   the attempt any more; then the container was not touched from that moment
 * @throws DetachedError
 */
export async function supervise(
  ports: SupervisePorts,
  lease: Lease,
  at: HolderKey & Orders,
): Promise<Supervised | undefined> {
  const name = containerName(at.runId, at.attempt);
  try {
    const verdict = await attempt(ports, lease, { ...at, name }).catch((error: unknown) => judgeError(error, at));
    const { isUnbegun, ...result } = verdict;
    if (isUnbegun && ports.beside.length === 0 && (await handBack(ports, { ...at, name, verdict }))) {
      return { kind: 'waits', reason: `host ${lease.host}: ${verdict.message}` };
    }
    const { isHeld } = await ports.api.result(result);
    if (isHeld) return { kind: 'judged', verdict };
    await ports.engine.remove(name);
    await giveBack(ports.beside, at, ports.api);
    await ports.api.release();
    return { kind: 'judged', verdict };
  } catch (error) {
    if (!isFenced(error)) throw error;
    return undefined;
  }
}

type Supervised = { kind: 'judged'; verdict: Verdict } | { kind: 'waits'; reason: string };

/**
 * Removed first: the same attempt may come back at once. What an engine that is away keeps of it has no process. Before that
 * the server is asked who holds it: of a supervisor that was paused, another may have started it by now.
 */
async function handBack(ports: SupervisePorts, at: Named & { verdict: Verdict }): Promise<boolean> {
  letGoIf(at.detach);
  await ports.api.progress({ state: 'preparing' }, at.detach);
  await ports.engine.remove(at.name).catch((error: unknown) => {
    if ((error as Error).name !== 'EngineError' || isFenced(error)) throw error;
  });
  const { cause, message } = at.verdict;
  return ports.api.handBack({ cause, message });
}

async function attempt(ports: SupervisePorts, lease: Lease, at: Named): Promise<Verdict> {
  const beside = new HostsBeside(ports.beside, at, ports.api);
  const started = await startOnce(ports, lease, { ...at, beside });
  if (started.kind === 'not-started') return started.verdict;
  const { container } = started;
  const ageMs = ageOf({ isNew: started.isNew, startedAt: container.startedAt }, lease);
  const startedAt = new Date(Date.now() - ageMs);
  const fromByte = Math.min(lease.logBytes, capOf(lease.logCapBytes).headBytes);
  const watch = watchLimits(ports, lease, { ...at, ageMs, fromByte, hasEnded: container.state === 'exited' });
  const over = new AbortController();
  try {
    const log = new ShippedLog(ports, lease, at);
    const exited = ports.engine.wait(container, { signal: at.detach, onRestart: () => log.noteRestart() });
    const onFact = (fact: OutputFact): void => log.noteFact(fact);
    // Shown to people, not waited for: the script is running already.
    const shown = showRunning(ports, at, { startedAt, imageId: container.imageId });
    const source = ports.engine.follow(container, { fromByte, signal: at.detach, exited, onFact });
    let besideLost: HostBesideError | undefined;
    const serving = lease.spec.hosts && beside.serve({ engine: ports.engine, name: at.name }, over.signal);
    serving?.catch((error: HostBesideError) => {
      // Of that the next call to the server tells: what another holds is not to be stopped.
      if (isFenced(error)) return;
      besideLost = error;
      watch.stop('beside-lost');
    });
    const [exit] = await Promise.all([exited, shown, log.ship(watch.listening(source))]);
    over.abort();
    const { stopped, leftMs } = watch.end();
    const archived = ports.engine.archivedFiles(at.name);
    const collected = await collect({ api: ports.api, archived }, { ...at, stopped, leftMs });
    const unbegunBy = isUnbegun(exit, log) ? (container.beginning?.entrypoint ?? []) : undefined;
    const verdict = judge({ exit, stopped, lease, lastLines: log.lastLines, unbegunBy, besideLost, collected });
    return { ...verdict, logGaps: log.gapsAtEnd(exit, verdict), notStored: collected.notStored };
  } finally {
    over.abort();
    watch.end();
  }
}

/** For sure: a mark of the beginning that is missing from a whole output was never made. */
function isUnbegun(exit: ContainerExit, log: ShippedLog): boolean {
  return exit.isUnbegun ?? (log.showsNoBeginning && !exit.isUnwatched && !exit.isEndLost);
}

async function showRunning(
  ports: SupervisePorts,
  at: Named,
  facts: { startedAt: Date; imageId: string | null },
): Promise<void> {
  const imageDigest = facts.imageId === null ? undefined : await ports.engine.digestOf(facts.imageId);
  await ports.api.progress({ state: 'running', startedAt: facts.startedAt.toISOString(), imageDigest }, at.detach);
}
