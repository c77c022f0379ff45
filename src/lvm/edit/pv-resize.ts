/**
 * pvresize: a PV gets the size of its device, or a stated one (facts: LVM2 lib/metadata/pv_manip.c, format-text.c
 * _text_pv_resize).
 *
 * Invariants
 *  - No allocated extent is cut off.
 *  - A PV of a VG that can't be read is left alone: what its areas hold may be all that is left of the VG.
 *  - A metadata area at the PV's end moves with the end; it has text again before the label tells where it is.
 *
 * LVM2 2.03.16 writes a dev_size that lacks what lies before and after the extents; here it is the PV's size.
 */
import { type Label, SECTOR_BYTES } from '../../ondisk/label.ts';
import { allocationMapOf } from '../allocation-map.ts';
import type { LabelledDevice, PhysicalVolume, VolumeGroup } from '../model.ts';
import { lastArea, PV_MIN_SECTORS } from '../pv-layout.ts';
import { labelOf } from '../pv-write.ts';
import { CommandError } from './errors.ts';
import { emptyPlan, type Plan, type PvLabelWrite } from './plan.ts';

/** `group` is the PV's VG, null for an orphan. Throws CommandError with LVM2's reasons. */
export function resizePvPlan(group: VolumeGroup | null, pv: PhysicalVolume, sizeSectors: number): Plan {
  const { found, text } = pv;
  if (found === null) throw new CommandError(`Can't resize PV ${pv.uuid}: its device is missing.`);
  const { path } = found.device;
  if (group === null && found.inUse) {
    throw new CommandError([`PV ${path} is used by a VG but its metadata is missing.`, `Can't resize PV '${path}'.`]);
  }
  const peStart = text?.peStartSectors ?? (found.dataAreas[0]?.offset ?? 0) / SECTOR_BYTES;
  if (sizeSectors < PV_MIN_SECTORS) {
    throw new CommandError(`Size must exceed minimum of ${PV_MIN_SECTORS} sectors on PV ${path}.`);
  }
  if (sizeSectors < peStart) {
    throw new CommandError(`Size must exceed physical extent start of ${peStart} sectors on PV ${path}.`);
  }
  const label = resizedLabel(found, sizeSectors, peStart);
  const messages = [{ stream: 'stdout', when: 'after', text: `Physical volume "${path}" changed` }] as const;
  if (group === null || text === undefined)
    return { ...emptyPlan(null, null), labels: [update(found, label)], messages };
  const lastSectors = (label.metadataAreas[1]?.size ?? 0) / SECTOR_BYTES;
  const { extentSizeSectors } = group.vg;
  const peCount = Math.floor((sizeSectors - peStart - lastSectors) / extentSizeSectors);
  if (peCount <= 0) {
    throw new CommandError(
      `Size must leave space for at least one physical extent of ${extentSizeSectors} sectors on PV ${path}.`,
    );
  }
  checkShrinking(group, pv, peCount, path);
  const resized = { ...text, peCount, devSizeSectors: sizeSectors };
  const physicalVolumes = group.vg.physicalVolumes.map((other) => (other.id === pv.uuid ? resized : other));
  // As in LVM2, only a moved area is worth a new label: what counts in a VG is its metadata.
  const labels = label.metadataAreas.length > 1 ? [update(found, label)] : [];
  return { ...emptyPlan(group, { ...group.vg, physicalVolumes }), labels, messages };
}

function update(found: LabelledDevice, label: Label): PvLabelWrite {
  return { device: found.device, found, label, kind: 'update', zeroHead: false, ignoredAreas: [], when: 'after' };
}

function resizedLabel(found: LabelledDevice, sizeSectors: number, peStart: number): Label {
  const label = { ...labelOf(found), deviceSizeBytes: sizeSectors * SECTOR_BYTES };
  const [first, last] = label.metadataAreas;
  if (first === undefined || last === undefined) return label;
  const moved = lastArea({
    device: found.device.path,
    sizeSectors,
    wantedBytes: last.size,
    alignmentSectors: 0,
    limitSectors: peStart,
  });
  return { ...label, metadataAreas: [first, moved] };
}

function checkShrinking({ vg }: VolumeGroup, { text }: PhysicalVolume, peCount: number, path: string): void {
  if (text === undefined || peCount >= text.peCount) return;
  const allocation = allocationMapOf(vg).pvs.get(text.label);
  if (allocation === undefined) return;
  if (peCount < allocation.allocated) {
    throw new CommandError(`${path}: cannot resize to ${peCount} extents as ${allocation.allocated} are allocated.`);
  }
  const cut = allocation.segments.some(({ owner, startPe, length }) => owner !== null && startPe + length > peCount);
  if (cut) throw new CommandError(`${path}: cannot resize to ${peCount} extents as later ones are allocated.`);
}
