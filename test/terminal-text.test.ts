// Proves that what strangers wrote (reasons, paths, messages, lines of logs) cannot act on the terminal that shows it.
// Pure.
import { builds } from '../cli/commands';
import type { Client } from '../cli/client';
import { lineOfLog, oneLine, paint, table, visible } from '../cli/print';

const HOSTILE = '\u001b]0;owned\u0007\u001b[2J\u009b2J\u001b]52;c;ZXZpbA==\u0007\u007f\u202egnp.exe\u2028\0';
// oxlint-disable-next-line no-control-regex -- what must not be there
const ACTS = /[\0-\u0008\u000b-\u001f\u007f-\u009f\u2028\u202e]/;

test('U10 what acts on a terminal is shown as what it is; colours, line ends and tabs stay', () => {
  expect(visible(HOSTILE)).not.toMatch(ACTS);
  expect(visible(HOSTILE)).toContain('\\u001b]0;owned\\u0007\\u001b[2J\\u009b2J');
  const ours = 'a\u001b[31mred\u001b[39m\tb\n\u001b[1;38;5;9mbold\u001b[0m';
  expect(visible(ours)).toBe(ours);
  expect(visible('ü ✓ 日本 🚢')).toBe('ü ✓ 日本 🚢');
});

test('U10 what is printed as JSON stays the same JSON', () => {
  const value = { reason: HOSTILE, list: ['a\nb'] };

  expect(visible(JSON.stringify(value, null, 2))).not.toMatch(ACTS);
  expect(JSON.parse(visible(JSON.stringify(value, null, 2)))).toEqual(value);
});

test('U10 a text of one line begins no other and colours nothing', () => {
  expect(oneLine('a\nhello/1  passed\r\u001b[32mgreen')).toBe('a hello/1  passed\\u000d\\u001b[32mgreen');
});

test('U10 a row of a table is one line, whatever its cells hold; what we painted stays painted', () => {
  const painted = '\u001b[32mpassed\u001b[39m';
  const text = table([
    [paint('bold', 'a\nb'), painted, 'x\nhello/1  passed  4/4'],
    ['c', '\u001b[8mhidden', HOSTILE],
  ]);

  expect(text.split('\n')).toHaveLength(2);
  expect(text.replaceAll(painted, '')).not.toMatch(ACTS);
  expect(text).toContain(painted);
});

test('U10 the reason of a build forges no line of the list of builds', async () => {
  const build = {
    project: 'a',
    number: 1,
    status: 'failed',
    counts: { passed: 0, total: 1 },
    commits: [],
    createdAt: '2026',
    finishedAt: '2026',
  };
  const client = {
    builds: () => Promise.resolve([{ ...build, reason: 'x\nhello/1  passed\u001b[2J' }]),
  } as unknown as Client;
  let said = '';
  const output = { out: (text: string) => void (said += text), err: () => undefined };

  await builds(client, 'a', { options: { limit: '20' }, output });

  expect(said).not.toContain('\n');
  expect(said).not.toMatch(ACTS);
});

test.each([
  ['10 %\r50 %\r100 %', '100 %'],
  ['windows\r', 'windows'],
  ['\u001b[31mred', '\u001b[31mred\u001b[0m'],
  ['plain', 'plain'],
])('S3 a line %j of a log is shown as a terminal would leave it', (line, shown) => {
  expect(lineOfLog(line)).toBe(shown);
});
