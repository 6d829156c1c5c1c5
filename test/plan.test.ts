// Owns the meaning of a project file: precedence, names, limits, needs, and the digest of a plan.
// Run by jest.
import { spawnSync } from 'node:child_process';
import * as fc from 'fast-check';
import { planDigest } from '../adapters/plan-digest';
import { readProjectFile } from '../adapters/project-file';
import { makePlan, type PlanResult } from '../domain/plan';
import { formatPath, formatProblem } from '../domain/problems';
import { sayRefFault, sayUrlFault } from '../domain/repository';
import { Plan, type PlannedRun } from '../domain/schemas/plan';
import type { ProjectFile } from '../domain/schemas/project-file';

/** A file of one trigger `push`; runs are YAML in flow style, one line each. */
function fileText(runs: readonly string[], more = ''): string {
  const list = runs.map((run) => `      - {container: alpine, script: build, ${run}}\n`).join('');
  return `timeout: 5\nscripts: {build: make, other: 'make other'}\n${more}triggers:\n  - name: push\n    runs:\n${list}`;
}
function parse(text: string): ProjectFile {
  const reading = readProjectFile(text);
  if (reading.kind === 'invalid') throw new Error(problemsOf(text).join('\n'));
  return reading.file;
}
function problemsOf(text: string): string[] {
  const reading = readProjectFile(text);
  return reading.kind === 'valid' ? [] : reading.problems.map((problem) => formatProblem('f.yml', problem));
}
function planOf(result: PlanResult): Plan {
  if (result.kind === 'refused') throw new Error(result.problems.map((problem) => problem.message).join('\n'));
  return result.plan;
}
function runsOf(runs: readonly string[], more = ''): PlannedRun[] {
  return planOf(makePlan(parse(fileText(runs, more)), { params: {} })).runs;
}
const names = (runs: readonly PlannedRun[]): string[] => runs.map((run) => run.name);

describe('parameters', () => {
  const text = `timeout: 5
params: {A: project, B: project, C: project, D: project, E: project, F: project}
scripts: {build: make}
triggers:
  - name: push
    params: {B: trigger, C: trigger, D: trigger, E: trigger, F: trigger}
    runs:
      - name: 'r-{D}'
        container: alpine
        script: build
        params: {C: run, D: run, E: run, F: run}
        loop-on: [{param: D, values: [cell]}]
      - name: 'm-{E}'
        container: alpine
        script: build
        params: {C: run, D: run, E: run, F: run}
        matrix:
          axes: {E: [cell]}
          overrides: [{match: {E: cell}, params: {D: first}}, {match: {E: cell}, params: {D: second}}]
`;

  test('P2 the weakest is the project, then trigger, run, cell, and the caller wins over everything', () => {
    const [loop] = planOf(makePlan(parse(text), { params: { F: 'caller' } })).runs;
    expect(loop?.env).toEqual({ A: 'project', B: 'trigger', C: 'run', D: 'cell', E: 'run', F: 'caller' });
  });

  test('P3 an override beats the run and not the cell, and the later override beats the earlier', () => {
    const matrix = planOf(makePlan(parse(text), { params: {} })).runs[1];
    expect(matrix?.env).toEqual({ A: 'project', B: 'trigger', C: 'run', D: 'second', E: 'cell', F: 'run' });
  });

  test('P2 the caller beats the value of a cell too, as in JobServ, and the name of the cell stays', () => {
    const [loop] = planOf(makePlan(parse(text), { params: { D: 'caller' } })).runs;
    expect(loop).toMatchObject({ name: 'r-cell', cell: { D: 'cell' }, env: { D: 'caller' } });
  });

  test('P3 braces in parameters are filled in a matrix; ${…} is the shell’s, and loop-on leaves all as JobServ does', () => {
    const params = `params: {T: '{os} \${os} {other}'}`;
    const [matrix] = runsOf([`name: a, ${params}, matrix: {axes: {os: [x]}}`]);
    const [loop] = runsOf([`name: a, ${params}, loop-on: [{param: os, values: [x]}]`]);
    expect(matrix?.env.T).toBe('x ${os} {other}');
    expect(loop?.env.T).toBe('{os} ${os} {other}');
  });

  test('P1 a parameter of the caller that cannot be a variable is refused by name', () => {
    const file = parse(fileText(['name: a']));
    const made = makePlan(file, { params: { 'A B': 'x', 'C=D': 'x', '': 'x', NUL: '\0', OK: '' } });
    expect(made.kind === 'refused' ? made.problems.map((problem) => problem.path) : []).toEqual([
      'params["A B"]',
      'params["C=D"]',
      'params[""]',
      'params.NUL',
    ]);
  });
});

describe('priorities', () => {
  const file = (ofFile: string, ofTrigger: string, ofRun: string): ProjectFile =>
    parse(`timeout: 5
scripts: {build: make}
${ofFile}
triggers:
  - name: push
    ${ofTrigger}
    runs: [{name: a, container: alpine, script: build, ${ofRun}}]
`);
  const of = (planned: ProjectFile, priority?: number) =>
    planOf(makePlan(planned, { params: {}, priority })).runs.map((run) => run.priority);
  const cells = 'matrix: {axes: {os: [x, y]}, overrides: [{match: {os: y}, priority: 1}]}';

  test('C9 the weakest is the file, then trigger, run, override, and the caller wins over everything', () => {
    expect(of(file('priority: 5', '', ''))).toEqual([5]);
    expect(of(file('priority: 5', 'priority: 4', ''))).toEqual([4]);
    expect(of(file('priority: 5', 'priority: 4', 'priority: 2'))).toEqual([2]);
    expect(of(file('priority: 5', '', `priority: 2, ${cells}`))).toEqual([2, 1]);
    expect(of(file('priority: 5', 'priority: 4', `priority: 2, ${cells}`), 3)).toEqual([3, 3]);
  });

  test('P5 C9 a plan without priorities says nothing of them, so its digest is what it was', () => {
    const plan = planOf(makePlan(file('', '', ''), { params: {} }));

    expect(plan.runs[0]).not.toHaveProperty('priority');
    expect(planDigest(plan)).toBe('sha256:bcb7ce703b2600e28f7c9863d0f0b75f825bab1a0b1245d2b5c7b198c7728708');
  });

  test.each(['0', '6', '2.5', 'high'])('P1 C9 %s is no priority', (priority) => {
    expect(problemsOf(fileText([`name: a, priority: ${priority}`]))).toEqual([
      expect.stringMatching(/triggers\[0\]\.runs\[0\]\.priority: (use|must be)/),
    ]);
  });
});

describe('names', () => {
  test('P3 a 2×3 matrix less one and plus one is six named cells', () => {
    const matrix = `axes: {os: [a, b], node: [18, 20, 22]}, exclude: [{os: a, node: 18}], include: [{os: c, node: 23}]`;
    expect(names(runsOf([`name: t, matrix: {${matrix}}`]))).toEqual([
      't-a-20',
      't-a-22',
      't-b-18',
      't-b-20',
      't-b-22',
      't-c-23',
    ]);
  });

  test('P3 a matrix of one cell keeps its plain name, and placeholders put values where they are wanted', () => {
    expect(names(runsOf(['name: t, matrix: {axes: {os: [a]}}']))).toEqual(['t']);
    expect(names(runsOf(["name: '{os}.t.{v}', matrix: {axes: {v: [1, 2], os: [a]}}"]))).toEqual(['a.t.1', 'a.t.2']);
  });

  test('P2 names doubled by loop-on are found before anything is stored; JobServ found them with half a build made', () => {
    expect(problemsOf(fileText(['name: t, loop-on: [{param: A, values: [1, 2]}]']))).toEqual([
      'f.yml:6:44 triggers[0].runs[0].name: several cells are called "t"; put {loop} or all of {A} into the name',
    ]);
  });

  test('P1 a name too long for URLs once it is filled is a problem, however short its template', () => {
    const [problem] = problemsOf(fileText([`name: 't-{v}', matrix: {axes: {v: [${'x'.repeat(78)}]}}`]));
    expect(problem).toContain('triggers[0].runs[0].name: "t-xxx');
    expect(names(runsOf([`name: 't-{v}', matrix: {axes: {v: [${'x'.repeat(77)}]}}`]))[0]).toHaveLength(79);
  });

  test('P2 host-tag is an axis of loop-on and of matrix; it sets the tag and no variable', () => {
    const looped = runsOf(["name: 't-{loop}', host-tag: weaker, loop-on: [{param: host-tag, values: [A-1, b]}]"]);
    const crossed = runsOf(['name: t, matrix: {axes: {host-tag: [A-1, b]}}']);
    for (const runs of [looped, crossed]) {
      expect(runs.map((run) => [run.name, run.hostTag, run.env])).toEqual([
        ['t-A-1', 'a-1', {}],
        ['t-b', 'b', {}],
      ]);
    }
  });

  test('P2 a run without host-tag takes any host, where JobServ refuses the file', () => {
    expect(runsOf(['name: t'])[0]).not.toHaveProperty('hostTag');
  });
});

describe('limits', () => {
  const values = (count: number): string => Array.from({ length: count }, (_, index) => `v${index}`).join(', ');

  test('P3 1,000 runs are planned, all of them and all different', () => {
    const runs = runsOf([`name: t, matrix: {axes: {a: [${values(40)}], b: [${values(25)}]}}`]);
    expect(runs).toHaveLength(1000);
    expect(new Set(names(runs)).size).toBe(1000);
  });

  test('P3 1,001 runs are an error that names 1001, and nothing is cut off', () => {
    const matrix = `matrix: {axes: {a: [${values(40)}], b: [${values(25)}]}}`;
    expect(problemsOf(fileText([`name: t, ${matrix}`, 'name: last']))).toEqual([
      'f.yml:5:5 triggers[0].runs: trigger "push" makes 1001 runs, 1000 at most; nothing is cut off, so split it into triggers',
    ]);
  });

  test('P3 what exclude and include do is counted before the limit is', () => {
    const axes = `axes: {a: [${values(1001)}]}`;
    expect(runsOf([`name: t, matrix: {${axes}, exclude: [{a: v0}]}`])).toHaveLength(1000);
    const [problem] = problemsOf(fileText([`name: t, matrix: {${axes}, exclude: [{a: v0}], include: [{a: x}]}`]));
    expect(problem).toContain('makes 1001 runs');
  });

  test('P3 a product that nobody could build is named to the last digit at once', () => {
    const axes = Array.from({ length: 16 }, (_, index) => `a${index}: [${values(100)}]`).join(', ');
    expect(problemsOf(fileText([`name: t, matrix: {axes: {${axes}}}`]))[0]).toContain(`makes 1${'0'.repeat(32)} runs`);
    const [excluded] = problemsOf(fileText([`name: t, matrix: {axes: {${axes}}, exclude: [{a0: v1}]}`]));
    expect(excluded).toContain(`makes 1${'0'.repeat(32)} cells before exclude, 10000 at most`);
  });

  test('P3 a plan that would fill the database is refused and says what to do', () => {
    const text = fileText([`name: t, matrix: {axes: {a: [${values(100)}]}}`]);
    const file = parse(text.replace('build: make', `build: '${'x'.repeat(400_000)}'`));
    const made = makePlan(file, { params: {} });
    expect(made).toMatchObject({ kind: 'refused', problems: [{ code: 'plan-too-large', path: 'triggers[0].runs' }] });
  });

  test('P3 parameters are counted before they are laid into each cell: 1,000 of 1,000 characters in 1,000 cells are refused', () => {
    const params = Array.from({ length: 1000 }, (_, at) => `P${at}: ${'x'.repeat(900)}`).join(', ');
    const overrides = `overrides: [{match: {a: v0}, params: {${params}}}]`;
    for (const text of [
      fileText([`name: t, matrix: {axes: {a: [${values(1000)}]}}`], `params: {${params}}\n`),
      fileText([`name: t, matrix: {axes: {a: [v0], b: [${values(1000)}]}, ${overrides}}`]),
    ]) {
      const made = makePlan(parse(text), { params: {} });
      expect(made).toMatchObject({ kind: 'refused', problems: [{ code: 'plan-too-large' }] });
    }
  });
});

describe('needs', () => {
  test('P4 a need that is given twice is a problem at its second place', () => {
    expect(problemsOf(fileText(['name: a', 'name: b, needs: [a, a, a]']))).toEqual([
      'f.yml:7:64 triggers[0].runs[1].needs[1]: "a" is needed twice; remove one',
      'f.yml:7:67 triggers[0].runs[1].needs[2]: "a" is needed twice; remove one',
    ]);
  });

  test('P4 a need names all cells of a job or one final run, each run once', () => {
    const runs = runsOf([
      'name: build',
      'name: test, needs: [build], matrix: {axes: {v: [1, 2]}}',
      'name: all, needs: [test, test-2, build], needs-on: always',
      'name: one, needs: [test-2]',
    ]);
    expect(runs.map((run) => [run.name, run.needs, run.needsCondition])).toEqual([
      ['build', [], 'success'],
      ['test-1', ['build'], 'success'],
      ['test-2', ['build'], 'success'],
      ['all', ['test-1', 'test-2', 'build'], 'always'],
      ['one', ['test-2'], 'success'],
    ]);
  });

  test('P4 a cycle is named from run to run, once, at the need that closes it', () => {
    expect(
      problemsOf(
        fileText(['name: a, needs: [b]', 'name: b, needs: [c-1]', 'name: c, needs: [a], matrix: {axes: {v: [1, 2]}}']),
      ),
    ).toEqual([
      'f.yml:8:61 triggers[0].runs[2].needs[0]: these runs wait for each other: a → b → c → a; remove one of the needs',
    ]);
  });

  test('P4 a need on oneself, on one’s own cell, or on nobody is a problem at the name', () => {
    const found = problemsOf(
      fileText(['name: a, needs: [a]', 'name: b, needs: [b-1], matrix: {axes: {v: [1, 2]}}', 'name: c, needs: [d]']),
    );
    expect(found.map((line) => line.slice('f.yml:'.length))).toEqual([
      '6:61 triggers[0].runs[0].needs[0]: the run "a" needs itself; remove it here',
      '7:61 triggers[0].runs[1].needs[0]: the run "b" needs itself; remove it here',
      '8:61 triggers[0].runs[2].needs[0]: unknown need "d"; runs of this trigger: a, b, c',
    ]);
  });

  test('P4 a thousand runs in one chain are no cycle, and closing the chain is', () => {
    const chain = Array.from(
      { length: 1000 },
      (_, index) => `name: r${index}${index > 0 ? `, needs: [r${index - 1}]` : ''}`,
    );
    expect(runsOf(chain)).toHaveLength(1000);
    const closed = ['name: r0, needs: [r999]', ...chain.slice(1)];
    expect(problemsOf(fileText(closed))).toHaveLength(1);
  });

  test('P1 a run that cannot be read does not make the needs of others look wrong', () => {
    const codes = problemsOf(fileText(['name: [a]', 'name: b, needs: [a]', 'name: c, script: x'])).map(
      (line) => line.split(': ')[0],
    );
    expect(codes).toEqual(['f.yml:6:44 triggers[0].runs[0].name', 'f.yml:8:53 triggers[0].runs[2].script']);
  });
});

describe('triggers and plans', () => {
  const two = `timeout: 5
scripts: {build: make}
triggers:
  - {name: push, runs: [{name: a, container: alpine, script: build}]}
  - {name: nightly, type: git_poller, runs: [{name: b, container: alpine, script: build}]}
`;

  test('P5 without a name the first trigger is planned, and an unknown one is told which there are', () => {
    const file = parse(two);
    expect(planOf(makePlan(file, { params: {} })).trigger).toBe('push');
    expect(names(planOf(makePlan(file, { trigger: 'nightly', params: {} })).runs)).toEqual(['b']);
    expect(makePlan(file, { trigger: 'weekly', params: {} })).toEqual({
      kind: 'refused',
      problems: [
        { code: 'unknown-trigger', message: 'unknown trigger "weekly"; triggers: push, nightly', path: 'trigger' },
      ],
    });
  });

  test('P5 the digest of a plan depends on what it says and on nothing else', () => {
    const request = { params: { '10': 'x', '9': 'y', A: 'z' } };
    const plan = planOf(makePlan(parse(two), request));
    const again = planOf(makePlan(parse(two.replaceAll(' ', '  ')), { params: { A: 'z', '9': 'y', '10': 'x' } }));
    expect(planDigest(again)).toBe(planDigest(plan));
    expect(planDigest(JSON.parse(JSON.stringify(plan)) as Plan)).toBe(planDigest(plan));
    expect(planDigest(planOf(makePlan(parse(two), { params: {} })))).not.toBe(planDigest(plan));
  });

  test('P5 the digest is the SHA-256 of JSON with sorted keys, so that any other program can compute it', () => {
    // printf '{"jobs":[],"runs":[],"trigger":"t","version":1}' | sha256sum
    expect(planDigest({ version: 1, trigger: 't', runs: [], jobs: [] })).toBe(
      'sha256:3741de37a3db74125ef188c076923b96ce7eed2b4fcbcf6fda5f52e19fe4dfd8',
    );
  });

  test('P5 every plan has the shape that is stored and sent to workers', () => {
    const value = fc.stringMatching(/^[a-z0-9]{1,6}$/);
    fc.assert(
      fc.property(
        fc.uniqueArray(value, { minLength: 1, maxLength: 5 }),
        fc.double({ min: 0.001, max: 43_200, noNaN: true }),
        (list, timeout) => {
          const quoted = list.map((one) => `'${one}'`).join(', ');
          const minutes = Math.max(0.001, Number(timeout.toFixed(3)));
          const plan = planOf(
            makePlan(parse(fileText([`name: t, timeout: ${minutes}, matrix: {axes: {v: [${quoted}]}}`])), {
              params: {},
            }),
          );
          expect(Plan.parse(plan)).toEqual(plan);
          expect(plan.runs.map((run) => run.cell.v)).toEqual(list);
          expect(plan.runs[0]?.timeoutMs).toBe(Math.round(minutes * 60_000));
        },
      ),
      { numRuns: 50 },
    );
  });

  test('P1 paths read like the document, with odd keys in quotes', () => {
    expect(formatPath(['triggers', 0, 'runs', 2, 'cap-add'])).toBe('triggers[0].runs[2].cap-add');
    expect(formatPath(['params', 'A B', 'x.y'])).toBe('params["A B"]["x.y"]');
    expect(formatPath([])).toBe('');
    expect(formatProblem('f.yml', { code: 'x', message: 'm', path: 'trigger' })).toBe('f.yml trigger: m');
  });
});

describe('what is checked out', () => {
  const repository = (more = ''): string => `repository: { url: 'https://git.example.org/app.git'${more} }\n`;
  const sha = 'a1'.repeat(20);
  const planWith = (file: string, params: Record<string, string>): PlannedRun =>
    planOf(makePlan(parse(file), { params })).runs[0]!;
  const refusal = (file: string, params: Record<string, string>) => {
    const made = makePlan(parse(file), { params });
    return made.kind === 'plan' ? [] : made.problems.map(({ path, message }) => `${path}: ${message}`);
  };

  test('B14 a commit of the caller is what is checked out, and a URL of the caller is where it comes from', () => {
    const file = fileText(['name: a'], repository(', ref: main, lfs: false'));
    const forked = planWith(file, { GIT_SHA: sha.toUpperCase(), GIT_URL: 'git@fork.example.org:me/app.git' });

    expect(planWith(file, {}).checkout).toMatchObject({ url: 'https://git.example.org/app.git', ref: 'main' });
    expect(planWith(file, { GIT_REF: 'v1' }).checkout).toMatchObject({ ref: 'v1' });
    expect(forked.checkout).toEqual({ url: 'git@fork.example.org:me/app.git', ref: sha, submodules: true, lfs: false });
    expect(forked.env).toMatchObject({ GIT_URL: 'git@fork.example.org:me/app.git', GIT_REF: 'main' });
  });

  test('B14 P2 a file of JobServ says with GIT_URL what to check out, as everywhere where a parameter may stand', () => {
    const of = (trigger: string): PlannedRun['checkout'] =>
      planWith(fileText(['name: a']).replace('name: push', `name: push\n    ${trigger}`), {}).checkout;
    const checkout = { url: 'https://x.example.org/k.git', submodules: true, lfs: true };

    expect(of(`params: {GIT_URL: '${checkout.url}'}`)).toEqual({ ...checkout, ref: 'HEAD' });
    expect(of(`params: {GIT_URL: '${checkout.url}', GIT_SHA: ${sha}}`)).toEqual({ ...checkout, ref: sha });
    expect(runsOf(['name: a, checkout: false'], repository())[0]).toMatchObject({ env: {} });
    const [, dev] = runsOf(['name: a, matrix: {axes: {GIT_REF: [main, dev]}}'], repository());
    expect(dev?.checkout?.ref).toBe('dev');
    const filled = runsOf([`name: a, params: {GIT_URL: 'https://x.org/{os}.git'}, matrix: {axes: {os: [x]}}`]);
    expect(filled[0]?.checkout?.url).toBe('https://x.org/x.git');
  });

  test('B14 what cannot be obeyed is refused with a sentence, and without quoting a password', () => {
    const file = fileText(['name: a'], repository());
    const bare = fileText(['name: a']);

    for (const short of ['', 'a1a1a1a', 'main', `${sha}0`]) {
      expect(refusal(file, { GIT_SHA: short })).toEqual([
        'params.GIT_SHA: GIT_SHA: write the whole id of a commit, 40 or 64 of 0-9 a-f; a branch or a tag is GIT_REF',
      ]);
    }
    expect(refusal(bare, { GIT_SHA: sha })[0]).toMatch(/nothing says of which repository; add repository to the file/);
    expect(refusal(file, { GIT_REF: '--upload-pack=x' })[0]).toMatch(
      /^params\.GIT_REF: GIT_REF: git takes no such name/,
    );
    expect(refusal(file, { GIT_URL: 'ext::sh -c id' })[0]).toMatch(/^params\.GIT_URL: GIT_URL: write https:/);
    const secret = refusal(file, { GIT_URL: 'https://ci:s3cr3t@x.org/a.git' })[0];
    expect(secret).toMatch(/GIT_URL: holds a password.*give the hosts credentials of their own/);
    expect(secret).not.toMatch(/s3cr3t/);
    // A run that checks nothing out may use the names as it likes.
    expect(refusal(fileText(['name: a, checkout: false']), { GIT_SHA: 'x', GIT_URL: 'y' })).toEqual([]);
  });

  test('B14 P1 the same is found when the file is read, once and at the value that is wrong', () => {
    const secret = fileText(['name: a', 'name: b'], repository().replace('git.', 'me:s3cr3t@git.'));
    const ofJobs = ['name: a, params: {GIT_SHA: v1}', 'name: b, matrix: {axes: {GIT_REF: [a..b, c..d]}}'];

    expect(problemsOf(secret)).toEqual([
      expect.stringMatching(/^f\.yml:3:15 repository\.url: holds a password/) as string,
    ]);
    expect(problemsOf(secret).join()).not.toMatch(/s3cr3t/);
    expect(problemsOf(fileText(['name: a'], repository(`, ref: 'a b'`)))[0]).toMatch(
      / repository\.ref: git takes no such/,
    );
    expect(problemsOf(fileText(ofJobs, repository())).map((text) => text.split(': ', 2).join(': '))).toEqual([
      expect.stringMatching(/ triggers\[0\]\.runs\[0\]\.params\.GIT_SHA: GIT_SHA$/) as string,
      expect.stringMatching(/ triggers\[0\]\.runs\[1\]\.matrix.*: GIT_REF$/) as string,
    ]);
    const shared = fileText(['name: a', 'name: b'], `params: {GIT_URL: nowhere}\n`);
    expect(problemsOf(shared)).toEqual([expect.stringMatching(/ params\.GIT_URL: GIT_URL: write https/) as string]);
    expect(problemsOf(secret.replace('timeout: 5', 'timeout: x'))).toHaveLength(2);
  });

  test('B14 P1 a password, or a user that may be a token, is found wherever it may stand, and nothing else is', () => {
    const urls = ['https://u:p@h/x', 'http://u:@h/x', 'ssh://git:pass@h:22/x', 'https://:t@h/x', 'https://u:a@b@h/x'];
    urls.push('https://ghp_token@h/x', 'https://u:a/b@h/x', 'git://u:p@h/x');
    const sound = [
      'https://h/x',
      'ssh://git@h:22/x',
      'git@h:x/y',
      'https://h:8443/a@b:c',
      'file:///a:b@c',
      'git://h/x',
    ];
    sound.push('https://[::1]:3000/x', 'https://h', 'https://h/x?y=a@b:c', 'ssh://h/x');

    for (const url of urls) expect([url, sayUrlFault(url)]).toEqual([url, expect.stringContaining('holds a password')]);
    for (const url of sound) expect([url, sayUrlFault(url)]).toEqual([url, undefined]);
  });

  test('P1 a ref is what git check-ref-format takes for one', () => {
    const names = (
      "main v1.0 feature/fix_#123 größe 日本語 user/a+b=c release/1.0,rc(1) it's a!b a$b;c 100% a{b} HEAD a@ a|b " +
      'dependabot/npm_and_yarn/@types/node-20.1.0 refs/pull/7/head "a" @ a@{b a..b a~1 a^ a:b a? a* a[b a\\b a\x7f /a a/ ' +
      'a//b .a a/.b a.lock a.lock/b a. a./b .. a.b. @/a lock .lock'
    ).split(' ');
    names.push('', 'a b', 'a\tb');
    const isOfGit = (name: string): boolean =>
      spawnSync('git', ['check-ref-format', '--allow-onelevel', name]).status === 0;

    for (const name of names) expect([name, sayRefFault(name) === undefined]).toEqual([name, isOfGit(name)]);
    // Git's own rule for branches adds the option to it.
    for (const name of ['-x', '--upload-pack=x']) expect(sayRefFault(name)).toBeDefined();
  });
});

describe('the head of a script', () => {
  const head = (script: string): string[] =>
    problemsOf(fileText(['name: a']).replace('build: make', `build: ${JSON.stringify(script)}`)).map((text) =>
      text.replace(/^\S+ /, ''),
    );

  test.each([
    ['a blank line before', '\n#!/bin/sh -e\nfalse\n', 'scripts.build: #! is in line 2, and has an effect only'],
    ['a comment before', '# tests\n\n#!/bin/sh -e\n', 'scripts.build: #! is in line 3, and has an effect only'],
    ['blanks before', '  #!/bin/sh -e\n', 'scripts.build: #! has blanks before it, and has an effect only'],
    ['a byte order mark', '\uFEFF#!/bin/sh -e\n', 'scripts.build: begins with a byte order mark'],
    ['carriage returns', '#!/bin/sh\r\necho\r\n', 'scripts.build: its first line ends with a carriage return'],
    ['the same without #!', 'echo a\r\necho b\r\n', 'scripts.build: its first line ends with a carriage return'],
  ])('B10 a script with %s does not run as it is meant, and is refused', (_name, script, start) => {
    expect(head(script)).toEqual([expect.stringContaining(start) as string]);
  });

  test('B10 any other is taken', () => {
    for (const script of ['#!/bin/sh\n', 'make', '# only a comment\n', '\n\nmake\n', '#!/bin/sh\n#!/bin/bash\n']) {
      expect(head(script)).toEqual([]);
    }
    expect(head('cat > tool <<END\n#!/bin/sh\nEND\nprintf "a\\r\\n"\n')).toEqual([]);
  });
});

describe('the size of an environment', () => {
  const values = (count: number, value: string): string =>
    `params: {${Array.from({ length: count }, (_, at) => `P${at}: '${value}'`).join(', ')}}\n`;
  const codes = (text: string): string[] => {
    const reading = readProjectFile(text);
    return reading.kind === 'valid' ? [] : reading.problems.map(({ code, path }) => `${path} ${code}`);
  };

  test('P1 one variable has 128 KiB, counted in bytes and with its name', () => {
    const euro = '€'.repeat(43_688);
    expect(codes(fileText(['name: a'], values(1, `${euro}1234`)))).toEqual([]);
    expect(problemsOf(fileText(['name: a'], values(1, `${euro}12345`)))[0]).toMatch(
      /:3:10 params\.P0: comes to 131073 bytes with its name, 131072 at most/,
    );
    expect(codes(fileText(['name: a'], values(1, 'é'.repeat(70_000))))).toEqual(['params.P0 bad-param']);
    const file = parse(fileText(['name: a']));
    const made = makePlan(file, { params: { CHANGES: 'é'.repeat(70_000) } });
    expect(made).toMatchObject({ kind: 'refused', problems: [{ path: 'params.CHANGES', code: 'bad-param' }] });
  });

  test('P1 all of a run have a million bytes, wherever they stand in the file, and from the caller', () => {
    const few = values(9, 'x'.repeat(100_000));
    const more = `params: {MORE: '${'x'.repeat(110_000)}'}`;

    expect(codes(fileText(['name: a'], few))).toEqual([]);
    expect(codes(fileText(['name: a', `name: b, ${more}`], few))).toEqual([
      'triggers[0].runs[1].name params-too-large',
    ]);
    // What hides another value does not come to it.
    expect(codes(fileText([`name: b, ${more.replace('MORE', 'P0')}`], few))).toEqual([]);
    const cells = `matrix: {axes: {os: [x, y]}, overrides: [{match: {os: y}, ${more}}]}`;
    expect(codes(fileText([`name: a, ${cells}`], few))).toEqual(['triggers[0].runs[0].name params-too-large']);
    const made = makePlan(parse(fileText(['name: a'], few)), { params: { MORE: 'x'.repeat(110_000) } });
    expect(made).toMatchObject({ kind: 'refused', problems: [{ path: 'triggers[0].runs', code: 'params-too-large' }] });
  });
});
