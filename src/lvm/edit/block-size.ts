/**
 * Extents and a device's blocks (facts: LVM2 lib/metadata/metadata.c vg_check_pv_dev_block_sizes).
 *
 * Invariants
 *  - No VG is made whose extents are smaller than a block of any device that they lie on. A smaller one would share a block with extents of
 *    other LVs, and a write to one of them would be a read and a write of both.
 *  - Where there is such a VG (it was copied to another disk, or its data begins within a block), commands don't write to its LVs: who
 *    serves the other LV would not know of it. Linux activates none of these.
 */
import type { BlockDevice } from '../../block/device.ts';
import { SECTOR_BYTES } from '../../ondisk/label.ts';
import type { VolumeGroupText } from '../../ondisk/metadata.ts';
import type { ScannedDevice } from '../model.ts';

/** Why a VG of that name can't have such extents on this device; null if it can. */
export function blockSizeProblem(
  vgName: string,
  extentSizeSectors: number,
  { path, logicalBlockSize = SECTOR_BYTES }: ScannedDevice,
): string | null {
  if (extentSizeSectors * SECTOR_BYTES >= logicalBlockSize) return null;
  const block = `logical block size (${logicalBlockSize} bytes) that ${path} uses`;
  return `Physical extent size used for volume group ${vgName} is less than ${block}.`;
}

/** Why no command may write to extents of the VG on a device that takes whole blocks only; null if it may. */
export function sharedBlockProblem(
  { extentSizeSectors }: VolumeGroupText,
  peStartSectors: number,
  { name, limits: { requestAlignment } }: BlockDevice,
): string | null {
  const isWhole = [extentSizeSectors, peStartSectors].every((n) => (n * SECTOR_BYTES) % requestAlignment === 0);
  if (isWhole) return null;
  const shared = `its extents share blocks of ${requestAlignment} bytes of ${name} with others`;
  return `${shared}; copy ${name} to an image file or a disk with smaller blocks`;
}
