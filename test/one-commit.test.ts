// Proves that whoever starts a run of a build, however often and wherever it is killed, checks out one commit.
// The real start of an attempt over an engine and a server of lists; the store of the commits is proven in store.test.ts.
import fc from 'fast-check';
import { HostsBeside } from '../activities/hosts-beside';
import { startOnce } from '../activities/start';
import type { ContainerSpec, Engine } from '../adapters/engine';
import type { AttemptApi } from '../adapters/worker-api';
import { isCommitId } from '../domain/repository';
import type { Lease } from '../domain/schemas/worker-api';
import { plannedRun } from './setup/stores';

/** The process dies. */
class Killed extends Error {}

/** A repository to which somebody pushes all the time, and a build that two runs of other hosts work on. */
class World {
  private pushes = 0;
  private frozen: string | undefined;
  private steps = 0;
  private readonly trees = new Map<string, string>();
  /** Commits that scripts found, and what their environment called them. */
  readonly seen: { tree: string | undefined; named: string | undefined }[] = [];

  /** @param dies before or behind these of all calls */
  constructor(private readonly dies: { before: number; behind: number }) {}

  /** Each time it is asked for, the branch is somewhere else. */
  private readonly tip = (): string => String((this.pushes += 1)).padStart(40, '0');

  private async step<T>(effect: () => T): Promise<T> {
    const step = (this.steps += 1);
    if (step === this.dies.before) throw new Killed();
    const result = effect();
    if (step === this.dies.behind) throw new Killed();
    return result;
  }

  /** As a worker does that got the lease of this run, from its beginning. */
  async start(run: string): Promise<void> {
    const orders = { detach: new AbortController().signal, cancel: new AbortController().signal };
    const at = { runId: run, attempt: 1, token: 1, name: run, ...orders };
    const ports = {
      engine: this.engine(),
      api: this.api(),
      beside: [],
      worker: { id: 'w', cluster: 'c', stopGraceMs: 1 },
    };
    await startOnce(ports, this.lease(run), { ...at, beside: new HostsBeside([], at, ports.api) });
  }

  private lease(name: string): Lease {
    const checkout = { url: 'https://x.example.org/a', ref: this.frozen ?? 'main', submodules: true, lfs: true };
    return {
      kind: 'granted',
      token: 1,
      project: 'p',
      build: 1,
      run: name,
      runUrl: '',
      host: 'h',
      image: 'image',
      leasedForMs: 0,
      silentForMs: 0,
      mayHaveStarted: false,
      logBytes: 0,
      logCapBytes: 1,
      spec: plannedRun(name, { checkout }),
    };
  }

  private engine(): Engine {
    const calls: Partial<Engine> = {
      makeRunDir: (name) => this.step(() => name),
      checkOut: (name, { ref }) =>
        this.step(() => {
          const commit = isCommitId(ref) ? ref : this.tip();
          this.trees.set(name, commit);
          return commit;
        }),
      create: ({ name, env }: ContainerSpec) =>
        this.step(() => {
          this.seen.push({ tree: this.trees.get(name), named: env['GIT_SHA'] });
          return name;
        }),
      start: () => this.step(() => undefined),
      find: async () => undefined,
    };
    return calls as Engine;
  }

  private api(): AttemptApi {
    const calls: Partial<AttemptApi> = {
      freeze: (commit) => this.step(() => (this.frozen ??= commit)),
      progress: () => this.step(() => undefined),
    };
    return calls as AttemptApi;
  }
}

/** The steps of all three runs, and some. */
const STEPS = 20;

test('B14 of runs that start at the same time, and are killed at any step and started again, all see one commit', async () => {
  const step = fc.integer({ min: 1, max: STEPS });
  await fc.assert(
    fc.asyncProperty(step, step, async (before, behind) => {
      const world = new World({ before, behind });
      const start = async (run: string): Promise<void> => {
        await world.start(run).catch((error: unknown) => {
          if (!(error instanceof Killed)) throw error;
          return start(run);
        });
      };
      await Promise.all(['a', 'b'].map(start));
      await start('c');
      // Again, as a rerun of the whole build does.
      await start('a');

      expect(world.seen.length).toBeGreaterThanOrEqual(4);
      expect(new Set(world.seen.flatMap(({ tree, named }) => [tree, named])).size).toBe(1);
    }),
  );
});
