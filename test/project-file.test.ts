// Owns the golden files: a project file and the plans or problems it must give, byte for byte.
// Run by jest. UPDATE_GOLDEN=1 writes them anew; read the difference before you believe it.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readProjectFile } from '../adapters/project-file';
import { makePlan } from '../domain/plan';
import { formatProblem } from '../domain/problems';

const folder = join(__dirname, 'golden');
const names = readdirSync(folder).filter((name) => name.endsWith('.yml'));
const read = (name: string): string => readFileSync(join(folder, name), 'utf8');

function compare(name: string, actual: string): void {
  if (process.env.UPDATE_GOLDEN) writeFileSync(join(folder, name), actual);
  expect(actual).toBe(read(name));
}

/** Plans of all triggers of a file, by name. */
function plansOf(name: string): unknown {
  const reading = readProjectFile(read(name));
  if (reading.kind === 'invalid') throw new Error(reading.problems.map((one) => formatProblem(name, one)).join('\n'));
  return reading.file.triggers.map((trigger) => {
    const made = makePlan(reading.file, { trigger: trigger.name, params: {} });
    return made.kind === 'plan' ? made.plan : made.problems;
  });
}

describe('golden project files', () => {
  test.each(names.filter((name) => !name.startsWith('bad')))(
    'P2 %s gives exactly the plans written beside it',
    (name) => {
      compare(name.replace('.yml', '.plan.json'), `${JSON.stringify(plansOf(name), null, 2)}\n`);
    },
  );

  test.each(names.filter((name) => name.startsWith('bad')))(
    'P1 %s gives exactly the problems written beside it',
    (name) => {
      const reading = readProjectFile(read(name));
      const problems = reading.kind === 'invalid' ? reading.problems : [];
      compare(name.replace('.yml', '.problems.txt'), `${problems.map((one) => formatProblem(name, one)).join('\n')}\n`);
    },
  );
});

const withUser = (user: string) =>
  readProjectFile(
    `timeout: 1\ntriggers: [{name: main, runs: [{name: work, container: a, script: work, container-user: '${user}'}]}]\nscripts: {work: '#!/bin/sh'}\n`,
  );

test.each(['-1', '0:-1', '+1', '99999999999', '0:2147483648', 'a b', 'a:b:c', ':1', '1:'])(
  'P1 H11 container-user "%s", which no engine can start, is refused where the file is read',
  (user) => {
    expect(withUser(user)).toMatchObject({
      kind: 'invalid',
      problems: [{ path: 'triggers[0].runs[0].container-user', message: expect.stringMatching(/^write user|^a uid/) }],
    });
  },
);

test.each(['1000', '0:0', 'nobody', 'www-data:www-data', 'build.user', '2147483647'])(
  'P1 container-user "%s" is taken',
  (user) => {
    expect(withUser(user).kind).not.toBe('invalid');
  },
);
