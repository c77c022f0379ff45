/**
 * Extents and a device's blocks (facts: LVM2 lib/metadata/metadata.c vg_check_pv_dev_block_sizes).
 *
 * Invariant: an extent is no smaller than a block of any device that it lies on. A smaller one would share a block with extents of other LVs, and
 * a write to one of them would be a read and a write of both.
 */
import { SECTOR_BYTES } from '../../ondisk/label.ts';
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
