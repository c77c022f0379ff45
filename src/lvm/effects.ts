/**
 * What follows a commit on the devices themselves: the head of a new LV is zeroed, given-up extents are overwritten.
 *
 * Invariants
 *  - Only extents that the committed VG gives to the LV are touched, or ranges that the edit took out of it.
 *  - Everything is flushed before an effect counts as done.
 */
import { randomFillSync } from 'node:crypto';
import type { BlockDevice } from '../block/device.ts';
import { discard, flush, writeBytes, writeZeroes } from '../block/sync-io.ts';
import type { EffectContext, EffectRunners } from './command.ts';
import { openExclusively } from './open.ts';
import { wipeNewLv } from './wipe.ts';

/** One write of an erasure. */
const CHUNK_BYTES = 1024 * 1024;

export const EFFECTS: EffectRunners = {
  'wipe-lv': wipeNewLv,
  async erase({ method, ranges }, around) {
    for (const { device, offset, length } of ranges) {
      await onDevice(around, device, async (opened) => {
        if (method === 'discard') await discard(opened, offset, length);
        else if (method === 'zero') await writeZeroes(opened, offset, length);
        else await writeRandom(opened, offset, length);
      });
    }
  },
};

async function onDevice(
  around: EffectContext,
  path: string,
  use: (device: BlockDevice) => Promise<void>,
): Promise<void> {
  const known = around.group?.pvs.find((pv) => pv.found?.device.path === path)?.found?.device;
  const openPath = around.change.open ?? openExclusively;
  const device = known === undefined ? await openPath(path) : await around.open(known);
  try {
    await use(device);
    await flush(device);
  } finally {
    await device.close();
  }
}

async function writeRandom(device: BlockDevice, offset: number, length: number): Promise<void> {
  const chunk = Buffer.alloc(Math.min(CHUNK_BYTES, length));
  for (let done = 0; done < length; done += chunk.length) {
    const bytes = chunk.subarray(0, Math.min(chunk.length, length - done));
    randomFillSync(bytes);
    await writeBytes(device, offset + done, bytes);
  }
}
