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
import type { LogicalVolumeText } from '../ondisk/metadata.ts';
import type { EffectContext, EffectRunners } from './command.ts';
import { CommandError } from './edit/errors.ts';
import type { VolumeGroup } from './model.ts';
import { openExclusively } from './open.ts';

const SECTOR_BYTES = 512;
/** One write of an erasure. */
const CHUNK_BYTES = 1024 * 1024;

interface DeviceRange {
  readonly device: string;
  readonly offset: number;
  readonly length: number;
}

export const EFFECTS: EffectRunners = {
  async 'wipe-lv'({ lvName, zeroBytes }, around) {
    const { group } = around;
    const lv = group?.vg.logicalVolumes.find((candidate) => candidate.name === lvName);
    if (group === null || lv === undefined) throw new CommandError(`Failed to find logical volume ${lvName} to wipe.`);
    for (const range of headOf(group, lv, zeroBytes)) {
      await onDevice(around, range.device, (device) => writeZeroes(device, range.offset, range.length));
    }
  },
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

/** The device ranges of an LV's first bytes, for LVs that lie on PVs directly. */
function headOf(group: VolumeGroup, lv: LogicalVolumeText, bytes: number): readonly DeviceRange[] {
  const extentBytes = group.vg.extentSizeSectors * SECTOR_BYTES;
  const ranges: DeviceRange[] = [];
  let left = bytes;
  for (const segment of lv.segments) {
    if (left <= 0) break;
    if (segment.type !== 'striped') throw new CommandError(`Cannot wipe ${lv.name}: it is not on physical volumes.`);
    const length = (segment.extentCount / segment.areas.length) * extentBytes;
    for (const area of segment.areas) {
      const pv = group.pvs.find((candidate) => candidate.text?.label === area.name);
      const device = pv?.found?.device;
      if (device === undefined || pv?.text === undefined) {
        throw new CommandError(`Cannot wipe ${lv.name}: a PV is missing.`);
      }
      const offset = pv.text.peStartSectors * SECTOR_BYTES + area.extent * extentBytes;
      ranges.push({ device: device.path, offset, length: Math.min(length, left) });
    }
    left -= segment.extentCount * extentBytes;
  }
  return ranges;
}

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
