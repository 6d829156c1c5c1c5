// Proves how what strangers say is read before it is used: texts, answers of workers, inputs of workflows, and how often an
// attempt may be sent on. Pure.
import { temporal } from '@temporalio/proto';
import fc from 'fast-check';
import { DEFAULT_TIMING, isBuildInput } from '../domain/build-input';
import { takeDetour } from '../domain/detours';
import { readJobResult } from '../domain/job-result';
import { clusterQueue, ORCHESTRATOR_QUEUE, workerQueue } from '../domain/names';
import { cutText, fieldOf, plainText } from '../domain/untrusted';
import { makeRules } from '../gateway/rules';
import { TaskTokens } from '../gateway/task-tokens';

const ME = '11111111-2222-3333-4444-555555555555';

test.each<[what: string, said: unknown, shown: string]>([
  ['a good one', 'as it is: ä 👍', 'as it is: ä 👍'],
  ['NUL', 'a\u0000b', 'a b'],
  ['line ends and escapes', 'a\r\n\u001b[31mred', 'a [31mred'],
  ['half a character', 'half \ud83d of one', 'half   of one'],
  ['a long one', 'x'.repeat(3_000), `${'x'.repeat(1_999)}…`],
  ['a long one that shrinks', `\0\0\0${'x'.repeat(3_000)}`, ` ${'x'.repeat(1_998)}…`],
  ['none', undefined, ''],
  ['an object', { toString: () => 'x' }, ''],
])('C3 a text is cleaned before it is stored or shown: %s', (_what, said, shown) => {
  expect(plainText(said)).toBe(shown);
});

test('C3 whatever the text, what is left can be stored and is not too long', () => {
  const any = fc.array(fc.integer({ min: 0, max: 0xffff })).map((units) => String.fromCharCode(...units));
  fc.assert(
    fc.property(any, fc.integer({ min: 1, max: 40 }), (text, most) => {
      const plain = plainText(text, most);
      expect(plain.length).toBeLessThanOrEqual(most);
      expect(plain).toMatch(/^[^\p{Cc}\p{Cs}]*$/u);
    }),
  );
});

test('C3 a field is an own one: nothing of a prototype counts', () => {
  expect(['toString', '__proto__', 'constructor'].map((name) => fieldOf({}, name))).toEqual([
    undefined,
    undefined,
    undefined,
  ]);
  expect([null, undefined, 7, 'x'].map((value) => fieldOf(value, 'length'))).toEqual(Array(4).fill(undefined));
  expect(fieldOf(JSON.parse('{"__proto__":1}'), '__proto__')).toBe(1);
});

const QUEUE = workerQueue('mine', ME);

test.each<[answer: object, read: object | undefined]>([
  [
    { kind: 'finished', cause: 'exit-code', message: 'x', recorded: true },
    { kind: 'finished', cause: 'exit-code', message: 'x', recorded: true },
  ],
  [
    { kind: 'finished', cause: 'ok', message: 7, recorded: 'yes' },
    { kind: 'finished', cause: 'ok', message: '', recorded: false },
  ],
  [{ kind: 'finished', cause: 'hasOwnProperty' }, undefined],
  [
    { kind: 'elsewhere', queue: QUEUE },
    { kind: 'elsewhere', queue: QUEUE },
  ],
  [
    { kind: 'detached', queue: QUEUE, more: 1 },
    { kind: 'detached', queue: QUEUE },
  ],
  [{ kind: 'detached', queue: workerQueue('mine.too', ME) }, undefined],
  [{ kind: 'detached', queue: `${QUEUE}\n` }, undefined],
  [{ kind: 'elsewhere', queue: clusterQueue('mine') }, undefined],
  [{ kind: 'elsewhere', queue: ORCHESTRATOR_QUEUE }, undefined],
  [{ kind: 'moved', cluster: 'theirs', move: 7 }, { kind: 'moved' }],
  [
    { kind: 'waiting', reason: 'a\u0000b' },
    { kind: 'waiting', reason: 'a b' },
  ],
  [{ kind: 'waiting' }, { kind: 'waiting', reason: '' }],
  [{ kind: 'fenced', queue: 7 }, { kind: 'fenced' }],
  [{ kind: 'valueOf' }, undefined],
  [[], undefined],
])('C3 of an answer only what a worker may say counts: %j', (answer, read) => {
  expect(readJobResult(answer, 'mine')).toEqual(read);
});

test('C3 reading an answer never throws, whatever it is', () => {
  fc.assert(fc.property(fc.anything(), (answer) => void readJobResult(answer, 'mine')));
  fc.assert(fc.property(fc.anything(), (input) => expect(isBuildInput(input)).toBe(false)));
});

test('B4 what builds are started with is taken for that', () => {
  const run = { id: 'a', name: 'a', job: 'a', cluster: 'local', timeoutMs: 1, needs: [0] };
  const input = { buildId: 'b', project: 'p', number: 1, runs: [run], jobs: [], window: 1, timing: DEFAULT_TIMING };
  expect(isBuildInput(input)).toBe(true);
  expect(isBuildInput({ ...input, runs: [{ ...run, needs: ['x'] }] })).toBe(false);
  expect(isBuildInput({ ...input, timing: { ...DEFAULT_TIMING, askAgainMs: null } })).toBe(false);
});

describe('detours', () => {
  const pauses = (tookMs: number): number[] => {
    const detours = { all: 0, quick: 0 };
    const all: number[] = [];
    for (;;) {
      const pause = takeDetour(detours, tookMs);
      if (pause === undefined) return all;
      all.push(pause);
    }
  };

  test('C3 an attempt that is sent on at once each time is paused for longer and longer, and ends within minutes', () => {
    const all = pauses(10);
    expect(all.slice(0, 7)).toEqual([0, 0, 0, 500, 1_000, 2_000, 4_000]);
    expect(Math.max(...all)).toBe(30_000);
    expect(all.length).toBe(20);
  });

  test('B4 one whose supervisors come and go, as in outages, is not held up, and ends only after hundreds of them', () => {
    const all = pauses(12_000);
    expect(new Set(all)).toEqual(new Set([0]));
    expect(all.length).toBe(300);
  });
});

describe('what goes through the gateway can be read by an orchestrator', () => {
  const { RespondActivityTaskCompletedRequest: Completed, RespondActivityTaskFailedRequest: Failed } =
    temporal.api.workflowservice.v1;
  const tokens = new TaskTokens(Buffer.alloc(32, 's'));
  const rules = makeRules({ namespace: 'default', tokens });
  const who = { cluster: 'mine', worker: ME, keyId: 'k' };
  const named = { namespace: 'default', taskToken: tokens.seal('activity', who, Buffer.from('task')) };
  const payload = (text: string) => ({ data: Buffer.from(text) });

  test.each<[what: string, given: string[] | undefined, left: string[] | undefined]>([
    ['no result', undefined, undefined],
    ['a result of no payload', [], undefined],
    ['a result of one', ['a'], ['a']],
    ['a result of three', ['a', 'b', 'c'], ['a']],
  ])('C3 %s: exactly one payload, or none at all', (_what, given, left) => {
    const body = Completed.encode({
      ...named,
      ...(given ? { result: { payloads: given.map(payload) } } : {}),
    }).finish();
    const sent = Completed.decode(rules.get('RespondActivityTaskCompleted')!.request(who, Buffer.from(body)));
    expect(sent.result?.payloads?.map(({ data }) => Buffer.from(data!).toString())).toEqual(left);
  });

  test('C3 a failure is there, and nested no deeper than an SDK would', () => {
    const nested = (depth: number): object => ({ message: 'x', ...(depth > 0 ? { cause: nested(depth - 1) } : {}) });
    const send = (more: object): object =>
      Failed.decode(
        rules
          .get('RespondActivityTaskFailed')!
          .request(who, Buffer.from(Failed.encode({ ...named, ...more }).finish())),
      );
    expect(send({})).toMatchObject({ failure: {} });
    expect(send({ failure: nested(20) })).toMatchObject({ failure: nested(20) });
    expect(() => send({ failure: nested(21) })).toThrow('more than 20 causes');
    expect(() => send({ failure: nested(60) })).toThrow('more than 20 causes');
  });
});

test('R3 a text is never cut in the middle of a character', () => {
  for (const most of [1, 2, 3, 4]) expect(cutText('a😀😀', most)).not.toMatch(/\p{Surrogate}/u);
  expect(cutText('a😀😀', 3)).toBe('a😀');
});
