/**
 * Where a segment's data lies, in the words of `devices`, `seg_pe_ranges`, `seg_le_ranges` and their metadata counterparts.
 *
 * LVM2's habits, kept because scripts parse them: an LV is always shown from its first extent and with its whole length,
 * whatever part of it the segment uses; only logical ranges put hidden LVs in brackets, and a PV after a hidden LV then gets
 * them too.
 */
import { areaExtents } from '../../../lvm/references.ts';
import { relationsOf } from '../../../lvm/relations.ts';
import type { PhysicalVolume, VolumeGroup } from '../../../lvm/model.ts';
import type { Segment, SegmentArea } from '../../../ondisk/metadata.ts';
import { UNKNOWN_DEVICE } from './pv.ts';

/** The areas of a segment that hold its data: PVs, layers, or whole LVs. */
export function dataAreas(segment: Segment): readonly SegmentArea[] {
  switch (segment.type) {
    case 'striped':
    case 'mirror':
      return segment.areas;
    case 'raid0':
      return segment.images.map(whole);
    case 'raid':
      return segment.images.map((image) => whole(image.data));
    case 'thin-pool':
      return [whole(segment.pool)];
    case 'cache-pool':
    case 'vdo-pool':
      return [whole(segment.data)];
    case 'cache':
    case 'writecache':
    case 'integrity':
      return [whole(segment.origin)];
    case 'vdo':
      return [whole(segment.vdoPool)];
    case 'snapshot':
    case 'thin':
    case 'error':
    case 'zero':
    case 'unknown':
      break;
  }
  return [];
}

/** The metadata LVs of a raid segment. */
export function metadataAreas(segment: Segment): readonly SegmentArea[] {
  if (segment.type !== 'raid') return [];
  return segment.images.flatMap((image) => (image.metadata === undefined ? [] : [whole(image.metadata)]));
}

function whole(name: string): SegmentArea {
  return { name, extent: 0 };
}

/** The PV whose label segments use. */
export function pvByLabel(group: VolumeGroup, label: string): PhysicalVolume | null {
  return group.pvs.find((pv) => pv.text?.label === label) ?? null;
}

interface Place {
  readonly name: string;
  readonly start: number;
  /** Extents. */
  readonly count: number;
  /** Null: a PV. */
  readonly visible: boolean | null;
}

function placesOf(group: VolumeGroup, segment: Segment, areas: readonly SegmentArea[]): readonly Place[] {
  const relations = relationsOf(group.vg);
  return areas.map((area) => {
    if (relations.pvs.has(area.name)) {
      const name = pvByLabel(group, area.name)?.found?.device.path ?? UNKNOWN_DEVICE;
      return { name, start: area.extent, count: areaExtents(segment), visible: null };
    }
    const lv = relations.lvs.get(area.name);
    return { name: area.name, start: 0, count: lv?.sizeExtents ?? 0, visible: lv?.visible ?? true };
  });
}

/** "pv(extent)" for each area. */
export function deviceList(group: VolumeGroup, segment: Segment, areas: readonly SegmentArea[]): readonly string[] {
  return placesOf(group, segment, areas).map((place) => `${place.name}(${place.start})`);
}

function range(place: Place, name: string): string {
  return `${name}:${place.start}-${place.start + place.count - 1}`;
}

/** "pv:first-last" for each area, without brackets. */
export function physicalRanges(group: VolumeGroup, segment: Segment, areas: readonly SegmentArea[]): readonly string[] {
  return placesOf(group, segment, areas).map((place) => range(place, place.name));
}

/** "pv:first-last" for each area, hidden LVs as [name]. */
export function logicalRanges(
  group: VolumeGroup,
  segment: Segment,
  areas: readonly SegmentArea[],
  markHidden: boolean,
): readonly string[] {
  let visible = true;
  return placesOf(group, segment, areas).map((place) => {
    visible = place.visible ?? visible;
    return range(place, markHidden && !visible ? `[${place.name}]` : place.name);
  });
}
