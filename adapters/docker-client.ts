// Owns what every caller of dockerode needs: its errors in words, whether it answers, the making of a container, and the
// pull of an image.
// Used by those of adapters/ that speak to a Docker engine, and by workers/engines.ts.
import type { IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import type Dockerode from 'dockerode';
import { EngineError, type EngineErrorReason } from './engine';

/** With the pause between two hellos below the silence after which a worker does not count as there. */
const ANSWER_LIMIT_MS = 6_000;

/** HTTP status of the engine's answer; undefined: there was none. */
export const statusOf = (error: unknown): number | undefined => (error as { statusCode?: number }).statusCode;

export function messageOf(error: unknown): string {
  const { json, message } = error as { json?: { message?: string }; message?: string };
  return (json?.message ?? message ?? String(error)).trim();
}

export function reasonOf(error: unknown, otherwise: EngineErrorReason): EngineErrorReason {
  if (/no space left on device|disk quota exceeded/i.test(messageOf(error))) return 'disk-full';
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (['ENOSPC', 'EDQUOT'].includes(code)) return 'disk-full';
  if (['ECONNREFUSED', 'ENOENT', 'ECONNRESET', 'EPIPE', 'EACCES'].includes(code)) return 'engine-unavailable';
  return otherwise;
}

export function translate(error: unknown, what: string, otherwise: EngineErrorReason = 'refused'): EngineError {
  if (error instanceof EngineError) return error;
  const reason = reasonOf(error, otherwise);
  return new EngineError(reason, `${what}: ${messageOf(error)}`, { cause: error });
}

export const isRemoving = (error: unknown): boolean =>
  /removal of container .* is already in progress/.test(messageOf(error));

export const lacksImage = (error: unknown): boolean =>
  statusOf(error) === 404 && /no such image/i.test(messageOf(error));

/** Asks what the engine cannot say without containerd. @throws EngineError when it does not answer, or not soon */
export async function requireAnswer(docker: Dockerode): Promise<void> {
  const abortSignal = AbortSignal.timeout(ANSWER_LIMIT_MS);
  try {
    // The types of dockerode do not know that its own call takes a signal.
    const call = { path: '/version', method: 'GET', abortSignal, statusCodes: { 200: true, 500: 'server error' } };
    await new Promise((done, fail) => docker.modem.dial(call, (error, answer) => (error ? fail(error) : done(answer))));
  } catch (error) {
    const why = abortSignal.aborted ? `nothing came within ${ANSWER_LIMIT_MS / 1000} s` : messageOf(error);
    throw new EngineError('engine-unavailable', `the Docker engine does not answer: ${why}`, { cause: error });
  }
}

/** The engine's own call; dockerode's puts all options, the environment among them, into the URL as well. */
export function createContainer(
  docker: Dockerode,
  { name, abortSignal, ...options }: Dockerode.ContainerCreateOptions,
): Promise<Dockerode.Container> {
  const parts = { _query: name === undefined ? {} : { name }, _body: options, abortSignal };
  return docker.createContainer(parts);
}

/** Clocks that are less apart count as one: the engine tells its time in whole seconds, and answers take theirs, ms. */
const SAME_CLOCK_MS = 2_000;

/** How far the clock of who sent an answer is ahead of this machine's, ms. @param told its time */
export function aheadBy(told: Date): number {
  const ms = told.getTime() - Date.now();
  return Number.isNaN(ms) || Math.abs(ms) < SAME_CLOCK_MS ? 0 : ms;
}

/** An answer as it comes, and how far the engine's clock is ahead. @throws what the engine said */
async function ask(docker: Dockerode, path: string): Promise<{ answer: IncomingMessage; aheadMs: number }> {
  const answer = await new Promise<IncomingMessage>((done, fail) => {
    const statusCodes = { 200: true, 404: 'no such container', 500: 'server error' };
    const told = (error: unknown, stream: unknown): void => (error ? fail(error) : done(stream as IncomingMessage));
    docker.modem.dial({ path, method: 'GET', isStream: true, statusCodes }, told);
  });
  return { answer, aheadMs: aheadBy(new Date(answer.headers.date ?? '')) };
}

/** How far the engine's clock is ahead of this machine's, ms. */
export async function clockOf(docker: Dockerode): Promise<number> {
  const { answer, aheadMs } = await ask(docker, '/_ping');
  answer.resume();
  return aheadMs;
}

/** What the engine says of a container, its instants by this machine's clock. */
export async function inspectContainer(docker: Dockerode, name: string): Promise<Dockerode.ContainerInspectInfo> {
  const { answer, aheadMs } = await ask(docker, `/containers/${name}/json`);
  const found = JSON.parse(await text(answer)) as Dockerode.ContainerInspectInfo;
  const here = (instant: string): string => {
    const ms = Date.parse(instant);
    // Year 1: it did not happen.
    return aheadMs === 0 || !(ms > 0) ? instant : new Date(ms - aheadMs).toISOString();
  };
  const { State: state } = found;
  const times = { StartedAt: here(state.StartedAt), FinishedAt: here(state.FinishedAt) };
  return { ...found, Created: here(found.Created), State: { ...state, ...times } };
}

/** Has a container of a name run, unless it does. @returns false when its image is not there @throws what the engine said */
export async function ensureRunning(docker: Dockerode, options: ContainerOptions): Promise<boolean> {
  try {
    await createContainer(docker, options).catch((error: unknown) => passUnless(409, error));
  } catch (error) {
    if (lacksImage(error)) return false;
    throw error;
  }
  await docker
    .getContainer(options.name)
    .start()
    .catch((error: unknown) => passUnless(304, error));
  return true;
}

type ContainerOptions = Dockerode.ContainerCreateOptions & { name: string };

function passUnless(status: number, error: unknown): void {
  if (statusOf(error) !== status) throw error;
}

export async function pullImage(docker: Dockerode, reference: string): Promise<void> {
  // Without a tag the engine would pull every tag there is.
  const stream = await docker.pull(/[:@][^/]*$/.test(reference) ? reference : `${reference}:latest`);
  await new Promise<void>((done, fail) => {
    docker.modem.followProgress(stream, (error) => (error ? fail(error) : done()));
  });
}
