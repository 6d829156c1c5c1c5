// Proves that a worker does not live on without polling: the token that it shows, how it notices that its pollers gave up,
// and that it says so when Temporal does not hear it. Pure but for one server on this machine; every clock is handed in.
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import pino from 'pino';
import { ShownToken } from '../adapters/cluster-keys';
import { WorkerApi } from '../adapters/worker-api';
import { TemporalReach } from '../workers/temporal-reach';
import { runWorkers } from '../workers/temporal-worker';
import { waitFor } from './setup/wait-for';

const MINUTE_MS = 60_000;

describe('C3 the token that a worker shows', () => {
  const clocks = { wallMs: 0, steadyMs: 0 };
  let signed: number[];
  let token: ShownToken;
  beforeEach(() => {
    Object.assign(clocks, { wallMs: Date.now(), steadyMs: 1_000 });
    signed = [];
    const sign = async (): Promise<string> => `token ${signed.push(clocks.wallMs)}`;
    token = new ShownToken(sign, { wallMs: () => clocks.wallMs, steadyMs: () => clocks.steadyMs });
  });
  const pass = (ms: number): void =>
    void Object.assign(clocks, { wallMs: clocks.wallMs + ms, steadyMs: clocks.steadyMs + ms });

  it('is one for many calls, and another after two minutes', async () => {
    const shown = [await token.text()];
    for (let minute = 0; minute < 4; minute += 1) {
      pass(MINUTE_MS + 1);
      shown.push(await token.text());
    }

    expect(shown).toEqual(['token 1', 'token 1', 'token 2', 'token 2', 'token 3']);
  });

  it.each([
    ['forward', MINUTE_MS],
    ['back', -MINUTE_MS],
  ])('is another at once when the wall clock is set %s, or the machine slept', async (_way, jumpMs) => {
    await token.text();
    clocks.wallMs += jumpMs;

    expect(await token.text()).toBe('token 2');
    expect(signed[1]).toBe(clocks.wallMs);
    expect(await token.text()).toBe('token 2');
  });

  it('is another at once after it was refused', async () => {
    const seen: (string | undefined)[] = [];
    const server = createServer((request, response) => {
      seen.push(request.headers.authorization);
      response.writeHead(seen.length === 1 ? 401 : 200).end('{"kind":"cancelled"}');
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    let count = 0;
    const sign = async (): Promise<string> => `token-${(count += 1)}`;
    const api = new WorkerApi(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, sign, () => undefined);

    await api.lease({ runId: 'x', attempt: 1, worker: 'y' });
    await api.lease({ runId: 'x', attempt: 1, worker: 'y' });

    expect(seen).toEqual(['Bearer token-1', 'Bearer token-2', 'Bearer token-2']);
    server.close();
    server.closeAllConnections();
  });
});

describe('B5 a worker whose pollers gave up', () => {
  const log = pino({ level: 'silent' });
  /** As the SDK leaves it: the state says it, the promise of `run` never settles. */
  const worker = (state: () => 'RUNNING' | 'FAILED', run = new Promise<void>(() => undefined)) => ({
    getState: state,
    run: () => run,
  });

  it('ends its process once, for its supervisor to start another', async () => {
    let state: 'RUNNING' | 'FAILED' = 'RUNNING';
    let ends = 0;
    let looks = 0;
    const well = worker(() => {
      looks += 1;
      return 'RUNNING';
    });
    void runWorkers([well, worker(() => state)], { log, end: () => (ends += 1), lookMs: 5 });
    await waitFor(() => looks > 3, { what: 'it was looked at' });
    expect(ends).toBe(0);

    state = 'FAILED';
    await waitFor(() => ends > 0, { what: 'the end' });
    const [seen, before] = [ends, looks];
    await waitFor(() => looks > before + 3, { what: 'it was looked at again' });

    expect([seen, ends]).toEqual([1, 1]);
  });

  it('ends its process when the SDK says so by itself as well', async () => {
    let ends = 0;
    const failing = worker(() => 'RUNNING', Promise.reject(new Error('lost')));

    await Promise.allSettled(runWorkers([failing], { log, end: () => (ends += 1), lookMs: 5 }));

    expect(ends).toBe(1);
  });
});

describe('C8 a worker that Temporal does not hear', () => {
  it('says why in its hello, once that is no restart any more, and stops saying it at once', async () => {
    let nowMs = 0;
    let asked = 0;
    let refusal: Error | undefined;
    const ask = async (): Promise<void> => {
      asked += 1;
      if (refusal) throw refusal;
    };
    const reach = new TemporalReach(ask, () => nowMs);
    const said: (string | null)[] = [];
    const round = async (): Promise<void> => {
      await reach.look();
      said.push(reach.whyCutOff);
      nowMs += 5_000;
    };

    for (let at = 0; at < 6; at += 1) await round();
    expect(asked).toBe(2);
    refusal = Object.assign(new Error('14 UNAVAILABLE'), { details: 'the token has\nexpired' });
    for (let at = 0; at < 2; at += 1) await round();
    expect(said.every((why) => why === null)).toBe(true);
    await round();
    refusal = undefined;
    await round();

    expect(said.slice(-2)).toEqual(['it does not get through to Temporal: the token has expired', null]);
  });
});
