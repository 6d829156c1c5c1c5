// Owns what every caller of dockerode needs: its errors in words, and the pull of an image.
// Used by docker-engine.ts, docker-maker.ts and container-shell.ts.
import type Dockerode from 'dockerode';

/** HTTP status of the engine's answer; undefined: there was none. */
export const statusOf = (error: unknown): number | undefined => (error as { statusCode?: number }).statusCode;

export function messageOf(error: unknown): string {
  const { json, message } = error as { json?: { message?: string }; message?: string };
  return (json?.message ?? message ?? String(error)).trim();
}

export const isRemoving = (error: unknown): boolean =>
  /removal of container .* is already in progress/.test(messageOf(error));

export const lacksImage = (error: unknown): boolean =>
  statusOf(error) === 404 && /no such image/i.test(messageOf(error));

export async function pullImage(docker: Dockerode, reference: string): Promise<void> {
  // Without a tag the engine would pull every tag there is.
  const stream = await docker.pull(/[:@][^/]*$/.test(reference) ? reference : `${reference}:latest`);
  await new Promise<void>((done, fail) => {
    docker.modem.followProgress(stream, (error) => (error ? fail(error) : done()));
  });
}
