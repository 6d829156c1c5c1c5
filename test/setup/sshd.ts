// Owns a real SSH server on this machine for a test: host key, one client key, a port and a folder of its own.
// Called by tests of hosts over SSH. Ended by its pid; commands that it started for clients live on, as on any host.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import type { SshReach } from '../../domain/schemas/hosts';
import { freePort } from './free-port';
import { waitFor } from './wait-for';
import { connect } from 'node:net';

const PROGRAM = ['/usr/sbin/sshd', '/usr/local/sbin/sshd'].find((path) => existsSync(path)) ?? 'sshd';

interface GivenServer {
  /** Private key, PEM. */
  hostKey?: string;
  /** Line of authorized_keys. */
  clientLine?: string;
  /** Of this machine: 127.0.0.0/8. */
  address?: string;
  port?: number;
}

export class SshServer {
  private child?: ChildProcess;
  readonly dir = mkdtempSync(join(tmpdir(), 'slipway-sshd-'));
  address = '';
  port = 0;
  /** That the workers show; its public part is let in. */
  privateKey = '';
  hostKey = '';

  /** @param given keys and a place that are not of its own making */
  static async open(given: GivenServer = {}): Promise<SshServer> {
    const server = new SshServer();
    const key = (name: string): string => join(server.dir, name);
    for (const name of ['host', 'client']) {
      execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', name, '-f', key(name)]);
    }
    if (given.hostKey !== undefined) {
      writeFileSync(key('host'), given.hostKey, { mode: 0o600 });
      writeFileSync(key('host.pub'), execFileSync('ssh-keygen', ['-y', '-f', key('host')]));
    }
    if (given.clientLine !== undefined) writeFileSync(key('client.pub'), `${given.clientLine}\n`);
    server.privateKey = readFileSync(key('client'), 'utf8');
    server.hostKey = execFileSync('ssh-keygen', ['-lf', key('host.pub')], { encoding: 'utf8' }).split(' ')[1] ?? '';
    server.address = given.address ?? '127.0.0.1';
    server.port = given.port ?? (await freePort());
    // Where the server puts the process that has no rights; a package makes it at the start of its service only.
    if (process.getuid?.() === 0) mkdirSync('/run/sshd', { recursive: true });
    // A login shell of level two reads no start-up file: what this machine's user has in there is no part of a test.
    writeFileSync(
      key('config'),
      `Port ${server.port}
ListenAddress ${server.address}
HostKey ${key('host')}
AuthorizedKeysFile ${key('client.pub')}
PidFile ${key('pid')}
StrictModes no
UsePAM no
PasswordAuthentication no
SetEnv SHLVL=1
`,
    );
    await server.start();
    return server;
  }

  async start(): Promise<void> {
    this.child = spawn(PROGRAM, ['-D', '-e', '-f', join(this.dir, 'config')], { stdio: 'ignore' });
    await waitFor(() => this.answers(), { what: `sshd answers at port ${this.port}` });
  }

  private answers(): Promise<boolean> {
    return new Promise((done) => {
      const socket = connect(this.port, this.address);
      socket.once('data', () => (socket.destroy(), done(true)));
      socket.once('error', () => done(false));
    });
  }

  /** Nobody can connect any more; who is connected stays so. */
  async end(): Promise<void> {
    const { child } = this;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((done) => child.once('exit', done));
    child.kill('SIGTERM');
    await ended;
  }

  async stop(): Promise<void> {
    await this.end();
    rmSync(this.dir, { recursive: true, force: true });
  }

  /** @param more e.g. a link in between as `port` */
  reach(more: Partial<SshReach> = {}): SshReach {
    return {
      kind: 'ssh',
      address: this.address,
      port: this.port,
      user: userInfo().username,
      hostKeys: [this.hostKey],
      dir: join(this.dir, 'runs'),
      shell: '/bin/sh',
      ...more,
    };
  }
}
