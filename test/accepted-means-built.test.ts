// Proves that a build whose trigger was answered exists and ends, whatever is killed right after the answer.
// Real Temporal, real Docker, 200 rounds of SIGKILL.
import { House, oneRun } from './setup/house';
import { waitFor } from './setup/wait-for';

const ROUNDS = 200;
/** While one copy starts again the next is killed. */
const APIS = 4;
let house: House;
beforeAll(async () => {
  house = await House.open({ apis: APIS });
}, 120_000);
afterAll(async () => house?.stop(), 60_000);

test(`B2 the API is killed within 5 ms of its answer, ${ROUNDS} times: every build exists and ends`, async () => {
  await house.project('kept', oneRun('#!/bin/sh\necho built'));
  const numbers: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const name = round % APIS === 0 ? 'api' : `api-${(round % APIS) + 1}`;
    const url = `${house.apiUrls[round % APIS]}/v1/projects/kept/builds`;
    const answer = await waitFor(() => house.request('POST', url, {}), { what: `${name} answers`, timeoutMs: 60_000 });
    house.signal(name, 'SIGKILL');
    const build = (await answer.json()) as { number: number };
    expect(answer.status).toBe(201);
    numbers.push(build.number);
    await house.kill9(name);
    await house.start(name, { wait: false });
  }
  const ends = new Set<string>();
  for (const number of numbers) ends.add((await house.finished('kept', number, 300_000)).status);

  expect(numbers).toEqual(Array.from({ length: ROUNDS }, (_, at) => at + 1));
  expect([...ends]).toEqual(['passed']);
}, 900_000);
