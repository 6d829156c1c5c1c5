// Owns the keys of clusters in files: public ones that the gateway checks workers with, the private one that a worker signs
// its tokens with, and the making of both. The forms are those of RFC 7517 (JWK Set), 8037 (Ed25519) and 7638 (thumbprint).
// Called by the gateway, the cluster worker, and `slipway key`.
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { calculateJwkThumbprint, exportJWK, generateKeyPair, importJWK, SignJWT } from 'jose';
import { z } from 'zod';

/** Lifetime of a token that a worker signs, s: the gateway takes 10 minutes at most. */
const TOKEN_LIFE_S = 300;
/** Whom the tokens are for: the gateway takes no other. */
export const GATEWAY_AUDIENCE = 'slipway-gateway';

const base64url32 = z.string().regex(/^[\w-]{43}$/, 'must be 32 bytes as base64url');
const PublicKey = z.object({
  kty: z.literal('OKP'),
  crv: z.literal('Ed25519'),
  x: base64url32,
  kid: z.string().min(1),
  exp: z.number().optional().describe('end of its validity, s since 1970'),
});
const KeySet = z.object({ keys: z.array(PublicKey).max(100) });
const PrivateKey = PublicKey.extend({ d: base64url32 });
type PublicKey = z.infer<typeof PublicKey>;

export interface RegisteredKey {
  kid: string;
  jwk: { kty: 'OKP'; crv: 'Ed25519'; x: string };
  expiresAt: Date | null;
  revokedAt: Date | null;
}

const fileOf = (dir: string, cluster: string): string => join(dir, `${cluster}.json`);

/** The public keys of a cluster as its file says now; none without a file. A key is revoked by taking it out. */
export async function readClusterKeys(dir: string, cluster: string): Promise<RegisteredKey[]> {
  const keys = await readKeySet(fileOf(dir, cluster));
  return keys.map(({ kid, exp, kty, crv, x }) => ({
    kid,
    jwk: { kty, crv, x },
    expiresAt: exp === undefined ? null : new Date(exp * 1000),
    revokedAt: null,
  }));
}

async function readKeySet(file: string): Promise<PublicKey[]> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  const set = KeySet.safeParse(parseJson(text));
  if (set.success) return set.data.keys;
  throw new Error(`${file} is not a set of Ed25519 keys: ${z.prettifyError(set.error)}`);
}

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

/**
 * Makes a pair: the public key is added to the cluster's file, beside those that are there, so that workers can change
 * over one by one. @returns the private key, as text to be kept where the workers are, and its id
 */
export async function addClusterKey(dir: string, cluster: string): Promise<{ kid: string; privateKey: string }> {
  const file = fileOf(dir, cluster);
  const { publicKey, privateKey } = await generateKeyPair('EdDSA', { crv: 'Ed25519', extractable: true });
  const { x, d } = await exportJWK(privateKey);
  const kid = await calculateJwkThumbprint(await exportJWK(publicKey));
  const common = { kty: 'OKP', crv: 'Ed25519', x, kid };
  const keys = [...(await readKeySet(file)), common];
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  const aside = `${file}.${randomUUID()}`;
  await writeFile(aside, `${JSON.stringify({ keys }, null, 2)}\n`, { mode: 0o600 });
  await rename(aside, file);
  return { kid, privateKey: JSON.stringify({ ...common, d }) };
}

/** Signs short-lived tokens for one worker. */
export type TokenSigner = () => Promise<string>;

/** @param privateKey JWK as JSON @throws Error in words when it is none */
export function makeTokenSigner(privateKey: string, who: { cluster: string; worker: string }): TokenSigner {
  const read = PrivateKey.safeParse(parseJson(privateKey));
  if (!read.success) throw new Error('SLIPWAY_CLUSTER_KEY is not a private Ed25519 key; make one with: slipway key');
  const { kid, ...jwk } = read.data;
  const key = importJWK(jwk, 'EdDSA');
  return async () =>
    new SignJWT()
      .setProtectedHeader({ alg: 'EdDSA', kid })
      .setIssuer(`cluster:${who.cluster}`)
      .setSubject(who.worker)
      .setAudience(GATEWAY_AUDIENCE)
      .setIssuedAt()
      .setExpirationTime(`${TOKEN_LIFE_S}s`)
      .sign(await key);
}
