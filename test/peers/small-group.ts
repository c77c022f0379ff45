/** A volume group `vg` of one image file with 1 MiB extents, made by our own commands. */
import { truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';

export interface SmallVolume {
  readonly name: string;
  /** As lvcreate's -L takes it. */
  readonly size: string;
  readonly options?: readonly string[];
}

/** Makes the group in `folder` and returns its image. Its size leaves `spareMiB` free beside the volumes. */
export async function makeGroup(folder: string, volumes: readonly SmallVolume[], spareMiB = 8): Promise<string> {
  const image = join(folder, 'pv.img');
  const needed = volumes.reduce((sum, { size }) => sum + Number.parseInt(size, 10), 0);
  await writeFile(image, '');
  await truncate(image, (needed + spareMiB) * 1024 * 1024);
  const run = (command: string, ...args: string[]): Promise<string> =>
    mustRun(join(CHECKOUT, 'bin', command), ['--devices', image, '-y', ...args], { cwd: folder });
  await run('vgcreate', '-s', '1m', 'vg', image);
  for (const { name, size, options = [] } of volumes) await run('lvcreate', '-L', size, '-n', name, ...options, 'vg');
  return image;
}
