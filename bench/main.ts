// Owns `npm run bench`: which figures, how large, how often; then the report. A benchmark is no test: a goal that is
// missed is printed and the exit code stays 0; it is 1 when something broke, 2 when it could not begin.
// Called by npm: node dist/bench/main.js [F1 F2 …] [--scale 0.1] [--repeats 3]
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import type { Bench, Figure, Row } from './figure';
import { FIGURES } from './figures';
import { openGround, type Ground } from './ground';
import { judge, toJson, toTable } from './report';

interface Choice {
  figures: readonly Figure[];
  scale: number;
  repeats: number;
}

class UsageError extends Error {}

/** @throws UsageError saying what can be chosen */
function readChoice(args: string[]): Choice {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: { scale: { type: 'string', default: '1' }, repeats: { type: 'string', default: '3' } },
  });
  const unknown = positionals.find((id) => !FIGURES.some((figure) => figure.id === id));
  if (unknown) {
    throw new UsageError(`there is no figure ${unknown}; choose from ${FIGURES.map(({ id }) => id).join(' ')}`);
  }
  const scale = Number(values.scale);
  const repeats = Number(values.repeats);
  if (!(scale > 0 && scale <= 1)) throw new UsageError('--scale: give a share of the real sizes, over 0 to 1');
  if (!Number.isInteger(repeats) || repeats < 1) throw new UsageError('--repeats: give a whole number from 1 on');
  const figures = FIGURES.filter(({ id }) => positionals.length === 0 || positionals.includes(id));
  return { figures, scale, repeats };
}

const say = (line: string): void => void process.stderr.write(`bench: ${line}\n`);
const print = (text: string): void => void process.stdout.write(`${text}\n`);

async function main(): Promise<void> {
  const choice = readChoice(process.argv.slice(2));
  const ground = await openGround(say);
  const stop = stopOnSignal(ground);
  try {
    report(ground, choice, await measureAll(ground, choice));
  } finally {
    await stop();
  }
}

interface Measured {
  rows: Row[];
  /** See Bench.unrest. */
  unrest: number;
}

async function measureAll(ground: Ground, { figures, scale, repeats }: Choice): Promise<Measured> {
  const bench: Bench = { ...ground, scale, repeats, unrest: { count: 0 }, say };
  const rows: Row[] = [];
  for (const figure of figures) {
    say(`measuring ${figure.id}`);
    rows.push(...(await figure.measure(bench)));
  }
  return { rows, unrest: bench.unrest.count };
}

function report({ engine }: Ground, { scale, repeats }: Choice, { rows, unrest }: Measured): void {
  const processors = cpus();
  const machine = `${processors.length} × ${processors[0]?.model ?? 'unknown processor'}`;
  const judged = rows.map(judge);
  print(`\n${machine}, ${engine}, Node ${process.versions.node}; median [least–most] of ${repeats} repeats`);
  if (scale < 1) print(`sizes × ${scale}: the targets are meant for real sizes, so no verdict counts`);
  if (unrest > 0)
    print(`${unrest} measurements began while other programs kept the machine busy: measure again at rest`);
  print(`\n${toTable(judged)}\n`);
  for (const one of judged) print(toJson(one));
}

/** Ends the ground once, whoever asks first: the end of the run or a signal. */
function stopOnSignal(ground: Ground): () => Promise<void> {
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => (closing ??= ground.close());
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      say(`${signal}: stopping`);
      void close().finally(() => process.exit(130));
    });
  }
  return close;
}

main().catch((error: unknown) => {
  const { message, stack, code } = error as NodeJS.ErrnoException & { isForUsers?: boolean };
  const isForUsers =
    error instanceof UsageError ||
    (error as { isForUsers?: boolean }).isForUsers === true ||
    code?.startsWith('ERR_PARSE_ARGS');
  process.stderr.write(`bench: ${isForUsers ? message : (stack ?? message)}\n`);
  process.exitCode = isForUsers ? 2 : 1;
});
