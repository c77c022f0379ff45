/**
 * Taking PVs and LVs out of one volume group's text and putting them into another's (vgsplit, vgmerge).
 *
 * Invariants
 *  - Segments keep naming the PVs that they named: labels are made unique first, and the commit numbers them again.
 *  - LVs and PVs keep their ids, but for an LV whose id the other group has already.
 */
import type {
  LogicalVolumeText,
  PhysicalVolumeText,
  Segment,
  SegmentArea,
  VolumeGroupText,
} from '../../ondisk/metadata.ts';
import { newUuid } from '../../ondisk/uuid.ts';
import type { LabelledDevice, VolumeGroup } from '../model.ts';
import { CommandError } from './errors.ts';
import { relationsOf } from '../relations.ts';

/** The VG with every PV labelled by its id, which is unique in any VG. */
export function labelledByIds(vg: VolumeGroupText): VolumeGroupText {
  const ids = new Map(vg.physicalVolumes.map((pv) => [pv.label, pv.id]));
  const relabel = (area: SegmentArea): SegmentArea => ({ ...area, name: ids.get(area.name) ?? area.name });
  return {
    ...vg,
    physicalVolumes: vg.physicalVolumes.map((pv) => ({ ...pv, label: pv.id })),
    logicalVolumes: vg.logicalVolumes.map((lv) => ({
      ...lv,
      segments: lv.segments.map((segment) => withAreas(segment, relabel)),
    })),
  };
}

/** A segment with its areas changed; one whose type has no areas stays as it is. */
export function withAreas(segment: Segment, change: (area: SegmentArea) => SegmentArea): Segment {
  if (segment.type !== 'striped' && segment.type !== 'mirror') return segment;
  return { ...segment, areas: segment.areas.map(change) };
}

/** `vg` with these PVs and LVs added; PVs must be labelled by their ids on both sides. */
export function withParts(
  vg: VolumeGroupText,
  physicalVolumes: readonly PhysicalVolumeText[],
  logicalVolumes: readonly LogicalVolumeText[],
): VolumeGroupText {
  const taken = new Set(vg.logicalVolumes.map((lv) => lv.id));
  const fresh = logicalVolumes.map((lv) => (taken.has(lv.id) ? { ...lv, id: newUuid() } : lv));
  return {
    ...vg,
    physicalVolumes: [...vg.physicalVolumes, ...physicalVolumes],
    logicalVolumes: [...vg.logicalVolumes, ...fresh],
  };
}

/** `vg` without these PVs and LVs. */
export function withoutParts(
  vg: VolumeGroupText,
  pvIds: ReadonlySet<string>,
  lvNames: ReadonlySet<string>,
): VolumeGroupText {
  return {
    ...vg,
    physicalVolumes: vg.physicalVolumes.filter((pv) => !pvIds.has(pv.id)),
    logicalVolumes: vg.logicalVolumes.filter((lv) => !lvNames.has(lv.name)),
  };
}

/** The VG with or without EXPORTED; only on itself, as vgsplit has it: vgimport takes it away from VG and PVs. */
export function asExported(vg: VolumeGroupText, exported: boolean): VolumeGroupText {
  const others = vg.status.filter((word) => word !== 'EXPORTED');
  return { ...vg, status: exported ? ['EXPORTED', ...others] : others };
}

/** The devices of PVs that were found. */
export function foundDevices(group: VolumeGroup, pvIds: ReadonlySet<string>): readonly LabelledDevice[] {
  return group.pvs.flatMap((pv) => (pvIds.has(pv.uuid) && pv.found !== null ? [pv.found] : []));
}

/**
 * Refuses to put together two VGs that don't fit (facts: LVM2 lib/metadata/metadata.c vgs_are_compatible). Like LVM2, it counts
 * both as a whole, also when only a part moves.
 */
export function checkCompatible(from: VolumeGroupText, to: VolumeGroupText): void {
  if (to.extentSizeSectors !== from.extentSizeSectors) {
    const sizes = `${to.extentSizeSectors} (${to.name}) and ${from.extentSizeSectors} (${from.name})`;
    throw new CommandError(`Extent sizes differ: ${sizes}`);
  }
  const both = `for "${to.name}" and "${from.name}"`;
  if (to.maxPv > 0 && to.maxPv < to.physicalVolumes.length + from.physicalVolumes.length) {
    throw new CommandError(`Maximum number of physical volumes (${to.maxPv}) exceeded  ${both}`);
  }
  if (to.maxLv > 0 && to.maxLv < visibleVolumes(to) + visibleVolumes(from)) {
    throw new CommandError(`Maximum number of logical volumes (${to.maxLv}) exceeded  ${both}`);
  }
  const names = new Set(from.logicalVolumes.map((lv) => lv.name));
  const twice = to.logicalVolumes.find((lv) => names.has(lv.name));
  if (twice !== undefined) {
    throw new CommandError(`Duplicate logical volume name "${twice.name}" in "${to.name}" and "${from.name}"`);
  }
}

function visibleVolumes(vg: VolumeGroupText): number {
  return [...relationsOf(vg).lvs.values()].filter((facts) => facts.visible).length;
}
