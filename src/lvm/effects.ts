/**
 * What follows a commit on the devices themselves: the head of a new LV is zeroed, given-up extents are overwritten.
 *
 * Invariants
 *  - Only extents that the committed VG gives to the LV are touched, or ranges that the edit took out of it.
 *  - Everything is flushed before an effect counts as done.
 */
import type { BlockDevice } from '../block/device.ts';
import { flush } from '../block/sync-io.ts';
import type { EffectContext, EffectRunners } from './change-context.ts';
import { openExclusively } from './open.ts';
import { eraseRange, pieceBytes, wipeNewLv } from './wipe.ts';

export const EFFECTS: EffectRunners = {
  'wipe-lv': wipeNewLv,
  async erase({ method, what, ranges }, around) {
    const progress = around.change.progress?.(`${method === 'discard' ? 'Discarding' : 'Wiping'} ${what}`);
    const piece = pieceBytes(method);
    const total = ranges.reduce((sum, { length }) => sum + length, 0);
    let done = 0;
    try {
      for (const { device, offset, length } of ranges) {
        await onDevice(around, device, async (opened) => {
          for (let at = 0; at < length; at += piece) {
            const count = Math.min(piece, length - at);
            await eraseRange(opened, method, offset + at, count);
            done += count;
            progress?.update(done, total);
          }
        });
      }
    } finally {
      progress?.end();
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
