// Owns who calls: a worker's short-lived JWT, signed with a key of its cluster, checked against the keys as they are now.
// Called by the gateway for every gRPC call, and by the API for every request of a worker.
import { decodeJwt, errors, importJWK, jwtVerify, type JWTPayload, type JWTVerifyGetKey } from 'jose';
import { WORKER_AUDIENCE } from './cluster-keys';
import { AccessCache, type AccessSource, type ClusterKey } from './access-cache';
import { WorkerRefusal, type RefusalReason } from './worker-refusal';

export interface WorkerIdentity {
  cluster: string;
  /** Id of the worker, a UUID. */
  worker: string;
  /** `kid` of the cluster's key that vouches for it. */
  keyId: string;
}

/** Longest life of a token, s. */
const MAX_LIFE_S = 600;
/** How far the clocks of worker and gateway may differ, s. */
const CLOCK_TOLERANCE_S = 30;
const MAX_TOKEN_CHARACTERS = 2_048;
const MAX_REMEMBERED = 10_000;

/** The name in the form that the settings ask for. */
const CLUSTER = /^cluster:([a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?)$/;
const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

interface Remembered {
  who: WorkerIdentity;
  expiresAtMs: number;
}

/** Verifies a token once (a tenth of a millisecond or more) and remembers it until its end; asks for the key each time. */
export class Identities {
  private readonly remembered = new Map<string, Remembered>();
  private readonly access: AccessCache;

  constructor(source: AccessSource) {
    this.access = new AccessCache(source);
  }

  /**
   * @param authorization the header: `Bearer <JWT>`, EdDSA, header `kid`, claims `iss` = `cluster:<name>`,
   * `sub` = id of the worker, `aud` = `slipway`, `iat`, `exp`
   * @param need `key`: a worker that is not enlisted yet may say hello, and nothing else
   * @throws WorkerRefusal
   */
  async identify(authorization: string | undefined, need: 'enlisted' | 'key' = 'enlisted'): Promise<WorkerIdentity> {
    const who = await this.whoIs(authorization);
    if (need === 'enlisted') await this.requireEnlisted(who);
    return who;
  }

  private async whoIs(authorization: string | undefined): Promise<WorkerIdentity> {
    const [, token] = /^Bearer ([\w.-]+)$/i.exec(authorization ?? '') ?? [];
    if (token === undefined) throw new WorkerRefusal('no-token');
    const known = this.remembered.get(token);
    if (known && Date.now() < known.expiresAtMs) {
      await this.recheckKey(known.who);
      return known.who;
    }
    this.remembered.delete(token);
    const verified = await this.verify(token);
    if (this.remembered.size >= MAX_REMEMBERED) this.remembered.delete(this.remembered.keys().next().value!);
    this.remembered.set(token, verified);
    return verified.who;
  }

  /** May it still? @param options.now do not trust an answer of the last second @throws WorkerRefusal */
  async recheck(who: WorkerIdentity, options: { now?: boolean } = {}): Promise<void> {
    await this.recheckKey(who, options);
    await this.requireEnlisted(who);
  }

  private async recheckKey(who: WorkerIdentity, options: { now?: boolean } = {}): Promise<void> {
    chooseKey((await this.access.accessOf(who.cluster, options.now ? 0 : undefined)).keys, who.keyId);
  }

  /** One that was enlisted within the last second must not be turned away. */
  private async requireEnlisted({ cluster, worker }: WorkerIdentity): Promise<void> {
    if ((await this.access.accessOf(cluster)).enlisted.has(worker)) return;
    if ((await this.access.accessOf(cluster, 0)).enlisted.has(worker)) return;
    throw new WorkerRefusal('not-enlisted', worker);
  }

  private async verify(token: string): Promise<Remembered> {
    if (token.length > MAX_TOKEN_CHARACTERS) throw new WorkerRefusal('malformed-token', 'too long');
    const { cluster, worker } = readClaims(token);
    let keyId = '';
    const getKey: JWTVerifyGetKey = async ({ kid }) => {
      const key = chooseKey((await this.access.accessOf(cluster)).keys, kid);
      keyId = key.kid;
      const { kty, crv, x } = key.jwk;
      if (kty !== 'OKP' || crv !== 'Ed25519' || x === undefined)
        throw new WorkerRefusal('wrong-algorithm', `key ${keyId}`);
      return importJWK({ kty, crv, x }, 'EdDSA');
    };
    const signer = (): WorkerIdentity => ({ cluster, worker, keyId });
    try {
      const { payload } = await jwtVerify(token, getKey, {
        algorithms: ['EdDSA'],
        audience: WORKER_AUDIENCE,
        clockTolerance: CLOCK_TOLERANCE_S,
        requiredClaims: ['iss', 'sub', 'aud', 'iat', 'exp'],
      });
      return { who: signer(), expiresAtMs: checkLife(payload, signer()) };
    } catch (error) {
      throw error instanceof WorkerRefusal ? error : asRefusal(error, signer());
    }
  }
}

/** What the token says of its sender, not believed yet: it only names the keys to check it with. */
function readClaims(token: string): { cluster: string; worker: string } {
  let claims: JWTPayload;
  try {
    claims = decodeJwt(token);
  } catch (cause) {
    throw new WorkerRefusal('malformed-token', undefined, { cause });
  }
  const [, cluster] = CLUSTER.exec(typeof claims.iss === 'string' ? claims.iss : '') ?? [];
  if (cluster === undefined) throw new WorkerRefusal('malformed-token', 'iss is not cluster:<name>');
  if (typeof claims.sub !== 'string' || !UUID.test(claims.sub))
    throw new WorkerRefusal('malformed-token', 'sub is no UUID');
  return { cluster, worker: claims.sub };
}

function chooseKey(keys: ClusterKey[], kid: string | undefined): ClusterKey {
  const key = keys.find((one) => one.kid === kid);
  if (!key) throw new WorkerRefusal('unknown-key', `key ${String(kid)}`);
  if (key.revokedAt) throw new WorkerRefusal('key-revoked', `key ${key.kid}`);
  if (key.expiresAt && key.expiresAt.getTime() <= Date.now()) throw new WorkerRefusal('key-expired', `key ${key.kid}`);
  return key;
}

/** @returns the end of the token, ms */
function checkLife({ iat, exp }: JWTPayload, signer: WorkerIdentity): number {
  // Both are there and numbers: jose has checked that.
  if (iat! > Date.now() / 1000 + CLOCK_TOLERANCE_S) throw ofClocks('not-yet-valid', { iat }, signer);
  if (exp! <= iat!) throw new WorkerRefusal('malformed-token', 'it ends before it begins');
  if (exp! - iat! > MAX_LIFE_S) throw new WorkerRefusal('lives-too-long');
  return exp! * 1000;
}

/** jose looks at dates last, so the signature of such a token is good, and says who it is whose clock is wrong. */
function ofClocks(reason: RefusalReason, { iat = 0 }: JWTPayload, signer: WorkerIdentity): WorkerRefusal {
  const minutes = Math.round((Date.now() / 1000 - iat) / 60);
  const when = minutes < 0 ? `${-minutes} min ahead of the server` : `${minutes} min ago by the server's clock`;
  return new WorkerRefusal(reason, `signed ${when}`, { signer });
}

function asRefusal(error: unknown, signer: WorkerIdentity): WorkerRefusal {
  const reason = reasonOf(error);
  if (error instanceof errors.JWTExpired) return ofClocks(reason, error.payload, signer);
  return new WorkerRefusal(reason, undefined, { cause: error });
}

function reasonOf(error: unknown): RefusalReason {
  if (error instanceof errors.JOSEAlgNotAllowed) return 'wrong-algorithm';
  if (error instanceof errors.JWSSignatureVerificationFailed) return 'bad-signature';
  if (error instanceof errors.JWTExpired) return 'token-expired';
  if (error instanceof errors.JWTClaimValidationFailed && error.reason === 'check_failed') {
    if (error.claim === 'aud') return 'wrong-audience';
    if (error.claim === 'nbf') return 'not-yet-valid';
  }
  return 'malformed-token';
}
