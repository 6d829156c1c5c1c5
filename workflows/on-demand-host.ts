// Owns one host that a blueprint makes, from the wish to its end: made by a worker of its cluster, taken into use by the rows,
// and destroyed until nothing of it is left, whatever happened in between.
// Started by the orchestrator's sweep, one workflow a host; told of its end by the same.
//
//   making ──made──> in use ──told to end, or cancelled──> ending ──nothing is left──> gone
//      └──told to end───────────────────────────────────────^
import {
  ActivityCancellationType,
  CancellationScope,
  condition,
  continueAsNew,
  isCancellation,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  sleep,
  workflowInfo,
} from '@temporalio/workflow';
import type { MakerActivities } from '../activities/on-demand-types';
import type { OnDemandInput } from '../domain/build-input';
import { fieldOf, plainText } from '../domain/untrusted';
import { dropped, hostEnds, readReason } from './messages';
import { ledger } from './records';

const PAUSE_MS = { first: 2_000, most: 60_000 };

export async function onDemandHost(input: OnDemandInput): Promise<string> {
  let { why } = input;
  setHandler(hostEnds, (told) => void (why ??= readReason(told) ?? dropped('hostEnds')));
  CancellationScope.current().cancelRequested.catch(() => void (why ??= 'its workflow was cancelled'));
  const { host, isMade = false } = input;
  return CancellationScope.nonCancellable(async () => {
    if (!isMade && why === undefined) {
      setCurrentDetails('making');
      const making = new CancellationScope({ cancellable: true });
      const again = () => continueAsNew<typeof onDemandHost>({ ...input, why });
      const made = making.run(() => make(host, again)).catch(passCancellation);
      await Promise.race([made, condition(() => why !== undefined)]);
      making.cancel();
      // A call that is under way may still make something: what it leaves is to be seen before the end.
      await made;
      if (why === undefined) {
        setCurrentDetails('in use, or about to be');
        await condition(() => why !== undefined);
      }
    }
    const reason = why ?? 'its workflow was cancelled';
    setCurrentDetails(`ending: ${reason}`);
    await ledger.hostEnds({ ...keyOf(input), why: reason });
    await destroy({ ...input, why: reason });
    await ledger.hostGone(keyOf(input));
    return reason;
  });
}

const keyOf = ({ host: { cluster, host } }: OnDemandInput): { cluster: string; host: string } => ({ cluster, host });

function passCancellation(error: unknown): void {
  if (!isCancellation(error)) throw error;
}

type Work = (maker: MakerActivities) => Promise<void>;

async function make(host: OnDemandInput['host'], whenLong: () => Promise<unknown>): Promise<void> {
  const work: Work = async (maker) => {
    const made: unknown = await maker.makeHost(host);
    const { cluster, host: name } = host;
    // What a worker says of a host may be anything: the ledger reads it, and no name in it counts.
    await ledger.hostMade({ cluster, host: name, resource: fieldOf(made, 'resource'), reach: fieldOf(made, 'reach') });
  };
  await withAWorker(host, work, whenLong);
}

async function destroy(input: OnDemandInput): Promise<void> {
  await withAWorker(
    input.host,
    (maker) => maker.destroyHost(input.host),
    () => continueAsNew<(input: OnDemandInput) => Promise<string>>({ ...input, isMade: true }),
  );
}

/** Until it is done: whatever fails is tried again by whichever worker there is. @param whenLong called when the history is long */
async function withAWorker(host: OnDemandInput['host'], work: Work, whenLong: () => Promise<unknown>): Promise<void> {
  for (let pauseMs = PAUSE_MS.first; ; pauseMs = Math.min(pauseMs * 2, PAUSE_MS.most)) {
    const { queue } = await CancellationScope.nonCancellable(() => ledger.chooseMaker(host));
    const failure = queue === undefined ? 'no worker of the cluster can do it now' : await tryOn(queue, host, work);
    if (failure === undefined) return;
    const { cluster, host: name } = host;
    await CancellationScope.nonCancellable(() => ledger.hostFault({ cluster, host: name, message: failure }));
    if (workflowInfo().continueAsNewSuggested) await whenLong();
    await sleep(pauseMs);
  }
}

/** @returns what went wrong; undefined: nothing @throws when it was cancelled */
async function tryOn(queue: string, { host }: OnDemandInput['host'], work: Work): Promise<string | undefined> {
  const maker = proxyActivities<MakerActivities>({
    taskQueue: queue,
    summary: host,
    startToCloseTimeout: '1 hour',
    scheduleToStartTimeout: '15 seconds',
    heartbeatTimeout: '15 seconds',
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: { maximumAttempts: 1 },
  });
  try {
    await work(maker);
    return undefined;
  } catch (error) {
    if (isCancellation(error)) throw error;
    const { cause, message } = error as Error;
    return plainText((cause as Error | undefined)?.message ?? message, 500);
  }
}
