// Proves that what the author of a run wrote cannot choose what runs on the machine of whoever opens a shell, and that the
// token of a folder goes to the server of that folder alone. A program called docker stands in for Docker's and tells on itself.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readSettings } from '../adapters/settings';
import type { Client } from '../cli/client';
import { folderToken, writeAddresses } from '../cli/folder-token';
import { shell } from '../cli/shell';
import { plannedRun } from './setup/stores';

const dir = mkdtempSync(join(tmpdir(), 'slipway-shell-here-'));
const told = join(dir, 'told');
const pathBefore = process.env['PATH'];

/** Says what it was started with: its arguments, the file of variables, and its own environment. */
const DOCKER = `#!/bin/sh
file=$3
{ for word in "$@"; do printf 'arg %s\\n' "$word"; done; sed 's/^/file /' "$file"; env | sed 's/^/env /'; } >${told}
exit 7
`;
beforeAll(() => {
  for (const name of ['bin', 'evil']) mkdirSync(join(dir, name));
  writeFileSync(join(dir, 'bin', 'docker'), DOCKER, { mode: 0o755 });
  writeFileSync(join(dir, 'evil', 'docker'), `#!/bin/sh\necho evil >${told}\n`, { mode: 0o755 });
  process.env['PATH'] = `${join(dir, 'bin')}:${pathBefore}`;
});
afterAll(() => {
  process.env['PATH'] = pathBefore;
  rmSync(dir, { recursive: true });
});

/** Opens a shell into a run whose file says so. @returns what docker was started with, and what was said */
async function openShell(spec: object, isPrivileged = false): Promise<{ lines: string[]; said: string; code: number }> {
  const run = {
    project: 'acme',
    build: 3,
    name: 'work',
    heldUntil: null,
    attempts: [],
    spec: plannedRun('work', spec),
  };
  const client = { run: () => Promise.resolve(run) } as unknown as Client;
  let said = '';
  const output = { out: () => undefined, err: (text: string) => void (said += `${text}\n`) };
  const code = await shell(client, 'acme/3/work', { command: ['id'], isPrivileged, output });
  return { lines: readFileSync(told, 'utf8').split('\n'), said, code };
}

test('U10 parameters of a run are variables of its container, and nothing of the program that starts it', async () => {
  const env = {
    PATH: `${dir}/evil`,
    DOCKER_HOST: 'tcp://evil',
    LD_PRELOAD: '/evil.so',
    TWO: 'lines\nof it',
    '-x': 'y',
    A: 'b c',
  };

  const { lines, code } = await openShell({ env });

  expect(code).toBe(7);
  const own = lines.filter((line) => line.startsWith('env '));
  expect(own).toContain(`env PATH=${process.env['PATH']}`);
  expect(own.filter((line) => /DOCKER_HOST=tcp|LD_PRELOAD|^env A=|H_RUN/.test(line))).toEqual([]);
  const ofFile = lines.filter((line) => line.startsWith('file '));
  expect(ofFile).toEqual(
    [
      `PATH=${dir}/evil`,
      'DOCKER_HOST=tcp://evil',
      'LD_PRELOAD=/evil.so',
      'A=b c',
      'CI=true',
      'H_PROJECT=acme',
      'H_BUILD=3',
      'H_RUN=work',
    ].map((line) => `file ${line}`),
  );
  expect(lines.join('\n')).toContain('arg --env\narg TWO=lines\nof it\narg --env\narg -x=y\n');
});

test('U10 an image that looks like an option stays the name of an image', async () => {
  const { lines } = await openShell({ container: '--volume=/:/host' });

  expect(lines.filter((line) => line.startsWith('arg ')).slice(-3)).toEqual([
    'arg --',
    'arg --volume=/:/host',
    'arg id',
  ]);
});

test('U10 privileges that a run had on its host are not given to its image here, unless that is asked for', async () => {
  const spec = { privileged: true, capAdd: ['SYS_ADMIN'] };
  const without = await openShell(spec);
  const asked = await openShell(spec, true);

  expect(without.lines).not.toContain('arg --privileged');
  expect(without.lines).not.toContain('arg --cap-add');
  expect(without.said).toContain('--privileged gives them');
  expect(asked.lines).toEqual(expect.arrayContaining(['arg --privileged', 'arg --cap-add', 'arg SYS_ADMIN']));
});

test('U5 the token of a folder is shown to the server of that folder alone', () => {
  const folder = join(dir, 'folder');
  mkdirSync(folder);
  const settings = (more: object = {}) => readSettings({ SLIPWAY_DATA_DIR: folder, ...more });
  expect(folderToken('http://127.0.0.1:7333', settings())).toBeUndefined();
  writeFileSync(join(folder, 'admin-token'), 'secret\n');

  expect(folderToken('http://127.0.0.1:7333', settings())).toBe('secret');
  expect(folderToken('http://localhost:7333/', settings())).toBe('secret');
  for (const stranger of [
    'http://evil.example',
    'http://127.0.0.1:7334',
    'https://127.0.0.1:7333',
    'http://127.0.0.1.evil.example:7333',
  ]) {
    expect(folderToken(stranger, settings())).toBeUndefined();
  }
  writeAddresses(settings({ SLIPWAY_LISTEN: '0.0.0.0:9000', SLIPWAY_URL: 'https://ci.example.org/' }));
  expect(folderToken('https://ci.example.org', settings())).toBe('secret');
  expect(folderToken('http://127.0.0.1:9000', settings())).toBe('secret');
  expect(folderToken('http://127.0.0.1:7333', settings())).toBeUndefined();
});
