// Owns what is kept of refused workers: a row in the audit and a line in the log, a few a second whatever comes.
// Called by the API and the gateway.
import type { Logger } from 'pino';
import { recordAudit } from './store/audit';
import type { Database } from './store/connect';
import type { WorkerIdentity } from './worker-identity';
import type { WorkerRefusal } from './worker-refusal';

export interface RefusedCall {
  /** Left out: nobody vouches for the caller. */
  who?: WorkerIdentity;
  /** Method of HTTP and path, or path of gRPC. */
  call: string;
  refusal: Pick<WorkerRefusal, 'reason' | 'message'>;
  /** Address and port, where that says something. */
  peer?: string;
}

const SAID_FOR_MS = 1_000;

/** One record a second of each kind at most: a hostile worker must not fill the disk. What is left out is counted. */
export class RefusalAudit {
  private readonly said = new Map<string, { atMs: number; leftOut: number }>();

  constructor(
    private readonly db: Database,
    private readonly log: Logger,
  ) {}

  record({ who, call, refusal, peer }: RefusedCall): void {
    const { reason, message } = refusal;
    const kind = `${who?.cluster ?? ''} ${reason}`;
    const last = this.said.get(kind);
    if (last && performance.now() - last.atMs < SAID_FOR_MS) {
      last.leftOut += 1;
      return;
    }
    // Clusters are registered names, reasons a closed list: the map stays small.
    this.said.set(kind, { atMs: performance.now(), leftOut: 0 });
    const leftOut = last?.leftOut ?? 0;
    this.log.warn({ ...who, call, reason, peer, leftOut }, `refused: ${message}`);
    const more = leftOut === 0 ? '' : `; ${leftOut} more like the one before were left out`;
    const record = {
      actor: who ? `worker ${who.worker} of ${who.cluster}` : `- ${peer ?? ''}`.trim(),
      action: 'worker.refused',
      subject: who ? `cluster ${who.cluster}` : 'workers',
      allowed: false,
      detail: `${reason}: ${message}; ${call}${more}`,
    };
    recordAudit(this.db, record).catch((error: unknown) => this.log.warn({ error: String(error) }, 'not in the audit'));
  }
}
