// Owns the command line's side of the HTTP API: typed calls, refusals in words, live logs that resume.
// Called by the commands; the shapes are those of domain/schemas/api.ts.
import { setTimeout as sleep } from 'node:timers/promises';
import { createParser } from 'eventsource-parser';
import { retryAfterMs } from '../adapters/retry-after';
import { apiPath } from '../domain/names';
import * as shapes from '../domain/schemas/api';
import * as blueprints from '../domain/schemas/blueprints';
import * as clusters from '../domain/schemas/clusters';
import * as hosts from '../domain/schemas/hosts';
import * as shells from '../domain/schemas/shells';
import type { z } from 'zod';

/** The server refused or cannot be reached: a sentence for people, problems of the input if any. */
export class ClientError extends Error {
  constructor(
    message: string,
    readonly answer?: shapes.ErrorAnswer,
  ) {
    super(message);
  }
}

const RETRY_MS = 500;
/** How often a server that has too much to do is asked again, each time when it says. */
const BUSY_TIMES = 20;

export interface RunPlace {
  project: string;
  number: number;
  run: string;
  /** Default: the newest. */
  attempt?: number;
}
interface HostPlace {
  cluster: string;
  host: string;
}
interface BlueprintPlace {
  cluster: string;
  name: string;
}
interface How {
  method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Sent as JSON. */
  body?: unknown;
  /** Sent as it is. */
  bytes?: Blob;
  headers?: Record<string, string>;
}

export class Client {
  /** @param token of an operator; most calls need none */
  constructor(
    readonly server: string,
    private readonly token?: string,
  ) {}

  async clusters(): Promise<clusters.ClusterSummary[]> {
    return (await this.read(clusters.ClusterList, '/v1/clusters')).clusters;
  }

  cluster(name: string): Promise<clusters.Cluster> {
    return this.read(clusters.Cluster, apiPath.cluster(name));
  }

  createCluster(cluster: z.input<typeof clusters.CreateCluster>): Promise<clusters.Cluster> {
    return this.read(clusters.Cluster, '/v1/clusters', { method: 'POST', body: cluster });
  }

  editCluster(name: string, changes: clusters.EditCluster): Promise<clusters.Cluster> {
    return this.read(clusters.Cluster, apiPath.cluster(name), { method: 'PATCH', body: changes });
  }

  async deleteCluster(name: string): Promise<void> {
    await this.request(apiPath.cluster(name), { method: 'DELETE' });
  }

  addKey(name: string, key: clusters.PublicKey): Promise<clusters.Cluster> {
    return this.read(clusters.Cluster, `${apiPath.cluster(name)}/keys`, { method: 'POST', body: key });
  }

  revokeKey(name: string, kid: string): Promise<clusters.Cluster> {
    const path = `${apiPath.cluster(name)}/keys/${encodeURIComponent(kid)}/revoke`;
    return this.read(clusters.Cluster, path, { method: 'POST' });
  }

  setEnlisted(name: string, worker: string, enlisted: boolean): Promise<clusters.Cluster> {
    const path = `${apiPath.cluster(name)}/workers/${encodeURIComponent(worker)}/${enlisted ? 'enlist' : 'dismiss'}`;
    return this.read(clusters.Cluster, path, { method: 'POST' });
  }

  async hosts(cluster?: string): Promise<hosts.HostSummary[]> {
    return (await this.read(hosts.HostList, cluster === undefined ? '/v1/hosts' : apiPath.hosts(cluster))).hosts;
  }

  host({ cluster, host }: HostPlace): Promise<hosts.HostSummary> {
    return this.read(hosts.HostSummary, apiPath.host(cluster, host));
  }

  createHost(cluster: string, host: hosts.CreateHost): Promise<hosts.HostSummary> {
    return this.read(hosts.HostSummary, apiPath.hosts(cluster), { method: 'POST', body: host });
  }

  editHost({ cluster, host }: HostPlace, changes: hosts.EditHost): Promise<hosts.HostSummary> {
    return this.read(hosts.HostSummary, apiPath.host(cluster, host), { method: 'PATCH', body: changes });
  }

  async removeHost({ cluster, host }: HostPlace): Promise<void> {
    await this.request(apiPath.host(cluster, host), { method: 'DELETE' });
  }

  drainHost({ cluster, host }: HostPlace, reason: string): Promise<hosts.HostSummary> {
    return this.read(hosts.HostSummary, `${apiPath.host(cluster, host)}/drain`, { method: 'POST', body: { reason } });
  }

  undrainHost({ cluster, host }: HostPlace): Promise<hosts.HostSummary> {
    return this.read(hosts.HostSummary, `${apiPath.host(cluster, host)}/undrain`, { method: 'POST' });
  }

  async blueprints(cluster?: string): Promise<blueprints.Blueprint[]> {
    const path = cluster === undefined ? '/v1/blueprints' : apiPath.blueprints(cluster);
    return (await this.read(blueprints.BlueprintList, path)).blueprints;
  }

  blueprint({ cluster, name }: BlueprintPlace): Promise<blueprints.Blueprint> {
    return this.read(blueprints.Blueprint, apiPath.blueprint(cluster, name));
  }

  /** @param wanted checked by the server */
  putBlueprint({ cluster, name }: BlueprintPlace, wanted: unknown): Promise<blueprints.Blueprint> {
    return this.read(blueprints.Blueprint, apiPath.blueprint(cluster, name), { method: 'PUT', body: wanted });
  }

  async removeBlueprint({ cluster, name }: BlueprintPlace): Promise<void> {
    await this.request(apiPath.blueprint(cluster, name), { method: 'DELETE' });
  }

  async leases(wish: Record<string, string>): Promise<hosts.LeaseSummary[]> {
    return (await this.read(hosts.LeaseList, `/v1/leases?${new URLSearchParams(wish).toString()}`)).leases;
  }

  drainPreview(name: string): Promise<clusters.DrainPreview> {
    return this.read(clusters.DrainPreview, `${apiPath.cluster(name)}/drain`);
  }

  drain(name: string, wish: z.input<typeof clusters.DrainRequest>): Promise<clusters.Cluster> {
    return this.read(clusters.Cluster, `${apiPath.cluster(name)}/drain`, { method: 'POST', body: wish });
  }

  undrain(name: string): Promise<clusters.Cluster> {
    return this.read(clusters.Cluster, `${apiPath.cluster(name)}/undrain`, { method: 'POST' });
  }

  cancelCluster(name: string): Promise<clusters.Cluster> {
    return this.read(clusters.Cluster, `${apiPath.cluster(name)}/cancel`, { method: 'POST' });
  }

  /** @param archive opened anew for the call */
  pinRelease(name: string, query: clusters.PinRelease, archive: Blob): Promise<clusters.Cluster> {
    const text = new URLSearchParams({ ...query, canaries: String(query.canaries), holdMs: String(query.holdMs) });
    return this.read(clusters.Cluster, `${apiPath.cluster(name)}/release?${text.toString()}`, {
      method: 'PUT',
      bytes: archive,
    });
  }

  unpinRelease(name: string): Promise<clusters.Cluster> {
    return this.read(clusters.Cluster, `${apiPath.cluster(name)}/release`, { method: 'DELETE' });
  }

  createToken(token: clusters.CreateToken): Promise<z.infer<typeof clusters.NewToken>> {
    return this.read(clusters.NewToken, '/v1/tokens', { method: 'POST', body: token });
  }

  async tokens(): Promise<clusters.TokenSummary[]> {
    return (await this.read(clusters.TokenList, '/v1/tokens')).tokens;
  }

  revokeToken(id: string): Promise<clusters.TokenSummary> {
    return this.read(clusters.TokenSummary, `/v1/tokens/${encodeURIComponent(id)}/revoke`, { method: 'POST' });
  }

  async audit(limit: number): Promise<clusters.AuditEntry[]> {
    return (await this.read(clusters.AuditPage, `/v1/audit?limit=${limit}`)).entries;
  }

  project(name: string): Promise<shapes.Project | undefined> {
    return this.find(shapes.Project, apiPath.project(name));
  }

  createProject(name: string, definition: string): Promise<shapes.Project> {
    return this.read(shapes.Project, '/v1/projects', { method: 'POST', body: { name, definition } });
  }

  replaceProject(name: string, definition: string): Promise<shapes.Project> {
    return this.read(shapes.Project, apiPath.project(name), { method: 'PUT', body: { definition } });
  }

  async projects(): Promise<shapes.ProjectSummary[]> {
    return (await this.read(shapes.ProjectList, '/v1/projects')).projects;
  }

  trigger(project: string, request: shapes.TriggerRequest, idempotencyKey: string): Promise<shapes.BuildSummary> {
    const headers = { 'idempotency-key': idempotencyKey };
    return this.read(shapes.BuildSummary, apiPath.builds(project), { method: 'POST', body: request, headers });
  }

  async builds(project: string, limit: number): Promise<shapes.BuildSummary[]> {
    return (await this.read(shapes.BuildList, `${apiPath.builds(project)}?limit=${limit}`)).builds;
  }

  build(project: string, number: number): Promise<shapes.Build> {
    return this.read(shapes.Build, apiPath.build(project, number));
  }

  run(project: string, number: number, run: string): Promise<shapes.Run> {
    return this.read(shapes.Run, apiPath.run(project, number, run));
  }

  cancelBuild(project: string, number: number): Promise<shapes.Build> {
    return this.read(shapes.Build, `${apiPath.build(project, number)}/cancel`, { method: 'POST' });
  }

  cancelRun(project: string, number: number, run: string): Promise<shapes.Run> {
    return this.read(shapes.Run, `${apiPath.run(project, number, run)}/cancel`, { method: 'POST' });
  }

  rerun(project: string, number: number, wish: shapes.RerunRequest): Promise<shapes.Build> {
    return this.read(shapes.Build, `${apiPath.build(project, number)}/rerun`, { method: 'POST', body: wish });
  }

  /** Keeps what a failed run left for so long from now on. @param minutes undefined: no longer */
  hold({ project, number, run }: RunPlace, minutes: number | undefined): Promise<shapes.Run> {
    const path = `${apiPath.run(project, number, run)}/hold`;
    const how: How = minutes === undefined ? { method: 'DELETE' } : { method: 'POST', body: { minutes } };
    return this.read(shapes.Run, path, how);
  }

  /** Opens a shell into a run that is held. @returns its id */
  async openShell({ project, number, run }: RunPlace, wish: shells.OpenShell): Promise<string> {
    const path = `${apiPath.run(project, number, run)}/shell`;
    return (await this.read(shells.OpenedShell, path, { method: 'POST', body: wish })).id;
  }

  /** What it shows from a byte offset on; waits for it. */
  async readShell(id: string, from: number): Promise<Omit<shells.ShellOutput, 'bytes'> & { bytes: Buffer }> {
    const shown = await this.read(shells.ShellOutput, `/v1/shells/${id}/output?from=${from}`);
    return { ...shown, bytes: Buffer.from(shown.bytes, 'base64') };
  }

  async typeIntoShell(id: string, typed: Omit<shells.ShellInput, 'bytes'> & { bytes: Buffer }): Promise<void> {
    const body = { ...typed, bytes: typed.bytes.toString('base64') };
    await this.request(`/v1/shells/${id}/input`, { method: 'POST', body });
  }

  async closeShell(id: string): Promise<void> {
    await this.request(`/v1/shells/${id}`, { method: 'DELETE' });
  }

  /** The log as it is now. @param offset negative: so many bytes from the end */
  async log(place: RunPlace, offset = 0): Promise<Buffer> {
    const path = apiPath.log(place.project, place.number, place.run);
    const response = await this.request(`${path}?offset=${offset}${attemptOf(place)}`);
    return Buffer.from(await response.arrayBuffer());
  }

  /** Follows a log to its end over restarts of the server: every byte once, in order. */
  async *follow(place: RunPlace): AsyncGenerator<Buffer> {
    const log = apiPath.log(place.project, place.number, place.run);
    const at = { byte: 0, ended: false };
    while (!at.ended) {
      try {
        yield* this.chunks(`${log}/events?offset=${at.byte}${attemptOf(place)}`, at);
      } catch (error) {
        if (isFinal(error) && !isBusy(error)) throw error;
      }
      if (!at.ended) await sleep(RETRY_MS);
    }
  }

  /** One connection's worth; moves `at` along. */
  private async *chunks(path: string, at: { byte: number; ended: boolean }): AsyncGenerator<Buffer> {
    for await (const event of this.events(path)) {
      if (event.kind === 'end') at.ended = true;
      else {
        at.byte = event.endByte;
        yield event.bytes;
      }
    }
  }

  private async *events(
    path: string,
  ): AsyncGenerator<{ kind: 'chunk'; endByte: number; bytes: Buffer } | { kind: 'end' }> {
    const response = await this.request(path);
    const found: ({ kind: 'chunk'; endByte: number; bytes: Buffer } | { kind: 'end' })[] = [];
    const parser = createParser({
      onEvent: ({ event, id, data }) => {
        if (event === 'end') found.push({ kind: 'end' });
        if (event === 'chunk') found.push({ kind: 'chunk', endByte: Number(id), bytes: Buffer.from(data, 'base64') });
      },
    });
    const decoder = new TextDecoder();
    for await (const part of response.body as unknown as AsyncIterable<Uint8Array>) {
      parser.feed(decoder.decode(part, { stream: true }));
      yield* found.splice(0);
    }
  }

  private async find<Shape extends z.ZodType>(shape: Shape, path: string): Promise<z.infer<Shape> | undefined> {
    try {
      return await this.read(shape, path);
    } catch (error) {
      if (error instanceof ClientError && error.answer?.status === 404) return undefined;
      throw error;
    }
  }

  private async read<Shape extends z.ZodType>(shape: Shape, path: string, how: How = {}): Promise<z.infer<Shape>> {
    const response = await this.request(path, how);
    return shape.parse(await response.json());
  }

  private async request(path: string, { method = 'GET', body, bytes, headers = {} }: How = {}): Promise<Response> {
    const init = {
      method,
      headers: {
        'content-type': bytes ? 'application/octet-stream' : 'application/json',
        ...(this.token === undefined ? {} : { authorization: `Bearer ${this.token}` }),
        ...headers,
      },
      body: bytes ?? (body === undefined ? undefined : JSON.stringify(body)),
    };
    let response = await this.send(path, init);
    for (let time = 0; response.status === 429 && time < BUSY_TIMES; time += 1) {
      await response.body?.cancel();
      await sleep(retryAfterMs(response) ?? RETRY_MS);
      response = await this.send(path, init);
    }
    if (response.ok) return response;
    const answer = shapes.ErrorAnswer.safeParse(await response.json().catch(() => undefined));
    const detail = answer.data?.detail ?? `${method} ${path}: HTTP ${response.status}`;
    throw new ClientError(response.status === 401 ? detail + this.sayToken() : detail, answer.data);
  }

  private sayToken(): string {
    if (this.token !== undefined) return '';
    return `; the token in the folder of a Slipway is shown to the server of that folder alone, so for ${this.server} set SLIPWAY_TOKEN`;
  }

  private async send(path: string, init: RequestInit): Promise<Response> {
    try {
      return await fetch(this.server + path, init);
    } catch (error) {
      const why = (error as { cause?: Error }).cause?.message ?? String(error);
      throw new ClientError(
        `no Slipway server answers at ${this.server} (${why}); start one with: slipway up, or name another with --server URL`,
      );
    }
  }
}

const attemptOf = ({ attempt }: RunPlace): string => (attempt === undefined ? '' : `&attempt=${attempt}`);

/** A refusal stays one; a server that is away or fails may be back. */
const isBusy = (error: unknown): boolean => error instanceof ClientError && error.answer?.status === 429;

export function isFinal(error: unknown): boolean {
  return error instanceof ClientError && error.answer !== undefined && error.answer.status < 500;
}
