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
 * Invariant: a number in between counts as 0: a kernel may have written to the volume since, to the first area only.
 */
import type { LogicalVolumeText, SegmentArea, VolumeGroupText } from '../../ondisk/metadata.ts';
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
  const pvs = new Set(vg.physicalVolumes.map((pv) => pv.label));
  const steps = lv.segments.map((segment, index): MoveStep => {
    const [from, to, more] = segment.type === 'mirror' ? segment.areas : [];
    const plain =
      more === undefined && from !== undefined && to !== undefined && pvs.has(from.name) && pvs.has(to.name);
    if (!plain || segment.type !== 'mirror') {
      throw new CommandError(
        `Cannot go on with ${vg.name}/${lv.name}: segment ${index + 1} is no mirror of two PVs (was it started with --atomic?).`,
      );
    }
    const { startExtent: start, extentCount: length } = segment;
    return { index, start, length, from, to, done: segment.extentsMoved === length };
  });
  return {
    lv,
    source: steps[0]?.from.name ?? '',
    steps,
    total: extentsOf(steps),
    moved: extentsOf(steps.filter((step) => step.done)),
  };
}

function extentsOf(steps: readonly MoveStep[]): number {
  return steps.reduce((sum, step) => sum + step.length, 0);
}
