// Proves that every byte of output comes home once and in order, over a bad network, in a flood, and to live readers.
// Real Temporal, real Docker; a real proxy between the worker and the API that drops requests and answers.
import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Client } from '../cli/client';
import { House, oneRun } from './setup/house';
import { waitFor } from './setup/wait-for';

/** Passes requests on, but cuts `share` of them: half before the API sees them, half after it has answered. */
async function lossyProxy(target: string, share: number): Promise<{ url: string; cut: () => number; server: Server }> {
  let cut = 0;
  let turn = 0;
  const server = createServer((request, response) => {
    // Every n-th, not at random: the test is the same each time.
    turn += 1;
    const isCut = Math.floor(turn * share) > Math.floor((turn - 1) * share);
    const isBefore = cut % 2 === 0;
    if (isCut) cut += 1;
    if (isCut && isBefore) return request.socket.destroy();
    const body: Buffer[] = [];
    request.on('data', (part: Buffer) => body.push(part));
    request.on('end', () => {
      const { authorization, 'content-type': contentType } = request.headers;
      fetch(target + request.url, {
        method: request.method,
        headers: { authorization: authorization ?? '', 'content-type': contentType ?? '' },
        body: body.length > 0 ? Buffer.concat(body) : undefined,
      }).then(
        async (answer) => {
          const text = await answer.text();
          if (isCut) return request.socket.destroy();
          return response.writeHead(answer.status, { 'content-type': 'application/json' }).end(text);
        },
        () => request.socket.destroy(),
      );
    });
    return undefined;
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, cut: () => cut, server };
}

let house: House;
let proxy: Awaited<ReturnType<typeof lossyProxy>>;
beforeAll(async () => {
  house = await House.open({ without: ['worker'] });
  proxy = await lossyProxy(house.url, 0.3);
  house.add('behind-proxy', 'worker', {
    SLIPWAY_SERVER: proxy.url,
    SLIPWAY_HOST: 'behind-proxy',
    SLIPWAY_LABELS: 'proxy',
  });
  house.add('direct', 'worker', {
    SLIPWAY_HOST: 'direct',
    SLIPWAY_LABELS: 'direct',
    SLIPWAY_WORKER_DIR: `${house.dir}/direct`,
  });
  await house.start('behind-proxy');
  await house.start('direct');
}, 120_000);
afterAll(async () => {
  await house?.stop();
  proxy?.server.close();
}, 60_000);

const on = (tag: string, definition: string): string =>
  definition.replace('script: work', `script: work\n        host-tag: ${tag}`);
const sha = (bytes: Buffer | string): string => createHash('sha256').update(bytes).digest('hex');

async function readBytes(project: string): Promise<Buffer> {
  const { urls } = await house.run(project, 1, 'work');
  return Buffer.from(await (await house.request('GET', urls.log)).arrayBuffer());
}

async function followed(project: string): Promise<{ sha: string; bytes: number }> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const part of new Client(house.url).follow({ project, number: 1, run: 'work' })) {
    hash.update(part);
    bytes += part.length;
  }
  return { sha: hash.digest('hex'), bytes };
}

test('R2 a proxy cuts 30 % of the requests between worker and API: no byte is lost or doubled, and artifacts are whole', async () => {
  const script = `#!/bin/sh
i=0
while [ $i -lt 3000 ]; do i=$((i+1)); echo "line $i of the lossy run"; [ $((i % 100)) = 0 ] && sleep 0.1; done
head -c 3000000 /dev/zero > /archive/zeros`;
  await house.project('lossy', on('proxy', oneRun(script)));
  await house.trigger('lossy');
  const live = await followed('lossy');
  const build = await house.finished('lossy', 1, 90_000);
  const run = await house.run('lossy', 1, 'work');
  const expected = Array.from({ length: 3000 }, (_, at) => `line ${at + 1} of the lossy run\n`).join('');

  expect(build.status).toBe('passed');
  expect(run.host).toBe('behind-proxy');
  expect(proxy.cut()).toBeGreaterThan(3);
  expect((await readBytes('lossy')).toString()).toBe(expected);
  expect(live).toEqual({ sha: sha(expected), bytes: expected.length });
  expect(run.artifacts).toMatchObject([
    { path: 'zeros', sizeBytes: 3_000_000, digest: `sha256:${sha(Buffer.alloc(3_000_000))}` },
  ]);
  expect(run.attempt).toBe(1);
}, 120_000);

test('R2 1,000,000 lines are stored whole and reach a live reader whole', async () => {
  const script = `#!/bin/sh\nawk 'BEGIN { for (i = 1; i <= 1000000; i++) print "this is line", i }'`;
  await house.project('flood', on('direct', oneRun(script)));
  await house.trigger('flood');
  const live = await followed('flood');
  await house.finished('flood', 1, 120_000);
  const hash = createHash('sha256');
  let bytes = 0;
  for (let line = 1; line <= 1_000_000; line += 1) {
    const text = `this is line ${line}\n`;
    hash.update(text);
    bytes += text.length;
  }
  const expected = { sha: hash.digest('hex'), bytes };
  const stored = await readBytes('flood');

  expect(live).toEqual(expected);
  expect({ sha: sha(stored), bytes: stored.length }).toEqual(expected);
}, 180_000);

test('R2 bytes that are no text, lines longer than any buffer and a last line without an end arrive as they were written', async () => {
  const script = `#!/bin/sh
printf '\\377\\000\\001 raw\\n'
head -c 100000 /dev/zero | tr '\\0' a; echo
echo to-stderr >&2
printf 'no end'`;
  await house.project('raw', on('direct', oneRun(script)));
  await house.trigger('raw');
  await house.finished('raw', 1);

  const bytes = await readBytes('raw');

  const outputs = [
    Buffer.from([0xff, 0x00, 0x01]),
    Buffer.from(` raw\n${'a'.repeat(100_000)}\n`),
    Buffer.from('to-stderr\n'),
    Buffer.from('no end'),
  ];
  // The two streams have no order between them; each keeps its own.
  const withoutStderr = Buffer.from(bytes.toString('latin1').replace('to-stderr\n', ''), 'latin1');
  expect(bytes.length).toBe(Buffer.concat(outputs).length);
  expect(sha(withoutStderr)).toBe(sha(Buffer.concat([outputs[0]!, outputs[1]!, outputs[3]!])));
});

test('R2 the API is killed again and again while a reader follows: the reader gets each byte once', async () => {
  const script = `#!/bin/sh\ni=0\nwhile [ $i -lt 100 ]; do i=$((i+1)); echo "tick $i"; sleep 0.1; done`;
  await house.project('killed', on('direct', oneRun(script)));
  await house.trigger('killed');
  await house.runIn('running', 'killed', 1, 'work');
  const live = followed('killed');
  for (let round = 0; round < 3; round += 1) {
    await house.kill9('api');
    await house.start('api');
  }

  const expected = Array.from({ length: 100 }, (_, at) => `tick ${at + 1}\n`).join('');
  expect(await live).toEqual({ sha: sha(expected), bytes: expected.length });
  expect((await readBytes('killed')).toString()).toBe(expected);
}, 120_000);

test('R2 a finished log is compressed at rest and still reads byte for byte, whole and by range', async () => {
  const before = await readBytes('flood');
  const { urls } = await house.run('flood', 1, 'work');
  const ranges = [
    [0, 10],
    [1_048_570, 1_048_590],
    [before.length - 20, before.length],
  ] as const;
  const read = async ([from, to]: readonly [number, number]) => {
    const answer = await house.request('GET', urls.log, undefined, { range: `bytes=${from}-${to - 1}` });
    return { status: answer.status, text: await answer.text() };
  };
  // The sweep packs a log some seconds after its end; the answers are right before, during and after it.
  const isPacked = (): boolean =>
    readdirSync(`${house.dir}/blobs/logs`, { recursive: true }).some((name) => String(name).endsWith('.gz'));
  await waitFor(isPacked, { what: 'the log is packed', timeoutMs: 60_000 });

  expect(sha(await readBytes('flood'))).toBe(sha(before));
  for (const range of ranges) {
    expect(await read(range)).toEqual({ status: 206, text: before.subarray(...range).toString() });
  }
}, 120_000);

describe('over restarts', () => {
  let own: House;
  beforeAll(async () => {
    own = await House.open({ env: { SLIPWAY_LOG_CAP_BYTES: '65536', SLIPWAY_HEARTBEAT_TIMEOUT_MS: '6000' } });
  }, 120_000);
  afterAll(async () => own?.stop(), 60_000);

  test('R2 B5 a log over its cap, with its worker killed in the overflow: head, notice, tail, and the gap is recorded', async () => {
    const flood =
      '#!/bin/sh\ni=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo "line $i"; [ $((i % 2000)) = 0 ] && sleep 1; done\ntrue';
    await own.project('capped', oneRun(flood));
    await own.trigger('capped');
    await waitFor(async () => (await own.run('capped', 1, 'work')).logBytes > 49_152, {
      what: 'the log has reached its cap',
      timeoutMs: 30_000,
    });
    await own.kill9('worker');
    await own.start('worker');
    await own.finished('capped', 1, 90_000);
    const { attempts } = await own.run('capped', 1, 'work');
    const log = await own.logOf('capped', 1, 'work');

    const whole = Array.from({ length: 20_000 }, (_, at) => `line ${at + 1}\n`).join('');
    const lostBytes = whole.length - 65_536;
    const notice =
      '\n[slipway: the log reached its cap of 65536 bytes; at most its last 16384 follow when the run ends]\n';
    expect(log).toBe(
      `${whole.slice(0, 49_152)}${notice}[slipway: ${lostBytes} bytes are left out here]\n${whole.slice(-16_384)}`,
    );
    expect(attempts.map((attempt) => attempt.logGaps)).toEqual([
      [{ atByte: 49_152 + notice.length, lostBytes, reason: 'cap' }],
    ]);
  }, 180_000);

  test('R2 a log that is followed live while every part is killed in turn arrives whole, once and in order', async () => {
    const lines = 300;
    await own.project('followed', oneRun(`#!/bin/sh\nfor i in $(seq 1 ${lines}); do echo "line $i"; sleep 0.1; done`));
    await own.trigger('followed');
    await own.runIn('running', 'followed', 1, 'work');
    const read = (async () => {
      const parts: Buffer[] = [];
      for await (const bytes of new Client(own.url).follow({ project: 'followed', number: 1, run: 'work' }))
        parts.push(bytes);
      return Buffer.concat(parts).toString();
    })();
    for (const member of ['api', 'worker', 'orchestrator', 'database']) {
      await own.kill9(member);
      await own.start(member);
    }
    await own.temporal.kill9();
    await own.temporal.restart();

    expect(await read).toBe(Array.from({ length: lines }, (_, at) => `line ${at + 1}\n`).join(''));
  }, 180_000);
});
