/**
 * The form in which LVM2 stores a volume group: PVs are labelled pv0, pv1, … in their order, and visible LVs come before
 * hidden ones.
 *
 * Invariants
 *  - Only labels and order change; every reference to a PV follows its new label.
 *  - What is in that form already is given back as it is: nothing has to be derived from it again.
 */
import type { LogicalVolumeText, Segment, SegmentArea, VolumeGroupText } from '../../ondisk/metadata.ts';
import { relationsOf } from '../relations.ts';
import { CommandError } from './errors.ts';

const PLAIN_TYPES: ReadonlySet<Segment['type']> = new Set<Segment['type']>(['striped', 'error', 'zero']);

/** Throws CommandError if an LV that others are built on has the name of a PV's label, which would shadow it. */
export function canonical(vg: VolumeGroupText): VolumeGroupText {
  const labels = new Map(vg.physicalVolumes.map((pv, index) => [pv.label, `pv${index}`]));
  const news = new Set(labels.values());
  const relabel = (area: SegmentArea): SegmentArea => {
    const label = labels.get(area.name);
    if (label !== undefined) return { ...area, name: label };
    if (news.has(area.name)) {
      throw new CommandError(
        `Logical volume ${vg.name}/${area.name} has the name of a physical volume's label: rename it first.`,
      );
    }
    return area;
  };
  const labelled = vg.physicalVolumes.every(({ label }, index) => label === `pv${index}`);
  if (labelled && vg.logicalVolumes.every(isPlain)) return vg;
  const { lvs } = relationsOf(vg);
  // COW snapshots count as visible, though their status words don't say so.
  const isVisible = ({ name }: LogicalVolumeText): boolean => lvs.get(name)?.visible ?? false;
  const volumes = vg.logicalVolumes.map((lv) => ({
    ...lv,
    segments: lv.segments.map((item) => withAreas(item, relabel)),
  }));
  return {
    ...vg,
    physicalVolumes: vg.physicalVolumes.map((pv, index) => ({ ...pv, label: `pv${index}` })),
    logicalVolumes: [...volumes.filter(isVisible), ...volumes.filter((lv) => !isVisible(lv))],
  };
}

/** Visible, whatever the other LVs are. Its areas have PVs' labels, as no other LV is of another type. */
function isPlain(lv: LogicalVolumeText): boolean {
  return lv.status.includes('VISIBLE') && lv.segments.every(({ type }) => PLAIN_TYPES.has(type));
}

function withAreas(segment: Segment, map: (area: SegmentArea) => SegmentArea): Segment {
  return segment.type === 'striped' || segment.type === 'mirror'
    ? { ...segment, areas: segment.areas.map(map) }
    : segment;
}
