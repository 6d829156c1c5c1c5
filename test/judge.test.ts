// Proves the judgement of one attempt: what its container, its output and its clocks mean for its verdict.
// Tables; the engine of one test is an HTTP server of its own.
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import Dockerode from 'dockerode';
import { judge } from '../activities/judge';
import { ageOf, watchLimits } from '../activities/limits';
import { aheadBy, inspectContainer } from '../adapters/docker-client';
import { BeginMarks, beginProgram } from '../adapters/docker-begin';
import type { ContainerExit } from '../adapters/engine';
import type { Lease } from '../domain/schemas/worker-api';
import fc from 'fast-check';

const MIB = 1024 * 1024;
const lease = (memoryBytes?: number) =>
  ({ spec: { container: 'image:1', resources: { memoryBytes } } }) as unknown as Lease;
const ended = (exitCode: number, more: Partial<ContainerExit> = {}): ContainerExit => ({
  exitCode,
  outOfMemory: false,
  isUnwatched: false,
  isEndLost: false,
  ...more,
});
const collected = { isLate: false, isCancelled: false, isRefused: false };
const of = (exit: ContainerExit, more: Partial<Parameters<typeof judge>[0]> = {}) =>
  judge({ exit, stopped: undefined, lease: lease(64 * MIB), lastLines: '', collected, ...more });

test.each([
  [7, 'exited with code 7'],
  [126, 'exited with code 126'],
  [128, 'exited with code 128'],
  [137, 'exited with code 137, which stands for signal SIGKILL; Slipway did not send it'],
  [139, 'exited with code 139, which stands for signal SIGSEGV; Slipway did not send it'],
  [143, 'exited with code 143, which stands for signal SIGTERM; Slipway did not send it'],
  [255, 'exited with code 255'],
])('B10 exit code %d says its signal, where it stands for one', (exitCode, message) => {
  expect(of(ended(exitCode))).toEqual({ cause: 'exit-code', message, exitCode });
});

test('R1 out of memory is said whichever process was killed, and changes no other verdict', () => {
  const outOfMemory = true;

  expect(of(ended(137, { outOfMemory }))).toMatchObject({
    cause: 'out-of-memory',
    message: 'killed by the kernel: it used more than its 64 MiB of memory',
  });
  expect(of(ended(2, { outOfMemory }))).toMatchObject({
    cause: 'exit-code',
    message: 'exited with code 2; the kernel killed a process of it above its 64 MiB of memory',
  });
  expect(of(ended(0, { outOfMemory }))).toMatchObject({
    cause: 'ok',
    message: 'the kernel killed a process of it above its 64 MiB of memory',
  });
});

test('R2 a run that was stopped for its output says how much it wrote, and how much is kept', () => {
  const { cause, message } = of(ended(143), { stopped: 'log-limit', lease: { ...lease(), logCapBytes: 512 * MIB } });

  expect(cause).toBe('log-limit');
  expect(message).toMatch(/^stopped after 2048 MiB of output; 512 MiB of a log are kept/);
});

test('R2 output is passed on whole, and what is beyond four times the cap of a log stops the run once', async () => {
  const stops: string[] = [];
  const engine = { stop: async (name: string) => void stops.push(name) };
  const never = new AbortController().signal;
  const spec = { timeoutMs: 60_000 };
  const watch = watchLimits(
    { engine, worker: { stopGraceMs: 1 } },
    { spec, silentForMs: 0, logCapBytes: 100 } as unknown as Lease,
    { name: 'n', ageMs: 0, fromByte: 50, cancel: never, detach: never },
  );
  const counts: number[] = [];
  async function* output() {
    for (const size of [200, 150, 1, 100]) {
      yield Buffer.alloc(size);
      counts.push(stops.length);
    }
  }
  let passed = 0;
  for await (const bytes of watch.listening(output())) passed += bytes.length;

  expect([passed, counts, watch.end().stopped]).toEqual([451, [0, 0, 1, 1], 'log-limit']);
});

test('B10 what a script prints decides nothing: one that fails like a missing program failed', () => {
  const lastLines = 'cc: exec cc1 failed: No such file or directory\nenv: x/script: No such file or directory\n';

  expect(of(ended(127), { lastLines }).cause).toBe('exit-code');
  expect(of(ended(0), { lastLines }).cause).toBe('ok');
});

test.each<[number, string[], { lastLines: string; message: RegExp }]>([
  [
    0,
    ['/bin/true'],
    { lastLines: '', message: /entrypoint \["\/bin\/true"\] ended with code 0 .*write container-entrypoint: ""$/ },
  ],
  [
    1,
    ['tool'],
    { lastLines: 'tool: unknown command: /slipway/begin\n', message: /entrypoint \["tool"\] ended with code 1/ },
  ],
  [
    127,
    [],
    {
      lastLines: 'exec /slipway/begin failed: No such file or directory\n',
      message: /image image:1 \(No such file or directory\); begin/,
    },
  ],
  [1, [], { lastLines: 'exec /sbin/docker-init: argument list too long\n', message: /longer than the kernel takes/ }],
])(
  'R1 a script that was not begun does not pass and does not fail, exit code %d of %j',
  (exitCode, unbegunBy, { lastLines, message }) => {
    const verdict = of(ended(exitCode), { unbegunBy, lastLines });

    expect(verdict.cause).toBe('script-not-runnable');
    expect(verdict.message).toMatch(message);
  },
);

test('B9 the age of an adopted script is kept within what the server has measured, whatever a clock was set to', () => {
  const measured = { silentForMs: 1_000, leasedForMs: 60_000 };
  const startedAgo = (ms: number) => ({ isNew: false, startedAt: new Date(Date.now() - ms) });

  expect(ageOf({ isNew: true, startedAt: new Date(0) }, measured)).toBe(0);
  expect(ageOf(startedAgo(3_600_000), measured)).toBe(60_000);
  expect(ageOf(startedAgo(-3_600_000), measured)).toBe(1_000);
  expect(ageOf({ isNew: false, startedAt: null }, measured)).toBe(1_000);
  expect(Math.round(ageOf(startedAgo(30_000), measured) / 1_000)).toBe(30);
});

test('B9 a clock elsewhere that is ahead or behind is known by how much, and one that tells seconds alone agrees', () => {
  expect(Math.round(aheadBy(new Date(Date.now() + 3_600_000)) / 1_000)).toBe(3_600);
  expect(Math.round(aheadBy(new Date(Date.now() - 3_600_000)) / 1_000)).toBe(-3_600);
  expect(aheadBy(new Date(Date.now() - 999))).toBe(0);
  expect(aheadBy(new Date(''))).toBe(0);
});

test('B9 what an engine says of a container is told by the clock here, whatever its own says', async () => {
  const hour = 3_600_000;
  const startedMs = Date.now() - 5_000;
  const server = createServer((_, response) => {
    const at = (ms: number): string => new Date(ms + hour).toISOString();
    const state = { StartedAt: at(startedMs), FinishedAt: '0001-01-01T00:00:00Z' };
    response.setHeader('date', new Date(Date.now() + hour).toUTCString());
    response.end(JSON.stringify({ Id: 'id', Created: at(startedMs), State: state }));
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const docker = new Dockerode({ host: '127.0.0.1', port: (server.address() as AddressInfo).port });
  const { State: state } = await inspectContainer(docker, 'name');
  server.closeAllConnections();
  server.close();

  expect(Math.abs(Date.parse(state.StartedAt) - startedMs)).toBeLessThan(2_000);
  expect(state.FinishedAt).toBe('0001-01-01T00:00:00Z');
});

describe('the marks of a beginning', () => {
  const [, begun = ''] = /echo '(slipway has .*)'/.exec(beginProgram('n', '')) ?? [];
  const [, failed = ''] = /echo '(slipway cannot .*)'/.exec(beginProgram('n', '')) ?? [];
  const read = (output: string, sizes: number[]) => {
    const marks = new BeginMarks('n');
    const bytes = Buffer.from(output);
    const parts: Buffer[] = [];
    for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
      const size = sizes[turn % sizes.length] ?? 1;
      parts.push(marks.read(bytes.subarray(at, at + size)));
      at += size;
    }
    return { text: Buffer.concat([...parts, marks.rest()]).toString(), hasBegun: marks.hasBegun };
  };
  const sizes = fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 5 });
  const text = fc.oneof(fc.string(), fc.constantFrom('', 'slipway', begun, begun.slice(0, 9), `x${failed}`));

  test('R2 are taken out once, wherever the output is cut, and nothing else is', () => {
    fc.assert(
      fc.property(fc.string(), text, sizes, (before, after, cuts) => {
        expect(read(`${before}${begun}\n${after}`, cuts)).toEqual({ text: before + after, hasBegun: true });
      }),
    );
  });

  test('R2 say that a script could not be begun only where nothing of it stands between them', () => {
    fc.assert(
      fc.property(sizes, (cuts) => {
        const why = 'sh: /slipway/script: not found\n';
        const far = 'x'.repeat(5_000);
        expect(read(`${begun}\n${why}${failed}\n`, cuts)).toEqual({ text: why, hasBegun: false });
        expect(read(`${begun}\n${far}${failed}\n`, cuts)).toEqual({ text: `${far}${failed}\n`, hasBegun: true });
        expect(read('usage: tool', cuts)).toEqual({ text: 'usage: tool', hasBegun: false });
      }),
    );
  });

  test.each([
    ['#!/bin/sh\n', '#!/bin/sh'],
    ['#! /bin/bash -eu\n', '#!/bin/bash'],
    ['#!/usr/bin/env bash\n', '#!/usr/bin/env bash'],
    ['#!/usr/bin/env -S bash -e\n', '#!/usr/bin/env bash'],
    ['#!/usr/bin/env python3\n', '#!/bin/sh'],
    ['echo 1\n', '#!/bin/sh'],
  ])('R1 come from a program in the shell of the script: %j', (script, first) => {
    expect(beginProgram('n', script).split('\n')[0]).toBe(first);
  });
});
