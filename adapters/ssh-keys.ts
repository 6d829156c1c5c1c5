// Owns SSH keys: that of the workers of one machine, and those of a host that is made on demand, whose host key follows from
// the key of the workers and the host's name, so that every worker knows it beforehand, and no first contact has to be trusted.
// Called by ec2-maker.ts and `slipway up`.
import { createECDH, createHash, createHmac, createPrivateKey } from 'node:crypto';
import { utils } from 'ssh2';
import { MakerError } from './host-maker';

/** A new private key, in OpenSSH's own form. */
export const makeWorkerKey = (): string => utils.generateKeyPairSync('ed25519', { comment: 'slipway' }).private;

/** The public part of a private key, as a line of authorized_keys. @throws MakerError */
export function publicLineOf(sshKey: string): string {
  const key = utils.parseKey(sshKey);
  if (key instanceof Error) throw new MakerError(`SLIPWAY_SSH_KEY cannot be read: ${key.message}`);
  return `${key.type} ${key.getPublicSSH().toString('base64')} slipway`;
}

export interface HostKey {
  /** For the host: its private key, and its public one as a line of a .pub file. */
  privatePem: string;
  publicLine: string;
  /** As `ssh-keygen -l` shows it: SHA256:… */
  fingerprint: string;
  /** Public key of the workers, as a line of authorized_keys. */
  clientLine: string;
}

const CURVE = 'prime256v1';
const TYPE = 'ecdsa-sha2-nistp256';

/** @param sshKey private key of the workers, OpenSSH or PEM @param name of the host, never used for another */
export function makeHostKey(sshKey: string, name: string): HostKey {
  const clientLine = publicLineOf(sshKey);
  const { scalar, point } = makePair(sshKey, name);
  const [x, y] = [point.subarray(1, 33), point.subarray(33)];
  const jwk = { kty: 'EC', crv: 'P-256', d: base64url(scalar), x: base64url(x), y: base64url(y) };
  const blob = Buffer.concat([Buffer.from(TYPE), Buffer.from('nistp256'), point].map(withLength));
  return {
    privatePem: createPrivateKey({ key: jwk, format: 'jwk' }).export({ type: 'sec1', format: 'pem' }).toString(),
    publicLine: `${TYPE} ${blob.toString('base64')}`,
    fingerprint: `SHA256:${createHash('sha256').update(blob).digest('base64').replace(/=+$/, '')}`,
    clientLine,
  };
}

function makePair(sshKey: string, name: string): { scalar: Buffer; point: Buffer } {
  for (let tries = 0; ; tries += 1) {
    const scalar = createHmac('sha256', sshKey.trim()).update(`slipway host key ${name} ${tries}`).digest();
    try {
      const pair = createECDH(CURVE);
      pair.setPrivateKey(scalar);
      return { scalar, point: pair.getPublicKey() };
    } catch (error) {
      // One number in four thousand million is none of the curve's.
      if (tries >= 8) throw error;
    }
  }
}

const base64url = (bytes: Buffer): string => bytes.toString('base64url');

/** As SSH writes a string. */
function withLength(bytes: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}
