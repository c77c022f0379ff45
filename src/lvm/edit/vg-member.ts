/**
 * What a volume group's text says of a PV that joins it (facts: LVM2 lib/metadata/metadata.c add_pv_to_vg, format-text.c
 * _text_pv_setup).
 *
 * Invariant: extents lie between pe_start and the second metadata area, within the size that the PV's header states.
 */
import { SECTOR_BYTES } from '../../ondisk/label.ts';
import type { PhysicalVolumeText, VolumeGroupText } from '../../ondisk/metadata.ts';
import type { LabelledDevice } from '../model.ts';
import { blockSizeProblem } from './block-size.ts';
import { CommandError } from './errors.ts';

const MAX_EXTENTS = 2 ** 32 - 1;

/** The entry of a PV in a VG with such extents. The label is chosen when the text is written. */
export function memberText(found: LabelledDevice, extentSizeSectors: number, label: string): PhysicalVolumeText {
  const { path } = found.device;
  const devSizeSectors = Math.floor(found.headerSizeBytes / SECTOR_BYTES);
  const peStartSectors = (found.dataAreas[0]?.offset ?? 0) / SECTOR_BYTES;
  const room = devSizeSectors - peStartSectors - lastAreaSectors(found);
  const peCount = Math.floor(room / extentSizeSectors);
  if (peCount > MAX_EXTENTS) {
    throw new CommandError(`PV ${path} too large for extent size ${extentSizeSectors} sectors.`);
  }
  const [bootloader] = found.bootloaderAreas;
  const area =
    bootloader === undefined
      ? {}
      : { baStartSectors: bootloader.offset / SECTOR_BYTES, baSizeSectors: bootloader.size / SECTOR_BYTES };
  return {
    label,
    id: found.uuid,
    device: path,
    status: ['ALLOCATABLE'],
    flags: [],
    tags: [],
    devSizeSectors,
    peStartSectors,
    peCount: Math.max(0, peCount),
    ...area,
    extra: [],
  };
}

/** Sectors at the PV's end that are no extents. */
export function lastAreaSectors(found: LabelledDevice): number {
  return Math.floor((found.metadataAreas[1]?.size ?? 0) / SECTOR_BYTES);
}

/** The VG with PVs added at its end. Throws CommandError with LVM2's reasons. */
export function withMembers(vg: VolumeGroupText, joining: readonly LabelledDevice[]): VolumeGroupText {
  let after = vg;
  for (const found of joining) after = withMember(after, found);
  return after;
}

function withMember(vg: VolumeGroupText, found: LabelledDevice): VolumeGroupText {
  const { path } = found.device;
  const fail = (reason: string): CommandError =>
    new CommandError([reason, `PV ${path} cannot be added to VG ${vg.name}.`]);
  const pvs = vg.physicalVolumes;
  if (found.inUse) throw fail(`PV ${path} is used by a VG but its metadata is missing.`);
  if (pvs.some((pv) => pv.id === found.uuid)) {
    throw fail(`Physical volume '${path} (${found.uuid})' already in the VG.`);
  }
  const problem = blockSizeProblem(vg.name, vg.extentSizeSectors, found.device);
  if (problem !== null) throw new CommandError([problem, `PV ${path} has wrong block size.`]);
  if (pvs.length > 0 && pvs.length === vg.maxPv) {
    throw fail(`No space for '${path}' - volume group '${vg.name}' holds max ${vg.maxPv} physical volume(s).`);
  }
  const member = memberText(found, vg.extentSizeSectors, freeLabel(vg));
  const extents = pvs.reduce((sum, pv) => sum + pv.peCount, 0) + member.peCount;
  if (extents > MAX_EXTENTS) {
    const limit = `new extent count (${extents}) exceeds limit (${MAX_EXTENTS})`;
    throw fail(`Unable to add ${path} to ${vg.name}: ${limit}.`);
  }
  return { ...vg, physicalVolumes: [...pvs, member] };
}

/** A label that no PV and no LV of the VG has. */
function freeLabel(vg: VolumeGroupText): string {
  const taken = new Set([...vg.physicalVolumes.map((pv) => pv.label), ...vg.logicalVolumes.map((lv) => lv.name)]);
  let index = vg.physicalVolumes.length;
  while (taken.has(`pv${index}`)) index++;
  return `pv${index}`;
}
