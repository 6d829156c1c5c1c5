// Proves that a build whose trigger was answered exists and ends, whatever is killed right after the answer.
// Real Temporal, real Docker, 200 rounds of SIGKILL.
import { House, oneRun } from './setup/house';
import { waitFor } from './setup/wait-for';

const ROUNDS = 200;
let house: House;
beforeAll(async () => {
  house = await House.open();
}, 120_000);
afterAll(async () => house?.stop(), 60_000);

test(`B2 the API is killed within 5 ms of its answer, ${ROUNDS} times: every build exists and ends`, async () => {
  await house.project('kept', oneRun('#!/bin/sh\necho built'));
  const numbers: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const answer = await waitFor(() => house.request('POST', '/v1/projects/kept/builds', {}), {
      what: 'the API answers',
      timeoutMs: 30_000,
    });
    const build = (await answer.json()) as { number: number };
    house.signal('api', 'SIGKILL');
    expect(answer.status).toBe(201);
    numbers.push(build.number);
    await house.kill9('api');
    await house.start('api');
  }
  const ends = new Set<string>();
  for (const number of numbers) ends.add((await house.finished('kept', number, 300_000)).status);

  expect(numbers).toEqual(Array.from({ length: ROUNDS }, (_, at) => at + 1));
  expect([...ends]).toEqual(['passed']);
}, 900_000);
