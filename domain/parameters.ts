// Owns what the parameters of a file come to for a run: which value holds, how many bytes they are where its script is
// started, and what is wrong with them. Pure; called by domain/plan.ts.
import type { JobRun } from './jobs';
import type { Values } from './matrix';
import type { ExpandedJob } from './needs';
import { fill } from './placeholders';
import type { Complaint, Path } from './problems';
import { checkCheckout } from './repository';
import type { RepositoryEntry } from './schemas/project-file';

/** What Linux takes of one variable with its name, `=` and the NUL behind it, bytes (MAX_ARG_STRLEN). */
const VARIABLE_BYTES = 131_072;
/** Of all parameters of a run, bytes: the least that a system takes is 1 MiB (macOS), and a run gets some variables more. */
const PARAMETERS_BYTES = 1_000_000;

/** Bytes of one variable where a program is started. */
export const variableBytes = (name: string, value: string): number => utf8Bytes(name) + utf8Bytes(value) + 2;

function utf8Bytes(text: string): number {
  if (!/[^\0-\x7f]/.test(text)) return text.length;
  let bytes = text.length;
  for (let at = 0; at < text.length; at += 1) {
    const unit = text.charCodeAt(at);
    // Both halves of a character above U+FFFF together make 4 bytes.
    if (unit >= 0x80) bytes += unit < 0x800 || (unit >= 0xd800 && unit < 0xe000) ? 1 : 2;
  }
  return bytes;
}

/** Why no system would take the variable; undefined: it is taken. */
export function sayVariableFault(name: string, value: string): string | undefined {
  const bytes = variableBytes(name, value);
  if (bytes <= VARIABLE_BYTES) return undefined;
  return `comes to ${bytes} bytes with its name, ${VARIABLE_BYTES} at most; keep long texts in the image or the repository`;
}

/** The same for all parameters of a run together. @param bytes sum of {@link variableBytes} */
export function saySumFault(run: string, bytes: number): string | undefined {
  if (bytes <= PARAMETERS_BYTES) return undefined;
  return `the parameters of run "${run}" come to ${bytes} bytes, ${PARAMETERS_BYTES} at most; keep long texts in the image or the repository`;
}

/**
 * Parameters of one place of a file over those of a weaker one. Their size is known without merging them: a thousand cells
 * over ten thousand parameters cost no more than the cells.
 */
class Parameters {
  /** Of these and all below. */
  readonly bytes: number;

  /** @param at where they are in the file */
  constructor(
    private readonly own: Values,
    private readonly at: Path,
    private readonly below?: Parameters,
  ) {
    let bytes = below?.bytes ?? 0;
    for (const name of Object.keys(own)) {
      const hidden = below?.find(name);
      bytes += variableBytes(name, own[name] ?? '') - (hidden === undefined ? 0 : variableBytes(name, hidden));
    }
    this.bytes = bytes;
  }

  find(name: string): string | undefined {
    return Object.hasOwn(this.own, name) ? this.own[name] : this.below?.find(name);
  }

  /** Where the value that holds is; of a parameter without any: here. */
  whereIs(name: string): Path {
    return Object.hasOwn(this.own, name) ? [...this.at, name] : (this.below?.whereIs(name) ?? this.at);
  }

  /** What is wrong with single ones of this place. */
  check(): Complaint[] {
    return Object.entries(this.own).flatMap(([name, value]): Complaint[] => {
      const message = sayVariableFault(name, value);
      return message === undefined ? [] : [{ code: 'bad-param', message, at: [...this.at, name] }];
    });
  }
}

interface FileParameters {
  params?: Values;
  repository?: RepositoryEntry;
}

/** Finds what is wrong with the parameters of the file, of each trigger and of each run: one complaint a job at most for its runs. */
export function checkParameters(
  file: FileParameters,
  triggers: readonly { params?: Values; at: Path; jobs: readonly ExpandedJob[] }[],
): Complaint[] {
  const ofFile = new Parameters(file.params ?? {}, ['params']);
  const found = triggers.flatMap(({ params = {}, at, jobs }) => {
    const ofTrigger = new Parameters(params, [...at, 'params'], ofFile);
    return [...ofTrigger.check(), ...jobs.flatMap((job) => checkJobParameters(file, job, ofTrigger))];
  });
  return [...ofFile.check(), ...withoutRepeats(found)];
}

/** A value of the file is wrong once, however many runs it reaches. */
function withoutRepeats(complaints: readonly Complaint[]): Complaint[] {
  const places = new Map(complaints.map((complaint) => [JSON.stringify([complaint.code, complaint.at]), complaint]));
  return [...places.values()];
}

function checkJobParameters({ repository }: FileParameters, { job, runs }: ExpandedJob, ofTrigger: Parameters) {
  const ofJob = new Parameters(job.entry.params ?? {}, [...job.at, 'params'], ofTrigger);
  const complaints = ofJob.check();
  for (const run of runs) {
    const isFilled = job.entry.matrix !== undefined;
    const found = checkRun({ run, isFilled, at: job.at, repository }, ofJob);
    if (found.length > 0) return [...complaints, ...found];
  }
  return complaints;
}

interface RunToCheck {
  run: JobRun;
  /** Braces of parameters are filled. */
  isFilled: boolean;
  /** Of its job. */
  at: Path;
  repository?: RepositoryEntry;
}

function checkRun({ run, isFilled, at, repository }: RunToCheck, ofJob: Parameters): Complaint[] {
  const { values, extra } = run.cell;
  const { 'host-tag': _, ...axes } = values;
  const ofCell = new Parameters({ ...run.overrideParams, ...extra, ...axes }, [...at, 'matrix'], ofJob);
  const find = (name: string): string | undefined => {
    const value = ofCell.find(name);
    return value === undefined || !isFilled || Object.hasOwn(axes, name) ? value : fill(value, values);
  };
  const checkout = checkCheckout({ repository, checkout: run.settings.checkout, find });
  const sum = saySumFault(run.name, ofCell.bytes);
  return [
    ...ofCell.check(),
    ...(checkout ? [{ code: 'bad-repository', message: checkout.message, at: ofCell.whereIs(checkout.name) }] : []),
    ...(sum === undefined ? [] : [{ code: 'params-too-large', message: sum, at: [...at, 'name'] }]),
  ];
}
