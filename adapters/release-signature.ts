// Owns what the maker of a release signs, so that a worker takes it from a server that it does not have to trust.
// A compact JWS (RFC 7515), EdDSA. Called by the command line (sign), the API (read), and the worker (verify).
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { compactVerify, CompactSign, decodeProtectedHeader, importJWK } from 'jose';
import { SignedRelease } from '../domain/schemas/worker-api';
import { makeClusterKey, readPrivateKey } from './cluster-keys';

/** So that no other signature of the same key can be taken for one of a release. */
const TYPE = 'slipway-release+jws';

/** What was signed is not a release, or nobody that is trusted has signed it. */
export class ReleaseSignatureError extends Error {
  override readonly name = 'ReleaseSignatureError';
}

/** @returns the public key as its 43 characters of base64url, and the private one as text */
export async function makeReleaseKey(): Promise<{ publicKey: string; privateKey: string }> {
  const { publicKey, privateKey } = await makeClusterKey();
  return { publicKey: publicKey.x, privateKey };
}

/** @param privateKey as makeReleaseKey gives it @throws Error in words when it is none */
export async function signRelease(privateKey: string, release: SignedRelease): Promise<string> {
  const jwk = readPrivateKey(privateKey);
  return new CompactSign(Buffer.from(JSON.stringify(release)))
    .setProtectedHeader({ alg: 'EdDSA', typ: TYPE })
    .sign(await importJWK(jwk, 'EdDSA'));
}

/** What it says, believed by nobody yet. @throws ReleaseSignatureError */
export function readSigned(signed: string): SignedRelease {
  try {
    if (decodeProtectedHeader(signed).typ !== TYPE) throw new Error('another kind of signature');
    return SignedRelease.parse(JSON.parse(Buffer.from(signed.split('.')[1] ?? '', 'base64url').toString()));
  } catch {
    throw new ReleaseSignatureError('this is not the signature of a release; make it with: slipway release sign FILE');
  }
}

/** @param publicKeys those of trusted makers, 43 characters of base64url each @throws ReleaseSignatureError */
export async function verifySigned(signed: string, publicKeys: readonly string[]): Promise<SignedRelease> {
  const release = readSigned(signed);
  for (const x of publicKeys) {
    const key = await importJWK({ kty: 'OKP', crv: 'Ed25519', x }, 'EdDSA');
    const isRight = await compactVerify(signed, key, { algorithms: ['EdDSA'] }).then(
      () => true,
      () => false,
    );
    if (isRight) return release;
  }
  throw new ReleaseSignatureError(`release ${release.version} is not signed with a key that this worker trusts`);
}

/** @throws Error of the file system */
export async function digestFile(path: string): Promise<{ digest: string; sizeBytes: number }> {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  for await (const part of createReadStream(path) as AsyncIterable<Buffer>) {
    hash.update(part);
    sizeBytes += part.length;
  }
  return { digest: `sha256:${hash.digest('hex')}`, sizeBytes };
}
