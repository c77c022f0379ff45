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
 * An LV is partial with an area on a missing PV, or with something partial that it needs: what it is made of, its COW snapshots,
 * and of a snapshot its origin. LVM2 goes through that depth first (lib/metadata/metadata.c vg_mark_partial_lvs): an origin and its
 * snapshot need each other, and the one that stands first in the text is asked last.
 */
function partialOf(group: VolumeGroup): ReadonlySet<string> {
  const missing = new Set(group.pvs.flatMap((pv) => (pv.missing && pv.text !== undefined ? [pv.text.label] : [])));
  const partial = new Set<string>();
  if (missing.size === 0) return partial;
  const { needs, lost } = needsOf(group, missing);
  const seen = new Set<string>();
  for (const { name: first } of group.vg.logicalVolumes) {
    if (seen.has(first)) continue;
    seen.add(first);
    const path = [{ name: first, left: needs(first).values() }];
    for (let at = path.at(-1); at !== undefined; at = path.at(-1)) {
      const { value: next, done = false } = at.left.next();
      if (done) {
        if (lost.has(at.name) || needs(at.name).some((name) => partial.has(name))) partial.add(at.name);
        path.pop();
      } else if (next !== undefined && !seen.has(next)) {
        seen.add(next);
        path.push({ name: next, left: needs(next).values() });
      }
    }
  }
  return partial;
}

/** Which LVs an LV needs, and those that lie on a missing PV themselves. */
function needsOf(
  group: VolumeGroup,
  missing: ReadonlySet<string>,
): { readonly needs: (name: string) => readonly string[]; readonly lost: ReadonlySet<string> } {
  const lost = new Set<string>();
  const labels = new Set(group.vg.physicalVolumes.map((pv) => pv.label));
  const isPv = (name: string): boolean => labels.has(name);
  const needs = new Map<string, string[]>();
  const add = (name: string, other: string): void => void needs.set(name, [...(needs.get(name) ?? []), other]);
  for (const { name, segments } of group.vg.logicalVolumes) {
    for (const segment of segments) {
      if (segment.type === 'snapshot') {
        add(segment.cowStore, segment.origin);
        add(segment.origin, segment.cowStore);
        continue;
      }
      if (segmentAreas(segment).some((area) => missing.has(area.name))) lost.add(name);
      for (const other of segmentReferences(segment, isPv)) add(name, other.name);
    }
  }
  return { needs: (name) => needs.get(name) ?? [], lost };
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
