// Owns the pair of keys of a cluster: its making, and the short-lived tokens that a worker signs with the private one.
// The forms are those of RFC 7517 (JWK), 8037 (Ed25519) and 7638 (thumbprint).
// Called by the command line and by the cluster worker; the public key is registered with the cluster.
import { calculateJwkThumbprint, exportJWK, generateKeyPair, importJWK, SignJWT } from 'jose';
import type { z } from 'zod';
import { PublicKey } from '../domain/schemas/clusters';

/** Lifetime of a token that a worker signs, s: 10 minutes at most are taken. */
const TOKEN_LIFE_S = 300;
/** Whom the tokens are for: API and gateway take no other. */
export const WORKER_AUDIENCE = 'slipway';

const PrivateKey = PublicKey.extend({ d: PublicKey.shape.x });

/** @returns the public key, to be registered, and the private one as text, to be kept where the workers are */
export async function makeClusterKey(): Promise<{ publicKey: PublicKey; privateKey: string }> {
  const pair = await generateKeyPair('EdDSA', { crv: 'Ed25519', extractable: true });
  const { x, d } = await exportJWK(pair.privateKey);
  const kid = await calculateJwkThumbprint(await exportJWK(pair.publicKey));
  const publicKey = PublicKey.parse({ kty: 'OKP', crv: 'Ed25519', x, kid });
  return { publicKey, privateKey: JSON.stringify({ ...publicKey, d }) };
}

/** The public part of a private key, as it is registered. @throws Error in words when it is none */
export function publicPartOf(privateKey: string): PublicKey {
  const { d: _, ...publicKey } = readPrivateKey(privateKey);
  return publicKey;
}

export function readPrivateKey(text: string): z.infer<typeof PrivateKey> {
  const read = PrivateKey.safeParse(parseJson(text));
  if (read.success) return read.data;
  throw new Error(
    'the key of the cluster is not a private Ed25519 key as JWK; make one with: slipway cluster key <cluster>',
  );
}

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

/** Signs short-lived tokens for one worker. */
export type TokenSigner = () => Promise<string>;

/** A token is shown for so long, ms; it lives for longer. */
const SHOWN_MS = 120_000;
/** Wall clock and steady clock differ by so much, ms, after somebody set the clock, or the machine slept. */
const JUMP_MS = 5_000;

/** The wall clock dates a token; the steady one is not set by anybody. */
export interface Clocks {
  wallMs(): number;
  steadyMs(): number;
}

const CLOCKS: Clocks = { wallMs: () => Date.now(), steadyMs: () => performance.now() };

/** Owns the token that a worker shows: signed again when it is old, when the clock was set, and when it was refused. */
export class ShownToken {
  private shown: { text: Promise<string>; wallMs: number; steadyMs: number } | undefined;

  constructor(
    private readonly sign: TokenSigner,
    private readonly clocks: Clocks = CLOCKS,
  ) {}

  text(): Promise<string> {
    const [wallMs, steadyMs] = [this.clocks.wallMs(), this.clocks.steadyMs()];
    const ageMs = steadyMs - (this.shown?.steadyMs ?? -Infinity);
    const jumpMs = Math.abs(wallMs - (this.shown?.wallMs ?? 0) - ageMs);
    if (!this.shown || ageMs > SHOWN_MS || jumpMs > JUMP_MS) this.shown = { text: this.sign(), wallMs, steadyMs };
    return this.shown.text;
  }

  /** It was refused: the next call shows another one. */
  drop(): void {
    this.shown = undefined;
  }
}

/** @param privateKey JWK as JSON @throws Error in words when it is none */
export function makeTokenSigner(privateKey: string, who: { cluster: string; worker: string }): TokenSigner {
  const { kid, exp: _, ...jwk } = readPrivateKey(privateKey);
  const key = importJWK(jwk, 'EdDSA');
  return async () =>
    new SignJWT()
      .setProtectedHeader({ alg: 'EdDSA', kid })
      .setIssuer(`cluster:${who.cluster}`)
      .setSubject(who.worker)
      .setAudience(WORKER_AUDIENCE)
      .setIssuedAt()
      .setExpirationTime(`${TOKEN_LIFE_S}s`)
      .sign(await key);
}
