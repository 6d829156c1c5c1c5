// Owns `npm test [-- jest arguments]`: set-up and build, then what the tests stand on, then Jest.
// With `--scenarios`: the whole crash matrix, which it publishes in docs/, and a soak of half an hour.
// Called by npm and .ci/run. Exit code: Jest's, or 2 when something is missing that cannot be installed here.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ensureBuild, ensureDependencies, ensureNode, ROOT, runScript, runStep, say, SetupError } from './setup.mjs';

const require = createRequire(import.meta.url);
const DATA_DIR = join(ROOT, '.slipway');
const isScenarios = process.argv.includes('--scenarios');
const SCENARIOS = ['crash-matrix', 'paused-worker', 'abandoned-builds', 'rolling-upgrade', 'soak'];
/** EC2 as far as hosts on demand need it. */
const MOTO = ['moto[ec2]==5.2.5', 'flask==3.1.3', 'flask-cors==6.0.5'];
/** A question to an engine takes no longer, ms. */
const QUESTION_LIMIT_MS = 60_000;
const BROWSERS = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];

await runScript(async () => {
  ensureNode();
  ensureDependencies();
  ensureBuild();
  const adapter = (name) => require(join(ROOT, 'dist', 'adapters', `${name}.js`));
  const browser = await ensurePrograms(adapter('debian-packages'), adapter('starter-image'));
  const cli = await adapter('temporal-cli').findTemporalCli({ toolsDir: join(DATA_DIR, 'tools'), announce: say });
  const engine = await adapter('docker-setup').ensureDockerEngine({
    announce: say,
    logFile: join(DATA_DIR, 'logs', 'dockerd.log'),
  });
  try {
    process.exitCode = await runJest({
      SLIPWAY_TEMPORAL_CLI: cli,
      SLIPWAY_CHROMIUM: browser,
      SLIPWAY_MOTO: process.env.SLIPWAY_MOTO ?? (await ensureMoto(adapter('debian-packages'))),
      ...hostOf(engine.socket),
    });
    if (process.exitCode !== 0) await tellIfEngineHangs(engine, adapter);
  } finally {
    // Only the one that was started for this run.
    await engine.stop?.();
  }
});

/** What failed may be its doing then. */
async function tellIfEngineHangs({ socket, stop }, adapter) {
  const { connectDocker, findDockerEngine } = adapter('docker-setup');
  const { hasStarterImage, tryStarterImage } = adapter('starter-image');
  const docker = connectDocker(socket, QUESTION_LIMIT_MS);
  const { detail } = await findDockerEngine();
  const problem = detail ?? ((await hasStarterImage(docker)) && (await tryStarterImage(docker)));
  if (!problem) return;
  say(`the Docker engine runs no containers any more (${problem}); what failed may be its doing`);
  const [{ path: pidFile }] = (await adapter('dockerd').dockerdPlace('')).pidFiles;
  if (!stop || !existsSync(pidFile)) return;
  process.kill(Number(readFileSync(pidFile, 'utf8')), 'SIGUSR1');
  await sleep(2_000);
  say('what its goroutines wait for is in /var/run/docker/goroutine-stacks-*.log');
}

/** Installs the missing programs where that is possible. @returns the path of the browser */
async function ensurePrograms(packages, images) {
  const { canInstallPackages, findOnPath, installPackages } = packages;
  const findBrowser = async () => {
    const found = await Promise.all(BROWSERS.map((name) => findOnPath(name)));
    return process.env.SLIPWAY_CHROMIUM ?? found.find(Boolean);
  };
  const hasPostgres = async () =>
    process.env.SLIPWAY_POSTGRES_BIN || existsSync('/usr/lib/postgresql') || (await findOnPath('postgres'));
  const missing = [];
  if (!(await findBrowser())) missing.push(['chromium', 'a Chromium; or name one in SLIPWAY_CHROMIUM']);
  if (!(await hasPostgres()))
    missing.push(['postgresql', 'PostgreSQL 15 or newer; or name its folder in SLIPWAY_POSTGRES_BIN']);
  if (!(await findOnPath('git'))) missing.push(['git', 'git']);
  if (!(await findOnPath('git-lfs'))) missing.push(['git-lfs', 'git-lfs']);
  if (!existsSync('/usr/sbin/sshd') && !(await findOnPath('sshd')))
    missing.push(['openssh-server', 'an SSH server (sshd) with ssh-keygen']);
  if (!(await images.lookForStaticBusybox())) missing.push(['busybox-static', 'a static busybox']);
  const canInstall = await canInstallPackages();
  // Not every machine can have it, and without it the tests show what holds then.
  if (canInstall && !(await findOnPath('bwrap'))) missing.push(['bubblewrap', 'bubblewrap']);
  if (missing.length > 0 && canInstall) {
    await installPackages(
      missing.map(([name]) => name),
      'the tests need them',
      say,
    );
  } else if (missing.length > 0) {
    const wanted = missing.map(([name, what]) => `- ${what} (Debian: sudo apt-get install -y ${name})`);
    throw new SetupError(`the tests need programs that this machine has not got:\n${wanted.join('\n')}`);
  }
  return findBrowser();
}

/** In a folder of its own. @returns the path of its server */
async function ensureMoto({ findOnPath }) {
  const dir = join(DATA_DIR, 'tools', `moto-${MOTO[0].split('==')[1]}`);
  const program = join(dir, 'bin', 'moto_server');
  const done = join(dir, 'done');
  if (existsSync(done)) return program;
  const python = await findOnPath('python3');
  if (!python) throw new SetupError('the tests need Python 3 for the server that stands in for EC2 (moto)');
  const quietly = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--only-binary', ':all:'];
  runStep('moto: making a private venv', [python, '-m', 'venv', '--clear', dir]);
  runStep('moto: installing it with pip', [join(dir, 'bin', 'python'), ...quietly, ...MOTO]);
  writeFileSync(done, '');
  return program;
}

function hostOf(socket) {
  return { DOCKER_HOST: socket.startsWith('/') ? `unix://${socket}` : socket };
}

function jestArguments() {
  const given = process.argv.slice(2).filter((argument) => argument !== '--scenarios');
  return isScenarios && given.length === 0 ? SCENARIOS : given;
}

async function runJest(found) {
  // The embedded database is loaded by a dynamic import, which Jest allows with this flag only.
  const options = [process.env.NODE_OPTIONS, '--experimental-vm-modules', '--disable-warning=ExperimentalWarning'];
  const whole = isScenarios ? { SLIPWAY_SCENARIOS: 'all', SLIPWAY_SOAK_MINUTES: '30' } : {};
  const prepared = { ...found, SLIPWAY_TEST_PREPARED: '1', NODE_OPTIONS: options.filter(Boolean).join(' ') };
  const env = { ...whole, ...process.env, ...prepared };
  const jest = spawn(process.execPath, [join(ROOT, 'node_modules', 'jest', 'bin', 'jest.js'), ...jestArguments()], {
    cwd: ROOT,
    env,
    stdio: 'inherit',
  });
  // The terminal tells Jest as well; we stay to clean up after it.
  process.on('SIGINT', () => undefined);
  process.on('SIGTERM', () => jest.kill('SIGTERM'));
  const [code] = await once(jest, 'exit');
  return code ?? 130;
}
