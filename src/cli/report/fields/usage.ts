/**
 * What fields and display commands need to know of a volume group beyond lvm/relations.ts: which LVs are partial, what is in
 * use of a PV, how much room metadata areas have.
 *
 * Invariant: which LVs are partial is computed once per volume group, from the text and from which PVs were found.
 */
import { allocationMapOf } from '../../../lvm/allocation-map.ts';
import type { LabelledDevice, MetadataArea, PhysicalVolume, VolumeGroup } from '../../../lvm/model.ts';
import { segmentAreas, segmentReferences } from '../../../lvm/references.ts';

const known = new WeakMap<VolumeGroup, ReadonlySet<string>>();

/** Names of the LVs that need a missing PV, themselves or through what they are made of. */
export function partialLvs(group: VolumeGroup): ReadonlySet<string> {
  let partial = known.get(group);
  if (partial === undefined) {
    partial = partialOf(group);
    known.set(group, partial);
  }
  return partial;
}

/** Extents of a PV that its VG has allocated; 0 for an orphan. */
export function usedExtents(group: VolumeGroup, pv: PhysicalVolume): number {
  if (pv.text === undefined) return 0;
  return allocationMapOf(group.vg).pvs.get(pv.text.label)?.allocated ?? 0;
}

/**
 * Spreads from the LVs with an area on a missing PV to those that are made of them, through every reference but those of
 * COW snapshots: a snapshot whose origin is lost is itself whole, and so is the other way round (LVM2 lv_mark_if_partial).
 */
function partialOf(group: VolumeGroup): ReadonlySet<string> {
  const missing = new Set(group.pvs.flatMap((pv) => (pv.missing && pv.text !== undefined ? [pv.text.label] : [])));
  const partial = new Set<string>();
  if (missing.size === 0) return partial;
  const labels = new Set(group.vg.physicalVolumes.map((pv) => pv.label));
  const isPv = (name: string): boolean => labels.has(name);
  const users = new Map<string, string[]>();
  const pending: string[] = [];
  for (const lv of group.vg.logicalVolumes) {
    for (const segment of lv.segments) {
      if (segment.type === 'snapshot') continue;
      if (segmentAreas(segment).some((area) => missing.has(area.name))) pending.push(lv.name);
      for (const { name } of segmentReferences(segment, isPv)) users.set(name, [...(users.get(name) ?? []), lv.name]);
    }
  }
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    if (partial.has(name)) continue;
    partial.add(name);
    pending.push(...(users.get(name) ?? []));
  }
  return partial;
}

const SECTOR = 512;

/** Metadata areas that take part in commits. */
export function areasInUse(label: LabelledDevice): readonly MetadataArea[] {
  return label.metadataAreas.filter((area) => !area.ignored);
}

/** Smallest free room of the areas, in sectors; 0 without areas. */
export function leastFreeSectors(areas: readonly MetadataArea[]): number {
  return areas.length === 0 ? 0 : Math.floor(Math.min(...areas.map((area) => area.freeBytes)) / SECTOR);
}

/** Size of the smallest area, in sectors; 0 without areas. */
export function leastSizeSectors(areas: readonly MetadataArea[]): number {
  return areas.length === 0 ? 0 : Math.min(...areas.map((area) => Math.floor(area.size / SECTOR)));
}
