// Owns what a benchmark stands on: the Temporal CLI, a Docker engine, an image, one whole Slipway; and its end.
// Called by main.ts.
import { join, resolve } from 'node:path';
import { connectDocker, ensureDockerEngine } from '../adapters/docker-setup';
import { findTemporalCli } from '../adapters/temporal-cli';
import { ensureTestImage, House, TEST_IMAGE, type HouseOptions } from '../test/setup/house';
import { SLOTS, type Bench } from './figure';
import { clearFloor, removeLabelled } from './floor';

const DATA_DIR = join(resolve(__dirname, '..', '..'), '.slipway');

export type Ground = Pick<Bench, 'house' | 'openHouse' | 'docker' | 'image'> & {
  /** What it was measured on, for the head of the report. */
  engine: string;
  /** Ends every process and removes every container of this run. */
  close(): Promise<void>;
};

/** Finds or installs what is needed and starts it. @throws SetupError saying what is missing and what helps */
export async function openGround(say: Bench['say']): Promise<Ground> {
  const logFile = join(DATA_DIR, 'logs', 'dockerd.log');
  const engine = await ensureDockerEngine({ announce: say, logFile });
  process.env['SLIPWAY_TEMPORAL_CLI'] ??= await findTemporalCli({ toolsDir: join(DATA_DIR, 'tools'), announce: say });
  // For the processes of the house, which look nowhere else.
  process.env['DOCKER_HOST'] ??= engine.socket.startsWith('/') ? `unix://${engine.socket}` : engine.socket;
  const docker = connectDocker(engine.socket);
  await ensureTestImage();
  const endings: (() => Promise<void>)[] = [];
  const openHouse = async (options: HouseOptions): Promise<House> => {
    const house = await House.open({ slots: SLOTS, ...options });
    const { workers } = await house.call<{ workers: { id: string }[] }>('GET', '/v1/workers');
    endings.push(async () => {
      await house.stop();
      // Only an interrupted run has any: a worker that is stopped leaves its containers to the next one.
      for (const { id } of workers) await removeLabelled(docker, `dev.slipway.worker=${id}`);
    });
    return house;
  };
  const house = await openHouse({});
  const close = async (): Promise<void> => {
    for (const end of endings) await end();
    await clearFloor(docker);
    await engine.stop?.();
  };
  return { house, openHouse, docker, image: TEST_IMAGE, engine: `Docker ${engine.version}`, close };
}
