/**
 * pvmoves in progress, as the metadata tells of them (facts: LVM2 tools/pvmove.c, lib/mirror; seen with 2.03.16).
 *
 *     LV a (LOCKED)      segment: striped, area ("pvmove0", 0)
 *     LV pvmove0         segment: mirror, extents_moved, areas ("pv0", 0) and ("pv1", 0): from and to
 *     (PVMOVE, LOCKED)
 *
 * A segment of pvmoveN is a step. As long as its extents_moved is not its length, the data is on the first area, and what is on
 * the second one counts for nothing; once it is, the data is on the second.
 *
 * With --atomic pvmoveN is one mirror segment over two LVs, pvmoveN_mimage_0 on the source and pvmoveN_mimage_1 on the destinations:
 * then all steps are done, or none is.
 *
 * Invariant: a number in between counts as 0: a kernel may have written to the volume since, to the first area only.
 */
import type { LogicalVolumeText, Segment, SegmentArea, VolumeGroupText } from '../../ondisk/metadata.ts';
import { CommandError } from '../edit/errors.ts';
import { isPvmove } from '../relations.ts';

export interface MoveStep {
  /** Of the segment in the pvmove LV. */
  readonly index: number;
  /** First extent in the pvmove LV. */
  readonly start: number;
  /** Extents. */
  readonly length: number;
  readonly from: SegmentArea;
  readonly to: SegmentArea;
  readonly done: boolean;
}

export interface PvMove {
  readonly lv: LogicalVolumeText;
  /** Its image LVs, if it is atomic. */
  readonly images: readonly string[];
  readonly atomic: boolean;
  /** Label of the PV that is emptied. */
  readonly source: string;
  readonly steps: readonly MoveStep[];
  /** Extents. */
  readonly total: number;
  readonly moved: number;
}

/** All moves in progress. Throws CommandError for one that was begun in a way that can't be gone on with here. */
export function movesOf(vg: VolumeGroupText): readonly PvMove[] {
  return vg.logicalVolumes.filter(isPvmove).map((lv) => moveOf(vg, lv));
}

/** Where the data of a step is now. */
export function placeOf(step: MoveStep): SegmentArea {
  return step.done ? step.to : step.from;
}

function moveOf(vg: VolumeGroupText, lv: LogicalVolumeText): PvMove {
  const images = imagesOf(vg, lv);
  const steps =
    images === null
      ? lv.segments.map((segment, index) => mirrorStep(vg, lv, segment, index))
      : atomicSteps(vg, lv, images);
  return {
    lv,
    images: images?.map((image) => image.name) ?? [],
    atomic: images !== null,
    source: steps[0]?.from.name ?? '',
    steps,
    total: extentsOf(steps),
    moved: extentsOf(steps.filter((step) => step.done)),
  };
}

/** The two image LVs of an atomic move; null if it is none. */
function imagesOf(vg: VolumeGroupText, lv: LogicalVolumeText): readonly [LogicalVolumeText, LogicalVolumeText] | null {
  const [segment] = lv.segments;
  if (segment?.type !== 'mirror' || segment.areas.length !== 2) return null;
  const [first, second] = segment.areas.map(({ name }) => vg.logicalVolumes.find((other) => other.name === name));
  return first === undefined || second === undefined || isPv(vg, first.name) ? null : [first, second];
}

function mirrorStep(vg: VolumeGroupText, lv: LogicalVolumeText, segment: Segment, index: number): MoveStep {
  const [from, to, more] = segment.type === 'mirror' ? segment.areas : [];
  const known = from !== undefined && to !== undefined && isPv(vg, from.name) && isPv(vg, to.name);
  if (!known || more !== undefined || segment.type !== 'mirror') {
    throw new CommandError(`Cannot go on with ${vg.name}/${lv.name}: segment ${index + 1} is no mirror of two PVs.`);
  }
  const { startExtent: start, extentCount: length } = segment;
  return { index, start, length, from, to, done: segment.extentsMoved === length };
}

function atomicSteps(
  vg: VolumeGroupText,
  lv: LogicalVolumeText,
  [source, target]: readonly [LogicalVolumeText, LogicalVolumeText],
): readonly MoveStep[] {
  const [mirror] = lv.segments;
  const done = mirror?.type === 'mirror' && mirror.extentsMoved === mirror.extentCount;
  const boundaries = [...source.segments, ...target.segments].map((segment) => segment.startExtent);
  const starts = [...new Set(boundaries)].toSorted((a, b) => a - b);
  const end = mirror?.extentCount ?? 0;
  return starts.map((start, index) => {
    const [from, to] = [linearAt(source, start), linearAt(target, start)];
    if (from === null || to === null || !isPv(vg, from.name) || !isPv(vg, to.name)) {
      throw new CommandError(`Cannot go on with ${vg.name}/${lv.name}: its images are not on PVs.`);
    }
    return { index, start, length: (starts[index + 1] ?? end) - start, from, to, done };
  });
}

/** Where an extent of a linear LV is. */
function linearAt({ segments }: LogicalVolumeText, extent: number): SegmentArea | null {
  const segment = segments.find(
    ({ startExtent, extentCount }) => extent >= startExtent && extent < startExtent + extentCount,
  );
  const [area, more] = segment?.type === 'striped' ? segment.areas : [];
  if (segment === undefined || area === undefined || more !== undefined) return null;
  return { name: area.name, extent: area.extent + extent - segment.startExtent };
}

function isPv(vg: VolumeGroupText, name: string): boolean {
  return vg.physicalVolumes.some((pv) => pv.label === name);
}

function extentsOf(steps: readonly MoveStep[]): number {
  return steps.reduce((sum, step) => sum + step.length, 0);
}
