// Owns the proof of the page's decisions: addresses, matrix shapes, timeline, polling, and how figures are written.
// Run by jest.
import type { BuildSummary, RunSummary } from '../domain/schemas/api';
import { pagePath } from '../domain/names';
import { formatAge, formatBytes, formatDuration } from '../web/src/format';
import { cellLabel, keepUnchangedRuns, matchesText, shapeJobs } from '../web/src/matrix';
import { nextPollMs } from '../web/src/pace';
import { parseRoute } from '../web/src/route';
import { layoutTimeline } from '../web/src/timeline';

function run(
  name: string,
  job: string,
  ...[cell, changes = {}]: [cell: Record<string, string>, changes?: Partial<RunSummary>]
): RunSummary {
  return {
    name,
    job,
    cell,
    state: 'finished',
    outcome: 'passed',
    cause: 'ok',
    status: 'passed',
    message: '',
    waiting: null,
    attempt: 1,
    exitCode: 0,
    commit: null,
    placement: { reason: 'the only one', pinned: false },
    cluster: 'local',
    host: 'host-1',
    logBytes: 0,
    startedAt: '2030-01-01T00:00:10.000Z',
    finishedAt: '2030-01-01T00:00:30.000Z',
    urls: { self: '', page: '', log: '', artifacts: '' },
    ...changes,
  };
}

describe('U1 addresses', () => {
  it('U1 reads back every path that is minted for people', () => {
    expect(parseRoute('/')).toEqual({ kind: 'projects' });
    expect(parseRoute(pagePath.project('app.x'))).toEqual({ kind: 'builds', project: 'app.x' });
    expect(parseRoute(pagePath.build('app', 12))).toEqual({ kind: 'build', project: 'app', number: 12 });
    const run = { kind: 'run', project: 'app', number: 12, run: 'test-a=1,b+c@d:e' };
    expect(parseRoute(pagePath.run('app', 12, 'test-a=1,b+c@d:e'))).toEqual(run);
  });

  it('U1 knows what is no page', () => {
    const paths = [
      '/v1/projects',
      '/projects/a/builds/0',
      '/projects/a/builds/x',
      '/projects/%E0%A4%A',
      '/projects/a/b',
    ];
    expect(paths.map((path) => parseRoute(path).kind)).toEqual(paths.map(() => 'unknown'));
  });
});

describe('U1 the matrix', () => {
  it('U1 makes a table of a job with exactly two axes, the longer axis downwards', () => {
    const runs = ['1', '2', '3'].flatMap((node) => ['a', 'b'].map((os) => run(`t-${os}-${node}`, 't', { os, node })));
    const [shape] = shapeJobs(runs);
    expect(shape).toMatchObject({ kind: 'table', rowAxis: 'node', rows: ['1', '2', '3'], columns: ['a', 'b'] });
  });

  it('U1 makes a grid of any other matrix, and one grid of neighbours without a matrix', () => {
    const runs = [
      run('lint', 'lint', {}),
      run('types', 'types', {}),
      run('t-a', 't', { os: 'a' }),
      run('t-b-extra', 't', { os: 'b', extra: 'x' }),
      run('end', 'end', {}),
    ];
    const shapes = shapeJobs(runs);
    expect(shapes.map(({ kind, runs }) => [kind, runs.length])).toEqual([
      ['singles', 2],
      ['cells', 2],
      ['singles', 1],
    ]);
    expect(cellLabel(runs[3]!, ['os', 'extra'])).toBe('b · x');
    expect(cellLabel(runs[0]!, [])).toBe('lint');
  });

  it('U1 keeps the object of a run that did not change, so that it is not drawn again', () => {
    const before = [run('a', 'a', {}), run('b', 'b', {})];
    const after = [run('a', 'a', {}), run('b', 'b', {}, { attempt: 2 })];
    const kept = keepUnchangedRuns(before, after);
    expect(kept[0]).toBe(before[0]);
    expect(kept[1]).toBe(after[1]);
  });

  it('U1 finds runs by every word in name, axis, host, cause or message', () => {
    const failed = run('t-a', 't', { os: 'alpine' }, { message: 'The script ended with exit code 1.' });
    expect(['alpine', 'os=alp t-', 'HOST-1 exit', '', '  '].every((text) => matchesText(failed, text))).toBe(true);
    expect(matchesText(failed, 'alpine host-2')).toBe(false);
  });
});

describe('U1 the timeline', () => {
  const build = { createdAt: '2030-01-01T00:00:00.000Z', finishedAt: '2030-01-01T00:00:40.000Z' } as BuildSummary;

  it('U1 places waiting and running as shares of the whole build', () => {
    const [row] = layoutTimeline(build, [run('a', 'a', {})], 0).rows;
    expect(row).toMatchObject({ startPercent: 25, widthPercent: 50, durationMs: 20_000 });
  });

  it('U1 lets a running bar grow to the present, and shows no bar for a run that never started', () => {
    const nowMs = Date.parse('2030-01-01T00:00:20.000Z');
    const runs = [run('a', 'a', {}, { finishedAt: null }), run('b', 'b', {}, { startedAt: null, finishedAt: null })];
    const { rows, ticks } = layoutTimeline({ ...build, finishedAt: null }, runs, nowMs);
    expect(rows[0]).toMatchObject({ startPercent: 50, widthPercent: 50 });
    expect(rows[1]).toMatchObject({ widthPercent: 0, durationMs: null });
    expect(ticks.map(({ text }) => text)).toEqual(['0', '5 s', '10 s', '15 s', '20 s']);
  });
});

describe('U1 polling and figures', () => {
  it('U1 asks every second while something moves and is looked at, else slower, and stops at the end', () => {
    const ask = (pace: 'live' | 'slow' | 'stop', isHidden = false, hasTrouble = false) =>
      nextPollMs({ pace, isHidden, hasTrouble });
    expect([ask('live'), ask('live', true), ask('slow'), ask('stop')]).toEqual([1_000, 5_000, 5_000, null]);
    expect([ask('live', false, true), ask('stop', false, true)]).toEqual([5_000, 5_000]);
  });

  it('U1 writes durations, ages and sizes in a few characters', () => {
    const durations = [-5, 400, 9_960, 59_999, 185_000, 7_440_000, 273_600_000].map(formatDuration);
    expect(durations).toEqual(['0.0 s', '0.4 s', '10 s', '1 m 00 s', '3 m 05 s', '2 h 04 m', '3 d 4 h']);
    expect([0, 12_000, 300_000, 90_000_000].map(formatAge)).toEqual(['just now', '12 s ago', '5 min ago', '1 d ago']);
    expect([0, 999, 1_234, 98_765_432].map(formatBytes)).toEqual(['0 B', '999 B', '1.2 kB', '99 MB']);
  });
});
