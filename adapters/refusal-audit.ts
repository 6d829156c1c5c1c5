// Owns what is kept of refusals, of workers and of operators: a row in the audit and a line in the log, few whatever comes.
// Called by the API and the gateway.
import type { Logger } from 'pino';
import { Sparing } from './sparing';
import { recordAudit, type AuditRecord } from './store/audit';
import type { Database } from './store/connect';
import { noteRefused } from './store/workers';
import type { WorkerIdentity } from './worker-identity';
import { isOfClocks, type WorkerRefusal } from './worker-refusal';

export interface RefusedCall {
  /** Left out: nobody vouches for the caller. */
  who?: WorkerIdentity;
  /** Method of HTTP and path, or path of gRPC. */
  call: string;
  refusal: Pick<WorkerRefusal, 'reason' | 'message' | 'signer'>;
  /** Address and port, where that says something. */
  peer?: string;
}

/** One record a second of each kind at most: a hostile worker must not fill the disk. What is left out is counted. */
export class RefusalAudit {
  private readonly ofWorkers = new Sparing({ burst: 1, everyMs: 1_000 });
  /** People make several mistakes in a row, each worth a record. */
  private readonly ofOperators = new Sparing({ burst: 20, everyMs: 1_000 });
  /** Enough for the workers of a cluster whose server has set its clock. */
  private readonly ofClocks = new Sparing({ burst: 100, everyMs: 20 });

  constructor(
    private readonly db: Database,
    private readonly log: Logger,
  ) {}

  record({ who: caller, call, refusal, peer }: RefusedCall): void {
    const { reason, message } = refusal;
    const who = caller ?? refusal.signer;
    if (who && isOfClocks(reason)) this.note(who, message);
    // Clusters are registered names, reasons a closed list.
    const leftOut = this.ofWorkers.take(`${who?.cluster ?? ''} ${reason}`);
    if (leftOut === undefined) return;
    this.log.warn({ ...who, call, reason, peer, leftOut }, `refused: ${message}`);
    const record = {
      actor: who ? `worker ${who.worker} of ${who.cluster}` : `- ${peer ?? ''}`.trim(),
      action: 'worker.refused',
      subject: who ? `cluster ${who.cluster}` : 'workers',
      allowed: false,
      detail: `${reason}: ${message}; ${call}${sayLeftOut(leftOut)}`,
    };
    recordAudit(this.db, record).catch((error: unknown) => this.log.warn({ error: String(error) }, 'not in the audit'));
  }

  /** For whoever looks at its host, or waits for it. */
  private note(who: WorkerIdentity, why: string): void {
    if (this.ofClocks.take(who.cluster) === undefined) return;
    noteRefused(this.db, who, why).catch((error: unknown) => this.log.warn({ error: String(error) }, 'not noted'));
  }

  /** @param record.actor a registered name, or `-` for everybody else */
  async recordOperator(record: Omit<AuditRecord, 'allowed'>): Promise<void> {
    const leftOut = this.ofOperators.take(record.actor);
    if (leftOut === undefined) return;
    await recordAudit(this.db, { ...record, allowed: false, detail: record.detail + sayLeftOut(leftOut) });
  }
}

const sayLeftOut = (count: number): string => (count === 0 ? '' : `; ${count} like it before were left out`);
