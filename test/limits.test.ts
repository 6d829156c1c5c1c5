// Proves that nobody takes more than a part: bytes of bodies under way, open streams, and how often something is done.
// Pure, but for the bodies: those come over real connections to a server of three lines.
import { createServer, request as httpRequest, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import express from 'express';
import pino from 'pino';
import { Rates, requireRoom, Room } from '../api/limits';
import { errorHandler } from '../api/problem';
import { waitFor } from './setup/wait-for';

test('O6 each caller has a part of the room, all have the whole, and what is given back is there again', () => {
  const room = new Room({ ofOne: 3, ofAll: 4 });
  const leave = room.enter('a', 2)!;

  expect(room.enter('a', 2)).toBeUndefined();
  expect(room.enter('b', 3)).toBeUndefined();
  expect(room.enter('b', 2)).toBeDefined();
  leave();
  leave();
  expect(room.enter('b', 2)).toBeUndefined();
  expect(room.enter('a', 2)).toBeDefined();
});

test('O6 a caller may do something so often at once, and so often per second from then on; another is not touched', () => {
  let now = 0;
  const rates = new Rates({ atOnce: 3, perSecond: 2 }, () => now);
  const take = (caller: string): number => rates.take(caller);

  expect([take('a'), take('a'), take('a'), take('a'), take('b')]).toEqual([0, 0, 0, 1, 0]);
  now = 500;
  expect([take('a'), take('a')]).toEqual([0, 1]);
  now = 60_000;
  expect([take('a'), take('a'), take('a'), take('a')]).toEqual([0, 0, 0, 1]);
});

describe('a body that is not whole yet', () => {
  let server: Server;
  let port: number;
  beforeAll(async () => {
    const app = express();
    const room = new Room({ ofOne: 1000, ofAll: 1000 });
    app.post('/', requireRoom(room, 600), express.raw({ type: () => true, limit: 600 }), (_request, response) => {
      response.json({});
    });
    app.use(errorHandler(pino({ level: 'silent' })));
    server = createServer(app);
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    port = (server.address() as AddressInfo).port;
  });
  afterAll(() => {
    server.closeAllConnections();
    server.close();
  });
  const post = (sizeBytes: number): Promise<Response> =>
    fetch(`http://127.0.0.1:${port}/`, { method: 'POST', body: 'x'.repeat(sizeBytes) });

  test('O6 takes its room from the first byte on, and gives it back when it is whole or its sender is gone', async () => {
    const half = httpRequest({ port, method: 'POST', headers: { 'content-length': '600' } });
    half.on('error', () => undefined);
    half.write('half');
    await waitFor(async () => (await post(500)).status === 429, { what: 'the half body takes its room' });
    const refused = await post(500);

    expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '1']);
    expect(((await refused.json()) as { detail: string }).detail).toContain('too much is being sent at once');
    expect((await post(300)).status).toBe(200);
    half.destroy();
    await waitFor(async () => (await post(500)).status === 200, { what: 'there is room again' });
    for (let time = 0; time < 5; time += 1) expect((await post(600)).status).toBe(200);
  });
});
