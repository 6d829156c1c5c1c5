// Owns the proof that no text makes the reader of project files throw, hang, or drop something in silence.
// Run by jest.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { projectFileJsonSchema, readProjectFile } from '../adapters/project-file';
import { formatProblem } from '../domain/problems';
import { RUN_NAME_PATTERN } from '../domain/jobs';
import { RunName } from '../domain/schemas/api';
import type { ProjectFile } from '../domain/schemas/project-file';

const sound = `timeout: 5
scripts:
  build: make
triggers:
  - name: push
    runs:
      - name: one
        container: alpine
        script: build
`;

function problemsOf(text: string): string[] {
  const reading = readProjectFile(text);
  return reading.kind === 'valid' ? [] : reading.problems.map((problem) => formatProblem('f.yml', problem));
}
function codesOf(text: string): string[] {
  const reading = readProjectFile(text);
  return reading.kind === 'valid' ? [] : reading.problems.map((problem) => problem.code);
}
function fileOf(text: string): ProjectFile {
  const reading = readProjectFile(text);
  if (reading.kind === 'invalid') throw new Error(problemsOf(text).join('\n'));
  return reading.file;
}

describe('texts that are no project file', () => {
  test.each<[string, string, string]>([
    ['an empty text', '', 'f.yml:1:1: a project file is a map'],
    ['a list', '- a\n- b\n', 'f.yml:1:1: a project file is a map'],
    ['plain words', 'hello world', 'f.yml:1:1: a project file is a map'],
    ['a tab as indentation', 'scripts:\n\ta: b\n', 'f.yml:2:1: no valid YAML: tabs are not allowed as indentation'],
    ['an open quote', 'timeout: "5\n', 'f.yml:2:1: no valid YAML: missing closing "quote'],
    ['two documents', `${sound}---\n${sound}`, 'f.yml:10:1: a second document begins here'],
    ['a tag of YAML 1.1', `${sound}description: !!binary aGk=\n`, 'f.yml:10:14: no valid YAML: unresolved tag'],
    ['an unknown directive', `%FOO 1\n---\n${sound}`, 'f.yml:1:1: no valid YAML: unknown directive %FOO'],
    ['a list as a key', `${sound}? [a]\n: b\n`, 'f.yml:10:3: no valid YAML: with stringKeys, all keys must be strings'],
    ['a NUL byte', 'a: b\nb: \0', 'f.yml:2:4: the file is not plain UTF-8 text'],
    ['bytes that are no UTF-8', Buffer.from([0x61, 0x3a, 0x20, 0xff]).toString(), 'f.yml:1:4: the file is not plain'],
    ['a file of more than 1 MiB', `#${' '.repeat(1024 ** 2)}`, 'f.yml:1:1: the file is larger than 1 MiB'],
    [
      'an alias without anchor',
      `${sound}description: *x\n`,
      'f.yml:10:14 description: alias *x has no anchor above it',
    ],
    ['an alias to itself', 'params: &x\n  a: *x\n', 'f.yml:2:6 params.a: alias *x contains itself'],
    ['20,000 open brackets', '['.repeat(20_000), 'f.yml:1:101: lists and maps are nested too deeply'],
    ['20,000 dashes', '- '.repeat(20_000), 'f.yml:1:200: lists and maps are nested too deeply'],
    ['20,000 open braces', '{'.repeat(20_000), 'f.yml:1:101: lists and maps are nested too deeply'],
  ])('P1 %s is a problem with its place', (_name, text, start) => {
    expect(problemsOf(text)[0]).toMatch(new RegExp(`^${start.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}`));
  });

  test('P1 a value that is no text at all is a problem, not an exception', () => {
    expect(readProjectFile(Buffer.from(sound) as unknown as string)).toMatchObject({ kind: 'invalid' });
  });

  test('P1 an alias bomb ends at once, with the place of the alias that is too much', () => {
    const levels = 'bcdefghijk'.split('').map((name, index) => {
      return `${name}: &${name} [${Array(9).fill(`*${'abcdefghij'[index]}`).join(',')}]\n`;
    });
    expect(problemsOf(`a: &a [x,x,x,x,x,x,x,x,x]\n${levels.join('')}`)).toEqual([
      'f.yml:5:11 e[1]: aliases make more than 20000 values; write fewer of them',
    ]);
  });

  test('P1 a text of more parts than any file needs ends at the first that is too much, before anything is made of it', () => {
    const parts = ['""', '-\n', 'a:\r\n', '# x\n', '&a ', '? a\n', '---\n'];
    for (const text of [`[${','.repeat(200_001)}`, ...parts.map((part) => part.repeat(200_001))]) {
      const [problem, ...more] = problemsOf(text);
      expect(problem).toContain('has more than 200000 words, signs and line ends');
      expect(more).toEqual([]);
    }
  });

  test('P1 a run takes 1,000 needs and each map 1,000 params; one more is a problem with its place', () => {
    const needs = (count: number): string =>
      sound.replace(
        'script: build',
        `script: build\n        needs: [${Array.from({ length: count }, (_, at) => `n${at}`).join(', ')}]`,
      );
    const params = (count: number): string =>
      `${sound}params:\n${Array.from({ length: count }, (_, at) => `  P${at}: x\n`).join('')}`;
    expect(problemsOf(needs(1001))).toEqual(['f.yml:10:9 triggers[0].runs[0].needs: name 1000 runs at most']);
    expect(new Set(codesOf(needs(1000)))).toEqual(new Set(['unknown-need']));
    expect(problemsOf(params(1001))).toEqual(['f.yml:10:1 params: use 1000 params at most']);
    expect(codesOf(params(1000))).toEqual([]);
  });

  test('P1 names that reach into JavaScript objects are refused, and names that only sound like it are not', () => {
    for (const name of ['__proto__', 'constructor', 'prototype']) {
      expect(problemsOf(`${sound}params: {${name}: x}\n`)).toEqual([
        `f.yml:10:10 params.${name}: the name "${name}" is reserved; choose another`,
      ]);
    }
    expect(codesOf(`${sound}__proto__: {timeout: 9}\n`)).toEqual(['reserved-key']);
    expect(codesOf(sound.replace('script: build', 'script: toString'))).toEqual(['unknown-script']);
    expect(fileOf(`${sound}params: {toString: x}\n`).params).toEqual({ toString: 'x' });
    expect(({} as Record<string, unknown>).timeout).toBeUndefined();
  });

  test('P1 a hundred thousand flaws are answered with the first thousand and the count of the rest', () => {
    const reading = readProjectFile(`a: [${','.repeat(5000)}`);
    const problems = reading.kind === 'invalid' ? reading.problems : [];
    expect(problems).toHaveLength(1001);
    expect(problems.at(-1)?.message).toMatch(/^there are \d+ more problems; correct these first$/);
  });

  test('P1 whatever is cut out of, doubled in or put into a file, the reader answers and every problem has a place', () => {
    const bits = fc.constantFrom(
      ...Array.from('[]{}:-*&!|>\'"%#?,\n\t ab0'),
      '<<: ',
      '- ',
      '&a ',
      '*a',
      '---\n',
      'null',
      '__proto__: ',
    );
    const edit = fc.tuple(fc.nat(sound.length), fc.nat(8), fc.array(bits, { maxLength: 4 }));
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 4 }), (edits) => {
        const text = edits.reduce(
          (now, [at, cut, add]) => now.slice(0, at) + add.join('') + now.slice(at + cut),
          sound,
        );
        const reading = readProjectFile(text);
        if (reading.kind === 'valid') return;
        expect(reading.problems.length).toBeGreaterThan(0);
        const lines = text.split('\n');
        for (const { line = 0, column = 0, message } of reading.problems) {
          expect(message).not.toBe('');
          expect(line).toBeGreaterThanOrEqual(1);
          expect(line).toBeLessThanOrEqual(lines.length);
          expect(column).toBeGreaterThanOrEqual(1);
          expect(column).toBeLessThanOrEqual((lines[line - 1]?.length ?? 0) + 1);
        }
      }),
      { numRuns: 1000 },
    );
  });
});

describe('what YAML takes for something else', () => {
  test('P1 a parameter is the text as it is written, whatever YAML would make of it', () => {
    const written = ['1.10', 'on', 'no', '0x1F', '010', '1e3', '.inf', '2024-01-01', '1:30', 'TRUE', '+5', '"null"'];
    const params = written.map((value, index) => `  P${index}: ${value}\n`).join('');
    expect(Object.values(fileOf(`${sound}params:\n${params}`).params ?? {})).toEqual([...written.slice(0, -1), 'null']);
  });

  test('P1 an empty parameter is asked about, and "" is empty text', () => {
    expect(codesOf(`${sound}params: {A: , B: null, C: ~}\n`)).toEqual(['empty-value', 'empty-value', 'empty-value']);
    expect(fileOf(`${sound}params: {A: ""}\n`).params).toEqual({ A: '' });
  });

  test('P2 the words of YAML 1.1 for true and false are flags where a flag is asked for', () => {
    for (const [word, flag] of [
      ['yes', true],
      ['On', true],
      ['TRUE', true],
      ['no', false],
      ['off', false],
    ] as const) {
      const file = fileOf(sound.replace('script: build', `script: build\n        privileged: ${word}`));
      expect(file.triggers[0]?.runs[0]?.privileged).toBe(flag);
    }
  });

  test('P2 merge keys work as in YAML 1.1: own keys win, and of several maps the first', () => {
    const file = fileOf(`${sound}params:\n  <<: [&x {A: x, B: x}, &y {A: y, C: y}]\n  B: own\n`);
    expect(file.params).toEqual({ A: 'x', B: 'own', C: 'y' });
    expect(codesOf(`${sound}params: {<<: text}\n`)).toEqual(['bad-merge']);
  });

  test('P1 a key given twice is named at its second place', () => {
    expect(problemsOf(`${sound}timeout: 6\n`)).toEqual([
      'f.yml:10:1 timeout: "timeout" is given twice in this map; remove one',
    ]);
  });

  test('P1 text that no file or variable can hold is a problem', () => {
    expect(codesOf(`${sound}params: {A: "\\0", B: "\\uD800"}\n`)).toEqual(['not-text', 'not-text']);
  });

  test('P1 a byte order mark and Windows line ends change neither result nor place', () => {
    expect(fileOf(`\uFEFF${sound.replaceAll('\n', '\r\n')}`)).toEqual(fileOf(sound));
    expect(problemsOf(`\uFEFFtimeout: 0\r\n${sound.slice(11).replaceAll('\n', '\r\n')}`)).toEqual([
      'f.yml:1:1 timeout: use 0.001 to 43200',
    ]);
  });
});

/** Names of all properties, at any depth. */
function keysOf(schema: unknown): string[] {
  if (typeof schema !== 'object' || schema === null) return [];
  const own = 'properties' in schema ? Object.keys(schema.properties as object) : [];
  return [...own, ...Object.values(schema).flatMap(keysOf)];
}

function codesInSource(): string[] {
  const sources = ['adapters/project-file.ts', 'adapters/project-file-issues.ts', 'adapters/yaml-tree.ts'];
  sources.push('domain/plan.ts', 'domain/jobs.ts', 'domain/matrix.ts', 'domain/needs.ts');
  const text = sources.map((source) => readFileSync(join(__dirname, '..', source), 'utf8')).join('');
  return [...text.matchAll(/code: '([a-z-]+)'/g)].map((match) => match[1] ?? '');
}

describe('what is published', () => {
  test('P1 the JSON Schema for editors knows every key and what may be written there', () => {
    const run = {
      required: ['name', 'container', 'script'],
      additionalProperties: false,
      properties: {
        params: { type: 'object', additionalProperties: { type: ['string', 'number', 'boolean'] } },
        privileged: { type: 'boolean' },
        'needs-on': { enum: ['success', 'failure', 'always'] },
      },
    };
    expect(projectFileJsonSchema()).toMatchObject({
      required: ['timeout', 'triggers'],
      additionalProperties: false,
      properties: {
        timeout: { type: 'number', minimum: 0.001, maximum: 43_200, description: expect.stringContaining('minutes') },
        triggers: { items: { required: ['name', 'runs'], properties: { runs: { items: run } } } },
      },
    });
  });

  test('P1 the reference in docs/ explains every key of the schema and every code of a problem', () => {
    const docs = readFileSync(join(__dirname, '../docs/project-file.md'), 'utf8');
    const missing = [...keysOf(projectFileJsonSchema()), ...codesInSource()].filter(
      (word) => !docs.includes(`\`${word}\``),
    );
    expect(missing).toEqual([]);
  });

  test('P1 the names a plan may have are those the API takes in its URLs', () => {
    expect(RUN_NAME_PATTERN.source).toBe(RunName.toJSONSchema().pattern);
  });
});
